//! A fault of a plugin, and a new version that is suspected of it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{ClientSource, Comparison, Decision, FaultRates, LiveAddresses, Mark, Rule};
use crate::event::FaultKind;
use crate::locks::lock;
use crate::plugin::EventProcedure;
use crate::session::FaultEvidence;
use crate::telemetry::KeptInputs;

/// A fault of a plugin that ended a session.
#[derive(Debug)]
pub(crate) struct Blamed {
    /// Name of the event that failed.
    pub(crate) event: &'static str,
    /// Kind of the fault.
    pub(crate) kind: FaultKind,
    /// What a replay on another version needs, if it was kept.
    pub(crate) evidence: Option<Box<FaultEvidence>>,
}

impl Blamed {
    pub(crate) fn fault(&self) -> (&'static str, FaultKind) {
        (self.event, self.kind)
    }
}

/// A new version that is compared with the one before. While this lives, sessions keep the inputs
/// of failed events.
#[derive(Debug)]
pub(crate) struct Suspect {
    comparison: Arc<Mutex<Comparison>>,
    before: Arc<EventProcedure>,
    _kept: KeptInputs,
}

impl Suspect {
    /// Makes a suspect. `past` has the recent endings of the version before. Endings count for one
    /// to two times `length`.
    pub(crate) fn new(
        rule: Rule,
        new: &EventProcedure,
        (before, past): (&Arc<EventProcedure>, FaultRates),
        length: Duration,
    ) -> Self {
        let comparison = Arc::new(Mutex::new(Comparison::new(rule, past, length)));
        Self { comparison, before: Arc::clone(before), _kept: new.metrics().keep_inputs() }
    }

    /// The version to roll back to if the new one is worse.
    pub(crate) fn before(&self) -> &Arc<EventProcedure> {
        &self.before
    }

    /// Replaces the version before by itself with another configuration.
    pub(crate) fn set_before(&mut self, before: Arc<EventProcedure>) {
        self.before = before;
    }

    /// Counts the end of a session of the version before.
    pub(crate) fn count_before(&self, source: ClientSource, blamed: Option<&Blamed>, now: Instant) {
        count(lock(&self.comparison).version_before(), source, blamed, now);
    }

    /// Counts a session of the new version that ended well.
    pub(crate) fn went_well(&self, source: ClientSource, now: Instant) {
        lock(&self.comparison).new_version().well(source, now);
    }

    /// Counts a fault in a session of the new version. Returns the fault to replay, and whether
    /// there are enough faults for a decision.
    pub(crate) fn faulted(
        &self,
        source: ClientSource,
        blamed: &Blamed,
        now: Instant,
    ) -> (PendingReplay, bool) {
        let (mark, enough) = lock(&self.comparison).faulted(source, blamed.fault(), now);
        let before = Arc::clone(&self.before);
        (PendingReplay { comparison: Arc::clone(&self.comparison), before, mark, source }, enough)
    }

    /// Decides. `live` has the live sessions of the new version and of the one before.
    pub(crate) fn decide(&self, live: [&LiveAddresses; 2], now: Instant) -> Decision {
        lock(&self.comparison).decide(live, now)
    }

    /// Whether there are enough faults for a decision.
    pub(crate) fn has_enough(&self) -> bool {
        lock(&self.comparison).has_enough()
    }

    /// Whether the next decision may differ from the last, which waits for replays.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        lock(&self.comparison).is_due(now)
    }

    /// Whether `comparison` is the suspect's comparison.
    pub(crate) fn is(&self, comparison: &Arc<Mutex<Comparison>>) -> bool {
        Arc::ptr_eq(&self.comparison, comparison)
    }

    pub(crate) fn comparison(&self) -> Arc<Mutex<Comparison>> {
        Arc::clone(&self.comparison)
    }
}

/// A fault of a new version, and the version to replay it on.
pub(crate) struct PendingReplay {
    pub(super) comparison: Arc<Mutex<Comparison>>,
    pub(super) before: Arc<EventProcedure>,
    pub(super) mark: Mark,
    pub(crate) source: ClientSource,
}

/// Counts the end of a session.
pub(super) fn count(
    rates: &mut FaultRates,
    source: ClientSource,
    blamed: Option<&Blamed>,
    now: Instant,
) {
    match blamed {
        Some(blamed) => _ = rates.faulted(source, blamed.fault(), now),
        None => rates.well(source, now),
    }
}
