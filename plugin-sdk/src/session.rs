//! The handles a handler gets: the session whose event it handles, and that session's server.
//!
//! Both are empty values. The host knows which session is meant.

use std::time::Duration;

use crate::imports as host;
use crate::{Action, ClientInfo, NameError, Priority, SendError, WriteError};

/// The session whose event is being handled.
#[derive(Debug)]
#[non_exhaustive]
pub struct Session {}

impl Session {
    /// That session, where it was not handed in: in `on_disconnect`, which can only speak to others
    /// any more.
    #[must_use]
    pub fn current() -> Self {
        Self {}
    }

    /// Who the client is, with the priority now in force.
    #[must_use]
    pub fn info(&self) -> ClientInfo {
        host::info()
    }

    /// Queues all of `data` for the peer, or nothing of it. Waits while the send buffer is at its
    /// high-water mark, for the server's timeout at most.
    ///
    /// # Errors
    /// [`WriteError::Closed`] when the session is ending, [`WriteError::TooLarge`] when `data` is
    /// larger than the high-water mark, [`WriteError::TimedOut`] when the peer read nothing for the
    /// server's timeout.
    pub fn write(&self, data: &[u8]) -> Result<(), WriteError> {
        host::write(data)
    }

    /// Writes and proceeds; closes the session where the write is refused. The usual last line of a
    /// handler.
    #[must_use]
    pub fn write_or_close(&self, data: &[u8]) -> Action {
        match self.write(data) {
            Ok(()) => Action::Proceed,
            Err(_) => Action::Close,
        }
    }

    /// Bytes that can be queued now without waiting.
    #[must_use]
    pub fn write_capacity(&self) -> u32 {
        host::write_capacity()
    }

    /// Asks for another scheduling class from the next event on. Returns the class in force, which
    /// the server's ceiling may have lowered.
    pub fn set_priority(&self, priority: Priority) -> Priority {
        host::set_priority(priority)
    }

    /// Fires `on_timer(id)` once after `delay` (rounded up to a millisecond), replacing a timer of
    /// that id. False where the session already has its limit of timers.
    #[must_use]
    pub fn set_timer(&self, id: u32, delay: Duration) -> bool {
        let millis = delay.as_micros().div_ceil(1_000).max(1);
        host::set_timer(id, u64::try_from(millis).unwrap_or(u64::MAX))
    }

    /// Forgets the timer `id`, if there is one.
    pub fn cancel_timer(&self, id: u32) {
        host::set_timer(id, 0);
    }

    /// The server of this session. Calling its methods needs the grant `server`.
    #[must_use]
    pub fn server(&self) -> Server {
        Server {}
    }
}

/// The server that the session belongs to. A plugin that calls any of these needs the grant
/// `server`.
#[derive(Debug)]
#[non_exhaustive]
pub struct Server {}

impl Server {
    /// Sessions that are established and not ending.
    #[must_use]
    pub fn client_count(&self) -> u32 {
        host::client_count()
    }

    /// Queues `data` for every other session; returns how many took it.
    pub fn broadcast(&self, data: &[u8]) -> u32 {
        host::broadcast(data)
    }

    /// Names this session.
    ///
    /// # Errors
    /// [`NameError`]: the name is empty, longer than 127 characters, or another session's.
    pub fn set_name(&self, name: &str) -> Result<(), NameError> {
        host::set_name(name)
    }

    /// The session that carries `name`, ignoring case.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<u64> {
        host::find(name)
    }

    /// Queues `data` for one session, without waiting.
    ///
    /// # Errors
    /// [`SendError`]: no such session, it has too much queued, or `data` is larger than it may have
    /// queued.
    pub fn send_to(&self, client: u64, data: &[u8]) -> Result<(), SendError> {
        host::send_to(client, data)
    }

    /// Ends another session gracefully. False where there is none.
    pub fn disconnect(&self, client: u64) -> bool {
        host::disconnect(client)
    }
}
