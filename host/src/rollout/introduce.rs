//! Gives a version to all sessions: new sessions get it at once, and live sessions as the policy
//! says. A version that too many sessions could not move to is rolled back.

use std::sync::Arc;

use super::change::VersionChange;
use super::live::LiveSession;
use super::migrate::migrate;
use super::migrate_atomic;
use super::report::{SwapError, SwapReport};
use super::rules::SwapPolicy;
use crate::plugin::EventProcedure;
use crate::telemetry::SessionsMoved;

/// Outcome of giving a version to all sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RolloutOutcome {
    /// The version is current.
    Good,
    /// The version is current, and too many sessions could not move to it.
    Bad,
    /// All sessions were to move together and one could not, so the version was not published.
    CalledOff,
}

impl VersionChange {
    /// Gives a version to new sessions, and to live sessions as the policy says. `publish`
    /// publishes the version and returns the number of its revision.
    ///
    /// # Errors
    /// [`SwapError::NoRoom`], [`SwapError::Stopping`]; nothing was changed.
    pub(super) async fn give(
        &self,
        next: &Arc<EventProcedure>,
        policy: SwapPolicy,
        report: &mut SwapReport,
        publish: impl FnOnce() -> u64,
    ) -> Result<RolloutOutcome, SwapError> {
        let server = &*self.server;
        let mut outcome = RolloutOutcome::Good;
        let publish = || self.unless_stopping(publish);
        match policy {
            SwapPolicy::AllOrNothing => {
                // Each session has two instances for a moment.
                let more = server.others(next).len();
                if !next.has_room_for(more) {
                    return Err(SwapError::NoRoom(more));
                }
                if !migrate_atomic::migrate_all(self, next, report, publish).await? {
                    outcome = RolloutOutcome::CalledOff;
                }
            }
            SwapPolicy::Pin => {
                report.revision = publish()?;
                pin(&server.others(next), "pinned", report);
            }
            SwapPolicy::HandOff => {
                report.revision = publish()?;
                let moves =
                    |(_, slot): &LiveSession| next.hands_over() && slot.current().hands_over();
                let (movable, stuck) =
                    server.others(next).into_iter().partition::<Vec<_>, _>(moves);
                pin(&stuck, "no-handoff", report);
                if !migrate(server, next, movable, report).await {
                    outcome = RolloutOutcome::Bad;
                }
            }
            SwapPolicy::Disconnect => {
                report.revision = publish()?;
                let old = server.others(next);
                old.iter().for_each(|(handle, _)| handle.stop());
                report.ended = old.len();
            }
        }
        let (moved, stayed) = (report.moved, report.stayed.values().sum());
        let (ended, longest) = (report.ended, report.pause(1.0));
        SessionsMoved { server: server.name(), moved, stayed, ended, longest }.emit();
        Ok(outcome)
    }

    /// Gives a version that is new to the server, as [`VersionChange::give`] does, and then either
    /// puts it on probation or rolls it back.
    ///
    /// # Errors
    /// As [`VersionChange::give`].
    pub(super) async fn introduce(
        &self,
        next: &Arc<EventProcedure>,
        policy: SwapPolicy,
        report: &mut SwapReport,
        publish: impl FnOnce() -> u64,
    ) -> Result<RolloutOutcome, SwapError> {
        let before = self.server.rollout().procedure();
        // Sessions that move keep their saved state as an input, for replays of their faults.
        let _kept = (!self.server.rules().watch.is_zero()).then(|| next.metrics().keep_inputs());
        let outcome = self.give(next, policy, report, publish).await?;
        if Arc::ptr_eq(&before, next) {
            return Ok(outcome);
        }
        match outcome {
            RolloutOutcome::Good => self.begin_probation(next, &before),
            RolloutOutcome::Bad => self.roll_back_failed_swap(&before, next, report).await,
            RolloutOutcome::CalledOff => report.rolled_back = true,
        }
        Ok(outcome)
    }

    /// Rolls back a version that failed: publishes the version before, and migrates sessions back
    /// to it.
    async fn roll_back_failed_swap(
        &self,
        before: &Arc<EventProcedure>,
        bad: &Arc<EventProcedure>,
        report: &mut SwapReport,
    ) {
        self.publish_before(before, bad, ("failed-hand-offs", None));
        let mut back = SwapReport::default();
        // A session that cannot move back stays on the version that it moved to.
        migrate(&*self.server, before, self.server.on(bad), &mut back).await;
        report.rolled_back = true;
        report.ended += back.ended;
        let returned = report.moved.min(back.moved);
        report.moved -= returned;
        (0..returned).for_each(|_| report.stay("rolled-back"));
    }

    /// Checks that the server still runs after a version was published. If the server stopped
    /// meanwhile, the version before is published again. So no restart uses a version whose swap
    /// was not reported as a success.
    ///
    /// # Errors
    /// [`SwapError::Stopping`].
    pub(super) fn publish_before_if_stopped(
        &self,
        before: &Arc<EventProcedure>,
        next: &Arc<EventProcedure>,
    ) -> Result<(), SwapError> {
        if !self.server.is_ending() {
            return Ok(());
        }
        if !Arc::ptr_eq(before, next) {
            self.publish_before(before, next, ("stopping", None));
        }
        Err(SwapError::Stopping)
    }

    /// Migrates the sessions of a former canary to the current version.
    pub(crate) async fn migrate_canary_sessions(&self, from: &Arc<EventProcedure>) {
        let to = self.server.rollout().procedure();
        if to.hands_over() && from.hands_over() {
            migrate(&*self.server, &to, self.server.on(from), &mut SwapReport::default()).await;
        }
    }
}

fn pin(live: &[LiveSession], why: &str, report: &mut SwapReport) {
    live.iter().for_each(|_| report.stay(why));
}
