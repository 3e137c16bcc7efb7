//! All servers of a process, by name. They start, change and stop together.

mod capacity_check;
mod plan_error;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use self::plan_error::Mistake;
pub use self::plan_error::{PlanCause, PlanError};
use crate::handover::{DetachedSession, InheritedListener};
use crate::locks::{lock, read, write};
use crate::net::CredentialsError;
use crate::plugin::EventProcedure;
use crate::rollout::VersionChange;
use crate::server::{
    Bound, FAREWELL_MAX, Host, HostConfig, Preloaded, Prepared, Promised, ServerBuilder,
    ServerHandle, StartError, Status, SteerError, TenantLimits,
};
use crate::work::{WorkError, WorkKind};

/// What the servers of a process are to be, at a start or after a reload. Each server has its place
/// in the file for messages.
pub struct Plan {
    /// Configuration of the host. It cannot be changed while servers run.
    pub host: HostConfig,
    /// Time that sessions of removed servers have.
    pub stop_grace: Duration,
    /// Limits of tenants, by name.
    pub tenants: BTreeMap<String, TenantLimits>,
    /// The servers.
    pub servers: Vec<(String, ServerBuilder)>,
    /// Listening sockets of the process before, by names of servers. Only at a start.
    pub inherited: HashMap<String, InheritedListener>,
}

/// Result of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reloaded {
    /// Servers that listen now and did not before.
    pub started: Vec<String>,
    /// Running servers with the configuration of the file. Live sessions keep theirs.
    pub changed: Vec<String>,
    /// Servers that drain.
    pub removed: Vec<String>,
    /// Running servers that cannot listen, although they just tried again.
    pub not_listening: Vec<String>,
}

/// A server with a new configuration.
struct Reconfigured<'a> {
    server: Arc<ServerHandle>,
    /// The server's lock of swaps.
    change: &'a VersionChange,
    /// The procedure of a canary that this ended.
    ended_canary: Option<Arc<EventProcedure>>,
}

struct Entry {
    handle: Arc<ServerHandle>,
    spec: ServerBuilder,
}

/// All servers of a process.
pub struct Servers {
    host: Host,
    shared: HostConfig,
    servers: RwLock<BTreeMap<String, Entry>>,
    /// Servers that a reload removed and that may not have ended yet.
    leaving: Mutex<Vec<Arc<ServerHandle>>>,
    /// Held during a reload.
    pub(super) reloading: tokio::sync::Mutex<()>,
    draining: AtomicBool,
    /// Relinquished: another process owns the servers, and this one no longer changes them.
    relinquished: AtomicBool,
    stop_grace: Mutex<Duration>,
}

/// All servers of a plan, bound and not accepting yet. Dropping it frees their addresses.
pub struct BoundServers {
    host: Host,
    shared: HostConfig,
    stop_grace: Duration,
    servers: BTreeMap<String, (Bound, ServerBuilder)>,
}

impl Servers {
    /// Starts all servers of a plan, or none. Blocks while plugins load.
    ///
    /// # Errors
    /// [`PlanError`]; nothing is left bound.
    pub fn start(host: Host, plan: Plan) -> Result<Arc<Self>, PlanError> {
        Ok(Self::bind(host, plan)?.run())
    }

    /// Loads the plugins, checks the plan and binds all addresses. Blocks meanwhile.
    ///
    /// # Errors
    /// [`PlanError`]; nothing is left bound.
    pub fn bind(host: Host, plan: Plan) -> Result<BoundServers, PlanError> {
        let mut mistakes: Vec<Mistake> = plan.excess().into_iter().map(Mistake::from).collect();
        host.limit_tenants(&plan.tenants);
        let mut bound: BTreeMap<String, (Bound, ServerBuilder)> = BTreeMap::new();
        let mut inherited = plan.inherited;
        for (place, spec) in plan.servers {
            match spec.clone().host(&host).bind_with(&mut inherited) {
                Ok(server) if bound.contains_key(&server.name()) => {
                    mistakes.push(taken(&place, &server.name()).into());
                }
                Ok(server) => drop(bound.insert(server.name(), (server, spec))),
                Err(error) => mistakes.push(Mistake::from(error).at(&place)),
            }
        }
        if !mistakes.is_empty() {
            return Err(PlanError::of(mistakes));
        }
        Ok(BoundServers { host, shared: plan.host, stop_grace: plan.stop_grace, servers: bound })
    }

    /// Time that sessions have when the process is told to stop, by the last plan.
    #[must_use]
    pub fn stop_grace(&self) -> Duration {
        *lock(&self.stop_grace)
    }

    /// The host of the servers.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// All servers, in the order of their names.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<ServerHandle>> {
        self.read(|servers| servers.values().map(|entry| Arc::clone(&entry.handle)).collect())
    }

    /// The server of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<ServerHandle>> {
        self.read(|servers| servers.get(name).map(|entry| Arc::clone(&entry.handle)))
    }

    /// Names of running servers that cannot listen.
    #[must_use]
    pub fn not_listening(&self) -> Vec<String> {
        let failed = self.all().into_iter().filter(|server| server.failure().is_some());
        failed.map(|server| server.name().to_owned()).collect()
    }

    /// Whether the servers stop, drain, or were closed for another process.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Changes the running servers into those of the plan in the smallest steps. New servers start,
    /// removed ones drain, and the others give new sessions their new configuration. The whole plan
    /// is checked before any change.
    ///
    /// # Errors
    /// [`PlanError`]; nothing was changed.
    pub async fn reload(self: &Arc<Self>, plan: Plan) -> Result<Reloaded, PlanError> {
        let _alone = self.reloading.lock().await;
        // Loading is slow, and happens without the locks, so that it delays no swap or roll-back.
        let (host, loading) = (self.host.clone(), plan);
        let loaded = self.host.work(WorkKind::Long, move || {
            let preloaded: Vec<_> =
                loading.servers.iter().map(|(_, server)| server.preload(&host)).collect();
            (loading, preloaded)
        });
        let (plan, preloaded) = loaded.await?;
        // The checks have to hold until the plan is put in force, so no version may change.
        let running = self.all();
        let unchanging = ServerHandle::versions_of_all_stay(&running).await?;
        let changes: BTreeMap<_, _> =
            running.iter().map(|server| server.name().to_owned()).zip(unchanging).collect();
        let servers = Arc::clone(self);
        let (grace, tenants) = (plan.stop_grace, plan.tenants.clone());
        let checked =
            self.host.work(WorkKind::Urgent, move || servers.check(plan, preloaded)).await??;
        let (mut report, reconfigured) = self.put_in_force(checked, grace, &tenants, &changes)?;
        for Reconfigured { server, change, ended_canary } in reconfigured {
            server.after_reconfigure(change, ended_canary).await;
        }
        for server in self.all() {
            if let Err(SteerError::NotListening(_)) = server.listen_again().await {
                report.not_listening.push(server.name().to_owned());
            }
        }
        Ok(report)
    }

    /// Relinquishes all servers, or takes them back. Relinquished servers follow no requests here,
    /// and record nothing. Call it while no reload and no swap is under way.
    pub(super) fn relinquish(&self, is_relinquished: bool) {
        self.relinquished.store(is_relinquished, Ordering::Relaxed);
        self.all().iter().for_each(|server| server.service.rollout.relinquish(is_relinquished));
    }

    /// Puts a checked plan in force. Returns the result, and the servers that run on.
    fn put_in_force<'a>(
        &self,
        checked: Checked,
        grace: Duration,
        tenants: &BTreeMap<String, TenantLimits>,
        changes: &'a BTreeMap<String, VersionChange>,
    ) -> Result<(Reloaded, Vec<Reconfigured<'a>>), PlanError> {
        let Checked { running, new } = checked;
        let mut report = Reloaded::default();
        let mut reconfigured = Vec::new();
        let mut servers = write(&self.servers);
        // Checked under the lock: a stop of all servers sets the flag first, and then reads the
        // servers.
        if self.is_draining() || self.relinquished.load(Ordering::Relaxed) {
            return Err(PlanError::stopping());
        }
        *lock(&self.stop_grace) = grace;
        self.host.limit_tenants(tenants);
        let gone: Vec<_> = servers
            .keys()
            .filter(|name| !running.contains_key(*name) && !new.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            if let Some(entry) = servers.remove(&name) {
                let handle = Arc::clone(&entry.handle);
                self.host.runtime().spawn(async move {
                    handle.drain(grace).await;
                    handle.stop(FAREWELL_MAX).await;
                });
                let mut leaving = lock(&self.leaving);
                leaving.retain(|server| server.status() != Status::Stopped);
                leaving.push(entry.handle);
                report.removed.push(name);
            }
        }
        for (name, (prepared, spec)) in running {
            if let (Some(entry), Some(change)) = (servers.get_mut(&name), changes.get(&name)) {
                let ended_canary = entry.handle.put_in_force(prepared, change);
                let server = Arc::clone(&entry.handle);
                reconfigured.push(Reconfigured { server, change, ended_canary });
                entry.spec = spec;
                report.changed.push(name);
            }
        }
        for (name, (server, spec)) in new {
            servers.insert(name.clone(), Entry { handle: Arc::new(server.run()), spec });
            report.started.push(name);
        }
        Ok((report, reconfigured))
    }

    fn check(
        &self,
        plan: Plan,
        preloaded: Vec<Result<Preloaded, StartError>>,
    ) -> Result<Checked, PlanError> {
        let mut mistakes: Vec<Mistake> = plan.excess().into_iter().map(Mistake::from).collect();
        // `release_memory` only affects the use of memory, so it may wait for the next start.
        let host = HostConfig { release_memory: self.shared.release_memory, ..plan.host.clone() };
        if host != self.shared {
            mistakes.push(
                "`host`: nothing but `stop_grace` can be changed while servers run; start the \
                 process anew"
                    .into(),
            );
        }
        let mut checked = Checked { running: BTreeMap::new(), new: BTreeMap::new() };
        for ((place, spec), preloaded) in plan.servers.into_iter().zip(preloaded) {
            match self.check_server(spec, preloaded, &mut checked) {
                Ok(None) => {}
                Ok(Some(name)) => mistakes.push(taken(&place, &name).into()),
                Err(mistake) => mistakes.push(mistake.at(&place)),
            }
        }
        mistakes.extend(checked.overpromised(&self.host).into_iter().map(Mistake::from));
        if mistakes.is_empty() { Ok(checked) } else { Err(PlanError::of(mistakes)) }
    }

    /// Checks one server. Returns its name if another server of the plan has that name.
    fn check_server(
        &self,
        spec: ServerBuilder,
        preloaded: Result<Preloaded, StartError>,
        checked: &mut Checked,
    ) -> Result<Option<String>, Mistake> {
        let prepared =
            preloaded.and_then(|preloaded| spec.clone().prepare_with(&self.host, preloaded));
        let mut prepared = prepared?;
        let name = prepared.name();
        if checked.running.contains_key(&name) || checked.new.contains_key(&name) {
            return Ok(Some(name));
        }
        let running = self.read(|servers| {
            let entry = servers.get(&name)?;
            Some((entry.handle.status(), entry.spec.clone(), Arc::clone(&entry.handle)))
        });
        // A stopped server starts again.
        match running.filter(|(status, ..)| *status != Status::Stopped) {
            Some((Status::Draining, ..)) => {
                return Err(
                    "the server is stopping; reload again once it is stopped, and it starts anew"
                        .into(),
                );
            }
            Some((_, running, handle)) if running.listens_like(&spec) => {
                prepared.keep_swapped(&self.host, &handle.service)?;
                prepared.hold(Arc::clone(&handle.service.holding))?;
                checked.running.insert(name, (prepared, spec));
            }
            Some(_) => {
                return Err("`host`, `port`, `backlog` and `options` cannot be changed while the \
                    server runs; stop \
                            the server first, or start the process anew"
                    .into());
            }
            None => {
                if spec.shards > 0 {
                    let ledger = self.host.engine().ledger();
                    let footprint = prepared.plugin.footprint();
                    let holding = ledger.open(&prepared.tenant(), spec.promise(), footprint);
                    prepared.hold(holding)?;
                }
                let server = prepared.listen(&self.host)?;
                checked.new.insert(name, (server, spec));
            }
        }
        Ok(None)
    }

    /// Reads the credentials of a server again, from the same files. Live sessions keep theirs.
    /// Dropping the future may or may not leave the new credentials in force. `None`: there is no
    /// such server, or it has no credentials.
    ///
    /// # Errors
    /// The work was not done, or the credentials are not usable. The old ones stay in force.
    pub async fn renew_credentials(
        &self,
        name: &str,
    ) -> Result<Option<Result<(), CredentialsError>>, WorkError> {
        let entry = |entry: &Entry| {
            Some((Arc::clone(&entry.handle), entry.spec.credentials_given()?.clone()))
        };
        let Some((handle, credentials)) = self.read(|servers| servers.get(name).and_then(entry))
        else {
            return Ok(None);
        };
        let queue = handle.service.work(WorkKind::Short);
        queue.run(move || handle.renew_credentials(&credentials)).await.map(Some)
    }

    /// Accepts no connections on any server and lets sessions finish by themselves. See
    /// [`ServerHandle::drain`].
    pub async fn drain(&self, deadline: Duration) {
        self.draining.store(true, Ordering::Relaxed);
        let servers = self.all_and_leaving();
        futures_util::future::join_all(servers.iter().map(|server| server.drain(deadline))).await;
    }

    /// Accepts no connections on any server. When this returns, no server accepts and all listening
    /// sockets of this process are closed. Another process may still hold some of them.
    pub async fn close(&self) {
        self.draining.store(true, Ordering::Relaxed);
        let servers = self.all_and_leaving();
        futures_util::future::join_all(servers.iter().map(|server| server.close())).await;
    }

    /// Stops all servers. See [`ServerHandle::stop`].
    pub async fn stop(&self, grace: Duration) {
        self.draining.store(true, Ordering::Relaxed);
        let servers = self.all_and_leaving();
        futures_util::future::join_all(servers.iter().map(|server| server.stop(grace))).await;
    }

    /// All servers, leaving ones included.
    fn all_and_leaving(&self) -> Vec<Arc<ServerHandle>> {
        let mut servers = self.all();
        servers.extend(lock(&self.leaving).iter().cloned());
        servers
    }

    fn read<T>(&self, look: impl FnOnce(&BTreeMap<String, Entry>) -> T) -> T {
        look(&read(&self.servers))
    }
}

impl BoundServers {
    /// Starts accepting on all servers.
    #[must_use]
    pub fn run(self) -> Arc<Servers> {
        self.run_with(Vec::new())
    }

    /// Starts accepting on all servers, and attaches detached sessions. A session without its
    /// server is closed.
    #[must_use]
    pub fn run_with(self, sessions: Vec<DetachedSession>) -> Arc<Servers> {
        let mut detached: HashMap<String, Vec<DetachedSession>> = HashMap::new();
        for session in sessions {
            detached.entry(session.server().to_owned()).or_default().push(session);
        }
        let run = |(name, (server, spec)): (String, (Bound, ServerBuilder))| {
            let sessions = detached.remove(&name).unwrap_or_default();
            (
                name,
                Entry {
                    handle: Arc::new(server.run_with(sessions)),
                    spec: spec.without_listener(),
                },
            )
        };
        let servers = self.servers.into_iter().map(run).collect();
        for (server, sessions) in detached {
            tracing::warn!(
                server,
                sessions = sessions.len(),
                "sessions of a server that is no more were closed"
            );
        }
        Arc::new(Servers {
            host: self.host,
            shared: self.shared,
            leaving: Mutex::default(),
            servers: RwLock::new(servers),
            reloading: tokio::sync::Mutex::new(()),
            draining: AtomicBool::new(false),
            relinquished: AtomicBool::new(false),
            stop_grace: Mutex::new(self.stop_grace),
        })
    }
}

/// A checked plan: servers that run on, and new servers that are bound.
struct Checked {
    running: BTreeMap<String, (Prepared, ServerBuilder)>,
    new: BTreeMap<String, (Bound, ServerBuilder)>,
}

impl Checked {
    /// Returns one line for each server whose promise is more than the pools have.
    fn overpromised(&self, host: &Host) -> Vec<String> {
        let mut promised = Promised::none(host);
        let running = self.running.values().map(|(prepared, spec)| (prepared, spec));
        let new = self.new.values().map(|(bound, spec)| (bound.prepared(), spec));
        let add = |(prepared, spec): (&Prepared, &ServerBuilder)| {
            let error = promised.add(spec, &prepared.plugin)?;
            Some(format!("`{}`: {error}", prepared.name.escape_debug()))
        };
        running.chain(new).filter_map(add).collect()
    }
}

fn taken(place: &str, name: &str) -> String {
    format!("{place}: `name`: another server is called `{}`", name.escape_debug())
}
