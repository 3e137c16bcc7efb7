//! All servers of a process, by name: started together, changed together, stopped together.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::bound::{Bound, Prepared};
use super::builder::{ServerBuilder, StartError};
use super::handle::{ServerHandle, SteerError};
use super::host::{Host, HostConfig};
use super::plan_error::{Mistake, PlanError};
use super::prepare::Preloaded;
use super::room::Promised;
use super::service::FAREWELL_MAX;
use super::state::Status;
use super::tenants::TenantLimits;
use super::upgrade::{DetachedSession, InheritedListener};
use crate::net::CredentialsError;
use crate::plugin::EventProcedure;
use crate::work::{WorkError, WorkKind};

/// What a reload is to lead to: what the servers share, and each server with its place in the file
/// for messages.
pub struct Plan {
    /// What the servers share. It cannot be changed while they run.
    pub host: HostConfig,
    /// How long sessions of servers that are removed may take.
    pub stop_grace: Duration,
    /// What tenants may have together, by name.
    pub tenants: BTreeMap<String, TenantLimits>,
    /// The servers.
    pub servers: Vec<(String, ServerBuilder)>,
    /// What the process before this one listened with, by names of servers. Only at a start.
    pub left: HashMap<String, InheritedListener>,
}

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reloaded {
    /// Servers that listen now and did not.
    pub started: Vec<String>,
    /// Servers that run on under the terms of the file. Live sessions keep theirs.
    pub changed: Vec<String>,
    /// Servers that drain.
    pub removed: Vec<String>,
    /// Servers that run and cannot listen, although it was just tried again.
    pub not_listening: Vec<String>,
}

/// A server under new terms, and the version of a canary that ended by them.
type Reformed = (Arc<ServerHandle>, Option<Arc<EventProcedure>>);

struct Entry {
    handle: Arc<ServerHandle>,
    description: ServerBuilder,
}

/// All servers of a process.
pub struct Servers {
    host: Host,
    shared: HostConfig,
    servers: RwLock<BTreeMap<String, Entry>>,
    /// Those that a reload removed and that may not have ended yet.
    leaving: Mutex<Vec<Arc<ServerHandle>>>,
    /// One reload at a time.
    pub(super) reloading: tokio::sync::Mutex<()>,
    draining: AtomicBool,
    /// Another process goes on with the servers, and this one changes nothing about them any more.
    relinquished: AtomicBool,
    stop_grace: Mutex<Duration>,
}

/// All servers of a plan, bound, of which none accepts yet. Dropping it frees their addresses.
pub struct BoundServers {
    host: Host,
    shared: HostConfig,
    stop_grace: Duration,
    servers: BTreeMap<String, (Bound, ServerBuilder)>,
}

impl Servers {
    /// Starts all servers of a plan or none. Blocks while plugins are loaded.
    ///
    /// # Errors
    /// [`PlanError`]; nothing is left bound.
    pub fn start(host: Host, plan: Plan) -> Result<Arc<Self>, PlanError> {
        Ok(Self::bind(host, plan)?.run())
    }

    /// Everything that can fail and everything that takes its time. Blocks while plugins are
    /// loaded.
    ///
    /// # Errors
    /// [`PlanError`]; nothing is left bound.
    pub fn bind(host: Host, plan: Plan) -> Result<BoundServers, PlanError> {
        let mut mistakes: Vec<Mistake> = plan.excess().into_iter().map(Mistake::from).collect();
        host.limit_tenants(&plan.tenants);
        let mut bound: BTreeMap<String, (Bound, ServerBuilder)> = BTreeMap::new();
        let mut left = plan.left;
        for (place, description) in plan.servers {
            match description.clone().host(&host).bind_with(&mut left) {
                Ok(server) if bound.contains_key(&server.name()) => {
                    mistakes.push(taken(&place, &server.name()).into());
                }
                Ok(server) => drop(bound.insert(server.name(), (server, description))),
                Err(error) => mistakes.push(Mistake::from(error).at(&place)),
            }
        }
        if !mistakes.is_empty() {
            return Err(PlanError::of(mistakes));
        }
        Ok(BoundServers { host, shared: plan.host, stop_grace: plan.stop_grace, servers: bound })
    }

    /// How long sessions may go on when the process is told to stop, as the last plan says.
    #[must_use]
    pub fn stop_grace(&self) -> Duration {
        *self.stop_grace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the servers share.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Every server, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<ServerHandle>> {
        self.read(|servers| servers.values().map(|entry| Arc::clone(&entry.handle)).collect())
    }

    /// One server.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<ServerHandle>> {
        self.read(|servers| servers.get(name).map(|entry| Arc::clone(&entry.handle)))
    }

    /// Servers that run and cannot listen.
    #[must_use]
    pub fn not_listening(&self) -> Vec<String> {
        let failed = self.all().into_iter().filter(|server| server.failure().is_some());
        failed.map(|server| server.name().to_owned()).collect()
    }

    /// Whether all of it is to end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Changes what runs into what the plan says, in the smallest steps: new servers start, those
    /// that are gone drain, the others take the new terms for their newcomers. All of the plan is
    /// checked before anything is changed.
    ///
    /// # Errors
    /// [`PlanError`]; nothing was changed.
    pub async fn reload(self: &Arc<Self>, plan: Plan) -> Result<Reloaded, PlanError> {
        let _alone = self.reloading.lock().await;
        // Loading takes its time, and holds up no swap and no roll-back.
        let (host, loading) = (self.host.clone(), plan);
        let loaded = self.host.work(WorkKind::Long, move || {
            let preloaded: Vec<_> =
                loading.servers.iter().map(|(_, server)| server.preload(&host)).collect();
            (loading, preloaded)
        });
        let (plan, preloaded) = loaded.await?;
        // What is checked has to hold when it is put in force, so that no version comes or goes
        // meanwhile.
        let _unchanging = ServerHandle::versions_of_all_stay(&self.all()).await?;
        let fleet = Arc::clone(self);
        let (grace, tenants) = (plan.stop_grace, plan.tenants.clone());
        let checked =
            self.host.work(WorkKind::Urgent, move || fleet.check(plan, preloaded)).await??;
        let (mut report, reformed) = self.put(checked, grace, &tenants)?;
        for (server, tried) in reformed {
            server.follow_reform(tried).await;
        }
        for server in self.all() {
            if let Err(SteerError::NotListening(_)) = server.listen_again().await {
                report.not_listening.push(server.name().to_owned());
            }
        }
        Ok(report)
    }

    /// Whether another process goes on with the servers: then nothing that is asked for here is
    /// done, and nothing is recorded. To be said while no reload and no swap is under way.
    pub(super) fn relinquish(&self, passes: bool) {
        self.relinquished.store(passes, Ordering::Relaxed);
        self.all().iter().for_each(|server| server.service.relinquish(passes));
    }

    /// Puts a plan in force that holds. What it did, and the servers that run on under new terms.
    fn put(
        &self,
        checked: Checked,
        grace: Duration,
        tenants: &BTreeMap<String, TenantLimits>,
    ) -> Result<(Reloaded, Vec<Reformed>), PlanError> {
        let Checked { same, fresh } = checked;
        let mut report = Reloaded::default();
        let mut reformed = Vec::new();
        let mut servers = self.servers.write().unwrap_or_else(PoisonError::into_inner);
        // Looked at under the lock: whoever stops all of them says so first, and then looks at what
        // there is.
        if self.is_draining() || self.relinquished.load(Ordering::Relaxed) {
            return Err(PlanError::stopping());
        }
        *self.stop_grace.lock().unwrap_or_else(PoisonError::into_inner) = grace;
        self.host.limit_tenants(tenants);
        let gone: Vec<_> = servers
            .keys()
            .filter(|name| !same.contains_key(*name) && !fresh.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            if let Some(entry) = servers.remove(&name) {
                let handle = Arc::clone(&entry.handle);
                self.host.runtime().spawn(async move {
                    handle.drain(grace).await;
                    handle.stop(FAREWELL_MAX).await;
                });
                let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
                leaving.retain(|server| server.status() != Status::Stopped);
                leaving.push(entry.handle);
                report.removed.push(name);
            }
        }
        for (name, (prepared, description)) in same {
            if let Some(entry) = servers.get_mut(&name) {
                let tried = entry.handle.put_config(prepared);
                reformed.push((Arc::clone(&entry.handle), tried));
                entry.description = description;
                report.changed.push(name);
            }
        }
        for (name, (server, description)) in fresh {
            servers.insert(name.clone(), Entry { handle: Arc::new(server.run()), description });
            report.started.push(name);
        }
        Ok((report, reformed))
    }

    fn check(
        &self,
        plan: Plan,
        preloaded: Vec<Result<Preloaded, StartError>>,
    ) -> Result<Checked, PlanError> {
        let mut mistakes: Vec<Mistake> = plan.excess().into_iter().map(Mistake::from).collect();
        // What is released when is a matter of memory alone, and the next start sees to it.
        let host = HostConfig { release_memory: self.shared.release_memory, ..plan.host.clone() };
        if host != self.shared {
            mistakes.push(
                "`host`: nothing but `stop_grace` can be changed while servers run; start the \
                 process anew"
                    .into(),
            );
        }
        let mut checked = Checked { same: BTreeMap::new(), fresh: BTreeMap::new() };
        for ((place, description), preloaded) in plan.servers.into_iter().zip(preloaded) {
            match self.check_server(description, preloaded, &mut checked) {
                Ok(None) => {}
                Ok(Some(name)) => mistakes.push(taken(&place, &name).into()),
                Err(mistake) => mistakes.push(mistake.at(&place)),
            }
        }
        mistakes.extend(checked.overpromised(&self.host).into_iter().map(Mistake::from));
        if mistakes.is_empty() { Ok(checked) } else { Err(PlanError::of(mistakes)) }
    }

    /// The server's name, where another of the plan has it.
    fn check_server(
        &self,
        description: ServerBuilder,
        preloaded: Result<Preloaded, StartError>,
        checked: &mut Checked,
    ) -> Result<Option<String>, Mistake> {
        let prepared =
            preloaded.and_then(|preloaded| description.clone().prepare_with(&self.host, preloaded));
        let mut prepared = prepared?;
        let name = prepared.name();
        if checked.same.contains_key(&name) || checked.fresh.contains_key(&name) {
            return Ok(Some(name));
        }
        let running = self.read(|servers| {
            let entry = servers.get(&name)?;
            Some((entry.handle.status(), entry.description.clone(), Arc::clone(&entry.handle)))
        });
        // One that was stopped starts again.
        match running.filter(|(status, ..)| *status != Status::Stopped) {
            Some((Status::Draining, ..)) => {
                return Err(
                    "the server is stopping; reload again once it is stopped, and it starts anew"
                        .into(),
                );
            }
            Some((_, running, handle)) if running.listens_like(&description) => {
                prepared.keep_swapped(&self.host, &handle.service)?;
                prepared.hold(Arc::clone(&handle.service.holding))?;
                checked.same.insert(name, (prepared, description));
            }
            Some(_) => {
                return Err("`host`, `port`, `backlog` and `options` cannot be changed while the \
                    server runs; stop \
                            the server first, or start the process anew"
                    .into());
            }
            None => {
                if description.shards > 0 {
                    let ledger = self.host.engine().ledger();
                    let footprint = prepared.plugin.footprint();
                    let holding = ledger.open(&prepared.tenant(), description.promise(), footprint);
                    prepared.hold(holding)?;
                }
                let server = prepared.listen(&self.host)?;
                checked.fresh.insert(name, (server, description));
            }
        }
        Ok(None)
    }

    /// Reads the credentials of a server again, from the same files; live sessions keep theirs.
    ///
    /// # Errors
    /// What is wrong with them; the old ones go on serving. `None`: no such server, or it has no
    /// credentials. Dropping the future may or may not leave the new ones in force.
    pub async fn renew_credentials(
        &self,
        name: &str,
    ) -> Result<Option<Result<(), CredentialsError>>, WorkError> {
        let entry = |entry: &Entry| {
            Some((Arc::clone(&entry.handle), entry.description.credentials_given()?.clone()))
        };
        let Some((handle, credentials)) = self.read(|servers| servers.get(name).and_then(entry))
        else {
            return Ok(None);
        };
        let queue = handle.service.work(WorkKind::Short);
        queue.run(move || handle.renew_credentials(&credentials)).await.map(Some)
    }

    /// Takes no newcomers on any server and lets sessions finish by themselves. See
    /// [`ServerHandle::drain`].
    pub async fn drain(&self, deadline: Duration) {
        self.draining.store(true, Ordering::Relaxed);
        let servers = self.everything();
        futures_util::future::join_all(servers.iter().map(|server| server.drain(deadline))).await;
    }

    /// Takes no newcomers on any server. When this returns nobody is accepted any more, and what
    /// listened is closed, but for another process that has it as well.
    pub async fn close(&self) {
        self.draining.store(true, Ordering::Relaxed);
        let servers = self.everything();
        futures_util::future::join_all(servers.iter().map(|server| server.close())).await;
    }

    /// Stops all servers. See [`ServerHandle::stop`].
    pub async fn stop(&self, grace: Duration) {
        self.draining.store(true, Ordering::Relaxed);
        let servers = self.everything();
        futures_util::future::join_all(servers.iter().map(|server| server.stop(grace))).await;
    }

    /// Those that are leaving included.
    fn everything(&self) -> Vec<Arc<ServerHandle>> {
        let mut servers = self.all();
        servers.extend(self.leaving.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        servers
    }

    fn read<T>(&self, look: impl FnOnce(&BTreeMap<String, Entry>) -> T) -> T {
        look(&self.servers.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl BoundServers {
    /// Accepts on all of them.
    #[must_use]
    pub fn run(self) -> Arc<Servers> {
        self.run_with(Vec::new())
    }

    /// The same with sessions that no process had meanwhile: each goes on on its server, or is
    /// closed.
    #[must_use]
    pub fn run_with(self, sessions: Vec<DetachedSession>) -> Arc<Servers> {
        let mut left: HashMap<String, Vec<DetachedSession>> = HashMap::new();
        for session in sessions {
            left.entry(session.server().to_owned()).or_default().push(session);
        }
        let run = |(name, (server, description)): (String, (Bound, ServerBuilder))| {
            let sessions = left.remove(&name).unwrap_or_default();
            (
                name,
                Entry {
                    handle: Arc::new(server.run_with(sessions)),
                    description: description.without_listener(),
                },
            )
        };
        let servers = self.servers.into_iter().map(run).collect();
        for (server, sessions) in left {
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

/// A plan that holds: what stays under new terms, and what is bound and not running yet.
struct Checked {
    same: BTreeMap<String, (Prepared, ServerBuilder)>,
    fresh: BTreeMap<String, (Bound, ServerBuilder)>,
}

impl Checked {
    /// What is promised beyond what there is, a line for each server.
    fn overpromised(&self, host: &Host) -> Vec<String> {
        let mut promised = Promised::none(host);
        let same = self.same.values().map(|(prepared, description)| (prepared, description));
        let fresh = self.fresh.values().map(|(bound, description)| (bound.prepared(), description));
        let add = |(prepared, description): (&Prepared, &ServerBuilder)| {
            let error = promised.add(description, &prepared.plugin)?;
            Some(format!("`{}`: {error}", prepared.name.escape_debug()))
        };
        same.chain(fresh).filter_map(add).collect()
    }
}

fn taken(place: &str, name: &str) -> String {
    format!("{place}: `name`: another server is called `{}`", name.escape_debug())
}
