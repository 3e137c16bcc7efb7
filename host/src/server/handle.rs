//! The handle of a running server, with all calls that act on the server while it runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OnceCell, watch};

use super::bound::Prepared;
use super::host::Host;
use crate::admission::{Change, Throttle, ThrottleError};
use crate::event::Priority;
use crate::handover::OpenSocket;
use crate::locks::lock;
use crate::net::{Credentials, CredentialsError, Security};
use crate::plugin::{EventProcedure, Plugin};
use crate::rollout::{Rank, Rollout, TooManyWaitingError, VersionChange};
use crate::sched::stalls;
use crate::service::BreakerState;
use crate::service::{FAREWELL_MAX, Service};
use crate::service::{Lock, LockError};
use crate::service::{NewConnections, Notice, Occurrence, Status, closed, followed};
use crate::telemetry::{CredentialsRenewed, Snapshot};

/// Most bytes of [`ServerHandle::set_data`].
pub const DATA_MAX_BYTES: usize = 64 << 10;

/// Why the versions of all servers cannot be held for a moment. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "servers are swapped one after the other, `{0}` just now: try again once their swaps are done"
)]
pub struct VersionsBusyError(Arc<str>);

/// How live sessions end when a server is suspended or restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerEnding {
    /// Sessions may finish by themselves until the deadline; then they end as by `AtOnce`.
    Drain(Duration),
    /// Sessions end gracefully now: each sends its queue, and its plugin is told. Sessions that
    /// are not done after five seconds are cut off.
    AtOnce,
}

/// Why a call had no effect. The operator is the cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SteerError {
    /// The server is stopping or stopped.
    #[error(
        "the server is stopping or stopped; once it is stopped, reading the configuration again \
         starts it"
    )]
    Stopping,
    /// A later call decided otherwise.
    #[error("another call that came meanwhile decided otherwise")]
    Overtaken,
    /// The server cannot listen, and just tried again. The operator has to free its address.
    #[error("the server cannot listen, and is tried again by itself: {0}")]
    NotListening(String),
    /// The data is longer than [`DATA_MAX_BYTES`].
    #[error("expected at most {DATA_MAX_BYTES} bytes, found {0}")]
    DataTooLarge(usize),
}

/// A running server. Dropping the handle ends the server and its sessions at once;
/// [`ServerHandle::stop`] is the graceful way. All methods may be called concurrently.
pub struct ServerHandle {
    pub(crate) service: Arc<Service>,
    host: Host,
    address: SocketAddr,
    accepting: watch::Receiver<u64>,
    socket: OpenSocket,
    /// Set once the address is released. Another server may take the name after that.
    let_go: Arc<OnceCell<()>>,
}

impl ServerHandle {
    pub(crate) fn new(
        service: Arc<Service>,
        host: Host,
        address: SocketAddr,
        accepting: watch::Receiver<u64>,
        socket: OpenSocket,
    ) -> Self {
        Self { service, host, address, accepting, socket, let_go: Arc::default() }
    }

    /// The server's listening socket, as long as the server listens.
    pub(crate) fn socket(&self) -> &OpenSocket {
        &self.socket
    }

    /// The server's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.service.name
    }

    /// The address that the server listens at, with the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server's status.
    #[must_use]
    pub fn status(&self) -> Status {
        self.service.status()
    }

    /// Why the server cannot listen, if its status is [`Status::Failed`] or if a restart hides that
    /// status.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.service.failure()
    }

    /// How a suspended server treats new connections, whether it can listen or not. `None` if it is
    /// not suspended.
    #[must_use]
    pub fn new_connections(&self) -> Option<NewConnections> {
        let state = self.service.state.borrow();
        (state.status == Status::Suspended).then_some(state.new_connections)
    }

    /// Whether the server is locked.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.service.state.borrow().locked
    }

    /// Time since the server started.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.service.started.elapsed()
    }

    /// The server's last notice, to look at and to wait for the next.
    #[must_use]
    pub fn notices(&self) -> watch::Receiver<Notice> {
        self.service.notices.subscribe()
    }

    /// Clients that hold a place now: in the handshake, in a session, or leaving.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.service.gate.clients()
    }

    /// The server's counters now.
    #[must_use]
    pub fn counters(&self) -> Snapshot {
        self.service.counters.snapshot()
    }

    /// The plugin that new sessions get.
    #[must_use]
    pub fn plugin(&self) -> Arc<Plugin> {
        Arc::clone(self.service.procedure().plugin())
    }

    /// The host that runs the server.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The limits in force.
    #[must_use]
    pub fn throttle(&self) -> Throttle {
        self.service.gate.throttle()
    }

    /// Changes limits for new connections; live sessions stay. Returns the limits before.
    ///
    /// # Errors
    /// [`ThrottleError`]; nothing was changed.
    pub fn set_throttle(&self, change: Change) -> Result<Throttle, ThrottleError> {
        let before = self.service.gate.change(change)?;
        // The accepting task may wait for a moment that this change moved.
        self.service.steer(|_| true);
        Ok(before)
    }

    /// The state of the server's breaker.
    #[must_use]
    pub fn breaker(&self) -> BreakerState {
        self.service.breaker().state()
    }

    /// The class that new sessions start with.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.service.server_config().session_config.priority
    }

    /// Sets the class of new sessions; live ones keep theirs. A plugin may then ask for this class
    /// at least. Returns the class before.
    pub fn set_priority(&self, priority: Priority) -> Priority {
        let mut before = priority;
        self.service.change_config(|server_config| {
            let mut config = (*server_config.session_config).clone();
            before = std::mem::replace(&mut config.priority, priority);
            config.priority_max = server_config.ceiling.max(priority);
            server_config.session_config = Arc::new(config);
        });
        before
    }

    /// The text that [`ServerHandle::set_data`] kept. At first empty.
    #[must_use]
    pub fn data(&self) -> String {
        self.service.data()
    }

    /// Keeps a text with the server, for its operator. The plugin does not see the text.
    ///
    /// # Errors
    /// [`SteerError::DataTooLarge`].
    pub fn set_data(&self, data: impl Into<String>) -> Result<(), SteerError> {
        let data = data.into();
        if data.len() > DATA_MAX_BYTES {
            return Err(SteerError::DataTooLarge(data.len()));
        }
        *lock(&self.service.data) = data;
        Ok(())
    }

    /// Replaces all that may change while the server runs by `prepared`: limits, networks,
    /// timeouts, priority, settings, credentials, plugin. Live sessions keep theirs. If this ends a
    /// canary, the canary's sessions migrate back.
    ///
    /// This waits for a running swap, and later swaps wait for this. Dropping the future changes
    /// nothing if it has not begun; later, sessions may stay on the canary.
    ///
    /// # Errors
    /// [`TooManyWaitingError`]; nothing was changed.
    pub async fn reconfigure(&self, prepared: Prepared) -> Result<(), TooManyWaitingError> {
        let change = self.versions_stay().await?;
        let ended_canary = self.put_in_force(prepared, &change);
        self.after_reconfigure(&change, ended_canary).await;
        Ok(())
    }

    /// First part of [`ServerHandle::reconfigure`]. Returns the procedure of an ended canary, for
    /// the second part.
    pub(crate) fn put_in_force(
        &self,
        prepared: Prepared,
        change: &VersionChange,
    ) -> Option<Arc<EventProcedure>> {
        prepared.apply(&self.host, &self.service, change)
    }

    /// Second part of [`ServerHandle::reconfigure`]. The sessions of an ended canary migrate back.
    /// If the server has had several versions, it records them with the configured plugin.
    pub(crate) async fn after_reconfigure(
        &self,
        change: &VersionChange,
        ended_canary: Option<Arc<EventProcedure>>,
    ) {
        if let Some(ended_canary) = ended_canary {
            change.migrate_canary_sessions(&ended_canary).await;
        }
        if self.service.rollout.revisions().len() > 1 {
            change.record_quietly().await;
        }
    }

    /// Takes the server's lock of swaps. Until it is dropped, other changes of the version wait.
    pub(crate) async fn versions_stay(&self) -> Result<VersionChange, TooManyWaitingError> {
        Rollout::exclusive(&self.service.versioned(), Rank::Next).await
    }

    /// Takes the locks of swaps of all these servers, in this order. While this waits for one lock,
    /// it holds none, so that a slow swap of one server delays no roll-back of another.
    ///
    /// # Errors
    /// [`VersionsBusyError`]; no lock is held.
    pub(crate) async fn versions_of_all_stay(
        servers: &[Arc<Self>],
    ) -> Result<Vec<VersionChange>, VersionsBusyError> {
        let servers: Vec<_> = servers.iter().map(|server| server.service.versioned()).collect();
        Rollout::exclusive_all(&servers).await.map_err(VersionsBusyError)
    }

    /// Name of the server's tenant.
    #[must_use]
    pub fn tenant(&self) -> Arc<str> {
        Arc::clone(&self.service.server_config().tenant.name)
    }

    /// Puts credentials in force for new connections. Blocks while it reads files.
    ///
    /// # Errors
    /// The credentials are not usable; the ones before stay in force.
    pub fn renew_credentials(&self, credentials: &Credentials) -> Result<(), CredentialsError> {
        let security = Security::tls(credentials)?;
        self.service.change_config(|server_config| server_config.security = security.clone());
        CredentialsRenewed { server: &self.service.name, file: &credentials.certificate_chain }
            .emit(&self.service.counters);
        Ok(())
    }

    /// Stops accepting until [`ServerHandle::resume`]. `sessions` says how live sessions end, and
    /// `None` leaves them alone. A repeated call replaces both choices.
    ///
    /// When this returns, the server accepts no connections. Sessions end afterwards, and
    /// [`Occurrence::Idle`] says when the last is gone. Dropping the future does not undo the call.
    ///
    /// # Errors
    /// [`SteerError::Stopping`].
    pub async fn suspend(
        &self,
        new_connections: NewConnections,
        sessions: Option<ServerEnding>,
    ) -> Result<(), SteerError> {
        let (version, call) = self.service.suspend(new_connections).ok_or(SteerError::Stopping)?;
        let (service, accepting) = (Arc::clone(&self.service), self.accepting.clone());
        // A task of its own, so that it continues if the future is dropped.
        self.host.runtime().spawn(async move {
            followed(accepting, version).await;
            let goes_on = match sessions {
                None => false,
                Some(ServerEnding::AtOnce) => true,
                Some(ServerEnding::Drain(deadline)) => service.drain(deadline, call).await,
            };
            if goes_on {
                service.clear(FAREWELL_MAX).await;
            }
        });
        followed(self.accepting.clone(), version).await;
        Ok(())
    }

    /// Accepts again, connections that waited in the backlog first. A server that is not suspended
    /// keeps its state. Draining sessions stay, and ending sessions still end.
    ///
    /// # Errors
    /// [`SteerError::Stopping`].
    pub fn resume(&self) -> Result<(), SteerError> {
        let resumed = self.service.steer(|state| {
            let suspended = state.status == Status::Suspended;
            if suspended {
                state.status = Status::Listening;
                state.ending_call += 1;
            }
            suspended
        });
        let tripped = self.service.forget_faults();
        if resumed.is_some() || tripped {
            self.service.tell(Occurrence::Resumed);
        }
        if self.status().is_final() { Err(SteerError::Stopping) } else { Ok(()) }
    }

    /// Tries to listen again at once, if the server cannot listen; otherwise does nothing. Returns
    /// after the attempt. Dropping the future does not undo the call.
    ///
    /// # Errors
    /// [`SteerError::NotListening`], [`SteerError::Stopping`].
    pub async fn listen_again(&self) -> Result<(), SteerError> {
        let asked = self.service.steer(|state| {
            let running = !state.status.is_final();
            state.listen_asked += u64::from(running);
            running
        });
        followed(self.accepting.clone(), asked.ok_or(SteerError::Stopping)?).await;
        self.failure().map_or(Ok(()), |why| Err(SteerError::NotListening(why)))
    }

    /// Ends all sessions and accepts again, even if the server was suspended. The listener stays
    /// bound, new connections wait in its backlog, and numbers of sessions continue. This takes a
    /// lock back.
    ///
    /// Returns when the server accepts, with the number of sessions that had to be cut off. A
    /// suspension meanwhile wins. Dropping the future does not stop the restart.
    ///
    /// # Errors
    /// [`SteerError::Stopping`], [`SteerError::Overtaken`]; [`SteerError::NotListening`] after the
    /// sessions ended.
    pub async fn restart(&self, sessions: ServerEnding) -> Result<usize, SteerError> {
        let mut call = 0;
        let begun = self.service.steer(|state| {
            let running = !state.status.is_final();
            if running {
                state.status = Status::Restarting;
                state.ending_call += 1;
                call = state.ending_call;
            }
            running
        });
        let version = begun.ok_or(SteerError::Stopping)?;
        let (service, accepting) = (Arc::clone(&self.service), self.accepting.clone());
        let work = self.host.runtime().spawn(async move {
            followed(accepting, version).await;
            if let ServerEnding::Drain(deadline) = sessions
                && !service.drain(deadline, call).await
            {
                return None;
            }
            let cut = service.clear(FAREWELL_MAX).await;
            let done = service.steer(|state| {
                let restarting = state.status == Status::Restarting && state.ending_call == call;
                if restarting {
                    state.status = Status::Listening;
                }
                restarting
            });
            done.inspect(|_| service.tell_of(Occurrence::Restarted, cut)).map(|_| cut)
        });
        match work.await {
            Ok(Some(cut)) => self.listen_again().await.map(|()| cut),
            _ if self.status().is_final() => Err(SteerError::Stopping),
            _ => Err(SteerError::Overtaken),
        }
    }

    /// Takes the server's lock. While the lock is held, no event of the server runs, and the server
    /// accepts no connections.
    ///
    /// This waits up to `wait`, at most a minute, for another holder and for running events. The
    /// lock lasts until it is dropped, for `hold` (1 ms to a minute) at most. Cancel-safe: if the
    /// future is dropped, nothing is held.
    ///
    /// # Errors
    /// [`LockError`]; nothing is held.
    pub async fn lock(&self, wait: Duration, hold: Duration) -> Result<Lock, LockError> {
        self.service.lock(self.host.runtime(), wait, hold, self.accepting.clone()).await
    }

    /// Gives back a lock by its token. Returns false if that lock is no longer held.
    pub fn unlock(&self, token: u64) -> bool {
        self.service.unlock(token)
    }

    /// Stops the server: it accepts no connections and ends every session gracefully with
    /// `server-stopped`. Sessions that are not done after `grace` end at once.
    ///
    /// When this returns, nothing of the server runs and its address is free. Of two concurrent
    /// calls both return at the end, by the shorter `grace`. Dropping the future does not undo the
    /// call.
    pub async fn stop(&self, grace: Duration) {
        let (service, accepting, host) =
            (Arc::clone(&self.service), self.accepting.clone(), self.host.clone());
        let let_go = Arc::clone(&self.let_go);
        // A task of its own, so that it continues if the future is dropped.
        let work = self.host.runtime().spawn(async move {
            let address = async {
                closed(accepting.clone()).await;
                let_go.get_or_init(|| host.let_go(&service.name)).await;
            };
            tokio::join!(service.stop(grace, accepting.clone()), address)
        });
        // This fails only if the runtime is gone, and the server with it.
        let _ = work.await;
    }

    /// Accepts no connections and lets sessions finish by themselves until the deadline. Returns
    /// when none is left or the deadline passed; call [`ServerHandle::stop`] next. Dropping the
    /// future leaves the server draining.
    pub async fn drain(&self, deadline: Duration) {
        self.close().await;
        // The caller sees by the remaining sessions whether the time was enough.
        let _ = stalls::within(deadline, self.service.task_tracker.until_empty(u64::MAX)).await;
    }

    /// First part of [`ServerHandle::drain`]. When this returns, the server accepts no connections.
    pub(crate) async fn close(&self) {
        if self.service.begin_stop() {
            self.service.tell(Occurrence::Draining);
        }
        // Locked sessions cannot finish.
        self.service.revoke_lock();
        closed(self.accepting.clone()).await;
        self.let_go.get_or_init(|| self.host.let_go(self.name())).await;
    }

    /// [`ServerHandle::stop`] for callers outside a runtime; blocks.
    pub fn stop_blocking(&self, grace: Duration) {
        self.host.runtime().block_on(self.stop(grace));
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.service.begin_stop();
        self.service.revoke_lock();
        let epoch = self.service.end_epoch();
        self.service.cancel_before(epoch);
    }
}
