//! Asking live sessions to move to another version, so that the others do not notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;

use super::SwapReport;
use super::live::Live;
use crate::event::{Fault, FaultKind, Port};
use crate::plugin::EventProcedure;
use crate::server::env;
use crate::server::service::Service;
use crate::session::MigrateOutcome;

/// Sessions that are handed over at a time, at most; the others go on meanwhile.
const MOVING_MAX: usize = 4;
/// RevisionOrigin long each of these places rests before it asks the next, so that the others have the CPU in
/// between.
const REST: Duration = Duration::from_millis(2);
/// Rests of one place together. Where so many are to move that it would be more, it rests after
/// every so many of them.
const RESTS_MAX: Duration = Duration::from_millis(2_500);
/// RevisionOrigin long one that is in the middle of an event is waited for before the next one is asked.
const BUSY_WAIT: Duration = Duration::from_millis(100);
/// RevisionOrigin long one that has begun by then is waited for after that.
const BEGUN_MAX: Duration = Duration::from_secs(5);
/// RevisionOrigin long those are waited for in the end.
pub const SWAP_DEADLINE: Duration = Duration::from_secs(10);

/// Asks each session, a few at a time, and waits for those that are busy in the end. False where so
/// many could not move that the others were not asked.
pub(in crate::server) async fn migrate(
    service: &Service,
    next: &Arc<EventProcedure>,
    live: Vec<Live>,
    report: &mut SwapReport,
) -> bool {
    let (deadline, rules) = (env::now() + SWAP_DEADLINE, service.server_config().rules);
    let ask = |(handle, slot): Live| async move {
        let session = handle.info().id;
        let mut reported = slot.ask(Arc::clone(next));
        handle.look_at_slot();
        // However many are busy, they are not waited for beyond the deadline.
        let until = deadline.min(env::now() + BUSY_WAIT);
        match env::by(until, &mut reported).await {
            Some(handed) => Ok((session, handed.ok())),
            None if slot.is_asked() => Err((session, slot, reported)),
            // It has begun, within budgets of its own, and keeps its place: what is slow in one is
            // slow in all of them.
            None => Ok((session, begun(&mut reported, deadline).await)),
        }
    };
    let over = AtomicBool::new(false);
    let (mut busy, mut asked, mut places) =
        (Vec::new(), FuturesUnordered::new(), Places::new(live.len()));
    service.asks(live.len(), next, report);
    let mut live = live.into_iter();
    loop {
        // Those that were asked already answer still.
        while asked.len() < places.now && !report.is_hopeless(&rules) {
            let (Some(one), rest) = (live.next(), places.rest()) else { break };
            let (ask, over) = (&ask, &over);
            asked.push(async move {
                if let Some(rest) = rest {
                    env::sleep(rest).await;
                }
                // It may have failed meanwhile where it was met before.
                if over.load(Ordering::Relaxed) { None } else { Some(ask(one).await) }
            });
        }
        let Some(answer) = asked.next().await else { break };
        let before = report.failed();
        match answer {
            Some(Ok((session, handed))) => report.add(service, session, handed),
            Some(Err(later)) => busy.push(later),
            None => report.stay("not-asked"),
        }
        over.store(report.is_hopeless(&rules), Ordering::Relaxed);
        places.answered(report.failed() == before);
    }
    live.for_each(|_| report.stay("not-asked"));
    for (session, slot, mut reported) in busy {
        // NewConnections get a version that is no good for as long as this takes.
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
            // It began just now.
            None => begun(&mut reported, deadline).await,
        };
        report.add(service, session, handed);
    }
    !report.is_hopeless(&rules)
}

/// RevisionOrigin many sessions are asked at a time. A version that fails is met by one after the other, for
/// what it does with its budgets takes CPU from everybody.
struct Places {
    now: usize,
    /// After so many sessions it rests.
    stretch: usize,
    asked: usize,
}

impl Places {
    /// Where so many sessions are to move.
    fn new(sessions: usize) -> Self {
        let rests_max = RESTS_MAX.div_duration_f64(REST) as usize * MOVING_MAX;
        Self { now: 1, stretch: sessions.div_ceil(rests_max).max(1), asked: 0 }
    }

    /// What comes before the next session is asked. The first one is asked at once.
    fn rest(&mut self) -> Option<Duration> {
        let rests = self.asked > 0 && self.asked.is_multiple_of(self.stretch);
        self.asked += 1;
        rests.then_some(REST)
    }

    /// One more place for each that did not fail, and one place again after one that did.
    fn answered(&mut self, well: bool) {
        self.now = if well { (self.now + 1).min(MOVING_MAX) } else { 1 };
    }
}

/// Waits for a hand-over that has begun. It has budgets of its own, but may wait for its turn, or
/// for its tenant's share.
pub(in crate::server) async fn begun(
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
    fn places_rest_as_often_as_they_may_however_many_are_to_move() {
        let rests_of = |sessions: usize| {
            let mut places = Places::new(sessions);
            assert_eq!(places.rest(), None, "the first one is asked at once");
            (1..sessions).filter_map(|_| places.rest()).sum::<Duration>() / MOVING_MAX as u32
        };
        assert_eq!(rests_of(1_001), REST * 250);
        assert_eq!(rests_of(5_000), REST * 4_999 / 4);
        for sessions in [5_001, 10_000, 19_999] {
            let rests = rests_of(sessions);
            assert!(rests <= RESTS_MAX && rests >= RESTS_MAX / 2, "{sessions}: {rests:?}");
        }
    }

    #[test]
    fn a_version_that_fails_is_met_by_one_session_at_a_time() {
        let mut places = Places::new(1_000);
        assert_eq!(places.now, 1);
        (0..100).for_each(|_| places.answered(true));
        assert_eq!(places.now, MOVING_MAX);
        places.answered(false);
        assert_eq!(places.now, 1);
    }
}
