//! Counters of one server. Sessions add theirs when they end, and each thread has latencies of its own, so that
//! no event touches a shared cache line.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Latencies;
use super::latencies::Histogram;
use crate::event::{Meter, Priority};

/// What is counted by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Refused,
    Handshake,
    Ended,
    Fault,
    Notice,
}

/// Counters of one server since its start.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    events: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    fuel: AtomicU64,
    lines_dropped: AtomicU64,
    /// Reasons are a small, closed set, so this stays small.
    by_reason: [Mutex<BTreeMap<String, u64>>; 5],
    latencies: [Histogram; 5],
}

/// The counters at one moment. Sessions that still live are counted as accepted only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Clients accepted, refused ones included.
    pub accepted: u64,
    /// Events of ended sessions.
    pub events: u64,
    /// Bytes from peers of ended sessions.
    pub bytes_in: u64,
    /// Bytes to peers of ended sessions.
    pub bytes_out: u64,
    /// Fuel of ended sessions.
    pub fuel: u64,
    /// Log lines of plugins that were over the limit.
    pub lines_dropped: u64,
    /// Newcomers turned away, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Handshakes that failed, by reason.
    pub handshakes_failed: BTreeMap<String, u64>,
    /// Sessions that ended, by reason.
    pub ended: BTreeMap<String, u64>,
    /// Events that failed, by reason.
    pub faults: BTreeMap<String, u64>,
    /// What happened to the server as a whole.
    pub notices: BTreeMap<String, u64>,
}

impl Counters {
    pub(super) fn count(&self, kind: Kind, reason: &str) {
        self.add(kind, reason, 1);
    }

    pub(super) fn add(&self, kind: Kind, reason: &str, more: u64) {
        if more == 0 {
            return;
        }
        let mut map = self.by_reason[kind as usize].lock().unwrap_or_else(PoisonError::into_inner);
        // Looked up first: nearly always it is there, and then nothing is allocated.
        match map.get_mut(reason) {
            Some(count) => *count += more,
            None => {
                map.insert(reason.to_owned(), more);
            }
        }
    }

    /// A newcomer was accepted from the listening socket.
    pub fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// A log line of a plugin was over the limit.
    pub fn output_dropped(&self) {
        self.lines_dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_session(&self, events: u64, bytes_in: u64, bytes_out: u64, fuel: u64) {
        self.events.fetch_add(events, Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes_in, Ordering::Relaxed);
        self.bytes_out.fetch_add(bytes_out, Ordering::Relaxed);
        self.fuel.fetch_add(fuel, Ordering::Relaxed);
    }

    /// How long events took, by class, from the start until now.
    #[must_use]
    pub fn latencies(&self) -> Vec<(Priority, Latencies)> {
        Priority::ALL.into_iter().map(|class| (class, self.latencies[class as usize].snapshot())).collect()
    }

    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let map = |kind: Kind| self.by_reason[kind as usize].lock().unwrap_or_else(PoisonError::into_inner).clone();
        Snapshot {
            accepted: load(&self.accepted),
            events: load(&self.events),
            bytes_in: load(&self.bytes_in),
            bytes_out: load(&self.bytes_out),
            fuel: load(&self.fuel),
            lines_dropped: load(&self.lines_dropped),
            refused: map(Kind::Refused),
            handshakes_failed: map(Kind::Handshake),
            ended: map(Kind::Ended),
            faults: map(Kind::Fault),
            notices: map(Kind::Notice),
        }
    }
}

impl Meter for Counters {
    fn event(&self, class: Priority, took: Duration) {
        self.latencies[class as usize].record(took);
    }
}
