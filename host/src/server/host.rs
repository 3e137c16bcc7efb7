//! The shared parts of a process's servers: threads, engine, loader, and the count of clients.
//!
//! One thread accepts and steers, so that no guest delays it; the lanes run the sessions.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, oneshot};

use crate::admission::ClientCount;
use crate::handover::FdStore;
use crate::plugin::{
    Capacity, Compiler, Engine, EngineConfig, EngineError, Loader, prepare_thread,
};
use crate::rollout::StateDir;
use crate::sched::{Lane, Quota, RunQueueStatus, stalls};
use crate::service::HostNotice;
use crate::service::Workers;
use crate::service::{Tenant, TenantLimits, TenantStatus, Tenants};
use crate::telemetry::LanesStarted;
use crate::work::{HOST, WorkError, WorkKind, WorkPool, WorkStatus};

/// Notices that a slow listener may be behind.
const NOTICES_KEPT: usize = 1_024;

/// Configuration of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostConfig {
    /// Threads that run sessions, in each of the three lanes. 0: one per CPU.
    pub workers: usize,
    /// Most instances at once over all servers: one for each session, or one for each shard of a
    /// server with shared instances. 0: as many as the machine allows.
    pub sessions_max: usize,
    /// Folder for compiled plugins. `None`: plugins are compiled at each start.
    pub cache_dir: Option<PathBuf>,
    /// Folder for records of swaps, so that the swapped-in version starts again after a crash.
    /// `None`: nothing is recorded.
    pub state_dir: Option<PathBuf>,
    /// Whether the memory of a dropped instance goes back to the system at once, instead of staying
    /// for the next one. Useful for sessions that sleep; new sessions then take longer to start.
    ///
    /// Default: no. In a configuration file: yes, if a server has `sleep_after`.
    pub release_memory: bool,
    /// Whether a plugin of one core module runs without the engine's component layer. An event
    /// costs less then. For trusted plugins only: some limits are not kept yet. Default: no.
    pub core_modules: bool,
    /// The compiler process. `None`: a thread of this process compiles, without limits on its
    /// memory and its time.
    pub compiler: Option<Compiler>,
}

/// Status of one of the engine's pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStatus {
    /// Stable name.
    pub name: &'static str,
    /// Number in use.
    pub used: u64,
    /// Number in all.
    pub total: u64,
}

/// Why a host was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The engine did not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The system refused a thread, or a descriptor for its reactor.
    #[error(
        "cannot start the worker threads: {0}; fewer `workers`, or a higher `ulimit -n`, may help"
    )]
    Threads(std::io::Error),
}

/// The shared parts of a process's servers. Cheap to clone. The threads end when the last clone and
/// the last server are gone.
#[derive(Clone)]
pub struct Host(Arc<Ground>);

struct Ground {
    runtime: Handle,
    /// Dropping it ends the thread of `runtime`.
    _stop: oneshot::Sender<()>,
    pool: Arc<WorkPool>,
    workers: Arc<Workers>,
    engine: Engine,
    loader: Loader,
    sessions_given: bool,
    clients: Arc<ClientCount>,
    tenants: Tenants,
    records: Option<Arc<StateDir>>,
    notices: broadcast::Sender<HostNotice>,
    fd_store: OnceLock<Arc<dyn FdStore>>,
    /// Set when only the next process may change the descriptor store.
    shelf_is_left: AtomicBool,
}

impl Host {
    /// Makes a host: reserves the engine's address space and starts the threads. Raises the
    /// process's soft limit of descriptors to its hard one.
    ///
    /// A cache folder that cannot be used is a warning in the log and not an error: plugins are
    /// then compiled at each start.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn new(config: &HostConfig) -> Result<Self, HostError> {
        raise_descriptor_limit();
        let engine = Engine::new(EngineConfig {
            sessions_max: config.sessions_max,
            release_memory: config.release_memory,
        })?;
        let loader = loader(&engine, config);
        let count = match config.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        stalls::watch().map_err(HostError::Threads)?;
        let workers = Arc::new(Workers::start(count).map_err(HostError::Threads)?);
        let [fast, idle] =
            [Lane::Fast, Lane::Idle].map(|lane| workers.sched_params(lane).to_string());
        LanesStarted { threads: count, fast: &fast, idle: &idle }.emit();
        let (runtime, stop) = steering_thread().map_err(HostError::Threads)?;
        let pool = Arc::new(WorkPool::start(prepare_thread).map_err(HostError::Threads)?);
        let clients = ClientCount::up_to(Capacity::now().clients().max(1));
        let (notices, _) = broadcast::channel(NOTICES_KEPT);
        Ok(Self(Arc::new(Ground {
            runtime,
            _stop: stop,
            pool,
            workers,
            engine,
            loader,
            sessions_given: config.sessions_max > 0,
            clients,
            tenants: Tenants::default(),
            records: config.state_dir.clone().map(|folder| Arc::new(StateDir::at(folder))),
            notices,
            fd_store: OnceLock::new(),
            shelf_is_left: AtomicBool::new(false),
        })))
    }

    /// The host of servers without one of their own. Made at the first call, with defaults.
    ///
    /// # Errors
    /// [`HostError`]; the next call tries again.
    pub fn shared() -> Result<Self, HostError> {
        static SHARED: OnceLock<Host> = OnceLock::new();
        if let Some(host) = SHARED.get() {
            return Ok(host.clone());
        }
        let host = Self::new(&HostConfig::default())?;
        Ok(SHARED.get_or_init(|| host).clone())
    }

    /// The loader of this host's engine.
    #[must_use]
    pub fn loader(&self) -> &Loader {
        &self.0.loader
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// The runtime that accepts and steers. Sessions run on the lanes.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// Runs blocking work that belongs to no tenant on a work thread. Dropping the future takes
    /// waiting work out of the queue; running work goes on.
    ///
    /// # Errors
    /// [`WorkError`].
    pub async fn work<T: Send + 'static>(
        &self,
        kind: WorkKind,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkError> {
        self.0.pool.run(kind, &HOST.into(), work).await
    }

    /// Status of the queues of blocking work, by tenant.
    #[must_use]
    pub fn work_seen(&self) -> Vec<WorkStatus> {
        self.0.pool.seen()
    }

    pub(super) fn pool(&self) -> &Arc<WorkPool> {
        &self.0.pool
    }

    /// Whether every thread that runs sessions takes up work within this time. Cancel-safe.
    pub async fn is_well(&self, within: std::time::Duration) -> bool {
        tokio::time::timeout(within, self.0.workers.answer()).await.is_ok()
    }

    /// Status of each lane's run queue.
    #[must_use]
    pub fn run_queues(&self) -> Vec<RunQueueStatus> {
        self.0.workers.run_queues()
    }

    /// Notices of all servers of the host from now on. A listener that is 1,024 behind misses the
    /// oldest, and is told.
    #[must_use]
    pub fn notices(&self) -> broadcast::Receiver<HostNotice> {
        self.0.notices.subscribe()
    }

    pub(super) fn notices_sender(&self) -> broadcast::Sender<HostNotice> {
        self.0.notices.clone()
    }

    pub(super) fn workers(&self) -> Arc<Workers> {
        Arc::clone(&self.0.workers)
    }

    /// Sets the limits of tenants, each over all of the tenant's servers together. A tenant without
    /// an entry has none. Use beyond a new limit stays, and the host grants nothing more.
    pub fn limit_tenants(&self, limits: &BTreeMap<String, TenantLimits>) {
        self.0.tenants.limit(limits);
    }

    /// Status of all tenants, by name.
    #[must_use]
    pub fn tenants(&self) -> Vec<TenantStatus> {
        self.0.tenants.seen()
    }

    /// The quota of the tenant of this name, or one without limits if there is no such tenant.
    pub(super) fn quota(&self, tenant: &str) -> Arc<Quota> {
        self.0.tenants.quota(tenant)
    }

    pub(crate) fn tenant(&self, name: &str) -> Arc<Tenant> {
        self.0.tenants.of(name)
    }

    /// Status of the engine's pools.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolStatus> {
        let seen = |(name, used, total)| PoolStatus { name, used, total };
        self.0.engine.pools().into_iter().map(seen).collect()
    }

    /// Number of refusals for lack of room for a session or an instance, by the cause.
    #[must_use]
    pub fn pool_refusals(&self) -> [(&'static str, u64); 3] {
        self.0.engine.ledger().refused()
    }

    /// Most instances, and whether the operator set that number.
    pub(super) fn instances(&self) -> (usize, bool) {
        (self.0.engine.sessions_max(), self.0.sessions_given)
    }

    /// Keeps the servers' listening sockets in this descriptor store for the next process. Only the
    /// first call counts.
    pub fn keep_sockets_on(&self, fd_store: Arc<dyn FdStore>) {
        // The first store counts.
        let _ = self.0.fd_store.set(fd_store);
    }

    /// Leaves the descriptor store to the next process. Returns true at the first call.
    pub(crate) fn relinquish_store(&self) -> bool {
        !self.0.shelf_is_left.swap(true, Ordering::Relaxed)
    }

    fn fd_store(&self) -> Option<&Arc<dyn FdStore>> {
        self.0.fd_store.get().filter(|_| !self.0.shelf_is_left.load(Ordering::Relaxed))
    }

    /// Keeps a server's listening socket in the descriptor store. Does not wait.
    pub(super) fn keep(&self, server: &str, socket: OwnedFd) {
        let Some(fd_store) = self.fd_store() else { return };
        fd_store.want(server, Some(socket));
        let (fd_store, name) = (Arc::clone(fd_store), server.to_owned());
        let kept =
            self.0.pool.run_alone(WorkKind::Urgent, &HOST.into(), move || fd_store.follow(&name));
        if let Err(error) = kept {
            tracing::warn!(server, %error, "the socket is not kept for a next process");
        }
    }

    /// Takes a server's socket out of the descriptor store. When this returns, the address is free,
    /// if the server has closed its own socket.
    pub(super) async fn let_go(&self, server: &str) {
        let Some(fd_store) = self.fd_store() else { return };
        fd_store.want(server, None);
        let (fd_store, name) = (Arc::clone(fd_store), server.to_owned());
        if let Err(error) = self.work(WorkKind::Urgent, move || fd_store.follow(&name)).await {
            tracing::warn!(server, %error, "the socket may be kept for a next process still");
        }
    }

    /// Folder for records of swaps.
    pub(super) fn records(&self) -> Option<&Arc<StateDir>> {
        self.0.records.as_ref()
    }

    /// Count of the process's clients.
    pub(super) fn clients(&self) -> &Arc<ClientCount> {
        &self.0.clients
    }
}

/// Starts the runtime that accepts and steers, on a thread of its own. Dropping the returned sender
/// ends the thread. That drop does not wait, because a task may drop the last clone of a host.
///
/// # Errors
/// The system refuses the thread, or a descriptor for its reactor.
fn steering_thread() -> std::io::Result<(Handle, oneshot::Sender<()>)> {
    const XFSZ: i32 = rustix::process::Signal::XFSZ.as_raw();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (handle, (stop, stopped)) = (runtime.handle().clone(), oneshot::channel());
    std::thread::Builder::new().name("wharf-accept".into()).spawn(move || {
        runtime.block_on(async {
            // A file beyond RLIMIT_FSIZE must be an error of the write that made it. Without a
            // handler the signal ends the process. The handler stays after the listener is gone.
            let _ = signal(SignalKind::from_raw(XFSZ));
            // The sender is only dropped, and never sends.
            let _ = stopped.await;
        });
        runtime.shutdown_background();
    })?;
    Ok((handle, stop))
}

fn loader(engine: &Engine, config: &HostConfig) -> Loader {
    let loader = cached(engine, config).compiling_in(config.compiler.clone());
    loader.with_core_modules(config.core_modules)
}

fn cached(engine: &Engine, config: &HostConfig) -> Loader {
    let Some(folder) = &config.cache_dir else { return Loader::without_cache(engine.clone()) };
    Loader::with_cache(engine.clone(), folder).unwrap_or_else(|error| {
        tracing::warn!(folder = %folder.display(), %error, "no compile cache: plugins are compiled \
            at each start");
        Loader::without_cache(engine.clone())
    })
}

fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // If this is not allowed, the limit stays, and the engine reckons with it.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}
