//! Counters of one version of a server's plugin, by class. Sessions add theirs when they end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Latencies;
use super::latencies::Histogram;
use crate::event::{Fault, Meter, Priority};
use crate::locks::lock;

/// Counts by reason. Reasons are a small, closed set, so this stays small.
#[derive(Debug, Default)]
pub(super) struct ByReason(Mutex<BTreeMap<String, u64>>);

impl ByReason {
    pub(super) fn add(&self, reason: &str, more: u64) {
        if more == 0 {
            return;
        }
        let mut map = lock(&self.0);
        // Looked up first: nearly always the reason is there, and then nothing is allocated.
        match map.get_mut(reason) {
            Some(count) => *count += more,
            None => {
                map.insert(reason.to_owned(), more);
            }
        }
    }

    pub(super) fn snapshot(&self) -> BTreeMap<String, u64> {
        lock(&self.0).clone()
    }
}

/// What an ended session has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// Events dispatched.
    pub events: u64,
    /// Bytes from the peer.
    pub bytes_in: u64,
    /// Bytes to the peer.
    pub bytes_out: u64,
    /// Fuel.
    pub fuel: u64,
    /// CPU time of the session's events.
    pub cpu: Duration,
}

/// Metrics of the sessions on one version of a server's plugin.
#[derive(Debug)]
pub struct RevisionMetrics {
    plugin: Arc<str>,
    /// Digest of the plugin's component.
    digest: Arc<str>,
    events: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    fuel: AtomicU64,
    cpu_ns: AtomicU64,
    /// The number of [`KeptInputs`] that live.
    askers: AtomicUsize,
    classes: [OfClass; Priority::ALL.len()],
}

#[derive(Debug, Default)]
struct OfClass {
    ended: ByReason,
    faults: ByReason,
    latencies: Histogram,
}

/// Revision metrics at one moment. Sessions that still live are in the latencies only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionMetricsStatus {
    /// The plugin's name and version.
    pub plugin: Arc<str>,
    /// What ended sessions have used.
    pub spent: Spent,
    /// By class, lowest first.
    pub classes: Vec<ClassStatus>,
}

/// One class of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassStatus {
    /// The class: of a session at its end, of an event when it ran.
    pub class: Priority,
    /// Sessions that ended, by reason.
    pub ended: BTreeMap<String, u64>,
    /// Events that failed, by reason.
    pub faults: BTreeMap<String, u64>,
    /// Durations of events.
    pub latencies: Latencies,
}

/// Keeps the inputs of a revision's failing events while it lives.
#[derive(Debug)]
pub struct KeptInputs(Arc<RevisionMetrics>);

impl Drop for KeptInputs {
    fn drop(&mut self) {
        self.0.askers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RevisionMetrics {
    pub(super) fn new(plugin: Arc<str>, digest: Arc<str>) -> Self {
        let zero = || AtomicU64::new(0);
        let (events, bytes_in, bytes_out, fuel, cpu_ns) = (zero(), zero(), zero(), zero(), zero());
        let (askers, classes) = Default::default();
        Self { plugin, digest, events, bytes_in, bytes_out, fuel, cpu_ns, askers, classes }
    }

    /// Returns the digest of the component; empty if several revisions are counted together.
    pub(super) fn digest(&self) -> &Arc<str> {
        &self.digest
    }

    /// Returns the plugin's name and version.
    #[must_use]
    pub fn plugin(&self) -> &Arc<str> {
        &self.plugin
    }

    /// Keeps the inputs of failing events until the result is dropped.
    #[must_use]
    pub fn keep_inputs(self: &Arc<Self>) -> KeptInputs {
        self.askers.fetch_add(1, Ordering::Relaxed);
        KeptInputs(Arc::clone(self))
    }

    /// Returns whether inputs of failing events are kept.
    #[must_use]
    pub fn keeps_inputs(&self) -> bool {
        self.askers.load(Ordering::Relaxed) > 0
    }

    /// Returns the durations of events, of all classes together.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        let mut all = Latencies::default();
        self.classes.iter().for_each(|class| all.add(&class.latencies.snapshot()));
        all
    }

    pub(super) fn ended(&self, class: Priority, reason: &str, spent: &Spent) {
        self.classes[class as usize].ended.add(reason, 1);
        self.absorb(spent);
    }

    pub(super) fn faulted(&self, class: Priority, reason: &str) {
        self.classes[class as usize].faults.add(reason, 1);
    }

    fn absorb(&self, spent: &Spent) {
        self.events.fetch_add(spent.events, Ordering::Relaxed);
        self.bytes_in.fetch_add(spent.bytes_in, Ordering::Relaxed);
        self.bytes_out.fetch_add(spent.bytes_out, Ordering::Relaxed);
        self.fuel.fetch_add(spent.fuel, Ordering::Relaxed);
        self.cpu_ns
            .fetch_add(u64::try_from(spent.cpu.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Adds the counts of another revision.
    pub(super) fn merge(&self, other: &Self) {
        self.absorb(&other.spent());
        for (to, from) in self.classes.iter().zip(&other.classes) {
            for (into, out) in [(&to.ended, &from.ended), (&to.faults, &from.faults)] {
                out.snapshot().iter().for_each(|(reason, count)| into.add(reason, *count));
            }
            to.latencies.merge(&from.latencies);
        }
    }

    fn spent(&self) -> Spent {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Spent {
            events: load(&self.events),
            bytes_in: load(&self.bytes_in),
            bytes_out: load(&self.bytes_out),
            fuel: load(&self.fuel),
            cpu: Duration::from_nanos(load(&self.cpu_ns)),
        }
    }

    pub(super) fn snapshot(&self) -> RevisionMetricsStatus {
        let seen = |class: Priority| {
            let of = &self.classes[class as usize];
            let (ended, faults) = (of.ended.snapshot(), of.faults.snapshot());
            ClassStatus { class, ended, faults, latencies: of.latencies.snapshot() }
        };
        let classes = Priority::ALL.into_iter().map(seen).collect();
        RevisionMetricsStatus { plugin: Arc::clone(&self.plugin), spent: self.spent(), classes }
    }
}

impl Meter for RevisionMetrics {
    fn event(&self, class: Priority, took: Duration) {
        self.classes[class as usize].latencies.record(took);
    }

    fn not_woken(&self, class: Priority, fault: &Fault) {
        self.faulted(class, &fault.kind.name());
    }
}
