//! All sessions move to another version at one moment, or none does.
//!
//! Each makes its instance of the new version between two events and then waits, so that at no
//! moment one of them handles an event with the new version while another does with the old one.
//! NewConnections wait before their first event.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::{Either, join_all, select};
use futures_util::stream::FuturesUnordered;
use tokio::sync::{oneshot, watch};

use super::env;
use super::service::Service;
use super::swap::{Live, SwapError, SwapReport, begun, others};
use super::versions::HeldUp;
use crate::event::Port;
use crate::plugin::EventProcedure;
use crate::session::MigrateOutcome;

/// RevisionOrigin long the first is waited for before the others are asked.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// RevisionOrigin late after the deadline it may still be decided that all move...
const DECISION_LATE_MAX: Duration = Duration::from_secs(15);
/// ...and how late a session still hears it. Longer, so that none has gone on by itself when it is
/// decided.
const VERDICT_LATE_MAX: Duration = Duration::from_secs(60);

/// RevisionOrigin long a session that its own peer held up has, after the deadline, to end or to become ready.
/// The others wait for it.
const HELD_UP_MAX: Duration = Duration::from_secs(5);
/// RevisionOrigin often its peer is given up meanwhile: between two writes there is no wait to give up.
const GIVEN_UP_EVERY: Duration = Duration::from_millis(10);

/// One that is ready, or is over, or is not ready in time or at all.
enum Prepared {
    Ready(u64, oneshot::Receiver<MigrateOutcome>),
    Ended,
    Failed(u64, Option<MigrateOutcome>),
    /// Only its own peer kept it from being ready in time.
    HeldUp(Live, oneshot::Receiver<()>, oneshot::Receiver<MigrateOutcome>),
    /// The same, and it is asked no more.
    Left,
    /// And why, where it is not asked any more.
    Busy(Live, oneshot::Receiver<MigrateOutcome>, &'static str),
}

impl Prepared {
    fn is_ready(&self) -> bool {
        matches!(self, Self::Ready(..) | Self::Ended | Self::HeldUp(..) | Self::Left)
    }

    /// What becomes of a session that was held up, once all others are ready. It does not call them
    /// off, unless it turns out that its plugin is busy.
    async fn settled(self, rule: HeldUp) -> Self {
        let Self::HeldUp((handle, slot), mut ready, reported) = self else { return self };
        let until = env::now() + HELD_UP_MAX;
        loop {
            match rule {
                HeldUp::OldVersion if slot.withdraw() => return Self::Left,
                // It has begun to prepare just now.
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

/// A session reports without having been ready: it stays, or it is over.
async fn reported_unready(session: u64, reported: oneshot::Receiver<MigrateOutcome>) -> Prepared {
    match reported.await {
        Err(_) => Prepared::Ended,
        handed => Prepared::Failed(session, handed.ok()),
    }
}

/// Moves all sessions that are on another version than this. Calls `publish` when each of them
/// waits; a session that only its own peer holds up is not waited for. False if nothing changed.
///
/// # Errors
/// Those of `publish`; nothing was changed.
pub(super) async fn move_all(
    service: &Arc<Service>,
    next: &Arc<EventProcedure>,
    report: &mut SwapReport,
    publish: impl FnOnce() -> Result<u64, SwapError>,
) -> Result<bool, SwapError> {
    // Nobody starts meanwhile.
    let closed = service.entrance.write().await;
    let live = others(service, next);
    let moves = |(_, slot): &&Live| next.hands_over() && slot.current().hands_over();
    let stuck = live.len() - live.iter().filter(moves).count();
    if stuck > 0 {
        (0..stuck).for_each(|_| report.stay("no-handoff"));
        (stuck..live.len()).for_each(|_| report.stay("called-off"));
        return Ok(false);
    }
    let patience = service.server_config().rules.prepare;
    let deadline = env::now() + patience;
    service.asks(live.len(), next, report);
    let (decide, verdict) = watch::channel(None);
    let ask = |one| prepare(one, next, (verdict.clone(), patience + VERDICT_LATE_MAX), deadline);
    let (mut live, mut prepared, mut preparing) =
        (live.into_iter(), Vec::new(), FuturesUnordered::new());
    let mut all_ready = true;
    // What is bad for the first is not tried with the others.
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
            // So that nobody goes on preparing.
            decide.send_replace(Some(false));
        }
        prepared.push(one);
    }
    live.for_each(|_| report.stay("called-off"));
    // Not before, so that a move that is called off ends no session.
    if all_ready {
        let rule = service.server_config().rules.held_up;
        prepared = join_all(prepared.into_iter().map(|one| one.settled(rule))).await;
        all_ready = prepared.iter().all(Prepared::is_ready);
    }
    // Once the first may have lost patience, nobody knows any more who would move.
    let published = match all_ready && env::now() < deadline + DECISION_LATE_MAX {
        true => publish().map(Some),
        // Those that end because the server stops are no reason against the version.
        false => service.unless_stopping(|| None),
    };
    if let Ok(Some(number)) = published {
        report.generation = number;
    }
    let all = matches!(published, Ok(Some(_)));
    // Those that are ready go on at once.
    let _ = decide.send(Some(all));
    // Whoever starts now meets what was decided, and those that wait for their turn to follow it
    // hold up nobody.
    drop(closed);
    for one in prepared {
        match one {
            Prepared::Ready(session, mut reported) => {
                report.add(service, session, begun(&mut reported, deadline).await);
            }
            Prepared::Ended => report.ended += 1,
            Prepared::Failed(session, handed) => report.add(service, session, handed),
            Prepared::Left => report.stay("held-up"),
            Prepared::Busy(one, reported, why) => {
                withdraw(service, one, reported, why, deadline, report).await;
            }
            Prepared::HeldUp(one, _, reported) => {
                withdraw(service, one, reported, "called-off", deadline, report).await;
            }
        }
    }
    published.map(|_| all)
}

/// A session that is not ready is asked no more, for this reason.
async fn withdraw(
    service: &Service,
    (handle, slot): Live,
    mut reported: oneshot::Receiver<MigrateOutcome>,
    why: &str,
    deadline: Instant,
    report: &mut SwapReport,
) {
    match slot.withdraw() {
        true => report.stay(why),
        // It began too late, and hears that it is called off.
        false => report.add(service, handle.info().id, begun(&mut reported, deadline).await),
    }
}

async fn prepare(
    (handle, slot): Live,
    next: &Arc<EventProcedure>,
    (verdict, patience): (watch::Receiver<Option<bool>>, Duration),
    deadline: Instant,
) -> Prepared {
    let session = handle.info().id;
    let (asked, (waited_before, _)) = (env::now(), handle.waited_for_peer());
    let mut decided = verdict.clone();
    let (mut ready, reported) = slot.ask_together(Arc::clone(next), verdict, patience);
    handle.look_at_slot();
    let called_off = pin!(async move { decided.wait_for(Option::is_some).await.is_ok() });
    let waited = match select(pin!(env::by(deadline, &mut ready)), called_off).await {
        Either::Left((waited, _)) => waited,
        // It hears that as well, in the midst of what it does.
        Either::Right(_) => return Prepared::Busy((handle, slot), reported, "called-off"),
    };
    match waited {
        Some(Ok(())) => Prepared::Ready(session, reported),
        Some(Err(_)) => reported_unready(session, reported).await,
        None => {
            // Between two writes it does not wait for a moment.
            let (waited, waits) = handle.waited_for_peer();
            let is_held_up = waits || waited.saturating_sub(waited_before) * 2 > env::now() - asked;
            match is_held_up {
                true => Prepared::HeldUp((handle, slot), ready, reported),
                false => Prepared::Busy((handle, slot), reported, "busy"),
            }
        }
    }
}
