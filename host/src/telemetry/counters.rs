//! Counters of one server. Sessions add theirs when they end, and each thread has latencies of its
//! own, so that no event touches a shared cache line.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Latencies;
use super::edition::{ByReason, Edition, EditionSeen, Spent};
use crate::event::Priority;

/// Versions of a plugin that are counted apart. Those before are counted together once their
/// sessions are gone.
const EDITIONS_MAX: usize = 8;
/// What those are counted as.
const EARLIER: &str = "earlier";

/// What is counted by reason for the server as a whole.
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
    editions: Mutex<Vec<Arc<Edition>>>,
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
    /// The same sessions by version of the plugin, oldest first.
    pub editions: Vec<EditionSeen>,
}

impl Snapshot {
    /// How long events took, by class, over all versions of the plugin.
    #[must_use]
    pub fn latencies(&self) -> Vec<(Priority, Latencies)> {
        let mut classes = Priority::ALL.map(|class| (class, Latencies::default()));
        for seen in self.editions.iter().flat_map(|edition| &edition.classes) {
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

    /// A newcomer was accepted from the listening socket.
    pub fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// A log line of a plugin was over the limit.
    pub fn output_dropped(&self) {
        self.lines_dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Where the sessions on this plugin (name and version, and the digest of its component) are
    /// counted. Another build of the same version has the beginning of its digest beside the
    /// version.
    #[must_use]
    pub fn edition(&self, plugin: &str, digest: &str) -> Arc<Edition> {
        let mut editions = self.editions.lock().unwrap_or_else(PoisonError::into_inner);
        let short = format!("{plugin} ({})", digest.get(..8).unwrap_or(digest));
        let is = |known: &&Arc<Edition>| {
            **known.digest() == *digest && [plugin, &*short].contains(&&**known.plugin())
        };
        if let Some(known) = editions.iter().find(is) {
            return Arc::clone(known);
        }
        let name =
            if editions.iter().any(|known| **known.plugin() == *plugin) { &*short } else { plugin };
        if editions.len() >= EDITIONS_MAX {
            put_together(&mut editions);
        }
        let new = Arc::new(Edition::new(name.into(), digest.into()));
        editions.push(Arc::clone(&new));
        new
    }

    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let editions = self.editions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let editions: Vec<_> = editions.iter().map(|edition| edition.snapshot()).collect();
        let map = |kind: Kind| self.by_reason[kind as usize].snapshot();
        let mut seen = Snapshot {
            accepted: self.accepted.load(Ordering::Relaxed),
            lines_dropped: self.lines_dropped.load(Ordering::Relaxed),
            refused: map(Kind::Refused),
            handshakes_failed: map(Kind::Handshake),
            notices: map(Kind::Notice),
            ..Snapshot::default()
        };
        for edition in &editions {
            let (sum, more) = (&mut seen.spent, edition.spent);
            sum.events += more.events;
            sum.bytes_in += more.bytes_in;
            sum.bytes_out += more.bytes_out;
            sum.fuel += more.fuel;
            sum.cpu += more.cpu;
            for class in &edition.classes {
                for (sums, counts) in
                    [(&mut seen.ended, &class.ended), (&mut seen.faults, &class.faults)]
                {
                    counts.iter().for_each(|(reason, more)| {
                        *sums.entry(reason.clone()).or_default() += more;
                    });
                }
            }
        }
        Snapshot { editions, ..seen }
    }
}

/// Merges the oldest edition without sessions into the one of all earlier ones, which is the first.
/// Where each has sessions there is one more than there should be, and no more of them than
/// sessions.
fn put_together(editions: &mut Vec<Arc<Edition>>) {
    let idle =
        |edition: &Arc<Edition>| &**edition.plugin() != EARLIER && Arc::strong_count(edition) == 1;
    let Some(oldest) = editions.iter().position(idle) else { return };
    let oldest = editions.remove(oldest);
    if editions.first().is_none_or(|first| &**first.plugin() != EARLIER) {
        editions.insert(0, Arc::new(Edition::new(EARLIER.into(), "".into())));
    }
    editions[0].merge(&oldest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Meter;
    use std::time::Duration;

    #[test]
    fn old_versions_are_counted_together_and_nothing_is_lost() {
        let counters = Counters::default();
        let spent = Spent { events: 2, cpu: Duration::from_micros(5), ..Spent::default() };
        for version in 0..50 {
            let edition = counters.edition(&format!("echo 0.{version}.0"), "");
            edition.event(Priority::Low, Duration::from_micros(3));
            edition.ended(Priority::Low, "peer-closed", &spent);
            edition.faulted(Priority::High, "fault-trap");
        }
        let seen = counters.snapshot();
        assert!(seen.editions.len() <= EDITIONS_MAX + 1, "{}", seen.editions.len());
        assert_eq!(&*seen.editions[0].plugin, EARLIER);
        assert_eq!(
            (seen.ended["peer-closed"], seen.faults["fault-trap"], seen.spent.events),
            (50, 50, 100)
        );
        let events: u64 =
            seen.editions.iter().map(|edition| edition.classes[1].latencies.count()).sum();
        assert_eq!(events, 50);
    }
}
