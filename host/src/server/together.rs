//! All sessions move to another version at one moment, or none does.
//!
//! Each makes its instance of the new version between two events and then waits, so that at no moment one of them handles an event
//! with the new version while another does with the old one. Newcomers wait before their first event.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use tokio::sync::{oneshot, watch};

use super::means;
use super::service::Service;
use super::swap::{Live, SwapError, SwapReport, begun, others};
use crate::event::Port;
use crate::plugin::EventProcedure;
use crate::session::Handed;

/// How long the first is waited for before the others are asked.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// How late after the deadline it may still be decided that all move...
const DECISION_LATE_MAX: Duration = Duration::from_secs(15);
/// ...and how late a session still hears it. Longer, so that none has gone on by itself when it is decided.
const VERDICT_LATE_MAX: Duration = Duration::from_secs(60);

/// One that is ready, or is over, or is not ready in time or at all.
enum Prepared {
    Ready(u64, oneshot::Receiver<Handed>),
    Ended,
    Failed(u64, Option<Handed>),
    /// And why, where it is not asked any more.
    Busy(Live, oneshot::Receiver<Handed>, &'static str),
}

impl Prepared {
    fn is_ready(&self) -> bool {
        matches!(self, Self::Ready(..) | Self::Ended)
    }
}

/// Moves all sessions that are on another version than this, and calls `publish` when every one of them waits. False where nothing
/// was changed.
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
    let moves = |(_, successor): &&Live| next.hands_over() && successor.current().hands_over();
    let stuck = live.len() - live.iter().filter(moves).count();
    if stuck > 0 {
        (0..stuck).for_each(|_| report.stay("no-handoff"));
        (stuck..live.len()).for_each(|_| report.stay("called-off"));
        return Ok(false);
    }
    let patience = service.terms().rules.prepare;
    let deadline = means::now() + patience;
    service.asks(live.len(), next, report);
    let (decide, verdict) = watch::channel(None);
    let ask = |one| prepare(one, next, (verdict.clone(), patience + VERDICT_LATE_MAX), deadline);
    let (mut live, mut prepared, mut preparing) = (live.into_iter(), Vec::new(), FuturesUnordered::new());
    let mut all_ready = true;
    // What is bad for the first is not tried with the others.
    preparing.extend(live.next().map(ask));
    if let Some(Some(first)) = means::by(deadline.min(means::now() + FIRST_WAIT), preparing.next()).await {
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
    // Once the first may have lost patience, nobody knows any more who would move.
    let published = match all_ready && means::now() < deadline + DECISION_LATE_MAX {
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
    // Whoever starts now meets what was decided, and those that wait for their turn to follow it hold up nobody.
    drop(closed);
    for one in prepared {
        match one {
            Prepared::Ready(session, mut reported) => {
                report.add(service, session, begun(&mut reported, deadline).await);
            }
            Prepared::Ended => report.ended += 1,
            Prepared::Failed(session, handed) => report.add(service, session, handed),
            Prepared::Busy((line, successor), mut reported, why) => match successor.withdraw() {
                true => report.stay(why),
                // It began too late, and hears that it is called off.
                false => report.add(service, line.info().id, begun(&mut reported, deadline).await),
            },
        }
    }
    published.map(|_| all)
}

async fn prepare(
    (line, successor): Live,
    next: &Arc<EventProcedure>,
    (verdict, patience): (watch::Receiver<Option<bool>>, Duration),
    deadline: Instant,
) -> Prepared {
    let session = line.info().id;
    let mut decided = verdict.clone();
    let (mut ready, reported) = successor.ask_together(Arc::clone(next), verdict, patience);
    line.look_for_successor();
    let called_off = pin!(async move { decided.wait_for(Option::is_some).await.is_ok() });
    match select(pin!(means::by(deadline, &mut ready)), called_off).await {
        Either::Left((Some(Ok(())), _)) => Prepared::Ready(session, reported),
        // It reports without having been ready: it stays, or it is over.
        Either::Left((Some(Err(_)), _)) => match reported.await {
            Err(_) => Prepared::Ended,
            handed => Prepared::Failed(session, handed.ok()),
        },
        Either::Left((None, _)) => Prepared::Busy((line, successor), reported, "busy"),
        // It hears that as well, in the midst of what it does.
        Either::Right(_) => Prepared::Busy((line, successor), reported, "called-off"),
    }
}
