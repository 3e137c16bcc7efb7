//! Counters of one server. Sessions add theirs when they end, and each thread has latencies of its
//! own, so no event touches a shared cache line.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::Latencies;
use super::revision_metrics::{ByReason, RevisionMetrics, RevisionMetricsStatus, Spent};
use crate::event::Priority;
use crate::locks::lock;

/// Versions of a plugin that are counted apart. Earlier versions are counted together once their
/// sessions are gone.
const REVISIONS_MAX: usize = 8;
/// The name of the earlier versions that are counted together.
const EARLIER: &str = "earlier";

/// What the server counts by reason, not by version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Refused,
    Handshake,
    Notice,
}

/// Counters of one server since its start.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    lines_dropped: AtomicU64,
    by_reason: [ByReason; 3],
    /// Oldest first.
    revisions: Mutex<Vec<Arc<RevisionMetrics>>>,
}

/// The counters at one moment. Sessions that still live are counted as accepted only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Clients accepted, refused ones included.
    pub accepted: u64,
    /// What ended sessions have used.
    pub spent: Spent,
    /// Log lines of plugins that were over the limit.
    pub lines_dropped: u64,
    /// New connections turned away, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Handshakes that failed, by reason.
    pub handshakes_failed: BTreeMap<String, u64>,
    /// Sessions that ended, by reason.
    pub ended: BTreeMap<String, u64>,
    /// Events that failed, by reason.
    pub faults: BTreeMap<String, u64>,
    /// Notices of the server, by name.
    pub notices: BTreeMap<String, u64>,
    /// The same sessions by version of the plugin, oldest first.
    pub revisions: Vec<RevisionMetricsStatus>,
}

impl Snapshot {
    /// Returns the durations of events by class, over all versions of the plugin.
    #[must_use]
    pub fn latencies(&self) -> Vec<(Priority, Latencies)> {
        let mut classes = Priority::ALL.map(|class| (class, Latencies::default()));
        for seen in self.revisions.iter().flat_map(|revision| &revision.classes) {
            classes[seen.class as usize].1.add(&seen.latencies);
        }
        classes.into()
    }
}

impl Counters {
    pub(super) fn count(&self, kind: Kind, reason: &str) {
        self.add(kind, reason, 1);
    }

    pub(super) fn add(&self, kind: Kind, reason: &str, more: u64) {
        self.by_reason[kind as usize].add(reason, more);
    }

    /// Counts a connection that was accepted from the listening socket.
    pub fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a log line of a plugin that was over the limit.
    pub fn output_dropped(&self) {
        self.lines_dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the metrics of this plugin, by its name and version and the digest of its component.
    /// Another build of the same version has the beginning of its digest beside the version.
    #[must_use]
    pub fn revision(&self, plugin: &str, digest: &str) -> Arc<RevisionMetrics> {
        let mut revisions = lock(&self.revisions);
        let short = format!("{plugin} ({})", digest.get(..8).unwrap_or(digest));
        let is = |known: &&Arc<RevisionMetrics>| {
            **known.digest() == *digest && [plugin, &*short].contains(&&**known.plugin())
        };
        if let Some(known) = revisions.iter().find(is) {
            return Arc::clone(known);
        }
        let name = if revisions.iter().any(|known| **known.plugin() == *plugin) {
            &*short
        } else {
            plugin
        };
        if revisions.len() >= REVISIONS_MAX {
            put_together(&mut revisions);
        }
        let new = Arc::new(RevisionMetrics::new(name.into(), digest.into()));
        revisions.push(Arc::clone(&new));
        new
    }

    /// Returns the counters at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let revisions = lock(&self.revisions).clone();
        let revisions: Vec<_> = revisions.iter().map(|revision| revision.snapshot()).collect();
        let map = |kind: Kind| self.by_reason[kind as usize].snapshot();
        let mut seen = Snapshot {
            accepted: self.accepted.load(Ordering::Relaxed),
            lines_dropped: self.lines_dropped.load(Ordering::Relaxed),
            refused: map(Kind::Refused),
            handshakes_failed: map(Kind::Handshake),
            notices: map(Kind::Notice),
            ..Snapshot::default()
        };
        for revision in &revisions {
            let (sum, more) = (&mut seen.spent, revision.spent);
            sum.events += more.events;
            sum.bytes_in += more.bytes_in;
            sum.bytes_out += more.bytes_out;
            sum.fuel += more.fuel;
            sum.cpu += more.cpu;
            for class in &revision.classes {
                for (sums, counts) in
                    [(&mut seen.ended, &class.ended), (&mut seen.faults, &class.faults)]
                {
                    counts.iter().for_each(|(reason, more)| {
                        *sums.entry(reason.clone()).or_default() += more;
                    });
                }
            }
        }
        Snapshot { revisions, ..seen }
    }
}

/// Merges the oldest revision without sessions into the first entry, which counts all earlier ones.
///
/// If every revision has sessions, there is one entry above the maximum. There are never more such
/// entries than sessions.
fn put_together(revisions: &mut Vec<Arc<RevisionMetrics>>) {
    let idle = |revision: &Arc<RevisionMetrics>| {
        &**revision.plugin() != EARLIER && Arc::strong_count(revision) == 1
    };
    let Some(oldest) = revisions.iter().position(idle) else { return };
    let oldest = revisions.remove(oldest);
    if revisions.first().is_none_or(|first| &**first.plugin() != EARLIER) {
        revisions.insert(0, Arc::new(RevisionMetrics::new(EARLIER.into(), "".into())));
    }
    revisions[0].merge(&oldest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Meter;
    use std::time::Duration;

    #[test]
    fn old_versions_are_counted_together() {
        let counters = Counters::default();
        let spent = Spent { events: 2, cpu: Duration::from_micros(5), ..Spent::default() };
        for version in 0..50 {
            let revision = counters.revision(&format!("echo 0.{version}.0"), "");
            revision.event(Priority::Low, Duration::from_micros(3));
            revision.ended(Priority::Low, "peer-closed", &spent);
            revision.faulted(Priority::High, "fault-trap");
        }
        let seen = counters.snapshot();
        assert!(seen.revisions.len() <= REVISIONS_MAX + 1, "{}", seen.revisions.len());
        assert_eq!(&*seen.revisions[0].plugin, EARLIER);
        assert_eq!(
            (seen.ended["peer-closed"], seen.faults["fault-trap"], seen.spent.events),
            (50, 50, 100)
        );
        let events: u64 =
            seen.revisions.iter().map(|revision| revision.classes[1].latencies.count()).sum();
        assert_eq!(events, 50);
    }
}
