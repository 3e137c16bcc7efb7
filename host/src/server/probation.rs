//! Probation: rolls a new version back automatically, if it faults more than the version before.

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use futures_util::future::AbortHandle;

use super::blame::{
    Blamed, Comparison, LiveAddresses, PAST, Rule, Source, Suspect, Tried, Verdict,
};
use super::env;
use super::exclusive::Rank;
use super::service::Service;
use super::swap::{migrate, on, on_build, put_back, same};
use crate::event::Port;
use crate::plugin::{EventProcedure, Grants};
use crate::telemetry::FaultFigures;

/// Delay of the decision after a fault, and of each further attempt while replays run.
const JUDGED_AFTER: Duration = Duration::from_millis(50);
/// Longest window of counting. The end of a session counts for at most two windows.
const COUNTED_MAX: Duration = Duration::from_secs(300);

/// A version on probation, with the version before.
#[derive(Debug)]
pub(crate) struct Probation {
    new: Arc<EventProcedure>,
    suspect: Suspect,
    until: Instant,
    judged: ProbationVerdict,
    /// What both versions may import.
    grants: Grants,
    /// Task that ends the probation when its time is over.
    expiry: AbortHandle,
}

/// State of the decision about a version.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ProbationVerdict {
    /// The version has few faults, or the decision was to keep it.
    Kept,
    /// A task decides.
    UnderWay,
    /// The version is rolled back as soon as no other change is under way.
    Over(FaultFigures),
}

impl Drop for Probation {
    fn drop(&mut self) {
        self.expiry.abort();
    }
}

impl Probation {
    /// The version to roll back to.
    pub(super) fn before(&self) -> &Arc<EventProcedure> {
        self.suspect.before()
    }

    /// Counts the end of a session. Returns the fault to replay, and whether a task has to decide.
    fn hears(
        &mut self,
        of: &Arc<EventProcedure>,
        source: Source,
        blamed: Option<&Blamed>,
        now: Instant,
    ) -> (Option<Tried>, bool) {
        // A session may be on the same version with the configuration before a reload.
        let is = |version: &Arc<EventProcedure>| {
            Arc::ptr_eq(of, version) || same(of.plugin(), version.plugin())
        };
        if now > self.until {
            return (None, false);
        }
        match blamed {
            Some(blamed) if is(&self.new) => {
                let (tried, enough) = self.suspect.faulted(source, blamed, now);
                let begins = enough && self.judged == ProbationVerdict::Kept;
                if begins {
                    self.judged = ProbationVerdict::UnderWay;
                }
                (Some(tried), begins)
            }
            None if is(&self.new) => {
                self.suspect.went_well(source, now);
                (None, false)
            }
            blamed if is(self.before()) => {
                self.suspect.hears_of_before(source, blamed, now);
                (None, false)
            }
            _ => (None, false),
        }
    }

    /// Decides. `live` has the live sessions of the version and of the one before.
    fn judge(&mut self, live: [&LiveAddresses; 2], now: Instant) -> Verdict {
        let verdict = self.suspect.decide(live, now);
        self.judged = match verdict {
            Verdict::Keep => ProbationVerdict::Kept,
            Verdict::NotYet => ProbationVerdict::UnderWay,
            Verdict::TakeBack(figures) => ProbationVerdict::Over(figures),
        };
        verdict
    }
}

impl Service {
    /// Puts a version that was just swapped in on probation. The version before is released at its
    /// end.
    pub(super) fn watch(self: &Arc<Self>, new: &Arc<EventProcedure>, before: &Arc<EventProcedure>) {
        let server_config = self.server_config();
        let (rules, grants) = (server_config.rules, server_config.grants.clone());
        if rules.watch.is_zero() {
            *self.probation() = None;
            return;
        }
        let (service, now) = (Arc::downgrade(self), env::now());
        let until = now + rules.watch;
        let expiry = env::beside(&self.runtime, async move {
            env::sleep(rules.watch).await;
            let Some(service) = service.upgrade() else { return };
            service.probation().take_if(|probation| {
                probation.until == until && probation.judged == ProbationVerdict::Kept
            });
        });
        let mut past = self.blame.past_of(before.metrics(), now);
        // Sessions that migrated did well on the version before.
        for (handle, _) in on(self, new) {
            past.well(self.source(handle.info().peer.ip()), now);
        }
        let rule = Rule::Swap { faults_min: rules.faults_min, share: rules.faults_share };
        let suspect = Suspect::new(rule, new, (before, past), rules.watch.clamp(PAST, COUNTED_MAX));
        let (new, judged) = (Arc::clone(new), ProbationVerdict::Kept);
        *self.probation() = Some(Probation { new, suspect, until, judged, grants, expiry });
    }

    /// Continues a probation after a reload changed the current version's configuration. The
    /// version before gets that configuration too.
    pub(super) fn watch_on(&self, new: &Arc<EventProcedure>, was: &Arc<EventProcedure>) {
        let mut watching = self.probation();
        let Some(probation) =
            watching.as_mut().filter(|probation| Arc::ptr_eq(&probation.new, was))
        else {
            return;
        };
        if probation.grants != self.server_config().grants {
            // The version before is linked with other grants, so it must not come back.
            *watching = None;
            return;
        }
        probation.new = Arc::clone(new);
        // With another number of shards, it has no places for them and keeps its configuration.
        if new.shards() == probation.before().shards() {
            probation.suspect.set_before(Arc::new(probation.before().under_terms_of(new)));
        }
    }

    /// Counts the end of a session. Returns the fault to replay, if the session's version is on
    /// probation. Starts the decision about that version when it is due.
    pub(super) fn probation_hears(
        self: &Arc<Self>,
        procedure: &Arc<EventProcedure>,
        source: Source,
        blamed: Option<&Blamed>,
        now: Instant,
    ) -> Option<Tried> {
        let mut watching = self.probation();
        let probation = watching.as_mut()?;
        let (tried, begins) = probation.hears(procedure, source, blamed, now);
        let comparison = probation.suspect.comparison();
        drop(watching);
        if begins {
            env::beside(&self.runtime, judge(Arc::downgrade(self), comparison));
        }
        tried
    }

    /// Decides about the version of this comparison. `None`: its probation is over.
    fn judges(&self, comparison: &Arc<Mutex<Comparison>>) -> Option<Verdict> {
        let versions = {
            let watching = self.probation();
            let probation =
                watching.as_ref().filter(|probation| probation.suspect.is(comparison))?;
            if !probation.suspect.is_due(env::now()) {
                return Some(Verdict::NotYet);
            }
            [Arc::clone(&probation.new), Arc::clone(probation.before())]
        };
        let live = self.live_on(|current| {
            versions.iter().position(|version| same(current.plugin(), version.plugin()))
        });
        let (now, mut watching) = (env::now(), self.probation());
        let probation = watching.as_mut().filter(|probation| probation.suspect.is(comparison))?;
        let verdict = probation.judge([&live[0], &live[1]], now);
        if verdict == Verdict::Keep {
            // The expiry task may have run while the decision was under way.
            watching.take_if(|probation| now > probation.until);
        }
        Some(verdict)
    }
}

/// Decides about the version of this comparison, as soon as the replays allow.
async fn judge(service: Weak<Service>, comparison: Arc<Mutex<Comparison>>) {
    loop {
        env::sleep(JUDGED_AFTER).await;
        let Some(service) = service.upgrade() else { return };
        match service.judges(&comparison) {
            None | Some(Verdict::Keep) => return,
            Some(Verdict::NotYet) => {}
            Some(Verdict::TakeBack(_)) => return take_back(service).await,
        }
    }
}

async fn take_back(service: Arc<Service>) {
    let _alone = service.swapping.lock(Rank::Next).await;
    // Meanwhile a reload may have changed both configurations, or a swap may have come first.
    let Some(probation) = service
        .probation()
        .take_if(|probation| matches!(probation.judged, ProbationVerdict::Over(_)))
    else {
        return;
    };
    let ProbationVerdict::Over(figures) = probation.judged else { return };
    let (bad, before) = (Arc::clone(&probation.new), Arc::clone(probation.before()));
    drop(probation);
    if !put_back(&service, &before, &bad, ("faults", Some(&figures))) {
        return;
    }
    service.forget_faults();
    if before.hands_over() && bad.hands_over() {
        let live = on_build(&service, &bad);
        migrate(&service, &before, live, &mut super::SwapReport::default()).await;
    }
    service.record_quietly().await;
}
