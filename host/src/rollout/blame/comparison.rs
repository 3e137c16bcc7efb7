//! Comparison of a version with the one before. Pure: callers pass the time.

use std::time::{Duration, Instant};

use super::rates::{UndoneReplays, Weighed};
use super::{ClientSource, FaultRates, Finding, LiveAddresses, Mark};
use crate::event::FaultKind;
use crate::telemetry::FaultFigures;

/// Addresses from which the rates by address decide. With fewer, the rates by session decide.
const ADDRESSES_MIN: u64 = 3;
/// Least number of addresses with faults, unless a replay showed that the version before does well.
const FAULTY_ADDRESSES_MIN: u64 = 2;
/// Endings on the version before do not expire, because the comparison may outlast its sessions.
const EVER: Duration = Duration::from_secs(100 * 365 * 86_400);
/// Longest time that a decision waits for replays. Later ones are left out.
pub(crate) const REPLAYS_WAIT_MAX: Duration = Duration::from_secs(10);

/// Interval of looks at the live sessions, while the decision waits and nothing changes.
pub(crate) const LOOKED_EVERY: Duration = Duration::from_secs(1);

/// Rule by which a version is worse than the one before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rule {
    /// At least `faults_min` faults, and a rate that is more than `share` higher.
    Swap { faults_min: u32, share: f64 },
    /// At least `faults_min` faults, and a rate above `share` and above `ratio` times the other.
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

/// Decision about a version.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Decision {
    /// The version is not worse so far.
    Keep,
    /// The decision waits for replays.
    NotYet,
    /// The version is worse.
    RollBack(FaultFigures),
}

/// Comparison of a version with the one before.
#[derive(Debug)]
pub(crate) struct Comparison {
    new: FaultRates,
    before: FaultRates,
    rule: Rule,
    /// Time since which the decision waits for replays.
    undecided: Option<Instant>,
    /// Number of changes: faults counted, and replays begun and ended.
    changes: u64,
    /// Number of changes at the last decision, and its time, if it waits for replays.
    waits: Option<(u64, Instant)>,
}

impl Comparison {
    /// Makes the comparison for a new version. `before` has the recent endings of the version
    /// before. Endings of the new version count for one to two times `length`.
    pub(crate) fn new(rule: Rule, before: FaultRates, length: Duration) -> Self {
        let (new, before) = (FaultRates::new(length), before.lasting(EVER));
        Self { new, before, rule, undecided: None, changes: 0, waits: None }
    }

    /// Counts of the new version's sessions.
    pub(crate) fn new_version(&mut self) -> &mut FaultRates {
        &mut self.new
    }

    /// Counts of the sessions of the version before.
    pub(crate) fn version_before(&mut self) -> &mut FaultRates {
        &mut self.before
    }

    /// Counts a fault of the new version. Returns the fault's mark, and whether there are enough
    /// faults for a decision.
    pub(crate) fn faulted(
        &mut self,
        source: ClientSource,
        fault: (&'static str, FaultKind),
        now: Instant,
    ) -> (Mark, bool) {
        self.changes += 1;
        let mark = self.new.faulted(source, fault, now);
        (mark, self.has_enough())
    }

    /// Whether there are enough faults for a decision.
    pub(crate) fn has_enough(&self) -> bool {
        self.new.faults() >= self.rule.faults_min().max(1)
    }

    /// Notes that a replay of a fault on the version before began.
    pub(crate) fn begins(&mut self, mark: Mark) {
        self.changes += 1;
        self.new.begins(mark);
    }

    /// Notes the finding of a replay.
    pub(crate) fn replayed(&mut self, mark: Mark, finding: Finding) {
        self.changes += 1;
        self.new.replayed(mark, finding);
    }

    /// Whether the next decision may differ from the last. If not, the last one waits for replays,
    /// and the next would too. It is then not worth a look at all sessions.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let is_old = |at| now.saturating_duration_since(at) >= LOOKED_EVERY;
        self.waits.is_none_or(|(changes, at)| changes != self.changes || is_old(at))
    }

    /// Decides. `live` has the live sessions of the new version and of the one before.
    pub(crate) fn decide(&mut self, live: [&LiveAddresses; 2], now: Instant) -> Decision {
        let decision = self.decision(live, now);
        self.waits = (decision == Decision::NotYet).then_some((self.changes, now));
        decision
    }

    fn decision(&mut self, live: [&LiveAddresses; 2], now: Instant) -> Decision {
        if !self.has_enough() {
            self.undecided = None;
            return Decision::Keep;
        }
        if let Some(figures) = self.figures_if_worse(live, UndoneReplays::Excused) {
            // No replay can change the decision. The figures show the known findings.
            return Decision::RollBack(
                self.figures_if_worse(live, UndoneReplays::Unknown).unwrap_or(figures),
            );
        }
        if self.figures_if_worse(live, UndoneReplays::Against).is_none() {
            self.undecided = None;
            return Decision::Keep;
        }
        let since = *self.undecided.get_or_insert(now);
        if now.saturating_duration_since(since) < REPLAYS_WAIT_MAX {
            return Decision::NotYet;
        }
        // Later decisions wait for their own replays.
        self.undecided = None;
        self.figures_if_worse(live, UndoneReplays::Unknown)
            .map_or(Decision::Keep, Decision::RollBack)
    }

    /// Returns the figures if the version is worse by them.
    fn figures_if_worse(
        &self,
        [live, live_before]: [&LiveAddresses; 2],
        undone: UndoneReplays,
    ) -> Option<FaultFigures> {
        let new = self.new.weigh(live, undone);
        let before = self.before.weigh(live_before, UndoneReplays::Unknown);
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
