//! A session that leads nowhere, for the instance that a plugin must be able to make before it is published.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::event::{ClientInfo, NameError, Peers, Port, Priority, Scope, SendError, WriteError};

/// A scope in which nothing can be reached.
pub(super) fn scope() -> Scope {
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let info = ClientInfo { id: 0, server: "trial".into(), peer: nowhere, local: nowhere, tls: None, parameter: 0 };
    let trial = Arc::new(Trial(info));
    Scope { port: trial.clone(), peers: trial }
}

struct Trial(ClientInfo);

impl Port for Trial {
    fn info(&self) -> &ClientInfo {
        &self.0
    }
    fn poll_write(&self, _: &mut Context<'_>, _: &[u8]) -> Poll<Result<(), WriteError>> {
        Poll::Ready(Err(WriteError::Closed))
    }
    fn write_capacity(&self) -> u32 {
        0
    }
    fn priority(&self) -> Priority {
        Priority::Normal
    }
    fn set_priority(&self, _: Priority) -> Priority {
        Priority::Normal
    }
    fn set_timer(&self, _: u32, _: u64) -> bool {
        false
    }
}

impl Peers for Trial {
    fn client_count(&self) -> u32 {
        0
    }
    fn broadcast(&self, _: u64, _: &[u8]) -> u32 {
        0
    }
    fn set_name(&self, _: u64, _: &str) -> Result<(), NameError> {
        Err(NameError::Taken)
    }
    fn find(&self, _: &str) -> Option<u64> {
        None
    }
    fn send_to(&self, _: u64, _: &[u8]) -> Result<(), SendError> {
        Err(SendError::Closed)
    }
    fn disconnect(&self, _: u64, _: u64) -> bool {
        false
    }
}
