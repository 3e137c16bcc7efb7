//! The judge of a canary: promotes it when its time is over, or rolls it back earlier.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::blame::Decision;
use super::canary::Canary;
use super::change::{Rollout, VersionChange, VersionedServer};
use super::env;
use super::introduce::RolloutOutcome;
use super::migrate::migrate;
use super::report::{SwapError, SwapReport};

/// Interval between two looks of the judge, at most.
const JUDGED_EVERY: Duration = Duration::from_secs(1);
/// Interval of the judge when the canary's time is over and replays are still running.
const JUDGED_AGAIN: Duration = Duration::from_millis(50);

/// Watches a canary until it is promoted or rolled back.
pub(super) async fn judge(server: Weak<dyn VersionedServer>, canary: Arc<Canary>) {
    loop {
        env::sleep(canary.left().clamp(JUDGED_AGAIN, JUDGED_EVERY)).await;
        let Some(server) = server.upgrade().filter(|server| server.rollout().has_canary(&canary))
        else {
            return;
        };
        let slower = canary.is_slower().then_some("latency");
        let against = match canary.faults(&*server) {
            Decision::RollBack(figures) => {
                canary.fails(figures);
                Some("faults")
            }
            // The canary is not promoted before its replays are done.
            Decision::NotYet if slower.is_none() => continue,
            Decision::NotYet | Decision::Keep => slower,
        };
        let over = canary.left().is_zero();
        if against.is_none() && !over {
            continue;
        }
        let change = Rollout::exclusive_for_host(&server).await;
        if !server.rollout().has_canary(&canary) {
            return;
        }
        // Live sessions may have come to the canary while the judge waited.
        let why = against.or_else(|| canary.has_few_sessions().then_some("too-few-sessions"));
        let _under_way = match why {
            Some(_) => change.begins(server.rollout().procedure().plugin()),
            None => change.begins(canary.procedure.plugin()),
        };
        match why {
            Some(why) => drop(change.roll_back_canary(&canary, why).await),
            // No caller waits for an answer, but the version must be the one that starts after a
            // crash.
            None => match change.promote(&canary).await {
                Ok(_) => change.record_quietly().await,
                Err(SwapError::Stopping) => {}
                Err(_) => drop(change.roll_back_canary(&canary, "no-room").await),
            },
        }
        return;
    }
}

impl VersionChange {
    /// Publishes a running canary, and live sessions follow the server's policy. If an atomic
    /// migration to the canary is called off, the canary is rolled back.
    ///
    /// # Errors
    /// - [`SwapError::NoRoom`]; the canary runs on.
    /// - [`SwapError::Stopping`]; if the canary was published, the version before is current again.
    pub(super) async fn promote(&self, canary: &Canary) -> Result<SwapReport, SwapError> {
        let (policy, before) = (self.server.rules().policy, self.server.rollout().procedure());
        let mut report = SwapReport::between(&before, &canary.procedure);
        let publish = || self.publish_canary(canary);
        if self.introduce(&canary.procedure, policy, &mut report, publish).await?
            == RolloutOutcome::CalledOff
        {
            self.roll_back_canary(canary, "called-off").await;
            return Ok(report);
        }
        self.publish_before_if_stopped(&before, &canary.procedure)?;
        Ok(report)
    }

    /// Rolls back a running canary, and migrates its sessions back.
    pub(super) async fn roll_back_canary(&self, canary: &Canary, why: &str) -> SwapReport {
        let before = self.server.rollout().procedure();
        let mut report = SwapReport::between(&canary.procedure, &before);
        self.end_canary(canary, why);
        if before.hands_over() && canary.procedure.hands_over() {
            let live = self.server.on(&canary.procedure);
            migrate(&*self.server, &before, live, &mut report).await;
        }
        (report.rolled_back, report.revision) = (true, canary.number());
        self.record_quietly().await;
        report
    }
}
