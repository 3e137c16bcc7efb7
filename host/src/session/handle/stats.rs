//! Statistics of a session, for observers outside of it.

use std::time::{Duration, Instant};

use super::SessionHandle;
use crate::event::{Budget, Port, Priority, Usage};
use crate::sched::Lane;

/// A session at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionStats {
    /// Time from the first event until now.
    pub age: Duration,
    /// Time since bytes last moved.
    pub idle: Duration,
    /// Bytes from the peer.
    pub bytes_in: u64,
    /// Bytes to the peer.
    pub bytes_out: u64,
    /// Bytes queued for the peer.
    pub queued_bytes: usize,
    /// Events that are done.
    pub events: u64,
    /// Fuel and memory after the last of these events.
    pub usage: Usage,
    /// CPU time of its events.
    pub cpu: Duration,
    /// The event that runs now.
    pub event: Option<&'static str>,
    /// Whether the session sleeps, without an instance, until its next event.
    pub asleep: bool,
    /// The class in force.
    pub priority: Priority,
    /// The lane that the session is in.
    pub lane: Lane,
    /// What the next event may spend.
    pub budget: Budget,
    /// Fuel of the session's most expensive event.
    pub peak_fuel: u64,
}

impl SessionHandle {
    /// Reads the session's statistics now.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        let (now, state) = (Instant::now(), self.state());
        SessionStats {
            age: now.saturating_duration_since(self.started),
            idle: now.saturating_duration_since(state.last_exchange),
            bytes_in: state.bytes_in,
            bytes_out: state.bytes_out,
            queued_bytes: state.send_buffer.len(),
            events: self.live_stats.events(),
            usage: self.live_stats.usage(),
            cpu: self.live_stats.cpu(),
            event: self.live_stats.doing(),
            asleep: self.live_stats.is_asleep(),
            priority: self.priority(),
            lane: self.placement.lane(),
            budget: self.config.budgets.event(self.priority()),
            peak_fuel: self.live_stats.peak_fuel(),
        }
    }
}
