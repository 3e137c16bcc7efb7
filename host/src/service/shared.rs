//! Shared state of a running server's tasks.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{broadcast, watch};

use super::breaker::{Breaker, BreakerChange, BreakerState};
use super::config::ServerConfig;
use super::lock::Holder;
use super::registry::Registry;
use super::state::{Directive, NewConnections, Notice, Occurrence, ServerState, Status, closed};
use super::task_tracker::{TaskGuard, TaskTracker};
use super::workers::Workers;
use crate::admission::Gate;
use crate::locks::lock;
use crate::plugin::{EventProcedure, Holding, Loader};
use crate::rollout::blame::{ClientSource, EndKind};
use crate::rollout::{Rollout, env};
use crate::sched::{Lane, Placement, Quota, stalls};
use crate::session::PauseGate;
use crate::telemetry::{BreakerTripped, Bucket, Counters, ServerNotice};
use crate::work::{WorkKind, WorkPool, WorkQueue};

/// Default time that ending sessions have before they are cancelled.
pub const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// A notice of one of a host's servers.
#[derive(Debug, Clone)]
pub struct HostNotice {
    /// Name of the server.
    pub server: Arc<str>,
    /// The notice.
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
    pub(crate) pause_gate: Arc<PauseGate>,
    /// The holder of the server's lock.
    pub(crate) holder: Holder,
    pub(crate) server_config: ArcSwap<ServerConfig>,
    /// The text that an operator keeps with the server.
    pub(crate) data: Mutex<String>,
    pub(crate) started: Instant,
    pub(crate) task_tracker: Arc<TaskTracker>,
    pub(crate) breaker: Mutex<Breaker>,
    /// The plugin's versions.
    pub(crate) rollout: Rollout,
    /// Loader of the host; no tenant is charged.
    pub(crate) loader: Loader,
    pub(crate) workers: Arc<Workers>,
    /// The host's runtime, for work that continues if its caller is cancelled.
    pub(crate) runtime: tokio::runtime::Handle,
    /// The server's share of the process's instances.
    pub(crate) holding: Arc<Holding>,
    /// The host's work threads.
    pub(crate) pool: Arc<WorkPool>,
    /// Why the server cannot listen, if its state says so.
    pub(crate) failure: Mutex<String>,
    pub(crate) state: watch::Sender<ServerState>,
    pub(crate) notices: watch::Sender<Notice>,
    pub(crate) host_notices: broadcast::Sender<HostNotice>,
}

impl Service {
    /// A queue of the host's work threads for the server's tenant.
    pub(crate) fn work(&self, kind: WorkKind) -> WorkQueue {
        WorkQueue::new(&self.pool, kind, Arc::clone(&self.server_config.load().tenant.name))
    }

    /// The version that new sessions get.
    pub(crate) fn procedure(&self) -> Arc<EventProcedure> {
        self.rollout.procedure()
    }

    /// The configuration of new sessions.
    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        self.server_config.load_full()
    }

    /// Runs a new connection's task in the lane of the server's class.
    pub(crate) fn spawn<T: Future<Output = ()> + Send + 'static>(
        &self,
        task: impl FnOnce(Arc<Placement>) -> T,
    ) {
        let config = Arc::clone(&self.server_config.load().session_config);
        self.workers.spawn(Lane::of(config.class()), Arc::clone(&config.quota), task);
    }

    /// The quota of the server's tenant.
    pub(crate) fn quota(&self) -> Arc<Quota> {
        Arc::clone(&self.server_config.load().session_config.quota)
    }

    /// Counts a task of a client.
    pub(crate) fn task(&self, epoch: u64) -> TaskGuard {
        self.task_tracker.enter(epoch)
    }

    /// The server's state, to look at and to wait for.
    pub(crate) fn state(&self) -> watch::Receiver<ServerState> {
        self.state.subscribe()
    }

    /// The directive for clients of this epoch.
    pub(crate) fn directive(&self, epoch: u64) -> Directive {
        self.state.borrow().directive(epoch)
    }

    pub(crate) fn status(&self) -> Status {
        self.state.borrow().seen()
    }

    /// Changes the state if `change` returns true. Returns the new version of the state then.
    pub(crate) fn steer(&self, change: impl FnOnce(&mut ServerState) -> bool) -> Option<u64> {
        let mut version = None;
        self.state.send_if_modified(|state| {
            if change(state) {
                state.version += 1;
                version = Some(state.version);
            }
            version.is_some()
        });
        version
    }

    /// Notes that the accepting task runs.
    pub(crate) fn listens(&self) {
        let begun = |state: &mut ServerState| {
            let starting = state.status == Status::Starting;
            if starting {
                state.status = Status::Listening;
            }
            starting
        };
        if self.steer(begun).is_some() {
            self.tell(Occurrence::Started);
        }
    }

    /// Asks the breaker about a new connection. `Err` has the time to ask again.
    pub(crate) fn may_enter(&self, now: Instant) -> Result<(), Instant> {
        let (answer, change) = self.breaker().ask(now);
        self.breaker_changed(change);
        answer
    }

    /// Notes that a new connection was admitted.
    pub(crate) fn entered(&self, now: Instant) {
        self.breaker().admitted(now);
    }

    /// Reports a session's end to the breaker. Call it only for versions that new sessions may get.
    pub(crate) fn report_to_breaker(&self, source: ClientSource, kind: EndKind) {
        let change = {
            let mut breaker = self.breaker();
            self.registry.with_addresses(|live| breaker.report(source, kind, live, Instant::now()))
        };
        self.breaker_changed(change);
    }

    fn breaker_changed(&self, change: Option<BreakerChange>) {
        match change {
            None => {}
            Some(BreakerChange::Tripped(pause)) => {
                BreakerTripped { server: &self.name, pause }.emit();
                self.tell(Occurrence::Tripped);
                self.steer(|_| true);
            }
            Some(BreakerChange::Recovered) => {
                self.tell(Occurrence::Recovered);
                self.steer(|_| true);
            }
        }
    }

    /// Closes the breaker and forgets its counts. Returns true if the breaker held off sessions.
    pub(crate) fn forget_faults(&self) -> bool {
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

    pub(crate) fn breaker(&self) -> MutexGuard<'_, Breaker> {
        lock(&self.breaker)
    }

    /// Notes that the last client left.
    pub(crate) fn emptied(&self) {
        if !self.status().is_final() {
            self.tell(Occurrence::Idle);
        }
    }

    pub(crate) fn tell(&self, occurrence: Occurrence) {
        self.tell_of(occurrence, 0);
    }

    /// Publishes an occurrence at which `cut_off` sessions were cut off.
    pub(crate) fn tell_of(&self, occurrence: Occurrence, cut_off: usize) {
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
        // The send fails if no listener is subscribed.
        let _ = self.host_notices.send(HostNotice { server: Arc::clone(&self.name), notice });
    }

    /// Begins a new epoch and returns its number. Clients of earlier epochs end gracefully.
    pub(crate) fn end_epoch(&self) -> u64 {
        let mut epoch = 0;
        self.steer(|state| {
            state.epoch += 1;
            epoch = state.epoch;
            true
        });
        self.registry.retire_before(epoch);
        self.call_all(epoch);
        epoch
    }

    /// Ends the clients of all epochs before this one at once.
    pub(crate) fn cancel_before(&self, epoch: u64) {
        self.steer(|state| {
            let later = state.cancelled < epoch;
            state.cancelled = state.cancelled.max(epoch);
            later
        });
        self.call_all(epoch);
    }

    /// Changes the configuration of new sessions. `change` may be called more than once.
    pub(crate) fn change_config(&self, mut change: impl FnMut(&mut ServerConfig)) {
        self.server_config.rcu(|server_config| {
            let mut server_config = ServerConfig::clone(server_config);
            change(&mut server_config);
            server_config
        });
    }

    /// Begins to stop. Returns true if the server was not stopping before.
    pub(crate) fn begin_stop(&self) -> bool {
        let drains = |state: &mut ServerState| {
            let running = !state.status.is_final();
            if running {
                state.status = Status::Draining;
            }
            running
        };
        self.rollout.stop(|| self.steer(drains)).is_some()
    }

    /// Sends the directive to registered sessions. Later sessions look at the state themselves.
    fn call_all(&self, epoch: u64) {
        let state = *self.state.borrow();
        for (handle, of) in self.registry.present() {
            if of < epoch {
                match state.directive(of) {
                    Directive::Stay => {}
                    Directive::End => handle.stop(),
                    Directive::EndNow => handle.cancel(),
                }
            }
        }
    }

    /// Ends all clients gracefully, and cancels the remaining ones after `grace`. Returns when none
    /// is left, with the number of cancelled tasks. Revokes a lock first, because a locked session
    /// cannot end.
    pub(crate) async fn clear(&self, grace: Duration) -> usize {
        let _ending = self.ending();
        let epoch = self.end_epoch();
        if env::within(grace, self.task_tracker.until_empty(epoch)).await.is_some() {
            return 0;
        }
        let left = self.task_tracker.before(epoch);
        self.cancel_before(epoch);
        self.task_tracker.until_empty(epoch).await;
        left
    }

    /// Revokes the lock, and refuses it while sessions end.
    fn ending(&self) -> EndingSessions<'_> {
        self.steer(|state| {
            state.ending += 1;
            true
        });
        self.revoke_lock();
        EndingSessions(self)
    }

    pub(crate) fn data(&self) -> String {
        lock(&self.data).clone()
    }

    /// Lets sessions finish until the deadline. Returns false if a later call than `call` decided
    /// otherwise.
    pub(crate) async fn drain(&self, deadline: Duration, call: u64) -> bool {
        // Locked sessions cannot finish.
        let _ending = self.ending();
        let mut state = self.state();
        let superseded = async {
            // The sender lives in the service, so the wait does not fail.
            let _ = state.wait_for(|state| state.ending_call != call).await;
        };
        tokio::select! {
            () = superseded => false,
            () = self.task_tracker.until_empty(u64::MAX) => true,
            () = stalls::sleep(deadline) => true,
        }
    }

    /// Suspends the server. Returns the version of the state, and the call's number. `None` if the
    /// server is ending.
    pub(crate) fn suspend(&self, new_connections: NewConnections) -> Option<(u64, u64)> {
        let (mut suspended, mut call) = (false, 0);
        let version = self.steer(|state| {
            if state.status.is_final() {
                return false;
            }
            suspended = state.status != Status::Suspended;
            state.ending_call += 1;
            call = state.ending_call;
            (state.status, state.new_connections) = (Status::Suspended, new_connections);
            true
        });
        if suspended {
            self.tell(Occurrence::Suspended);
        }
        version.map(|version| (version, call))
    }

    /// Stops the server: closes its socket, ends canary and probation, then ends all sessions.
    /// Idempotent.
    pub(crate) async fn stop(&self, grace: Duration, accepting: watch::Receiver<u64>) {
        if self.begin_stop() {
            self.tell(Occurrence::Draining);
        }
        closed(accepting).await;
        self.rollout.end_trials();
        let cancelled = self.clear(grace).await;
        let stopped = self.steer(|state| {
            std::mem::replace(&mut state.status, Status::Stopped) != Status::Stopped
        });
        if stopped.is_some() {
            self.tell_of(Occurrence::Stopped, cancelled);
        }
    }
}

/// Marks the service's sessions as ending until it is dropped.
struct EndingSessions<'a>(&'a Service);

impl Drop for EndingSessions<'_> {
    fn drop(&mut self) {
        self.0.steer(|state| {
            state.ending -= 1;
            true
        });
    }
}
