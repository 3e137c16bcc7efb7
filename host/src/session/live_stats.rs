//! Live counters of a running session. Only its owner writes them, so that readers cost the owner
//! nothing.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use crate::event::{Event, Usage};
use crate::sched::nanoseconds;

/// Names of a session's activities, by number. The first means none.
const DOING: [&str; 11] = [
    "",
    "start",
    "on-connect",
    "on-read",
    "on-write",
    "on-timeout",
    "on-timer",
    "on-end",
    "on-disconnect",
    "hand-over",
    "sleep",
];

/// The activity of a session: an event, the start of its instance, a migration or falling asleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doing(u8);

impl Doing {
    pub(super) const START: Self = Self(1);
    pub(super) const MIGRATE: Self = Self(9);
    pub(super) const SLEEP: Self = Self(10);

    pub(super) fn event(event: &Event<'_>) -> Self {
        Self(match event {
            Event::Connect => 2,
            Event::Read(_) => 3,
            Event::Write => 4,
            Event::Timeout { .. } => 5,
            Event::Timer { .. } => 6,
            Event::End => 7,
            Event::Disconnect(_) => 8,
        })
    }
}

#[derive(Debug, Default)]
pub(super) struct LiveStats {
    doing: AtomicU8,
    asleep: AtomicBool,
    events: AtomicU64,
    fuel: AtomicU64,
    peak_fuel: AtomicU64,
    memory_bytes: AtomicU64,
    cpu_ns: AtomicU64,
}

impl LiveStats {
    /// Marks the start of an activity. In one total order with
    /// [`PauseGate::close`](super::PauseGate).
    pub(super) fn begin(&self, doing: Doing) {
        self.doing.swap(doing.0, Ordering::SeqCst);
    }

    pub(super) fn end(&self) {
        self.doing.swap(0, Ordering::SeqCst);
    }

    /// Records that the session dropped its instance and sleeps.
    pub(super) fn sleeps(&self, usage: Usage) {
        self.born(usage);
        self.asleep.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Relaxed)
    }

    /// Adds what the session did in another process.
    pub(super) fn resume(&self, events: u64, usage: Usage, cpu: Duration) {
        self.events.store(events, Ordering::Relaxed);
        self.born(usage);
        self.spend(cpu);
    }

    /// Records that an instance was made.
    pub(super) fn born(&self, usage: Usage) {
        self.asleep.store(false, Ordering::Relaxed);
        self.fuel.store(usage.fuel, Ordering::Relaxed);
        self.memory_bytes.store(usage.memory_bytes, Ordering::Relaxed);
    }

    /// Adds time that the guest ran on a CPU.
    pub(super) fn spend(&self, cpu: Duration) {
        add(&self.cpu_ns, nanoseconds(cpu));
    }

    /// Records that an event is done.
    pub(super) fn count(&self, usage: Usage) {
        add(&self.events, 1);
        let fuel = usage.fuel.saturating_sub(self.fuel.load(Ordering::Relaxed));
        self.fuel.store(usage.fuel, Ordering::Relaxed);
        if fuel > self.peak_fuel.load(Ordering::Relaxed) {
            self.peak_fuel.store(fuel, Ordering::Relaxed);
        }
        self.memory_bytes.store(usage.memory_bytes, Ordering::Relaxed);
    }

    /// The name of the running activity, if there is one.
    pub(super) fn doing(&self) -> Option<&'static str> {
        let number = usize::from(self.doing.load(Ordering::SeqCst));
        DOING.get(number).copied().filter(|name| !name.is_empty())
    }

    pub(super) fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    pub(super) fn usage(&self) -> Usage {
        let (fuel, memory_bytes) =
            (self.fuel.load(Ordering::Relaxed), self.memory_bytes.load(Ordering::Relaxed));
        Usage { fuel, memory_bytes }
    }

    pub(super) fn peak_fuel(&self) -> u64 {
        self.peak_fuel.load(Ordering::Relaxed)
    }

    pub(super) fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu_ns.load(Ordering::Relaxed))
    }
}

/// Adds to a counter that only its owner writes.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).saturating_add(more), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::DisconnectReason;

    #[test]
    fn every_event_has_its_own_name_here() {
        let events = [
            Event::Connect,
            Event::Read(b""),
            Event::Write,
            Event::Timeout { idle_ms: 0 },
            Event::Timer { id: 0 },
            Event::End,
            Event::Disconnect(DisconnectReason::PeerClosed),
        ];
        for event in events {
            assert_eq!(DOING[usize::from(Doing::event(&event).0)], event.name());
        }
    }
}
