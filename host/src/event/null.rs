//! Null objects: a session without a socket, and a server without other sessions. For trials,
//! transcripts and tests.

use std::task::{Context, Poll};

use super::{Broadcast, ClientInfo, NameError, Peers, Port, Priority, SendError, WriteError};

/// The peers of a session that is alone.
#[derive(Debug, Clone, Copy)]
pub struct NoPeers;

impl Peers for NoPeers {
    fn client_count(&self) -> u32 {
        1
    }
    fn broadcast(&self, _: u64, _: &[u8]) -> Box<dyn Broadcast> {
        Box::new(Unheard(0))
    }
    fn set_name(&self, _: u64, _: &str) -> Result<(), NameError> {
        Ok(())
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

/// A message that reaches no session, and reports this number of receivers.
#[derive(Debug, Clone, Copy)]
pub struct Unheard(pub u32);

impl Broadcast for Unheard {
    fn go_on(&mut self, _: usize) -> bool {
        false
    }

    fn taken(&self) -> u32 {
        self.0
    }
}

/// A port of a session to which nothing can be written.
#[derive(Debug)]
pub struct NullPort(pub ClientInfo);

impl Port for NullPort {
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
