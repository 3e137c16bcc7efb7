//! What becomes of live sessions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::ready;
use futures_util::stream;
use tokio::sync::oneshot;

use super::{SwapError, SwapPolicy, SwapReport, same};
use crate::event::{Fault, FaultKind, Port};
use crate::plugin::{EventProcedure, Plugin};
use crate::server::means;
use crate::server::service::Service;
use crate::server::together;
use crate::server::versions::{How, Standing, VERSIONS_MAX};
use crate::session::{Handed, Line, Successor};
use crate::telemetry::{PluginSwapped, SessionsMoved, SwapRolledBack};

/// Sessions that are handed over at once; the others go on meanwhile.
const MOVING_MAX: usize = 8;
/// How long each of these places rests before it asks the next, so that the others have the CPU in between.
const REST: Duration = Duration::from_millis(1);
/// Rests of one place together. Where so many are to move that it would be more, nobody rests.
const RESTS_MAX: Duration = Duration::from_millis(2_500);
/// How long one that is in the middle of an event is waited for before the next one is asked.
const BUSY_WAIT: Duration = Duration::from_millis(100);
/// How long one that has begun by then is waited for after that.
const BEGUN_MAX: Duration = Duration::from_secs(5);
/// How long those are waited for in the end.
pub const SWAP_DEADLINE: Duration = Duration::from_secs(10);

/// No more versions may be in memory than are allowed.
pub(in crate::server) fn bounded(
    service: &Service,
    before: &Arc<EventProcedure>,
    next: &Arc<Plugin>,
) -> Result<(), SwapError> {
    bounded_beside(service, before, next, None)
}

/// The same where another one is kept for as long as what is in force is watched.
pub(super) fn bounded_beside(
    service: &Service,
    before: &Arc<EventProcedure>,
    next: &Arc<Plugin>,
    kept: Option<&Arc<EventProcedure>>,
) -> Result<(), SwapError> {
    let of = |plugin: &Plugin| (plugin.digest().to_owned(), plugin.label());
    let live = service.registry.handled();
    let mut versions: BTreeSet<_> = live.iter().map(|(_, successor)| of(successor.current().plugin())).collect();
    versions.extend([Some(before), kept].into_iter().flatten().map(|procedure| of(procedure.plugin())));
    if versions.contains(&of(next)) || versions.len() < VERSIONS_MAX {
        return Ok(());
    }
    let names: Vec<_> = versions.into_iter().map(|(_, label)| label).collect();
    Err(SwapError::TooManyVersions(names.join(", ")))
}

/// Newcomers get it from now on. Its number.
pub(super) fn put_in_force(service: &Service, next: &Arc<EventProcedure>, how: How) -> u64 {
    service.procedure.store(Arc::clone(next));
    published(service, next);
    service.history().put(next, how, Standing::InForce)
}

pub(in crate::server) fn published(service: &Service, next: &Arc<EventProcedure>) {
    *service.guard() = None;
    service.forget_faults();
    PluginSwapped { server: &service.name, plugin: &next.plugin().label(), digest: next.plugin().digest() }.emit();
}

/// What came of giving a version to everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Outcome {
    /// It is in force.
    Good,
    /// It is in force, and so many sessions could not move to it that it is no good.
    Bad,
    /// All were to move together, and one could not: it was not published.
    CalledOff,
}

/// Gives newcomers a version by `publish`, which says its number, and live sessions as the policy says.
///
/// # Errors
/// [`SwapError::NoRoom`], [`SwapError::Stopping`]; nothing was changed.
pub(super) async fn give(
    service: &Arc<Service>,
    next: &Arc<EventProcedure>,
    policy: SwapPolicy,
    report: &mut SwapReport,
    publish: impl FnOnce() -> u64,
) -> Result<Outcome, SwapError> {
    let mut outcome = Outcome::Good;
    let publish = || service.unless_stopping(publish);
    match policy {
        SwapPolicy::AllOrNothing => {
            // Each has two instances for a moment.
            let more = others(service, next).len();
            if more > next.instances_left() {
                return Err(SwapError::NoRoom(more));
            }
            if !together::move_all(service, next, report, publish).await? {
                outcome = Outcome::CalledOff;
            }
        }
        SwapPolicy::Pin => {
            report.generation = publish()?;
            pin(others(service, next), "pinned", report);
        }
        SwapPolicy::HandOff => {
            report.generation = publish()?;
            let live = others(service, next);
            let moves = |(_, successor): &Live| next.hands_over() && successor.current().hands_over();
            let (movable, stuck) = live.into_iter().partition(moves);
            pin(stuck, "no-handoff", report);
            if !hand_over(service, next, movable, report).await {
                outcome = Outcome::Bad;
            }
        }
        SwapPolicy::Disconnect => {
            report.generation = publish()?;
            let old = others(service, next);
            old.iter().for_each(|(line, _)| line.stop());
            report.ended = old.len();
        }
    }
    let (moved, stayed) = (report.moved, report.stayed.values().sum());
    let (ended, longest) = (report.ended, report.pause(1.0));
    SessionsMoved { server: &service.name, moved, stayed, ended, longest }.emit();
    Ok(outcome)
}

/// The same for a version that is new here: it is taken back where it is no good, and watched where it is.
///
/// # Errors
/// As [`give`].
pub(in crate::server) async fn introduce(
    service: &Arc<Service>,
    next: &Arc<EventProcedure>,
    policy: SwapPolicy,
    report: &mut SwapReport,
    publish: impl FnOnce() -> u64,
) -> Result<Outcome, SwapError> {
    let before = service.procedure();
    let outcome = give(service, next, policy, report, publish).await?;
    if Arc::ptr_eq(&before, next) {
        return Ok(outcome);
    }
    match outcome {
        Outcome::Good => service.watch(next, &before),
        Outcome::Bad => roll_back(service, &before, next, report).await,
        Outcome::CalledOff => report.rolled_back = true,
    }
    Ok(outcome)
}

pub(in crate::server) type Live = (Arc<Line>, Arc<Successor<EventProcedure>>);

/// Sessions on another version than this.
pub(in crate::server) fn others(service: &Service, next: &Arc<EventProcedure>) -> Vec<Live> {
    let mut live = service.registry.handled();
    live.retain(|(_, successor)| !Arc::ptr_eq(&successor.current(), next));
    live
}

/// Sessions on this version.
pub(in crate::server) fn on(service: &Service, version: &Arc<EventProcedure>) -> Vec<Live> {
    let mut live = service.registry.handled();
    live.retain(|(_, successor)| Arc::ptr_eq(&successor.current(), version));
    live
}

/// Sessions on this build, under whatever terms.
pub(in crate::server) fn on_build(service: &Service, version: &Arc<EventProcedure>) -> Vec<Live> {
    let mut live = service.registry.handled();
    live.retain(|(_, successor)| same(successor.current().plugin(), version.plugin()));
    live
}

fn pin(live: Vec<Live>, why: &str, report: &mut SwapReport) {
    live.iter().for_each(|_| report.stay(why));
}

/// A version was tried and is not good: everything is as before.
async fn roll_back(
    service: &Service,
    before: &Arc<EventProcedure>,
    bad: &Arc<EventProcedure>,
    report: &mut SwapReport,
) {
    put_back(service, before, bad, "failed-hand-offs");
    let mut back = SwapReport::default();
    // What cannot go back stays on the version that it could move to.
    hand_over(service, before, on(service, bad), &mut back).await;
    report.rolled_back = true;
    report.ended += back.ended;
    let returned = report.moved.min(back.moved);
    report.moved -= returned;
    (0..returned).for_each(|_| report.stay("rolled-back"));
}

/// Whether the server is there still, once a version is in force. Where it has stopped meanwhile it is as if the version had never
/// come, so that nothing starts with it for which nobody was told of success.
pub(in crate::server) fn outlasts(
    service: &Service,
    before: &Arc<EventProcedure>,
    next: &Arc<EventProcedure>,
) -> Result<(), SwapError> {
    if !service.status().is_final() {
        return Ok(());
    }
    if !Arc::ptr_eq(before, next) {
        put_back(service, before, next, "stopping");
    }
    Err(SwapError::Stopping)
}

/// Gives newcomers the version before again. False where the bad one is in force no longer: whoever put another there
/// meanwhile knew what they did.
pub(in crate::server) fn put_back(
    service: &Service,
    before: &Arc<EventProcedure>,
    bad: &Arc<EventProcedure>,
    why: &str,
) -> bool {
    let was = service.procedure.compare_and_swap(bad, Arc::clone(before));
    if !Arc::ptr_eq(&was, bad) {
        return false;
    }
    service.history().put_in_force(before);
    service.history().take_back(bad, why);
    let (plugin, digest) = (before.plugin().label(), before.plugin().digest());
    SwapRolledBack { server: &service.name, bad: &bad.plugin().label(), plugin: &plugin, digest }
        .emit(&service.counters);
    true
}

/// Asks each session, a few at a time, and waits for those that are busy in the end. False where so many could not move that the
/// others were not asked.
pub(in crate::server) async fn hand_over(
    service: &Service,
    next: &Arc<EventProcedure>,
    live: Vec<Live>,
    report: &mut SwapReport,
) -> bool {
    let (deadline, rules) = (means::now() + SWAP_DEADLINE, service.terms().rules);
    let ask = |(line, successor): Live| async move {
        let session = line.info().id;
        let mut reported = successor.ask(Arc::clone(next));
        line.look_for_successor();
        // However many are busy, they are not waited for beyond the deadline.
        let until = deadline.min(means::now() + BUSY_WAIT);
        match means::by(until, &mut reported).await {
            Some(handed) => Ok((session, handed.ok())),
            None if successor.is_asked() => Err((session, successor, reported)),
            // It has begun, within budgets of its own, and keeps its place: what is slow in one is slow in all of them.
            None => Ok((session, begun(&mut reported, deadline).await)),
        }
    };
    let mut busy = Vec::new();
    let goes_on = AtomicBool::new(true);
    let (all, mut answers) = (live.len(), 0);
    service.asks(all, next, report);
    let rests = rests(all);
    let live = stream::iter(live).take_while(|_| ready(goes_on.load(Ordering::Relaxed)));
    let paced = live.enumerate().map(|(number, one)| async move {
        if rests && number >= MOVING_MAX {
            means::sleep(REST).await;
        }
        ask(one).await
    });
    let mut asked = paced.buffer_unordered(MOVING_MAX);
    while let Some(answer) = asked.next().await {
        answers += 1;
        match answer {
            Ok((session, handed)) => report.add(service, session, handed),
            Err(later) => busy.push(later),
        }
        // Those that were asked already answer still.
        goes_on.store(!report.is_hopeless(&rules), Ordering::Relaxed);
    }
    (answers..all).for_each(|_| report.stay("not-asked"));
    for (session, successor, mut reported) in busy {
        let handed = match means::by(deadline, &mut reported).await {
            Some(handed) => handed.ok(),
            None if successor.withdraw() => {
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

/// Whether places rest where so many sessions are to move.
fn rests(sessions: usize) -> bool {
    REST.saturating_mul(u32::try_from(sessions / MOVING_MAX).unwrap_or(u32::MAX)) <= RESTS_MAX
}

/// Waits for a hand-over that has begun. It has budgets of its own, but may wait for its turn, or for its tenant's share.
pub(in crate::server) async fn begun(reported: &mut oneshot::Receiver<Handed>, deadline: Instant) -> Option<Handed> {
    let late = || Handed::Stayed(Fault::new(FaultKind::InstanceBusy, "it has not come to its end yet"));
    means::by(deadline + BEGUN_MAX, reported).await.unwrap_or_else(|| Ok(late())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_rest_unless_that_would_take_too_long_together() {
        let most = RESTS_MAX.div_duration_f64(REST) as usize * MOVING_MAX;
        assert_eq!(most, 20_000);
        assert!(rests(0) && rests(most) && !rests(most + MOVING_MAX) && !rests(usize::MAX));
    }
}
