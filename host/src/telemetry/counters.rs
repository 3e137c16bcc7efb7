//! Counters of one server. Sessions add theirs when they end, so that no event touches a shared cache line.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Counters of one server since its start.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    events: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    fuel: AtomicU64,
    lines_dropped: AtomicU64,
    /// By kind and reason. Reasons are a small, closed set, so this stays small.
    by_reason: Mutex<BTreeMap<(&'static str, String), u64>>,
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
}

impl Counters {
    pub(super) fn count(&self, kind: &'static str, reason: &str) {
        let mut map = self.by_reason.lock().unwrap_or_else(PoisonError::into_inner);
        *map.entry((kind, reason.to_owned())).or_default() += 1;
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

    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut snapshot = Snapshot {
            accepted: load(&self.accepted),
            events: load(&self.events),
            bytes_in: load(&self.bytes_in),
            bytes_out: load(&self.bytes_out),
            fuel: load(&self.fuel),
            lines_dropped: load(&self.lines_dropped),
            ..Snapshot::default()
        };
        for ((kind, reason), &count) in self.by_reason.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let map = match *kind {
                "refused" => &mut snapshot.refused,
                "handshake" => &mut snapshot.handshakes_failed,
                "ended" => &mut snapshot.ended,
                _ => &mut snapshot.faults,
            };
            map.insert(reason.clone(), count);
        }
        snapshot
    }
}
