//! Migration of live sessions to another version, a few at a time, without effect on other
//! sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;

use super::change::VersionedServer;
use super::env;
use super::live::LiveSession;
use super::report::SwapReport;
use crate::event::{Fault, FaultKind, Port};
use crate::plugin::EventProcedure;
use crate::session::MigrateOutcome;
use crate::telemetry::MigrationFailed;

/// Number of sessions that migrate at a time, at most. The others go on meanwhile.
const MOVING_MAX: usize = 4;
/// Rest before each further session is asked, which leaves the CPU to other sessions.
const REST: Duration = Duration::from_millis(2);
/// Total rest of a migration of [`MOVING_MAX`] sessions at a time, at most. One session at a time
/// takes four times as long. With more sessions, only every n-th has a rest.
const RESTS_MAX: Duration = Duration::from_millis(2_500);
/// Time that a session in the middle of an event gets before the next one is asked.
const BUSY_WAIT: Duration = Duration::from_millis(100);
/// Time after the deadline that a migration gets if it began before the deadline.
const BEGUN_MAX: Duration = Duration::from_secs(5);
/// Time that all sessions of a swap have together: ten seconds.
pub const SWAP_DEADLINE: Duration = Duration::from_secs(10);

/// Migrates the sessions, a few at a time, and waits for busy sessions last. Returns false if too
/// many sessions failed; the rest was then not asked.
pub(super) async fn migrate(
    server: &dyn VersionedServer,
    next: &Arc<EventProcedure>,
    live: Vec<LiveSession>,
    report: &mut SwapReport,
) -> bool {
    let (deadline, rules) = (env::now() + SWAP_DEADLINE, server.rules());
    let ask = |(handle, slot): LiveSession| async move {
        let session = handle.info().id;
        let mut reported = slot.ask(Arc::clone(next));
        handle.look_at_slot();
        // However many sessions are busy, none is awaited beyond the deadline.
        let until = deadline.min(env::now() + BUSY_WAIT);
        match env::by(until, &mut reported).await {
            Some(handed) => Ok((session, handed.ok())),
            None if slot.is_asked() => Err((session, slot, reported)),
            // The migration has begun, within budgets of its own. It counts as asked until it
            // ends, because a step that is slow in one session is slow in all of them.
            None => Ok((session, begun(&mut reported, deadline).await)),
        }
    };
    let over = AtomicBool::new(false);
    let (mut busy, mut asked, mut pace) =
        (Vec::new(), FuturesUnordered::new(), MigrationPace::new(live.len()));
    asks(server, live.len(), next, report);
    let mut live = live.into_iter();
    loop {
        // Once the version is hopeless, only sessions that were asked before still answer.
        while asked.len() < pace.at_a_time && !report.is_hopeless(&rules) {
            let (Some(one), rest) = (live.next(), pace.rest()) else { break };
            let (ask, over) = (&ask, &over);
            asked.push(async move {
                if let Some(rest) = rest {
                    env::sleep(rest).await;
                }
                // During the rest, the version may have failed in other sessions.
                if over.load(Ordering::Relaxed) { None } else { Some(ask(one).await) }
            });
        }
        let Some(answer) = asked.next().await else { break };
        let before = report.failed();
        match answer {
            Some(Ok((session, handed))) => answered(server, report, session, handed),
            Some(Err(later)) => busy.push(later),
            None => report.stay("not-asked"),
        }
        over.store(report.is_hopeless(&rules), Ordering::Relaxed);
        pace.answered(report.failed() == before);
    }
    live.for_each(|_| report.stay("not-asked"));
    for (session, slot, mut reported) in busy {
        // New sessions get a failing version for as long as this takes.
        if report.is_hopeless(&rules) && slot.withdraw() {
            report.stay("not-asked");
            continue;
        }
        let handed = match env::by(deadline, &mut reported).await {
            Some(handed) => handed.ok(),
            None if slot.withdraw() => {
                report.stay("busy");
                continue;
            }
            // The migration has begun just now.
            None => begun(&mut reported, deadline).await,
        };
        answered(server, report, session, handed);
    }
    !report.is_hopeless(&rules)
}

/// Shows operators that this many sessions are asked to move to this version.
pub(super) fn asks(
    server: &dyn VersionedServer,
    sessions: usize,
    to: &EventProcedure,
    report: &SwapReport,
) {
    let pinned = report.stayed.values().sum();
    server.rollout().progress.asks(sessions, to.plugin(), pinned);
}

/// Adds a session's answer to the report, and shows operators the counts.
pub(super) fn answered(
    server: &dyn VersionedServer,
    report: &mut SwapReport,
    session: u64,
    answer: Option<MigrateOutcome>,
) {
    if let Some(MigrateOutcome::Stayed(fault)) = &answer {
        MigrationFailed { server: server.name(), session, fault }.emit(server.fault_lines());
    }
    report.add(answer);
    let (stayed, lost) = (report.stayed.values().sum(), report.lost.values().sum::<usize>());
    server.rollout().progress.answered(report.moved, stayed, report.ended + lost);
}

/// Number of sessions that are asked at a time. A failing version is tried in one session after the
/// other: its failures use CPU time up to the budget, which slows down all sessions.
struct MigrationPace {
    at_a_time: usize,
    /// The host rests after this many sessions.
    stretch: usize,
    asked: usize,
}

impl MigrationPace {
    /// Creates the pace for this many sessions.
    fn new(sessions: usize) -> Self {
        let rests_max = RESTS_MAX.div_duration_f64(REST) as usize * MOVING_MAX;
        Self { at_a_time: 1, stretch: sessions.div_ceil(rests_max).max(1), asked: 0 }
    }

    /// Returns the rest before the next session is asked. The first session is asked at once.
    fn rest(&mut self) -> Option<Duration> {
        let rests = self.asked > 0 && self.asked.is_multiple_of(self.stretch);
        self.asked += 1;
        rests.then_some(REST)
    }

    /// Asks one more at a time after a session that did not fail, and only one after a failure.
    fn answered(&mut self, well: bool) {
        self.at_a_time = if well { (self.at_a_time + 1).min(MOVING_MAX) } else { 1 };
    }
}

/// Waits for a migration that has begun, until [`BEGUN_MAX`] after the deadline. The migration has
/// budgets of its own, but may wait for a run permit or for its tenant's quota.
pub(super) async fn begun(
    reported: &mut oneshot::Receiver<MigrateOutcome>,
    deadline: Instant,
) -> Option<MigrateOutcome> {
    let late = || {
        MigrateOutcome::Stayed(Fault::new(
            FaultKind::InstanceBusy,
            "it has not come to its end yet",
        ))
    };
    env::by(deadline + BEGUN_MAX, reported).await.unwrap_or_else(|| Ok(late())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_of_a_migration_stay_bounded() {
        let rests_of = |sessions: usize| {
            let mut pace = MigrationPace::new(sessions);
            assert_eq!(pace.rest(), None, "the first one is asked at once");
            (1..sessions).filter_map(|_| pace.rest()).sum::<Duration>() / MOVING_MAX as u32
        };
        assert_eq!(rests_of(1_001), REST * 250);
        assert_eq!(rests_of(5_000), REST * 4_999 / 4);
        for sessions in [5_001, 10_000, 19_999] {
            let rests = rests_of(sessions);
            assert!(rests <= RESTS_MAX && rests >= RESTS_MAX / 2, "{sessions}: {rests:?}");
        }
    }

    #[test]
    fn failing_version_meets_one_session_at_a_time() {
        let mut pace = MigrationPace::new(1_000);
        assert_eq!(pace.at_a_time, 1);
        (0..100).for_each(|_| pace.answered(true));
        assert_eq!(pace.at_a_time, MOVING_MAX);
        pace.answered(false);
        assert_eq!(pace.at_a_time, 1);
    }
}
