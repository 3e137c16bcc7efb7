//! Blame for faults: counts of endings by client address, for the breaker, for roll-back and for
//! the canary's judge.
//!
//! A client can provoke a fault that every version has. So an address counts once, however often
//! its clients come, and a fault of a new version is replayed on the version before. Counts and
//! comparisons have no clock and do no I/O; only [`replay`] runs a plugin.

mod comparison;
mod port;
mod quota;
mod rates;
mod replay;
#[cfg(test)]
mod simulation;
mod source;
mod suspect;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

pub(super) use comparison::{Comparison, Decision, Rule};
use quota::ReplayQuota;
pub(super) use rates::{FaultRates, Finding, Mark};
pub(crate) use source::{ClientSource, Crowd, EndKind, LiveAddresses};
pub(crate) use suspect::Blamed;
use suspect::count;
pub(super) use suspect::{PendingReplay, Suspect};

use super::live::LiveSessions;
use super::rules::VERSIONS_MAX;
use crate::locks::lock;
use crate::session::FaultEvidence;
use crate::telemetry::{FaultReplayed, RevisionMetrics};

/// Least time before a swap in which endings count for the version before.
pub(super) const PAST: Duration = Duration::from_secs(60);

/// A server's counts and replays.
#[derive(Debug)]
pub(super) struct Blame {
    /// Endings by version. The version with the latest ending is last.
    past: Mutex<Vec<(Arc<RevisionMetrics>, FaultRates)>>,
    quota: Mutex<ReplayQuota>,
    /// Admits one replay at a time.
    replaying: Arc<Semaphore>,
}

impl Default for Blame {
    fn default() -> Self {
        Self {
            past: Mutex::default(),
            quota: Mutex::default(),
            replaying: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Blame {
    /// Counts the end of a session of this version.
    pub(super) fn ended(
        &self,
        of: &Arc<RevisionMetrics>,
        source: ClientSource,
        blamed: Option<&Blamed>,
        now: Instant,
    ) {
        let mut past = lock(&self.past);
        let known = past.iter().position(|(metrics, _)| Arc::ptr_eq(metrics, of));
        let at = known.unwrap_or_else(|| {
            if past.len() >= VERSIONS_MAX {
                past.remove(0);
            }
            past.push((Arc::clone(of), FaultRates::new(PAST)));
            past.len() - 1
        });
        past[at..].rotate_left(1);
        if let Some((_, rates)) = past.last_mut() {
            count(rates, source, blamed, now);
        }
    }

    /// Returns this version's recent endings: those of one to two spans of [`PAST`].
    pub(super) fn past_of(&self, metrics: &Arc<RevisionMetrics>, now: Instant) -> FaultRates {
        let past = lock(&self.past);
        let known = past.iter().find(|(known, _)| Arc::ptr_eq(known, metrics));
        known.map_or_else(|| FaultRates::new(PAST), |(_, rates)| rates.clone().at(now))
    }

    /// Replays a fault on the version before, if the quota allows.
    pub(super) fn replay(
        &self,
        server: &dyn LiveSessions,
        pending: PendingReplay,
        evidence: Box<FaultEvidence>,
        (event, kind): replay::Failure,
        now: Instant,
    ) {
        if lock(&self.quota).take(pending.source, now) {
            lock(&pending.comparison).begins(pending.mark);
            replay::begin(server, Arc::clone(&self.replaying), pending, evidence, (event, kind));
        } else {
            let (server, counters) = (server.name(), server.counters());
            FaultReplayed { server, event, kind, finding: "over-quota" }.emit(counters);
        }
    }
}
