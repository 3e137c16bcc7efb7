//! A session at one moment, for those who look at it from outside.

use std::time::{Duration, Instant};

use super::Line;
use crate::event::{Budget, Port, Priority, Usage};
use crate::sched::Lane;

/// A session at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// From the first event until now.
    pub age: Duration,
    /// Since bytes last moved.
    pub idle: Duration,
    /// Bytes from the peer.
    pub bytes_in: u64,
    /// Bytes to the peer.
    pub bytes_out: u64,
    /// Bytes queued for the peer.
    pub queued_bytes: usize,
    /// Events that are done.
    pub events: u64,
    /// Fuel and memory after the last of them.
    pub usage: Usage,
    /// CPU time of its events.
    pub cpu: Duration,
    /// The event that runs now.
    pub event: Option<&'static str>,
    /// Whether it has let its instance go, until something happens.
    pub asleep: bool,
    /// The class in force.
    pub priority: Priority,
    /// The lane it is in.
    pub lane: Lane,
    /// What its next event may spend.
    pub budget: Budget,
    /// Fuel of its dearest event.
    pub peak_fuel: u64,
}

impl Line {
    /// The session now.
    #[must_use]
    pub fn glance(&self) -> Glance {
        let (now, state) = (Instant::now(), self.state());
        Glance {
            age: now.saturating_duration_since(self.started),
            idle: now.saturating_duration_since(state.last_exchange),
            bytes_in: state.bytes_in,
            bytes_out: state.bytes_out,
            queued_bytes: state.outbox.len(),
            events: self.pulse.events(),
            usage: self.pulse.usage(),
            cpu: self.pulse.cpu(),
            event: self.pulse.doing(),
            asleep: self.pulse.is_asleep(),
            priority: self.priority(),
            lane: self.placement.lane(),
            budget: self.config.budgets.event(self.priority()),
            peak_fuel: self.pulse.peak_fuel(),
        }
    }
}
