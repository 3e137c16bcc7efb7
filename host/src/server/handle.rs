//! The handle of a running server: everything that can be done to it while it runs.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{OnceCell, watch};

use super::bound::Prepared;
use super::breaker::BreakerState;
use super::exclusive::{Held, Rank, lock_all};
use super::host::Host;
use super::lock::{Lock, LockError};
use super::service::{FAREWELL_MAX, Service};
use super::state::{NewConnections, Notice, Occurrence, Status, closed, followed};
use super::upgrade::OpenSocket;
use crate::admission::{Change, Throttle, ThrottleError};
use crate::event::Priority;
use crate::net::{Credentials, CredentialsError, Security};
use crate::plugin::{EventProcedure, Plugin};
use crate::sched::stalls;
use crate::telemetry::{CredentialsRenewed, Snapshot};

/// Most bytes of [`ServerHandle::set_data`].
pub const DATA_MAX_BYTES: usize = 64 << 10;

/// Why versions of all servers cannot be kept as they are for a moment. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "servers are swapped one after the other, `{0}` just now: try again once their swaps are done"
)]
pub(super) struct VersionsChange(Arc<str>);

/// What becomes of live sessions when a server is suspended or restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerEnding {
    /// They may finish by themselves until the deadline; then they are ended as by `AtOnce`.
    Drain(Duration),
    /// They are ended gracefully now: what is queued is sent, the plugin is told, and those that
    /// are not done after five seconds are cut off.
    AtOnce,
}

/// Why a call had no effect. The operator's doing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SteerError {
    /// The server is stopping or stopped.
    #[error(
        "the server is stopping or stopped; once it is stopped, reading the configuration again \
         starts it"
    )]
    Stopping,
    /// Another call that came meanwhile decided otherwise.
    #[error("another call that came meanwhile decided otherwise")]
    Overtaken,
    /// The server cannot listen, and was just tried again. Its address is the operator's to free.
    #[error("the server cannot listen, and is tried again by itself: {0}")]
    NotListening(String),
    /// More than may be kept.
    #[error("expected at most {DATA_MAX_BYTES} bytes, found {0}")]
    DataTooLarge(usize),
}

/// A running server. Dropping the handle ends the server and its sessions at once;
/// [`ServerHandle::stop`] is the graceful way. All methods may be called from several places at
/// once.
pub struct ServerHandle {
    pub(super) service: Arc<Service>,
    host: Host,
    address: SocketAddr,
    accepting: watch::Receiver<u64>,
    socket: OpenSocket,
    /// Once its address is let go. Another server may have the name after that.
    let_go: Arc<OnceCell<()>>,
}

impl ServerHandle {
    pub(super) fn new(
        service: Arc<Service>,
        host: Host,
        address: SocketAddr,
        accepting: watch::Receiver<u64>,
        socket: OpenSocket,
    ) -> Self {
        Self { service, host, address, accepting, socket, let_go: Arc::default() }
    }

    /// The socket it listens with, as long as it does.
    pub(super) fn socket(&self) -> &OpenSocket {
        &self.socket
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.service.name
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        self.service.status()
    }

    /// Why it cannot listen, while its status is [`Status::Failed`] or would be but for a restart.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.service.failure()
    }

    /// What becomes of newcomers where it is suspended, failed or not.
    #[must_use]
    pub fn newcomers(&self) -> Option<NewConnections> {
        let state = self.service.state.borrow();
        (state.status == Status::Suspended).then_some(state.newcomers)
    }

    /// Whether somebody holds its lock.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.service.state.borrow().locked
    }

    /// Since when it runs.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.service.started.elapsed()
    }

    /// The last thing that happened to it, to look at and to wait for.
    #[must_use]
    pub fn notices(&self) -> watch::Receiver<Notice> {
        self.service.notices.subscribe()
    }

    /// Clients that hold a place now: in the handshake, in a session, or on their way out.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.service.gate.clients()
    }

    /// Its counters now.
    #[must_use]
    pub fn counters(&self) -> Snapshot {
        self.service.counters.snapshot()
    }

    /// What new sessions get.
    #[must_use]
    pub fn plugin(&self) -> Arc<Plugin> {
        Arc::clone(self.service.procedure().plugin())
    }

    /// The host it runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The limits in force.
    #[must_use]
    pub fn throttle(&self) -> Throttle {
        self.service.gate.throttle()
    }

    /// Changes limits for newcomers; who is inside stays. Returns what was in force before.
    ///
    /// # Errors
    /// [`ThrottleError`]; nothing was changed.
    pub fn set_throttle(&self, change: Change) -> Result<Throttle, ThrottleError> {
        let before = self.service.gate.change(change)?;
        // The accepting task may be waiting for a moment that was moved.
        self.service.steer(|_| true);
        Ok(before)
    }

    /// What the breaker does with newcomers.
    #[must_use]
    pub fn breaker(&self) -> BreakerState {
        self.service.breaker().state()
    }

    /// The class that new sessions start with.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.service.server_config().session_config.priority
    }

    /// Gives new sessions another class; live ones keep theirs. A plugin may then ask for at least
    /// this. Returns the class before.
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

    /// What was kept with the server. At first empty.
    #[must_use]
    pub fn data(&self) -> String {
        self.service.data()
    }

    /// Keeps a text with the server, for whoever runs it. The plugin does not see it.
    ///
    /// # Errors
    /// [`SteerError::DataTooLarge`].
    pub fn set_data(&self, data: impl Into<String>) -> Result<(), SteerError> {
        let data = data.into();
        if data.len() > DATA_MAX_BYTES {
            return Err(SteerError::DataTooLarge(data.len()));
        }
        *self.service.data.lock().unwrap_or_else(PoisonError::into_inner) = data;
        Ok(())
    }

    /// Replaces everything that may change while it runs by what `prepared` says: limits, networks,
    /// timeouts, priority, settings, credentials, plugin. Live sessions keep what they have, but
    /// for those of a canary that ends by this, which go back. Waits for a swap that is under way,
    /// and one that comes meanwhile waits. Dropping the future before it has begun changes nothing;
    /// later it may leave sessions of a canary on it.
    pub async fn reform(&self, prepared: Prepared) {
        let _alone = self.versions_stay().await;
        let tried = self.put_config(prepared);
        self.follow_reform(tried).await;
    }

    /// The first part of it, of those who have seen to it that versions stay. What is to be brought
    /// back in the second.
    pub(super) fn put_config(&self, prepared: Prepared) -> Option<Arc<EventProcedure>> {
        prepared.apply(&self.host, &self.service)
    }

    /// The second part: sessions of a canary that it ended go back, and what the description names
    /// now is recorded, where something was recorded of its versions before.
    pub(super) async fn follow_reform(&self, tried: Option<Arc<EventProcedure>>) {
        if let Some(tried) = tried {
            self.service.bring_back(&tried).await;
        }
        if self.service.history().seen().len() > 1 {
            self.service.record_quietly().await;
        }
    }

    /// Until this is dropped no version of its plugin comes or goes; those that are to wait.
    pub(super) async fn versions_stay(&self) -> Held {
        self.service.swapping.lock(Rank::Next).await
    }

    /// The same of all of these servers. No lock is held while another is waited for, as a slow
    /// swap of one server is to hold up no roll-back of another.
    ///
    /// # Errors
    /// [`VersionsChange`]; no lock is held.
    pub(super) async fn versions_of_all_stay(
        servers: &[Arc<Self>],
    ) -> Result<Vec<Held>, VersionsChange> {
        let locks: Vec<_> =
            servers.iter().map(|server| Arc::clone(&server.service.swapping)).collect();
        lock_all(&locks)
            .await
            .map_err(|busy| VersionsChange(Arc::clone(&servers[busy].service.name)))
    }

    /// The name of the tenant whose server it is.
    #[must_use]
    pub fn tenant(&self) -> Arc<str> {
        Arc::clone(&self.service.server_config().tenant.name)
    }

    /// Puts credentials in force for newcomers. Blocks while files are read.
    ///
    /// # Errors
    /// What is wrong with them; the ones before stay in force.
    pub fn renew_credentials(&self, credentials: &Credentials) -> Result<(), CredentialsError> {
        let security = Security::tls(credentials)?;
        self.service.change_config(|server_config| server_config.security = security.clone());
        CredentialsRenewed { server: &self.service.name, file: &credentials.certificate_chain }
            .emit(&self.service.counters);
        Ok(())
    }

    /// Stops newcomers until [`ServerHandle::resume`]; `sessions` says what becomes of live ones,
    /// `None` leaves them alone. When this returns nobody is accepted any more; sessions that are
    /// to end do so afterwards, and [`Occurrence::Idle`] says when the last is gone. Idempotent:
    /// said again, it changes what is to become of newcomers and sessions. Dropping the future does
    /// not take it back.
    ///
    /// # Errors
    /// [`SteerError::Stopping`].
    pub async fn suspend(
        &self,
        newcomers: NewConnections,
        sessions: Option<ServerEnding>,
    ) -> Result<(), SteerError> {
        let (version, plan) = self.service.suspend(newcomers).ok_or(SteerError::Stopping)?;
        let (service, accepting) = (Arc::clone(&self.service), self.accepting.clone());
        // On its own, so that it happens even where nobody waits for it.
        self.host.runtime().spawn(async move {
            followed(accepting, version).await;
            let goes_on = match sessions {
                None => false,
                Some(ServerEnding::AtOnce) => true,
                Some(ServerEnding::Drain(deadline)) => service.drain(deadline, plan).await,
            };
            if goes_on {
                service.clear(FAREWELL_MAX).await;
            }
        });
        followed(self.accepting.clone(), version).await;
        Ok(())
    }

    /// Accepts again; those who waited in the backlog come first. A server that is not suspended is
    /// left alone. Sessions that were draining stay, those that are ending do not.
    ///
    /// # Errors
    /// [`SteerError::Stopping`].
    pub fn resume(&self) -> Result<(), SteerError> {
        let resumed = self.service.steer(|state| {
            let suspended = state.status == Status::Suspended;
            if suspended {
                state.status = Status::Listening;
                state.plan += 1;
            }
            suspended
        });
        let tripped = self.service.forget_faults();
        if resumed.is_some() || tripped {
            self.service.tell(Occurrence::Resumed);
        }
        if self.status().is_final() { Err(SteerError::Stopping) } else { Ok(()) }
    }

    /// Tries at once to listen again where the server cannot; else nothing happens. Returns when it
    /// was tried. Dropping the future does not take it back.
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

    /// Ends all sessions and accepts again, suspended or not before. The listener stays bound,
    /// newcomers wait in its backlog, ids go on. Returns when it accepts; how many sessions had to
    /// be cut off. A lock is taken back. Dropping the future does not stop it. A suspension that
    /// comes meanwhile wins.
    ///
    /// # Errors
    /// [`SteerError::Stopping`], [`SteerError::Overtaken`]; [`SteerError::NotListening`] after the
    /// sessions ended.
    pub async fn restart(&self, sessions: ServerEnding) -> Result<usize, SteerError> {
        let mut plan = 0;
        let begun = self.service.steer(|state| {
            let running = !state.status.is_final();
            if running {
                state.status = Status::Restarting;
                state.plan += 1;
                plan = state.plan;
            }
            running
        });
        let version = begun.ok_or(SteerError::Stopping)?;
        let (service, accepting) = (Arc::clone(&self.service), self.accepting.clone());
        let work = self.host.runtime().spawn(async move {
            followed(accepting, version).await;
            if let ServerEnding::Drain(deadline) = sessions
                && !service.drain(deadline, plan).await
            {
                return None;
            }
            let cut = service.clear(FAREWELL_MAX).await;
            let done = service.steer(|state| {
                let restarting = state.status == Status::Restarting && state.plan == plan;
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

    /// Takes the server's lock: waits up to `wait` (at most a minute) for whoever has it and for
    /// events that run; then no event of the server runs and nothing is accepted until the lock is
    /// dropped, or for `hold` (1 ms to a minute) at most. Dropping the future takes nothing.
    ///
    /// # Errors
    /// [`LockError`]; nothing is held.
    pub async fn lock(&self, wait: Duration, hold: Duration) -> Result<Lock, LockError> {
        self.service.lock(self.host.runtime(), wait, hold, self.accepting.clone()).await
    }

    /// Gives back a lock by its token. False where it is not held any more.
    pub fn unlock(&self, token: u64) -> bool {
        self.service.unlock(token)
    }

    /// Stops the server: takes no newcomers, ends every session gracefully with `server-stopped`,
    /// and those that are not done after `grace` at once. When this returns nothing of the server
    /// runs and its address is free. Idempotent; of two concurrent calls both return when it is
    /// over, by the shorter of their times. Dropping the future does not take it back.
    pub async fn stop(&self, grace: Duration) {
        let (service, accepting, host) =
            (Arc::clone(&self.service), self.accepting.clone(), self.host.clone());
        let let_go = Arc::clone(&self.let_go);
        // On its own, so that it is done even where nobody waits for it.
        let work = self.host.runtime().spawn(async move {
            let address = async {
                closed(accepting.clone()).await;
                let_go.get_or_init(|| host.let_go(&service.name)).await;
            };
            tokio::join!(service.stop(grace, accepting.clone()), address)
        });
        // It fails only where the runtime is gone, and the server with it.
        let _ = work.await;
    }

    /// Takes no newcomers and lets sessions finish by themselves until the deadline. Returns when
    /// none is left or the deadline passed; [`ServerHandle::stop`] is to follow. Dropping the
    /// future leaves the server draining.
    pub async fn drain(&self, deadline: Duration) {
        self.close().await;
        // Whether it was enough shows in what is left.
        let _ = stalls::within(deadline, self.service.task_tracker.until_empty(u64::MAX)).await;
    }

    /// The first part of it: when this returns nobody is accepted any more.
    pub(super) async fn close(&self) {
        if self.service.begin_stop() {
            self.service.tell(Occurrence::Draining);
        }
        // Who is held can not finish.
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
        let epoch = self.service.end_round();
        self.service.cancel_before(epoch);
    }
}
