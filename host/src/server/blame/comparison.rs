//! Whether a version is worse than the one before. Pure: it is told the time.

use std::time::{Duration, Instant};

use super::rates::{Pending, Weighed};
use super::{FaultRates, Finding, LiveAddresses, Mark, Source};
use crate::event::FaultKind;
use crate::telemetry::FaultFigures;

/// From so many addresses on, the rates by address decide; with fewer those by session do.
const ADDRESSES_MIN: u64 = 3;
/// Of these, so many need to have faults, unless a replay showed that the version before has not.
const FAULTY_ADDRESSES_MIN: u64 = 2;
/// What the version before did does not expire: the comparison may outlast its sessions.
const EVER: Duration = Duration::from_secs(100 * 365 * 86_400);
/// How long a decision waits for replays. Replays that are not done by then are left out.
pub(in crate::server) const REPLAYS_WAIT_MAX: Duration = Duration::from_secs(10);

/// While replays are waited for and nothing changes, sessions that go on are looked at this often.
pub(in crate::server) const LOOKED_EVERY: Duration = Duration::from_secs(1);

/// By which rule a version is worse than the one before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::server) enum Rule {
    /// So many faults, and a rate that is so much higher.
    Swap { faults_min: u32, share: f64 },
    /// So many faults, a rate above `share`, and above so many times the other.
    Canary { faults_min: u32, share: f64, ratio: f64 },
}

impl Rule {
    fn faults_min(self) -> u64 {
        match self {
            Self::Swap { faults_min, .. } | Self::Canary { faults_min, .. } => {
                u64::from(faults_min)
            }
        }
    }

    fn is_worse(self, rate: f64, before: f64) -> bool {
        match self {
            Self::Swap { share, .. } => rate - before > share,
            Self::Canary { share, ratio, .. } => rate > share && rate > ratio * before,
        }
    }
}

/// What becomes of a version.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::server) enum Verdict {
    /// It is not worse, so far.
    Keep,
    /// Replays decide that are not done.
    NotYet,
    /// It is worse.
    TakeBack(FaultFigures),
}

/// A version against the one before.
#[derive(Debug)]
pub(in crate::server) struct Comparison {
    new: FaultRates,
    before: FaultRates,
    rule: Rule,
    /// Since when replays are waited for.
    undecided: Option<Instant>,
    /// Faults that were counted and replays that began and ended.
    changes: u64,
    /// How many there were at the last decision, and when that was, where it waits for replays.
    waits: Option<(u64, Instant)>,
}

impl Comparison {
    /// Of a version that comes now. `before` is what the one before did within the last while. What
    /// the new one does counts for one to two times this length.
    pub(in crate::server) fn new(rule: Rule, before: FaultRates, length: Duration) -> Self {
        let (new, before) = (FaultRates::new(length), before.lasting(EVER));
        Self { new, before, rule, undecided: None, changes: 0, waits: None }
    }

    /// The new version's sessions.
    pub(in crate::server) fn new_version(&mut self) -> &mut FaultRates {
        &mut self.new
    }

    /// Those of the version before.
    pub(in crate::server) fn version_before(&mut self) -> &mut FaultRates {
        &mut self.before
    }

    /// A session of the new version faulted. True where the version may be worse now.
    pub(in crate::server) fn faulted(
        &mut self,
        source: Source,
        fault: (&'static str, FaultKind),
        now: Instant,
    ) -> (Mark, bool) {
        self.changes += 1;
        let mark = self.new.faulted(source, fault, now);
        (mark, self.has_enough())
    }

    /// Whether there are as many faults as it takes.
    pub(in crate::server) fn has_enough(&self) -> bool {
        self.new.faults() >= self.rule.faults_min().max(1)
    }

    /// A fault of the new version is being replayed on the one before.
    pub(in crate::server) fn begins(&mut self, mark: Mark) {
        self.changes += 1;
        self.new.begins(mark);
    }

    /// What was found out about it.
    pub(in crate::server) fn replayed(&mut self, mark: Mark, finding: Finding) {
        self.changes += 1;
        self.new.replayed(mark, finding);
    }

    /// Whether the next decision may be another than the last. If not, that one waits for replays,
    /// and so does the next: it is not worth a look at all sessions.
    pub(in crate::server) fn is_due(&self, now: Instant) -> bool {
        let is_old = |at| now.saturating_duration_since(at) >= LOOKED_EVERY;
        self.waits.is_none_or(|(changes, at)| changes != self.changes || is_old(at))
    }

    /// Decides. `live` has the sessions of the new version and of the one before that go on.
    pub(in crate::server) fn decide(&mut self, live: [&LiveAddresses; 2], now: Instant) -> Verdict {
        let verdict = self.verdict(live, now);
        self.waits = (verdict == Verdict::NotYet).then_some((self.changes, now));
        verdict
    }

    fn verdict(&mut self, live: [&LiveAddresses; 2], now: Instant) -> Verdict {
        if !self.has_enough() {
            self.undecided = None;
            return Verdict::Keep;
        }
        if let Some(figures) = self.judge(live, Pending::Excused) {
            // No replay can change it. The figures tell what is known.
            return Verdict::TakeBack(self.judge(live, Pending::Unknown).unwrap_or(figures));
        }
        if self.judge(live, Pending::Against).is_none() {
            self.undecided = None;
            return Verdict::Keep;
        }
        let since = *self.undecided.get_or_insert(now);
        if now.saturating_duration_since(since) < REPLAYS_WAIT_MAX {
            return Verdict::NotYet;
        }
        // Later decisions wait for their own replays.
        self.undecided = None;
        self.judge(live, Pending::Unknown).map_or(Verdict::Keep, Verdict::TakeBack)
    }

    /// The figures, where the version is worse by them.
    fn judge(
        &self,
        [live, live_before]: [&LiveAddresses; 2],
        pending: Pending,
    ) -> Option<FaultFigures> {
        let new = self.new.weigh(live, pending);
        let before = self.before.weigh(live_before, Pending::Unknown);
        let by_address = new.addresses >= ADDRESSES_MIN;
        let rate = |of: &Weighed| if by_address { of.by_address } else { of.by_session };
        let several = new.faulty >= FAULTY_ADDRESSES_MIN || new.crowded || new.differ > 0;
        let is_worse = new.counted >= self.rule.faults_min() as f64
            && self.rule.is_worse(rate(&new), rate(&before))
            && (several || !by_address);
        is_worse.then(|| FaultFigures {
            faults: new.faults,
            excused: (new.faults as f64 - new.counted).max(0.0).round() as u64,
            replayed: new.replayed,
            addresses: new.addresses,
            faulty_addresses: new.faulty,
            rate: rate(&new),
            rate_before: rate(&before),
        })
    }
}
