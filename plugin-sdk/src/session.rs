//! The handles of a handler: the session whose event it handles, and that session's server.
//!
//! Both are empty values, because the host knows which session is meant.

use std::time::Duration;

use crate::imports as host;
use crate::{Action, ClientInfo, NameError, Priority, SendError, WriteError};

/// The session whose event is being handled.
#[derive(Debug)]
#[non_exhaustive]
pub struct Session {}

impl Session {
    /// The same session, for handlers without the parameter: `on_disconnect`. There it can only
    /// reach other sessions.
    #[must_use]
    pub fn current() -> Self {
        Self {}
    }

    /// The client's addresses and TLS values, with the priority now in force.
    #[must_use]
    pub fn info(&self) -> ClientInfo {
        host::info()
    }

    /// Queues all of `data` for the peer, or nothing of it. If the send buffer is at its high-water
    /// mark, the call waits, for the server's timeout at most.
    ///
    /// # Errors
    /// - [`WriteError::Closed`] if the session is ending.
    /// - [`WriteError::TooLarge`] if `data` is larger than the high-water mark.
    /// - [`WriteError::TimedOut`] if the peer read nothing for the server's timeout.
    pub fn write(&self, data: &[u8]) -> Result<(), WriteError> {
        host::write(data)
    }

    /// Writes `data` and proceeds, or closes the session if the write is refused. The usual last
    /// line of a handler.
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

    /// Sets a timer that fires `on_timer(id)` once after `delay`, rounded up to a millisecond. A
    /// timer with the same id is replaced. Returns false if the session already has its limit of
    /// timers.
    #[must_use]
    pub fn set_timer(&self, id: u32, delay: Duration) -> bool {
        let millis = delay.as_micros().div_ceil(1_000).max(1);
        host::set_timer(id, u64::try_from(millis).unwrap_or(u64::MAX))
    }

    /// Removes the timer `id`, if there is one.
    pub fn cancel_timer(&self, id: u32) {
        host::set_timer(id, 0);
    }

    /// The server of this session. Calling its methods needs the grant `server`.
    #[must_use]
    pub fn server(&self) -> Server {
        Server {}
    }
}

/// The server that the session belongs to. A plugin that calls any of these methods needs the grant
/// `server`.
#[derive(Debug)]
#[non_exhaustive]
pub struct Server {}

impl Server {
    /// Number of sessions that are established and not ending.
    #[must_use]
    pub fn client_count(&self) -> u32 {
        host::client_count()
    }

    /// Queues `data` for every other session. Returns how many sessions took it.
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

    /// The session that has `name`, ignoring case.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<u64> {
        host::find(name)
    }

    /// Queues `data` for one session, without waiting.
    ///
    /// # Errors
    /// [`SendError`]: there is no such session, its queue is too long, or `data` is larger than its
    /// queue may be.
    pub fn send_to(&self, client: u64, data: &[u8]) -> Result<(), SendError> {
        host::send_to(client, data)
    }

    /// Ends another session gracefully. Returns false if there is no such session.
    pub fn disconnect(&self, client: u64) -> bool {
        host::disconnect(client)
    }
}
