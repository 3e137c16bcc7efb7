//! The read-only port: what a plugin sees of its session in save and restore. It can read the
//! session, and cannot act on it.

use std::sync::Arc;
use std::task::{Context, Poll};

use crate::event::{
    Broadcast, ClientInfo, NameError, Peers, Port, Priority, Scope, SendError, Unheard, WriteError,
};

/// The same session and peers, without any effect on them.
pub(super) fn quiet(scope: &Scope) -> Scope {
    Scope {
        port: Arc::new(ReadOnlyPort(Arc::clone(&scope.port))),
        peers: Arc::new(ReadOnlyPeers(Arc::clone(&scope.peers))),
    }
}

struct ReadOnlyPort(Arc<dyn Port>);

impl Port for ReadOnlyPort {
    fn info(&self) -> &ClientInfo {
        self.0.info()
    }
    fn poll_write(&self, _: &mut Context<'_>, _: &[u8]) -> Poll<Result<(), WriteError>> {
        Poll::Ready(Err(WriteError::Closed))
    }
    fn write_capacity(&self) -> u32 {
        0
    }
    fn priority(&self) -> Priority {
        self.0.priority()
    }
    fn set_priority(&self, _: Priority) -> Priority {
        self.0.priority()
    }
    fn poll_slice(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_slice(cx)
    }
    fn set_timer(&self, _: u32, _: u64) -> bool {
        false
    }
}

struct ReadOnlyPeers(Arc<dyn Peers>);

impl Peers for ReadOnlyPeers {
    fn client_count(&self) -> u32 {
        self.0.client_count()
    }
    fn broadcast(&self, _: u64, _: &[u8]) -> Box<dyn Broadcast> {
        Box::new(Unheard(0))
    }
    fn set_name(&self, _: u64, _: &str) -> Result<(), NameError> {
        Err(NameError::Taken)
    }
    fn find(&self, name: &str) -> Option<u64> {
        self.0.find(name)
    }
    fn send_to(&self, _: u64, _: &[u8]) -> Result<(), SendError> {
        Err(SendError::Closed)
    }
    fn disconnect(&self, _: u64, _: u64) -> bool {
        false
    }
}
