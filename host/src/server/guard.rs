//! A new version that faults more than the one before, soon after its swap, is taken back by
//! itself.

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use futures_util::future::AbortHandle;

use super::blame::{
    Blamed, Comparison, LiveAddresses, PAST, Rule, Source, Suspect, Tried, Verdict,
};
use super::exclusive::Rank;
use super::means;
use super::service::Service;
use super::swap::{hand_over, on, on_build, put_back, same};
use crate::event::Port;
use crate::plugin::{EventProcedure, Grants};
use crate::telemetry::FaultFigures;

/// How soon it is decided after a fault, and again while replays are waited for.
const JUDGED_AFTER: Duration = Duration::from_millis(50);
/// What happened counts for at most twice so long.
const COUNTED_MAX: Duration = Duration::from_secs(300);

/// A version that is watched, and the one before.
#[derive(Debug)]
pub(crate) struct Guard {
    new: Arc<EventProcedure>,
    suspect: Suspect,
    until: Instant,
    judged: Judged,
    /// What both may import.
    grants: Grants,
    /// Lets go of it when that is over.
    expiry: AbortHandle,
}

/// How far the decision about a version is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Judged {
    /// There are few faults, or it was decided to keep it.
    Kept,
    /// A task decides.
    UnderWay,
    /// It is to be taken back as soon as no other order is under way.
    Over(FaultFigures),
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.expiry.abort();
    }
}

impl Guard {
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
                let begins = enough && self.judged == Judged::Kept;
                if begins {
                    self.judged = Judged::UnderWay;
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
            Verdict::Keep => Judged::Kept,
            Verdict::NotYet => Judged::UnderWay,
            Verdict::TakeBack(figures) => Judged::Over(figures),
        };
        verdict
    }
}

impl Service {
    /// Watches a version that was just swapped in, and lets go of the one before when that is over.
    pub(super) fn watch(self: &Arc<Self>, new: &Arc<EventProcedure>, before: &Arc<EventProcedure>) {
        let terms = self.terms();
        let (rules, grants) = (terms.rules, terms.grants.clone());
        if rules.watch.is_zero() {
            *self.guard() = None;
            return;
        }
        let (service, now) = (Arc::downgrade(self), means::now());
        let until = now + rules.watch;
        let expiry = means::beside(&self.runtime, async move {
            means::sleep(rules.watch).await;
            let Some(service) = service.upgrade() else { return };
            service.guard().take_if(|guard| guard.until == until && guard.judged == Judged::Kept);
        });
        let mut past = self.blame.past_of(before.metrics(), now);
        // Sessions that moved were well on the version before.
        for (line, _) in on(self, new) {
            past.well(self.source(line.info().peer.ip()), now);
        }
        let rule = Rule::Swap { faults_min: rules.faults_min, share: rules.faults_share };
        let suspect = Suspect::new(rule, new, (before, past), rules.watch.clamp(PAST, COUNTED_MAX));
        let (new, judged) = (Arc::clone(new), Judged::Kept);
        *self.guard() = Some(Guard { new, suspect, until, judged, grants, expiry });
    }

    /// The version in force has other terms since a reload. Where it is watched it is watched on,
    /// and what it would go back to gets those terms as well.
    pub(super) fn watch_on(&self, new: &Arc<EventProcedure>, was: &Arc<EventProcedure>) {
        let mut watching = self.guard();
        let Some(guard) = watching.as_mut().filter(|guard| Arc::ptr_eq(&guard.new, was)) else {
            return;
        };
        if guard.grants != self.terms().grants {
            // What is linked with others is not to come back.
            *watching = None;
            return;
        }
        guard.new = Arc::clone(new);
        // With other shards it has no places for them, and keeps the terms that it had.
        if new.shards() == guard.before().shards() {
            guard.suspect.set_before(Arc::new(guard.before().under_terms_of(new)));
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
        let mut watching = self.guard();
        let guard = watching.as_mut()?;
        let (tried, begins) = guard.hears(procedure, source, blamed, now);
        let comparison = guard.suspect.comparison();
        drop(watching);
        if begins {
            means::beside(&self.runtime, judge(Arc::downgrade(self), comparison));
        }
        tried
    }

    /// Decides about the version that is compared like this. `None`: it is not watched any more.
    fn judges(&self, comparison: &Arc<Mutex<Comparison>>) -> Option<Verdict> {
        let versions = {
            let watching = self.guard();
            let guard = watching.as_ref().filter(|guard| guard.suspect.is(comparison))?;
            if !guard.suspect.is_due(means::now()) {
                return Some(Verdict::NotYet);
            }
            [Arc::clone(&guard.new), Arc::clone(guard.before())]
        };
        let live = self.live_on(|current| {
            versions.iter().position(|version| same(current.plugin(), version.plugin()))
        });
        let (now, mut watching) = (means::now(), self.guard());
        let guard = watching.as_mut().filter(|guard| guard.suspect.is(comparison))?;
        let verdict = guard.judge([&live[0], &live[1]], now);
        if verdict == Verdict::Keep {
            // What was to let go of it may have passed it by.
            watching.take_if(|guard| now > guard.until);
        }
        Some(verdict)
    }
}

/// Decides about the version that is compared like this, as soon as replays allow.
async fn judge(service: Weak<Service>, comparison: Arc<Mutex<Comparison>>) {
    loop {
        means::sleep(JUDGED_AFTER).await;
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
    let Some(guard) = service.guard().take_if(|guard| matches!(guard.judged, Judged::Over(_)))
    else {
        return;
    };
    let Judged::Over(figures) = guard.judged else { return };
    let (bad, before) = (Arc::clone(&guard.new), Arc::clone(guard.before()));
    drop(guard);
    if !put_back(&service, &before, &bad, ("faults", Some(&figures))) {
        return;
    }
    service.forget_faults();
    if before.hands_over() && bad.hands_over() {
        let live = on_build(&service, &bad);
        hand_over(&service, &before, live, &mut super::SwapReport::default()).await;
    }
    service.record_quietly().await;
}
