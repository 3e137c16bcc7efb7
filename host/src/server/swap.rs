//! Another version of a server's plugin: newcomers get it at once, live sessions as the policy says.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::ready;
use futures_util::stream;
use tokio::sync::oneshot;

use super::handle::ServerHandle;
use super::procure::{ProcureError, procure};
use super::service::Service;
use crate::event::{Fault, FaultKind, Port};
use crate::oci::RegistryError;
use crate::plugin::{EventProcedure, LoadError, Plugin, try_out};
use crate::session::{Handed, Line, Successor};
use crate::telemetry::{HandoverFailed, PluginSwapped, SessionsMoved, SwapRolledBack};

/// Sessions that are handed over at once; the others go on meanwhile.
const MOVING_MAX: usize = 8;
/// How long one that is in the middle of an event is waited for before the next one is asked.
const BUSY_WAIT: Duration = Duration::from_millis(100);
/// A version that so many sessions cannot move to, and more than one in fifty of those that were asked, is taken back.
const FAILURES_MIN: usize = 5;
const FAILURES_SHARE: usize = 50;
/// Why sessions stay that says nothing about the version: they were busy, were to end, or there was no room for two instances.
const NOT_ITS_FAULT: [&str; 8] =
    ["busy", "aborted", "drain-deadline", "overload", "limit-tenant-mem", "no-handoff", "not-asked", "rolled-back"];
/// How long one that has begun by then is waited for after that.
const BEGUN_MAX: Duration = Duration::from_secs(5);
/// How long those are waited for in the end.
pub const SWAP_DEADLINE: Duration = Duration::from_secs(10);

/// What becomes of live sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SwapPolicy {
    /// Each moves to the new version at its next event boundary, with its state. One that cannot stays where it is.
    #[default]
    HandOff,
    /// They end on the version they have.
    Pin,
    /// They are ended gracefully, as `server-stopped`.
    Disconnect,
}

impl SwapPolicy {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::HandOff, Self::Pin, Self::Disconnect];

    /// Its name in requests and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HandOff => "hand-off",
            Self::Pin => "pin",
            Self::Disconnect => "disconnect",
        }
    }
}

/// What became of the sessions that were there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SwapReport {
    /// Name and version of what was there before.
    pub from: String,
    /// Name and version of what newcomers get.
    pub to: String,
    /// How many versions this server has had since its start, this one included.
    pub generation: u64,
    /// Moved to the new version.
    pub moved: usize,
    /// On the old one, by the reason why they did not move.
    pub stayed: BTreeMap<String, usize>,
    /// Over, because the old version could not save them, by reason.
    pub lost: BTreeMap<String, usize>,
    /// Whether so many could not move that the version was taken back: newcomers get the one before, and who had moved is on that
    /// again.
    pub rolled_back: bool,
    /// Ended meanwhile, by themselves or because the policy says so.
    pub ended: usize,
    /// The longest that one of them was handled by neither.
    pub longest_pause: Duration,
}

/// Why nothing was swapped. Nothing changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwapError {
    /// The new version is not good.
    #[error(transparent)]
    Plugin(#[from] LoadError),
    /// The new version did not come from its registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Its sessions share instances, and there is no room for those of another version.
    #[error("no room for {0} more instances, which the new version's sessions are to share (`sessions_max`)")]
    NoRoom(usize),
    /// The server is on its way out.
    #[error("the server is stopping or stopped")]
    Stopping,
}

impl ServerHandle {
    /// Loads a plugin, or asks its registry for it and loads it, under the grants of this server, for [`ServerHandle::swap`]. Blocks for milliseconds to minutes, so not for a
    /// runtime's thread.
    ///
    /// # Errors
    /// [`ProcureError`].
    pub fn load_for_swap(&self, place: &Path) -> Result<Arc<Plugin>, ProcureError> {
        let terms = self.service.terms();
        let pull = terms.registries.terms().pull.just_named();
        procure(place, &terms.registries, pull, self.host().loader(), &terms.grants)
    }

    /// Gives the server another plugin, loaded by the same host's loader. Newcomers get it from the moment on in which this
    /// publishes it; live sessions as the policy says. Returns when that is done, or after ten seconds with those that
    /// were busy all the time left where they are. One swap at a time; others wait. Dropping the future may leave some sessions
    /// on the old version and some on the new. The build that is in force already is not
    /// published again, and sessions that are on another are asked again.
    ///
    /// # Errors
    /// [`SwapError`]; nothing was changed.
    pub async fn swap(&self, plugin: Arc<Plugin>, policy: SwapPolicy) -> Result<SwapReport, SwapError> {
        let service = &self.service;
        let _alone = service.swapping.lock().await;
        if service.status().is_final() {
            return Err(SwapError::Stopping);
        }
        let before = service.procedure();
        // Nothing is new then; but sessions that were left on another version may be asked again.
        let same = |one: &Plugin, other: &Plugin| (one.digest(), one.label()) == (other.digest(), other.label());
        let (next, generation) = match same(before.plugin(), &plugin) {
            true => (Arc::clone(&before), service.generation()),
            false => self.publish(&before, plugin).await?,
        };
        let (from, to) = (before.plugin().label(), next.plugin().label());
        let mut report = SwapReport { from, to, generation, ..SwapReport::default() };
        match policy {
            SwapPolicy::Pin => pin(others(service, &next), "pinned", &mut report),
            SwapPolicy::HandOff => {
                let live = others(service, &next);
                let moves = |(_, successor): &Live| next.hands_over() && successor.current().hands_over();
                let (movable, stuck) = live.into_iter().partition(moves);
                pin(stuck, "no-handoff", &mut report);
                if !hand_over(service, &next, movable, &mut report).await && !Arc::ptr_eq(&before, &next) {
                    roll_back(service, &before, &next, &mut report).await;
                }
            }
            SwapPolicy::Disconnect => {
                let old = others(service, &next);
                old.iter().for_each(|(line, _)| line.stop());
                report.ended = old.len();
            }
        }
        if !report.rolled_back && !Arc::ptr_eq(&before, &next) {
            service.watch(&next, &before);
        }
        let (moved, stayed) = (report.moved, report.stayed.values().sum());
        let (ended, longest) = (report.ended, report.longest_pause);
        SessionsMoved { server: &service.name, moved, stayed, ended, longest }.emit();
        Ok(report)
    }

    /// Places for the instances that sessions of another version share.
    fn room_for(&self, shards: usize) -> Result<Option<Arc<dyn Any + Send + Sync>>, SwapError> {
        if shards == 0 {
            return Ok(None);
        }
        let places = self.host().slots().take_many(shards).ok_or(SwapError::NoRoom(shards))?;
        Ok(Some(Arc::new(places)))
    }

    /// Tries a version out and gives it to newcomers; its procedure, and how many there were.
    async fn publish(
        &self,
        before: &Arc<EventProcedure>,
        plugin: Arc<Plugin>,
    ) -> Result<(Arc<EventProcedure>, u64), SwapError> {
        let service = &self.service;
        let budget = service.terms().line_config.budgets.start(self.priority());
        let (limits, trial) = (before.limits(), Arc::clone(&plugin));
        let tried = tokio::task::spawn_blocking(move || try_out(&trial, limits, budget)).await;
        // It fails only where the runtime ends.
        tried.map_err(|_| SwapError::Stopping)??;
        let kept = self.room_for(before.shards())?;
        // Other settings may have come in force meanwhile.
        let next = Arc::new(service.procedure().with_plugin(plugin, kept));
        service.procedure.store(Arc::clone(&next));
        service.forget_faults();
        PluginSwapped { server: &service.name, plugin: &next.plugin().label(), digest: next.plugin().digest() }.emit();
        Ok((next, service.count_generation()))
    }
}

type Live = (Arc<Line>, Arc<Successor<EventProcedure>>);

/// Sessions on another version than this.
fn others(service: &Service, next: &Arc<EventProcedure>) -> Vec<Live> {
    let mut live = service.registry.handled();
    live.retain(|(_, successor)| !Arc::ptr_eq(&successor.current(), next));
    live
}

/// Sessions on this version.
pub(super) fn on(service: &Service, version: &Arc<EventProcedure>) -> Vec<Live> {
    let mut live = service.registry.handled();
    live.retain(|(_, successor)| Arc::ptr_eq(&successor.current(), version));
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
    put_back(service, before, bad);
    let mut back = SwapReport::default();
    // What cannot go back stays on the version that it could move to.
    hand_over(service, before, on(service, bad), &mut back).await;
    report.rolled_back = true;
    report.ended += back.ended;
    let returned = report.moved.min(back.moved);
    report.moved -= returned;
    (0..returned).for_each(|_| report.stay("rolled-back"));
}

/// Gives newcomers the version before again. False where the bad one is in force no longer: whoever put another there
/// meanwhile knew what they did.
pub(super) fn put_back(service: &Service, before: &Arc<EventProcedure>, bad: &Arc<EventProcedure>) -> bool {
    let in_force = service.procedure.load_full();
    if !Arc::ptr_eq(&in_force, bad) {
        return false;
    }
    service.procedure.compare_and_swap(&in_force, Arc::clone(before));
    let (plugin, digest) = (before.plugin().label(), before.plugin().digest());
    SwapRolledBack { server: &service.name, bad: &bad.plugin().label(), plugin: &plugin, digest }
        .emit(&service.counters);
    true
}

/// Asks each session, a few at a time, and waits for those that are busy in the end. False where so many could not move that the
/// others were not asked.
pub(super) async fn hand_over(
    service: &Service,
    next: &Arc<EventProcedure>,
    live: Vec<Live>,
    report: &mut SwapReport,
) -> bool {
    let deadline = Instant::now() + SWAP_DEADLINE;
    let ask = |(line, successor): Live| async move {
        let session = line.info().id;
        let mut reported = successor.ask(Arc::clone(next));
        line.look_for_successor();
        // However many are busy, they are not waited for beyond the deadline.
        let until = deadline.min(Instant::now() + BUSY_WAIT);
        match tokio::time::timeout_at(until.into(), &mut reported).await {
            Ok(handed) => Ok((session, handed.ok())),
            Err(_) if successor.is_asked() => Err((session, successor, reported)),
            // It has begun, within budgets of its own, and keeps its place: what is slow in one is slow in all of them.
            Err(_) => Ok((session, begun(&mut reported, deadline).await)),
        }
    };
    let mut busy = Vec::new();
    let goes_on = AtomicBool::new(true);
    let (all, mut answers) = (live.len(), 0);
    let live = stream::iter(live).take_while(|_| ready(goes_on.load(Ordering::Relaxed)));
    let mut asked = live.map(ask).buffer_unordered(MOVING_MAX);
    while let Some(answer) = asked.next().await {
        answers += 1;
        match answer {
            Ok((session, handed)) => report.add(service, session, handed),
            Err(later) => busy.push(later),
        }
        // Those that were asked already answer still.
        goes_on.store(!report.is_hopeless(), Ordering::Relaxed);
    }
    (answers..all).for_each(|_| report.stay("not-asked"));
    for (session, successor, mut reported) in busy {
        let handed = match tokio::time::timeout_at(deadline.into(), &mut reported).await {
            Ok(handed) => handed.ok(),
            Err(_) if successor.withdraw() => {
                report.stay("busy");
                continue;
            }
            // It began just now.
            Err(_) => begun(&mut reported, deadline).await,
        };
        report.add(service, session, handed);
    }
    !report.is_hopeless()
}

/// Waits for a hand-over that has begun. It has budgets of its own, but may wait for its turn, or for its tenant's share.
async fn begun(reported: &mut oneshot::Receiver<Handed>, deadline: Instant) -> Option<Handed> {
    let late = || Handed::Stayed(Fault::new(FaultKind::InstanceBusy, "it has not come to its end yet"));
    tokio::time::timeout_at((deadline + BEGUN_MAX).into(), reported).await.unwrap_or_else(|_| Ok(late())).ok()
}

impl SwapReport {
    fn add(&mut self, service: &Service, session: u64, handed: Option<Handed>) {
        let failed =
            |fault: &Fault| HandoverFailed { server: &service.name, session, fault }.emit(&service.fault_lines);
        match handed {
            None => self.ended += 1,
            Some(Handed::Moved(pause)) => {
                self.moved += 1;
                self.longest_pause = self.longest_pause.max(pause);
            }
            Some(Handed::Stayed(fault)) => {
                failed(&fault);
                self.stay(&fault.kind.name());
            }
            // Logged and counted as the fault that it is.
            Some(Handed::Lost(fault)) => *self.lost.entry(fault.kind.name().into_owned()).or_default() += 1,
        }
    }

    fn is_hopeless(&self) -> bool {
        let of_version = |(why, _): &(&String, &usize)| !NOT_ITS_FAULT.contains(&why.as_str());
        let failed: usize = self.stayed.iter().chain(&self.lost).filter(of_version).map(|(_, count)| count).sum();
        failed >= FAILURES_MIN && failed * FAILURES_SHARE > failed + self.moved
    }

    fn stay(&mut self, why: &str) {
        *self.stayed.entry(why.to_owned()).or_default() += 1;
    }
}
