//! Atomic migration: all sessions move to another version at one moment, or none does.
//!
//! Each session makes its instance of the new version between two events and then waits. So no
//! session handles an event with the new version while a session that could prepare handles one
//! with the old version. A held-up session may stay on the old version. New sessions wait before
//! their first event.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::{Either, join_all, select};
use futures_util::stream::FuturesUnordered;
use tokio::sync::{oneshot, watch};

use super::change::{VersionChange, VersionedServer};
use super::env;
use super::live::LiveSession;
use super::migrate::{answered, asks, begun};
use super::report::{SwapError, SwapReport};
use super::rules::HeldUp;
use crate::event::Port;
use crate::plugin::EventProcedure;
use crate::session::MigrateOutcome;

/// Time that the first session gets before the others are asked to prepare.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Time after the deadline in which the migration can still be decided.
const DECISION_LATE_MAX: Duration = Duration::from_secs(15);
/// Time after the deadline for which a session waits for the verdict. Longer than
/// `DECISION_LATE_MAX`, so that no session goes on by itself before the decision.
const VERDICT_LATE_MAX: Duration = Duration::from_secs(60);

/// Time after the deadline that a held-up session has to end or to become ready. The others wait
/// for it.
const HELD_UP_MAX: Duration = Duration::from_secs(5);
/// Interval at which the host gives up that session's wait for its peer. Between two writes there
/// is no wait to give up.
const GIVEN_UP_EVERY: Duration = Duration::from_millis(10);

/// Outcome of a session's preparation.
enum Preparation {
    Ready(u64, oneshot::Receiver<MigrateOutcome>),
    Ended,
    Failed(u64, Option<MigrateOutcome>),
    /// Only the session's own peer kept it from being ready in time.
    HeldUp(LiveSession, oneshot::Receiver<()>, oneshot::Receiver<MigrateOutcome>),
    /// Held up, and then withdrawn from the migration.
    Left,
    /// Not ready, with the reason for its withdrawal.
    Busy(LiveSession, oneshot::Receiver<MigrateOutcome>, &'static str),
}

impl Preparation {
    fn is_ready(&self) -> bool {
        matches!(self, Self::Ready(..) | Self::Ended | Self::HeldUp(..) | Self::Left)
    }

    /// Settles a held-up session, once all others are ready. The session does not call off the
    /// migration, unless its plugin turns out to be busy.
    async fn settled(self, rule: HeldUp) -> Self {
        let Self::HeldUp((handle, slot), mut ready, reported) = self else { return self };
        let until = env::now() + HELD_UP_MAX;
        loop {
            match rule {
                HeldUp::OldVersion if slot.withdraw() => return Self::Left,
                // The session has just begun to prepare.
                HeldUp::OldVersion => {}
                HeldUp::End => drop(handle.give_up_peer()),
            }
            let now = env::now();
            match env::by(until.min(now + GIVEN_UP_EVERY), &mut ready).await {
                Some(Ok(())) => return Self::Ready(handle.info().id, reported),
                Some(Err(_)) => return reported_unready(handle.info().id, reported).await,
                None if now >= until => return Self::Busy((handle, slot), reported, "busy"),
                None => {}
            }
        }
    }
}

/// Waits for the report of a session that was not ready: it stays, or it is over.
async fn reported_unready(
    session: u64,
    reported: oneshot::Receiver<MigrateOutcome>,
) -> Preparation {
    match reported.await {
        Err(_) => Preparation::Ended,
        handed => Preparation::Failed(session, handed.ok()),
    }
}

/// Migrates all sessions of other versions to `next`. Calls `publish` when each of them waits;
/// sessions that only their own peers hold up are exempt. Returns false if nothing changed.
///
/// # Errors
/// The errors of `publish`; nothing was changed.
pub(super) async fn migrate_all(
    change: &VersionChange,
    next: &Arc<EventProcedure>,
    report: &mut SwapReport,
    publish: impl FnOnce() -> Result<u64, SwapError>,
) -> Result<bool, SwapError> {
    let server = &*change.server;
    // No session starts meanwhile.
    let closed = server.rollout().entrance.write().await;
    let live = server.others(next);
    let moves = |(_, slot): &&LiveSession| next.hands_over() && slot.current().hands_over();
    let stuck = live.len() - live.iter().filter(moves).count();
    if stuck > 0 {
        (0..stuck).for_each(|_| report.stay("no-handoff"));
        (stuck..live.len()).for_each(|_| report.stay("called-off"));
        return Ok(false);
    }
    let patience = server.rules().prepare;
    let deadline = env::now() + patience;
    asks(server, live.len(), next, report);
    let (decide, verdict) = watch::channel(None);
    let ask = |one| prepare(one, next, (verdict.clone(), patience + VERDICT_LATE_MAX), deadline);
    let (mut live, mut prepared, mut preparing) =
        (live.into_iter(), Vec::new(), FuturesUnordered::new());
    let mut all_ready = true;
    // If the first session fails, the others are not asked.
    preparing.extend(live.next().map(ask));
    if let Some(Some(first)) =
        env::by(deadline.min(env::now() + FIRST_WAIT), preparing.next()).await
    {
        all_ready = first.is_ready();
        prepared.push(first);
    }
    if all_ready {
        preparing.extend(live.by_ref().map(ask));
    }
    while let Some(one) = preparing.next().await {
        if !one.is_ready() && std::mem::replace(&mut all_ready, false) {
            // The other sessions stop preparing.
            decide.send_replace(Some(false));
        }
        prepared.push(one);
    }
    live.for_each(|_| report.stay("called-off"));
    // Not earlier, so that a called-off migration ends no session.
    if all_ready {
        let rule = server.rules().held_up;
        prepared = join_all(prepared.into_iter().map(|one| one.settled(rule))).await;
        all_ready = prepared.iter().all(Preparation::is_ready);
    }
    // After this time a session may have stopped waiting, so the outcome would be unknown.
    let published = match all_ready && env::now() < deadline + DECISION_LATE_MAX {
        true => publish().map(Some),
        // Sessions that end because the server stops do not count against the version.
        false => change.unless_stopping(|| None),
    };
    if let Ok(Some(number)) = published {
        report.revision = number;
    }
    let all = matches!(published, Ok(Some(_)));
    // Ready sessions go on at once.
    let _ = decide.send(Some(all));
    // New sessions start on the decided version. Sessions that still have to follow the decision
    // delay no others.
    drop(closed);
    for one in prepared {
        match one {
            Preparation::Ready(session, mut reported) => {
                answered(server, report, session, begun(&mut reported, deadline).await);
            }
            Preparation::Ended => report.ended += 1,
            Preparation::Failed(session, handed) => answered(server, report, session, handed),
            Preparation::Left => report.stay("held-up"),
            Preparation::Busy(one, reported, why) => {
                withdraw(server, one, reported, why, deadline, report).await;
            }
            Preparation::HeldUp(one, _, reported) => {
                withdraw(server, one, reported, "called-off", deadline, report).await;
            }
        }
    }
    published.map(|_| all)
}

/// Withdraws a session that is not ready, and reports the reason.
async fn withdraw(
    server: &dyn VersionedServer,
    (handle, slot): LiveSession,
    mut reported: oneshot::Receiver<MigrateOutcome>,
    why: &str,
    deadline: Instant,
    report: &mut SwapReport,
) {
    match slot.withdraw() {
        true => report.stay(why),
        // The session began too late, and hears that the migration is called off.
        false => answered(server, report, handle.info().id, begun(&mut reported, deadline).await),
    }
}

async fn prepare(
    (handle, slot): LiveSession,
    next: &Arc<EventProcedure>,
    (verdict, patience): (watch::Receiver<Option<bool>>, Duration),
    deadline: Instant,
) -> Preparation {
    let session = handle.info().id;
    let (asked, (waited_before, _)) = (env::now(), handle.waited_for_peer());
    let mut decided = verdict.clone();
    let (mut ready, reported) = slot.ask_together(Arc::clone(next), verdict, patience);
    handle.look_at_slot();
    let called_off = pin!(async move { decided.wait_for(Option::is_some).await.is_ok() });
    let waited = match select(pin!(env::by(deadline, &mut ready)), called_off).await {
        Either::Left((waited, _)) => waited,
        // The session hears that as well, while it prepares.
        Either::Right(_) => return Preparation::Busy((handle, slot), reported, "called-off"),
    };
    match waited {
        Some(Ok(())) => Preparation::Ready(session, reported),
        Some(Err(_)) => reported_unready(session, reported).await,
        None => {
            // Between two writes the session does not wait, so the sum of its waits counts too.
            let (waited, waits) = handle.waited_for_peer();
            let is_held_up = waits || waited.saturating_sub(waited_before) * 2 > env::now() - asked;
            match is_held_up {
                true => Preparation::HeldUp((handle, slot), ready, reported),
                false => Preparation::Busy((handle, slot), reported, "busy"),
            }
        }
    }
}
