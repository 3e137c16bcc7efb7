//! What a running server's tasks share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{broadcast, watch};

use super::blame::{Blame, Fared, Source};
use super::breaker::{Breaker, BreakerState, Turn};
use super::census::{Alive, Census};
use super::course::{Call, Course, Newcomers, Notice, Occurrence, Status, closed};
use super::exclusive::Exclusive;
use super::guard::Guard;
use super::lock::Holder;
use super::means;
use super::registry::Registry;
use super::room::InForce;
use super::swap::{Going, PendingChanges, SwapError, same};
use super::terms::Terms;
use super::versions::{Canary, History, RecordError, StateFolder};
use super::workers::Workers;
use crate::admission::Gate;
use crate::plugin::{EventProcedure, Holding, Plugin};
use crate::sched::{Lane, Placement, Quota, stalls};
use crate::session::PauseGate;
use crate::telemetry::{BreakerTripped, Bucket, Counters, NotRecorded, ServerNotice};
use crate::work::{WorkKind, WorkPool, WorkQueue};

/// How long sessions that are told to end may take before they are cancelled, where nobody says.
pub const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// One thing that happened to one of a host's servers.
#[derive(Debug, Clone)]
pub struct HostNotice {
    /// The server.
    pub server: Arc<str>,
    /// What.
    pub notice: Notice,
}

pub(crate) struct Service {
    pub(crate) name: Arc<str>,
    pub(crate) gate: Gate,
    pub(crate) registry: Arc<Registry>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) fault_lines: Bucket,
    pub(crate) session_lines: Bucket,
    pub(crate) pause_lines: Bucket,
    pub(super) pause_gate: Arc<PauseGate>,
    pub(super) holder: Holder,
    pub(super) terms: ArcSwap<Terms>,
    pub(super) data: Mutex<String>,
    pub(super) started: Instant,
    pub(super) census: Arc<Census>,
    pub(super) breaker: Mutex<Breaker>,
    pub(super) blame: Blame,
    pub(super) workers: Arc<Workers>,
    /// The host's, for what is to go on wherever it was asked for.
    pub(super) runtime: tokio::runtime::Handle,
    /// What it has of the instances of the process.
    pub(super) holding: Arc<Holding>,
    pub(super) procedure: InForce,
    pub(super) guard: Mutex<Option<Guard>>,
    /// A version that some newcomers get.
    pub(super) canary: ArcSwapOption<Canary>,
    pub(super) history: Mutex<History>,
    /// Where the history is written down.
    pub(super) records: Option<Arc<StateFolder>>,
    /// Another process goes on with it: what is in force there, and recorded, is no business of
    /// this one's.
    pub(super) passed_on: AtomicBool,
    /// Held by those who start; whoever moves all sessions together closes it for a moment.
    pub(crate) entrance: tokio::sync::RwLock<()>,
    /// Held while a version is put in force, and while the server begins to stop.
    pub(super) publishing: Mutex<()>,
    /// One swap at a time.
    pub(super) swapping: Arc<Exclusive>,
    /// Swaps that are not in force yet.
    pub(super) pending: PendingChanges,
    /// The host's threads for what blocks.
    pub(super) pool: Arc<WorkPool>,
    /// How far it is.
    pub(super) under_way: Mutex<Option<Going>>,
    /// Why it cannot listen, where its course says that it cannot.
    pub(super) failure: Mutex<String>,
    pub(super) course: watch::Sender<Course>,
    pub(super) notices: watch::Sender<Notice>,
    pub(super) host_notices: broadcast::Sender<HostNotice>,
}

impl Service {
    /// What new sessions get.
    pub(crate) fn procedure(&self) -> Arc<EventProcedure> {
        self.procedure.load_full()
    }

    /// The versions it has had.
    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what is in force. False where there is no place for it.
    pub(super) async fn record(self: &Arc<Self>) -> Result<bool, RecordError> {
        let Some(records) = self.records.clone().filter(|_| !self.is_passed_on()) else {
            return Ok(false);
        };
        let (service, records_of) = (Arc::clone(self), Arc::clone(&records));
        let write = move || records.write_history(&service.name, &service.history);
        match means::apart(self.work(WorkKind::Urgent), write).await {
            Ok(written) => written.map(|()| true),
            Err(error) => Err(records_of.not_done(&self.name, &error)),
        }
    }

    /// The way to the host's threads for blocking work of its tenant.
    pub(super) fn work(&self, kind: WorkKind) -> WorkQueue {
        WorkQueue::new(&self.pool, kind, Arc::clone(&self.terms.load().tenant.name))
    }

    /// The same where nobody waits for it: a failure is logged and counted.
    pub(super) async fn record_quietly(self: &Arc<Self>) {
        if let Err(error) = self.record().await {
            NotRecorded { server: &self.name, error: &error.to_string() }.emit(&self.counters);
        }
    }

    /// What new clients get.
    pub(crate) fn terms(&self) -> Arc<Terms> {
        self.terms.load_full()
    }

    /// Runs a newcomer's task in the lane of the server's class.
    pub(crate) fn spawn<T: Future<Output = ()> + Send + 'static>(
        &self,
        task: impl FnOnce(Arc<Placement>) -> T,
    ) {
        let config = Arc::clone(&self.terms.load().session_config);
        self.workers.spawn(Lane::of(config.class()), Arc::clone(&config.quota), task);
    }

    /// What its tenant's servers use together.
    pub(crate) fn quota(&self) -> Arc<Quota> {
        Arc::clone(&self.terms.load().session_config.quota)
    }

    /// Counts a task of a client.
    pub(crate) fn alive(&self, round: u64) -> Alive {
        self.census.enter(round)
    }

    /// What the server is up to, to look at and to wait for.
    pub(crate) fn course(&self) -> watch::Receiver<Course> {
        self.course.subscribe()
    }

    /// What a client of this round is to do now.
    pub(crate) fn call(&self, round: u64) -> Call {
        self.course.borrow().call(round)
    }

    pub(super) fn status(&self) -> Status {
        self.course.borrow().seen()
    }

    /// Changes the course where `change` says so. The new version, where it did.
    pub(super) fn steer(&self, change: impl FnOnce(&mut Course) -> bool) -> Option<u64> {
        let mut version = None;
        self.course.send_if_modified(|course| {
            if change(course) {
                course.version += 1;
                version = Some(course.version);
            }
            version.is_some()
        });
        version
    }

    /// The accepting task does its work now.
    pub(crate) fn listens(&self) {
        let begun = |course: &mut Course| {
            let starting = course.status == Status::Starting;
            if starting {
                course.status = Status::Listening;
            }
            starting
        };
        if self.steer(begun).is_some() {
            self.tell(Occurrence::Started);
        }
    }

    /// Whether the breaker lets a newcomer in now, or when to ask again.
    pub(crate) fn may_enter(&self, now: Instant) -> Result<(), Instant> {
        let (answer, turn) = self.breaker().ask(now);
        self.turned(turn);
        answer
    }

    /// A newcomer was let in.
    pub(crate) fn entered(&self, now: Instant) {
        self.breaker().admitted(now);
    }

    /// Whether newcomers may get this version: it is in force, or the canary.
    pub(super) fn is_for_newcomers(&self, version: &Arc<EventProcedure>) -> bool {
        // Others are it under the terms before a reload.
        let is = |other: &Arc<EventProcedure>| {
            Arc::ptr_eq(other, version) || same(other.plugin(), version.plugin())
        };
        is(&self.procedure.load())
            || self.canary.load().as_ref().is_some_and(|canary| is(&canary.procedure))
    }

    /// A session from there ended, on a version that newcomers may get.
    pub(super) fn fared(&self, source: Source, fared: Fared) {
        let turn = {
            let mut breaker = self.breaker();
            self.registry.with_addresses(|live| breaker.report(source, fared, live, Instant::now()))
        };
        self.turned(turn);
    }

    fn turned(&self, turn: Option<Turn>) {
        match turn {
            None => {}
            Some(Turn::Tripped(pause)) => {
                BreakerTripped { server: &self.name, pause }.emit();
                self.tell(Occurrence::Tripped);
                self.steer(|_| true);
            }
            Some(Turn::Recovered) => {
                self.tell(Occurrence::Recovered);
                self.steer(|_| true);
            }
        }
    }

    /// Lets newcomers in again, whatever was counted. True where the breaker held them off.
    pub(super) fn forget_faults(&self) -> bool {
        let held_off = {
            let mut breaker = self.breaker();
            let held_off = breaker.state() != BreakerState::Closed;
            let limits = breaker.limits();
            breaker.reset(limits);
            held_off
        };
        if held_off {
            self.steer(|_| true);
        }
        held_off
    }

    pub(super) fn guard(&self) -> MutexGuard<'_, Option<Guard>> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last of the clients left.
    pub(crate) fn emptied(&self) {
        if !self.status().is_final() {
            self.tell(Occurrence::Idle);
        }
    }

    pub(super) fn tell(&self, occurrence: Occurrence) {
        self.tell_of(occurrence, 0);
    }

    /// Tells of something at which so many sessions were cut off.
    pub(super) fn tell_of(&self, occurrence: Occurrence, cut_off: usize) {
        let status = self.status();
        ServerNotice {
            server: &self.name,
            occurrence: occurrence.name(),
            status: status.name(),
            cut_off,
        }
        .emit(&self.counters);
        self.notices
            .send_modify(|last| *last = Notice { number: last.number + 1, occurrence, status });
        let notice = *self.notices.borrow();
        // Nobody may be listening.
        let _ = self.host_notices.send(HostNotice { server: Arc::clone(&self.name), notice });
    }

    /// Starts a new round: clients of the ones before are to end gracefully. Its number.
    pub(super) fn end_round(&self) -> u64 {
        let mut round = 0;
        self.steer(|course| {
            course.round += 1;
            round = course.round;
            true
        });
        self.registry.retire_before(round);
        self.call_all(round);
        round
    }

    /// Clients of rounds before this one end now.
    pub(super) fn cancel_before(&self, round: u64) {
        self.steer(|course| {
            let later = course.cancelled < round;
            course.cancelled = course.cancelled.max(round);
            later
        });
        self.call_all(round);
    }

    /// Puts other terms in force for newcomers. `change` may be called more than once.
    pub(super) fn change_terms(&self, mut change: impl FnMut(&mut Terms)) {
        self.terms.rcu(|terms| {
            let mut terms = Terms::clone(terms);
            change(&mut terms);
            terms
        });
    }

    /// Whether this is what the next process starts with, unless the configuration says something
    /// else by then.
    pub(super) fn starts_again(&self, plugin: &Plugin) -> bool {
        match self.records {
            Some(_) => same(plugin, self.procedure().plugin()),
            // What was swapped in is not written down.
            None => plugin.digest() == self.history().configured(),
        }
    }

    /// Digest of what the configuration names, where something else is in force and that is not
    /// written down.
    pub(super) fn not_recorded(&self) -> Option<String> {
        let configured = self.history().configured().to_owned();
        (self.records.is_none() && self.procedure().plugin().digest() != configured)
            .then_some(configured)
    }

    /// Does what is not to come after the server began to stop.
    ///
    /// # Errors
    /// [`SwapError::Stopping`]; it was not done.
    pub(super) fn unless_stopping<T>(&self, act: impl FnOnce() -> T) -> Result<T, SwapError> {
        let _not_stopping = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.status().is_final() || self.is_passed_on() {
            Err(SwapError::Stopping)
        } else {
            Ok(act())
        }
    }

    /// See [`Fleet::pass_on`](super::Fleet).
    pub(super) fn pass_on(&self, passes: bool) {
        let _nothing_comes = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        self.passed_on.store(passes, Ordering::Relaxed);
    }

    pub(super) fn is_passed_on(&self) -> bool {
        self.passed_on.load(Ordering::Relaxed)
    }

    /// True where it was not stopping before.
    pub(super) fn begin_stop(&self) -> bool {
        let begun = {
            let _nothing_comes = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
            self.steer(|course| {
                let running = !course.status.is_final();
                if running {
                    course.status = Status::Draining;
                }
                running
            })
        };
        // Their threads are free for others then.
        self.pending.call_off();
        begun.is_some()
    }

    /// Tells those who are there already; who comes later looks at the course itself.
    fn call_all(&self, round: u64) {
        let course = *self.course.borrow();
        for (handle, of) in self.registry.present() {
            if of < round {
                match course.call(of) {
                    Call::Stay => {}
                    Call::End => handle.stop(),
                    Call::EndNow => handle.cancel(),
                }
            }
        }
    }

    /// Ends all clients: those that are not done after `grace` at once. Returns when none is left;
    /// how many had to be cancelled. A lock is taken back first, since a session that is held can
    /// not end.
    pub(super) async fn clear(&self, grace: Duration) -> usize {
        let _ending = self.ending();
        let round = self.end_round();
        if means::within(grace, self.census.until_empty(round)).await.is_some() {
            return 0;
        }
        let left = self.census.before(round);
        self.cancel_before(round);
        self.census.until_empty(round).await;
        left
    }

    /// Takes the lock back and lets nobody have it while sessions end.
    fn ending(&self) -> EndingSessions<'_> {
        self.steer(|course| {
            course.ending += 1;
            true
        });
        self.revoke_lock();
        EndingSessions(self)
    }

    pub(super) fn data(&self) -> String {
        self.data.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets sessions finish until the deadline. False where a later call says otherwise.
    pub(super) async fn drain(&self, deadline: Duration, plan: u64) -> bool {
        // Who is held can not finish.
        let _ending = self.ending();
        let mut course = self.course();
        let superseded = async {
            // The sender lives in the service.
            let _ = course.wait_for(|course| course.plan != plan).await;
        };
        tokio::select! {
            () = superseded => false,
            () = self.census.until_empty(u64::MAX) => true,
            () = stalls::sleep(deadline) => true,
        }
    }

    /// Stops newcomers for a suspension. The version of the course and the plan; `None` where the
    /// server is on its way out.
    pub(super) fn suspend(&self, newcomers: Newcomers) -> Option<(u64, u64)> {
        let (mut suspended, mut plan) = (false, 0);
        let version = self.steer(|course| {
            if course.status.is_final() {
                return false;
            }
            suspended = course.status != Status::Suspended;
            course.plan += 1;
            plan = course.plan;
            (course.status, course.newcomers) = (Status::Suspended, newcomers);
            true
        });
        if suspended {
            self.tell(Occurrence::Suspended);
        }
        version.map(|version| (version, plan))
    }

    /// Ends all sessions after what was said before is followed, and stops. Idempotent.
    pub(super) async fn stop(&self, grace: Duration, accepting: watch::Receiver<u64>) {
        if self.begin_stop() {
            self.tell(Occurrence::Draining);
        }
        closed(accepting).await;
        *self.guard() = None;
        self.canary.store(None);
        let cancelled = self.clear(grace).await;
        let stopped = self.steer(|course| {
            std::mem::replace(&mut course.status, Status::Stopped) != Status::Stopped
        });
        if stopped.is_some() {
            self.tell_of(Occurrence::Stopped, cancelled);
        }
    }
}

/// Sessions of the service are to end.
struct EndingSessions<'a>(&'a Service);

impl Drop for EndingSessions<'_> {
    fn drop(&mut self) {
        self.0.steer(|course| {
            course.ending -= 1;
            true
        });
    }
}
