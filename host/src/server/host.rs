//! What the servers of a process share: the threads, the engine, the loader, and the count of
//! instance slots.
//!
//! One thread accepts and steers, so that no guest delays it; the lanes run the sessions.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::runtime::{Builder, Handle};
use tokio::sync::{broadcast, oneshot};

use super::service::HostNotice;
use super::tenants::{Tenant, TenantLimits, TenantStatus, Tenants};
use super::upgrade::FdStore;
use super::versions::StateFolder;
use super::workers::Workers;
use crate::admission::Count;
use crate::plugin::{
    Capacity, Compiler, Engine, EngineConfig, EngineError, Loader, prepare_thread,
};
use crate::sched::{Lane, Quota, RunQueueStatus, stalls};
use crate::telemetry::LanesStarted;
use crate::work::{HOST, WorkError, WorkKind, WorkPool, WorkStatus};

/// Notices kept for a listener that is slow.
const NOTICES_KEPT: usize = 1_024;

/// What a host is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostConfig {
    /// Threads that run sessions, in each of the three lanes. 0: one per CPU.
    pub workers: usize,
    /// Instances alive at once over all servers: one for each session, or one for each shard of a
    /// server whose sessions share. 0: as many as the machine allows.
    pub sessions_max: usize,
    /// Folder for compiled plugins. `None`: compile at each start.
    pub cache_dir: Option<PathBuf>,
    /// Folder in which is recorded what was swapped in, so that it starts again after a crash.
    /// `None`: nothing is recorded.
    pub state_dir: Option<PathBuf>,
    /// Whether memory of instances that are gone goes back to the system at once, and is not kept
    /// for the next ones: for sessions that sleep. New sessions then take longer to start. Default:
    /// no; in a configuration file, where some server has `sleep_after`.
    pub release_memory: bool,
    /// The process that compiles. `None`: a thread of this one does, without limits on its memory
    /// and its time.
    pub compiler: Option<Compiler>,
}

/// One of the pools that instances share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStatus {
    /// Stable name.
    pub name: &'static str,
    /// What is in use.
    pub used: u64,
    /// What there is.
    pub total: u64,
}

/// Why there is no host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The threads.
    #[error(
        "cannot start the worker threads: {0}; fewer `workers`, or a higher `ulimit -n`, may help"
    )]
    Threads(std::io::Error),
}

/// The shared ground of servers. Cheap to clone. The threads end when the last clone and the last
/// server are gone.
#[derive(Clone)]
pub struct Host(Arc<Ground>);

struct Ground {
    runtime: Handle,
    /// Ends the thread of that runtime when it is dropped.
    _stop: oneshot::Sender<()>,
    pool: Arc<WorkPool>,
    workers: Arc<Workers>,
    engine: Engine,
    loader: Loader,
    sessions_given: bool,
    clients: Arc<Count>,
    tenants: Tenants,
    records: Option<Arc<StateFolder>>,
    notices: broadcast::Sender<HostNotice>,
    fd_store: OnceLock<Arc<dyn FdStore>>,
    /// What is on it is the next process's business.
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
        let clients = Count::up_to(Capacity::now().clients().max(1));
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
            records: config.state_dir.clone().map(|folder| Arc::new(StateFolder::at(folder))),
            notices,
            fd_store: OnceLock::new(),
            shelf_is_left: AtomicBool::new(false),
        })))
    }

    /// The host of servers that were given none: made at the first use, with defaults.
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

    /// The runtime that accepts and steers. Sessions run elsewhere.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// Does blocking work that no tenant asked for, on one of the host's threads for such. Dropping
    /// the future takes work that waits out of the queue; what runs goes on.
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

    /// The queues of blocking work, by tenant.
    #[must_use]
    pub fn work_seen(&self) -> Vec<WorkStatus> {
        self.0.pool.seen()
    }

    pub(super) fn pool(&self) -> &Arc<WorkPool> {
        &self.0.pool
    }

    /// Whether every thread that runs sessions takes up work within this time. Dropping the future
    /// is safe.
    pub async fn is_well(&self, within: std::time::Duration) -> bool {
        tokio::time::timeout(within, self.0.workers.answer()).await.is_ok()
    }

    /// The turns of each lane now.
    #[must_use]
    pub fn turns(&self) -> Vec<RunQueueStatus> {
        self.0.workers.turns()
    }

    /// What happens to any of its servers from now on. A listener that is 1,024 behind misses the
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

    /// Puts limits of tenants in force, over all of their servers together; who is not named has
    /// none. What is taken beyond them stays taken, and nothing more is given.
    pub fn limit_tenants(&self, limits: &BTreeMap<String, TenantLimits>) {
        self.0.tenants.limit(limits);
    }

    /// What the owners of servers use together, by name.
    #[must_use]
    pub fn tenants(&self) -> Vec<TenantStatus> {
        self.0.tenants.seen()
    }

    /// What the tenant of this name uses, where there is one.
    pub(super) fn quota(&self, tenant: &str) -> Arc<Quota> {
        self.0.tenants.quota(tenant)
    }

    pub(super) fn tenant(&self, name: &str) -> Arc<Tenant> {
        self.0.tenants.of(name)
    }

    /// What its instances share, and what is in use of it.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolStatus> {
        let seen = |(name, used, total)| PoolStatus { name, used, total };
        self.0.engine.pools().into_iter().map(seen).collect()
    }

    /// How often there was no room for a session or an instance, by what was short.
    #[must_use]
    pub fn pool_refusals(&self) -> [(&'static str, u64); 3] {
        self.0.engine.ledger().refused()
    }

    /// How many there may be, and whether somebody said so.
    pub(super) fn instances(&self) -> (usize, bool) {
        (self.0.engine.sessions_max(), self.0.sessions_given)
    }

    /// What its servers listen with is kept there for the next process, from now on and once and
    /// for all.
    pub fn keep_sockets_on(&self, fd_store: Arc<dyn FdStore>) {
        // The first one counts.
        let _ = self.0.fd_store.set(fd_store);
    }

    /// This process changes nothing more about what is kept. Whether it could until now.
    pub(super) fn relinquish_store(&self) -> bool {
        !self.0.shelf_is_left.swap(true, Ordering::Relaxed)
    }

    fn fd_store(&self) -> Option<&Arc<dyn FdStore>> {
        self.0.fd_store.get().filter(|_| !self.0.shelf_is_left.load(Ordering::Relaxed))
    }

    /// Keeps what a server listens with. Does not wait.
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

    /// Keeps nothing of a server any more: when this returns its address is free, if it has closed
    /// it itself.
    pub(super) async fn let_go(&self, server: &str) {
        let Some(fd_store) = self.fd_store() else { return };
        fd_store.want(server, None);
        let (fd_store, name) = (Arc::clone(fd_store), server.to_owned());
        if let Err(error) = self.work(WorkKind::Urgent, move || fd_store.follow(&name)).await {
            tracing::warn!(server, %error, "the socket may be kept for a next process still");
        }
    }

    /// Where what was swapped in is recorded.
    pub(super) fn records(&self) -> Option<&Arc<StateFolder>> {
        self.0.records.as_ref()
    }

    /// Clients of the process.
    pub(super) fn clients(&self) -> &Arc<Count> {
        &self.0.clients
    }
}

/// The runtime that accepts and steers, on a thread of its own, which ends when what is returned
/// beside it is dropped. That drop does not wait: the last clone of a host may go inside a task.
///
/// # Errors
/// The system refuses the thread, or a descriptor for its reactor.
fn steering_thread() -> std::io::Result<(Handle, oneshot::Sender<()>)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (handle, (stop, stopped)) = (runtime.handle().clone(), oneshot::channel());
    std::thread::Builder::new().name("wharf-accept".into()).spawn(move || {
        // The sender says nothing: it is dropped.
        let _ = runtime.block_on(stopped);
        runtime.shutdown_background();
    })?;
    Ok((handle, stop))
}

fn loader(engine: &Engine, config: &HostConfig) -> Loader {
    cached(engine, config).compiling_in(config.compiler.clone())
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
        // Where this is not allowed the limit stays, and the engine counts with it.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}
