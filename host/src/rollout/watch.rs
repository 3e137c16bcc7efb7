//! Fourth step of a swap: the version is on probation. It is rolled back automatically if it faults
//! more than the version before.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::blame::{Comparison, Decision, PAST, Rule, Suspect};
use super::change::{Rollout, VersionChange, VersionedServer};
use super::env;
use super::migrate::migrate;
use super::probation::{Probation, ProbationState};
use super::report::SwapReport;
use crate::event::Port;
use crate::plugin::EventProcedure;

/// Delay of the decision after a fault, and of each further attempt while replays run.
const DECIDED_AFTER: Duration = Duration::from_millis(50);
/// Longest window of counting. The end of a session counts for at most two windows.
const COUNTED_MAX: Duration = Duration::from_secs(300);

impl VersionChange {
    /// Puts a version that was just swapped in on probation. The version before is released at its
    /// end.
    pub(super) fn begin_probation(&self, new: &Arc<EventProcedure>, before: &Arc<EventProcedure>) {
        let server = &self.server;
        let rules = server.rules();
        if rules.watch.is_zero() {
            self.set_probation(None);
            return;
        }
        let (weak, now) = (Arc::downgrade(server), env::now());
        let until = now + rules.watch;
        let expiry = env::spawn(server.runtime(), async move {
            env::sleep(rules.watch).await;
            let Some(server) = weak.upgrade() else { return };
            server.rollout().versions.end_probation_if(|probation| {
                probation.until == until && probation.state == ProbationState::Kept
            });
        });
        let mut past = server.rollout().blame.past_of(before.metrics(), now);
        // Sessions that migrated did well on the version before.
        for (handle, _) in server.on(new) {
            past.well(server.source(handle.info().peer.ip()), now);
        }
        let rule = Rule::Swap { faults_min: rules.faults_min, share: rules.faults_share };
        let suspect = Suspect::new(rule, new, (before, past), rules.watch.clamp(PAST, COUNTED_MAX));
        let (new, state, grants) = (Arc::clone(new), ProbationState::Kept, server.grants());
        self.set_probation(Some(Probation { new, suspect, until, state, grants, expiry }));
    }
}

/// Decides about the version of this comparison. `None`: its probation is over.
fn decide(server: &dyn VersionedServer, comparison: &Arc<Mutex<Comparison>>) -> Option<Decision> {
    let rollout = server.rollout();
    let versions = rollout.with_probation(|probation| {
        probation.suspect.is(comparison).then(|| {
            let versions = [Arc::clone(&probation.new), Arc::clone(probation.before())];
            probation.suspect.is_due(env::now()).then_some(versions)
        })
    })??;
    let Some(versions) = versions else { return Some(Decision::NotYet) };
    let live = server.live_on(&|current| {
        versions.iter().position(|version| current.plugin().is_same_as(version.plugin()))
    });
    let (now, mut decision) = (env::now(), None);
    rollout.versions.end_probation_if(|probation| {
        if !probation.suspect.is(comparison) {
            return false;
        }
        decision = Some(probation.decide([&live[0], &live[1]], now));
        // The expiry task may have run while the decision was under way.
        decision == Some(Decision::Keep) && now > probation.until
    });
    decision
}

/// Decides about the version of this comparison, as soon as the replays allow.
pub(super) async fn decide_when_due(
    server: Weak<dyn VersionedServer>,
    comparison: Arc<Mutex<Comparison>>,
) {
    loop {
        env::sleep(DECIDED_AFTER).await;
        let Some(server) = server.upgrade() else { return };
        match decide(&*server, &comparison) {
            None | Some(Decision::Keep) => return,
            Some(Decision::NotYet) => {}
            Some(Decision::RollBack(_)) => return roll_back_faulty(server).await,
        }
    }
}

/// Rolls back the version on probation, if it has failed.
async fn roll_back_faulty(server: Arc<dyn VersionedServer>) {
    let change = Rollout::exclusive_for_host(&server).await;
    // Meanwhile a reload may have changed both configurations, or a swap may have come first.
    let Some(probation) = change.take_failed_probation() else { return };
    let ProbationState::Failed(figures) = probation.state else { return };
    let (bad, before) = (Arc::clone(&probation.new), Arc::clone(probation.before()));
    drop(probation);
    if !change.publish_before(&before, &bad, ("faults", Some(&figures))) {
        return;
    }
    if before.hands_over() && bad.hands_over() {
        let live = server.on_build(&bad);
        migrate(&*server, &before, live, &mut SwapReport::default()).await;
    }
    change.record_quietly().await;
}
