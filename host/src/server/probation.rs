//! A new version that faults more than the one before, soon after its swap, is taken back by
//! itself.

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

/// RevisionOrigin soon it is decided after a fault, and again while replays are waited for.
const JUDGED_AFTER: Duration = Duration::from_millis(50);
/// What happened counts for at most twice so long.
const COUNTED_MAX: Duration = Duration::from_secs(300);

/// A version that is watched, and the one before.
#[derive(Debug)]
pub(crate) struct Probation {
    new: Arc<EventProcedure>,
    suspect: Suspect,
    until: Instant,
    judged: ProbationVerdict,
    /// What both may import.
    grants: Grants,
    /// Lets go of it when that is over.
    expiry: AbortHandle,
}

/// RevisionOrigin far the decision about a version is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ProbationVerdict {
    /// There are few faults, or it was decided to keep it.
    Kept,
    /// A task decides.
    UnderWay,
    /// It is to be taken back as soon as no other order is under way.
    Over(FaultFigures),
}

impl Drop for Probation {
    fn drop(&mut self) {
        self.expiry.abort();
    }
}

impl Probation {
    /// What comes back where it faults.
    pub(super) fn before(&self) -> &Arc<EventProcedure> {
        self.suspect.before()
    }

    /// A session ended. The fault to replay, and whether a task is to decide.
    fn hears(
        &mut self,
        of: &Arc<EventProcedure>,
        source: Source,
        blamed: Option<&Blamed>,
        now: Instant,
    ) -> (Option<Tried>, bool) {
        // Some may be on it under the terms before a reload.
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

    /// Decides. `live` has the sessions of the version and of the one before that go on.
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
    /// Watches a version that was just swapped in, and lets go of the one before when that is over.
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
        // Sessions that moved were well on the version before.
        for (line, _) in on(self, new) {
            past.well(self.source(line.info().peer.ip()), now);
        }
        let rule = Rule::Swap { faults_min: rules.faults_min, share: rules.faults_share };
        let suspect = Suspect::new(rule, new, (before, past), rules.watch.clamp(PAST, COUNTED_MAX));
        let (new, judged) = (Arc::clone(new), ProbationVerdict::Kept);
        *self.probation() = Some(Probation { new, suspect, until, judged, grants, expiry });
    }

    /// The version in force has other terms since a reload. Where it is watched it is watched on,
    /// and what it would go back to gets those terms as well.
    pub(super) fn watch_on(&self, new: &Arc<EventProcedure>, was: &Arc<EventProcedure>) {
        let mut watching = self.probation();
        let Some(probation) =
            watching.as_mut().filter(|probation| Arc::ptr_eq(&probation.new, was))
        else {
            return;
        };
        if probation.grants != self.server_config().grants {
            // What is linked with others is not to come back.
            *watching = None;
            return;
        }
        probation.new = Arc::clone(new);
        // With other shards it has no places for them, and keeps the terms that it had.
        if new.shards() == probation.before().shards() {
            probation.suspect.set_before(Arc::new(probation.before().under_terms_of(new)));
        }
    }

    /// A session ended. The fault to replay, where it is one of the version that is watched. Begins
    /// to decide about that version where it is time.
    pub(super) fn guard_hears(
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

    /// Decides about the version that is compared like this. `None`: it is not watched any more.
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
            // What was to let go of it may have passed it by.
            watching.take_if(|probation| now > probation.until);
        }
        Some(verdict)
    }
}

/// Decides about the version that is compared like this, as soon as replays allow.
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
    // A reload may have given both other terms meanwhile, and a swap may have come before.
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
