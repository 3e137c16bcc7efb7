//! Publishing of a version, and what becomes of live sessions.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{SwapError, SwapPolicy, SwapReport, migrate, same};
use crate::plugin::{EventProcedure, Plugin};
use crate::server::migrate_atomic;
use crate::server::service::Service;
use crate::server::versions::{RevisionOrigin, RevisionState, VERSIONS_MAX};
use crate::session::{ProcedureSlot, SessionHandle};
use crate::telemetry::{FaultFigures, PluginSwapped, SessionsMoved, SwapRolledBack};

/// Checks that another version does not exceed the [`VERSIONS_MAX`] versions in memory.
pub(in crate::server) fn bounded(
    service: &Service,
    before: &Arc<EventProcedure>,
    next: &Arc<Plugin>,
) -> Result<(), SwapError> {
    bounded_beside(service, before, next, None)
}

/// Does the check of [`bounded`] while another version is kept for the probation of the current
/// one.
pub(super) fn bounded_beside(
    service: &Service,
    before: &Arc<EventProcedure>,
    next: &Arc<Plugin>,
    kept: Option<&Arc<EventProcedure>>,
) -> Result<(), SwapError> {
    let of = |plugin: &Plugin| (plugin.digest().to_owned(), plugin.label());
    let live = service.registry.handled();
    let mut versions: BTreeSet<_> =
        live.iter().map(|(_, slot)| of(slot.current().plugin())).collect();
    versions
        .extend([Some(before), kept].into_iter().flatten().map(|procedure| of(procedure.plugin())));
    if versions.contains(&of(next)) || versions.len() < VERSIONS_MAX {
        return Ok(());
    }
    let names: Vec<_> = versions.into_iter().map(|(_, label)| label).collect();
    Err(SwapError::TooManyVersions(names.join(", ")))
}

/// Publishes a version and returns the number of its revision.
pub(super) fn put_in_force(
    service: &Service,
    next: &Arc<EventProcedure>,
    how: RevisionOrigin,
) -> u64 {
    service.procedure.store(Arc::clone(next));
    published(service, next);
    service.history().put(next, how, RevisionState::InForce)
}

pub(in crate::server) fn published(service: &Service, next: &Arc<EventProcedure>) {
    *service.probation() = None;
    service.forget_faults();
    PluginSwapped {
        server: &service.name,
        plugin: &next.plugin().label(),
        digest: next.plugin().digest(),
    }
    .emit();
}

/// Outcome of giving a version to all sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Outcome {
    /// The version is current.
    Good,
    /// The version is current, and too many sessions could not move to it.
    Bad,
    /// All sessions were to move together and one could not, so the version was not published.
    CalledOff,
}

/// Gives a version to new sessions, and to live sessions as the policy says. `publish` publishes
/// the version and returns the number of its revision.
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
            // Each session has two instances for a moment.
            let more = others(service, next).len();
            if !next.has_room_for(more) {
                return Err(SwapError::NoRoom(more));
            }
            if !migrate_atomic::move_all(service, next, report, publish).await? {
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
            let moves = |(_, slot): &Live| next.hands_over() && slot.current().hands_over();
            let (movable, stuck) = live.into_iter().partition(moves);
            pin(stuck, "no-handoff", report);
            if !migrate(service, next, movable, report).await {
                outcome = Outcome::Bad;
            }
        }
        SwapPolicy::Disconnect => {
            report.generation = publish()?;
            let old = others(service, next);
            old.iter().for_each(|(handle, _)| handle.stop());
            report.ended = old.len();
        }
    }
    let (moved, stayed) = (report.moved, report.stayed.values().sum());
    let (ended, longest) = (report.ended, report.pause(1.0));
    SessionsMoved { server: &service.name, moved, stayed, ended, longest }.emit();
    Ok(outcome)
}

/// Gives a version that is new to the server, as [`give`] does, and then either puts it on
/// probation or rolls it back.
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
    // Sessions that move keep their saved state as an input, for replays of their faults.
    let _kept =
        (!service.server_config().rules.watch.is_zero()).then(|| next.metrics().keep_inputs());
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

pub(in crate::server) type Live = (Arc<SessionHandle>, Arc<ProcedureSlot<EventProcedure>>);

/// Returns the sessions that are on another version than this.
pub(in crate::server) fn others(service: &Service, next: &Arc<EventProcedure>) -> Vec<Live> {
    let mut live = service.registry.handled();
    live.retain(|(_, slot)| !Arc::ptr_eq(&slot.current(), next));
    live
}

/// Returns the sessions that are on this version.
pub(in crate::server) fn on(service: &Service, version: &Arc<EventProcedure>) -> Vec<Live> {
    let mut live = service.registry.handled();
    live.retain(|(_, slot)| Arc::ptr_eq(&slot.current(), version));
    live
}

/// Returns the sessions that are on this build, under any configuration.
pub(in crate::server) fn on_build(service: &Service, version: &Arc<EventProcedure>) -> Vec<Live> {
    let mut live = service.registry.handled();
    live.retain(|(_, slot)| same(slot.current().plugin(), version.plugin()));
    live
}

fn pin(live: Vec<Live>, why: &str, report: &mut SwapReport) {
    live.iter().for_each(|_| report.stay(why));
}

/// Rolls back a version that failed: publishes the version before, and migrates sessions back to
/// it.
async fn roll_back(
    service: &Service,
    before: &Arc<EventProcedure>,
    bad: &Arc<EventProcedure>,
    report: &mut SwapReport,
) {
    put_back(service, before, bad, ("failed-hand-offs", None));
    let mut back = SwapReport::default();
    // A session that cannot move back stays on the version that it moved to.
    migrate(service, before, on(service, bad), &mut back).await;
    report.rolled_back = true;
    report.ended += back.ended;
    let returned = report.moved.min(back.moved);
    report.moved -= returned;
    (0..returned).for_each(|_| report.stay("rolled-back"));
}

/// Checks that the server still runs after a version was published. If the server stopped
/// meanwhile, the version before is published again. So no restart uses a version whose swap was
/// not reported as a success.
///
/// # Errors
/// [`SwapError::Stopping`].
pub(in crate::server) fn outlasts(
    service: &Service,
    before: &Arc<EventProcedure>,
    next: &Arc<EventProcedure>,
) -> Result<(), SwapError> {
    if !service.status().is_final() {
        return Ok(());
    }
    if !Arc::ptr_eq(before, next) {
        put_back(service, before, next, ("stopping", None));
    }
    Err(SwapError::Stopping)
}

/// Publishes the version before again. Returns false if `bad` is no longer current; a concurrent
/// change wins.
pub(in crate::server) fn put_back(
    service: &Service,
    before: &Arc<EventProcedure>,
    bad: &Arc<EventProcedure>,
    (why, figures): (&str, Option<&FaultFigures>),
) -> bool {
    let was = service.procedure.compare_and_swap(bad, Arc::clone(before));
    if !Arc::ptr_eq(&was, bad) {
        return false;
    }
    service.history().put_in_force(before);
    service.history().take_back(bad, why, figures);
    let (plugin, digest) = (before.plugin().label(), before.plugin().digest());
    let (server, bad) = (&*service.name, &*bad.plugin().label());
    SwapRolledBack { server, bad, plugin: &plugin, digest, reason: why, figures }
        .emit(&service.counters);
    true
}
