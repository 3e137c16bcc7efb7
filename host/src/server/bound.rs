//! Last stages of a start: a prepared server binds its address and runs, or changes a running one.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::attach::resume_detached;
use super::builder::{MIN_READ_RATE_DEFAULT, ServerBuilder, StartError};
use super::handle::ServerHandle;
use super::host::Host;
use crate::admission::{Gate, InstanceRoom, SharedLimits};
use crate::handover::{DetachedSession, InheritedListener, OpenSocket};
use crate::net::{BindError, Listener, Security};
use crate::plugin::{Binding, Claim, EventProcedure, Holding, LoadError, Plugin, try_out};
use crate::rollout::{
    FetchError, History, Revision, Rollout, SwapError, VersionChange, fetch_again, has_room_for,
};
use crate::serve;
use crate::service::Breaker;
use crate::service::Holder;
use crate::service::Listening;
use crate::service::Registry;
use crate::service::ServerConfig;
use crate::service::Service;
use crate::service::TaskTracker;
use crate::service::Tenant;
use crate::service::{Notice, Occurrence, ServerState, Status};
use crate::session::{Deadlines, PauseGate, SessionConfig};
use crate::telemetry::{Bucket, Counters, ServerStarted};
use crate::work::Stop;

/// Log lines per second and server, for faults, ends of sessions and pauses. Counters hold the
/// others.
const FAULTS_LOGGED_PER_SECOND: u32 = 5;
const SESSIONS_LOGGED_PER_SECOND: u32 = 200;
const PAUSES_LOGGED_PER_SECOND: u32 = 1;

/// All of a server but its address, checked.
pub struct Prepared {
    pub(super) spec: ServerBuilder,
    pub(crate) name: String,
    pub(crate) plugin: Arc<Plugin>,
    /// The plugin that the specification names. A record may say that another version is current.
    pub(super) named: Arc<Plugin>,
    /// Digest of `named`.
    pub(super) configured: String,
    /// Recorded revisions, with the current one.
    pub(super) recorded: Vec<Revision>,
    pub(super) security: Security,
    /// The server's share of the process's instances. `None`: [`Prepared::assemble`] opens one.
    pub(super) holding: Option<Arc<Holding>>,
    /// Room of the server's shared instances.
    pub(super) room: Option<Arc<Claim>>,
    /// Listening socket of the process before this one.
    pub(super) inherited: Option<InheritedListener>,
}

/// A server that listens and does not accept yet. Dropping it frees the address.
pub struct Bound {
    prepared: Prepared,
    host: Host,
    listener: Listener,
    /// The process's starter chose the socket, so the specification's address does not count.
    given: bool,
    /// New sessions get numbers above this one.
    ids_above: u64,
}

impl Prepared {
    /// The server's name: the given one, or the plugin's.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// Keeps the version that the running server swapped in, if the specification names the same
    /// plugin as before. The record does not matter. Blocks if the plugin must be linked again.
    pub(crate) fn keep_swapped(&mut self, host: &Host, running: &Service) -> Result<(), SwapError> {
        self.plugin = self.kept(host, running)?;
        has_room_for(running, &running.procedure(), &self.plugin)
    }

    fn kept(&self, host: &Host, running: &Service) -> Result<Arc<Plugin>, FetchError> {
        let current = Arc::clone(running.procedure().plugin());
        if running.rollout.configured() != self.configured {
            // If the record is older than the running server, the start tried the recorded version.
            // The named one becomes current, so it is tried here.
            if !Arc::ptr_eq(&self.named, &self.plugin) {
                let budget = self.spec.budgets.start(self.spec.priority);
                try_out(&self.named, self.spec.limits, budget)?;
            }
            return Ok(Arc::clone(&self.named));
        }
        // A plugin that came from the record is usually a copy of the current one, and the current
        // one may have shared instances.
        let copied =
            !self.recorded.is_empty() && running.server_config().grants == self.spec.grants;
        if current.is_same_as(&self.plugin) && !copied {
            return Ok(Arc::clone(&self.plugin));
        }
        let grants = &self.spec.grants;
        if running.server_config().grants == *grants {
            return Ok(current);
        }
        let again = fetch_again(
            current.file(),
            current.known(),
            &self.spec.registries,
            host.loader(),
            grants,
            &Stop::default(),
        )?;
        if again.digest() != current.digest() {
            let cause =
                "it was swapped in and is not the same file any more, so that `grants` cannot be \
                 changed"
                    .into();
            return Err(LoadError::Changed { file: current.file().to_owned(), cause }.into());
        }
        Ok(again)
    }

    /// Binds the server's address.
    pub(crate) fn listen(mut self, host: &Host) -> Result<Bound, BindError> {
        // The socket registers with the runtime that will poll it.
        let _inside = host.runtime().enter();
        let inherited = self.inherited.take();
        let ids_above = inherited.as_ref().map_or(0, |socket| socket.ids_above);
        let endpoint = &self.spec.endpoint;
        let inherited = match inherited {
            Some(inherited)
                if inherited.given
                    || inherited.socket.local_addr().ok() == Some(endpoint.resolve()?) =>
            {
                Some(inherited)
            }
            // The specification names another address now.
            _ => None,
        };
        let given =
            self.spec.listener.is_some() || inherited.as_ref().is_some_and(|socket| socket.given);
        let listener = match (&self.spec.listener, inherited) {
            (Some(socket), _) => Listener::adopt(
                socket.try_clone().map_err(BindError::Inherited)?,
                endpoint.backlog,
            )?,
            (None, Some(inherited)) if inherited.given => {
                Listener::adopt(inherited.socket, endpoint.backlog)?
            }
            // Another holder may have shut the socket down. It is of no use then, but the address
            // is known.
            (None, Some(inherited)) => Listener::adopt(inherited.socket, endpoint.backlog)
                .or_else(|_| Listener::open(endpoint))?,
            (None, None) => Listener::open(endpoint)?,
        };
        Ok(Bound { prepared: self, host: host.clone(), listener, given, ids_above })
    }

    /// Name of the server's tenant.
    pub(crate) fn tenant(&self) -> String {
        self.spec.tenant.clone().unwrap_or_else(|| self.name())
    }

    /// Makes the server's instances take room from `holding`. Shared instances claim theirs now.
    ///
    /// # Errors
    /// The pools have no room for the shared instances.
    pub(crate) fn hold(&mut self, holding: Arc<Holding>) -> Result<(), StartError> {
        self.room = self.spec.claim(&holding, &self.plugin)?;
        self.holding = Some(holding);
        Ok(())
    }

    /// The limits beside the server's own that new connections count against.
    fn shared_limits(&self, host: &Host, tenant: &Tenant, holding: &Arc<Holding>) -> SharedLimits {
        let own = || -> Arc<dyn InstanceRoom> { Arc::clone(holding) as Arc<dyn InstanceRoom> };
        let instances = (self.spec.shards == 0).then(own);
        SharedLimits {
            process: Arc::clone(host.clients()),
            instances,
            tenant: Arc::clone(&tenant.clients),
        }
    }

    fn procedure(
        &self,
        server: &str,
        counters: &Arc<Counters>,
        tenant: &Tenant,
        holding: &Arc<Holding>,
    ) -> EventProcedure {
        let spec = &self.spec;
        let binding = Binding {
            server: server.to_owned(),
            settings: spec.settings.clone(),
            limits: spec.limits,
            shards: spec.shards,
            counters: Arc::clone(counters),
            quota: Arc::clone(&tenant.quota),
            holding: Some(Arc::clone(holding)),
            kept: self.room.clone().map(|room| -> Arc<dyn Any + Send + Sync> { room }),
        };
        EventProcedure::new(Arc::clone(&self.plugin), binding)
    }

    fn server_config(&self, pause_gate: &Arc<PauseGate>, tenant: &Arc<Tenant>) -> ServerConfig {
        let spec = &self.spec;
        let (timeout, timeouts) = (spec.timeout, spec.timeouts);
        let session_config = SessionConfig {
            timeout,
            deadlines: Deadlines {
                write: timeouts.write.unwrap_or(timeout),
                min_read_rate: timeouts.min_read_rate.unwrap_or(MIN_READ_RATE_DEFAULT),
                first_byte: timeouts.first_byte,
                idle: timeouts.idle,
                lifetime: timeouts.lifetime,
                min_rate: timeouts.min_rate,
            },
            watermarks: spec.watermarks,
            tenant: Arc::clone(&tenant.name),
            quota: Arc::clone(&tenant.quota),
            timers_max: spec.timers_max,
            sleep_after: spec.sleep_after,
            priority: spec.priority,
            priority_max: spec.priority_max.unwrap_or(spec.priority),
            budgets: spec.budgets,
            pause_gate: Arc::clone(pause_gate),
        };
        ServerConfig {
            security: self.security.clone(),
            ceiling: session_config.priority_max,
            session_config: Arc::new(session_config),
            handshake: timeouts.handshake.unwrap_or(timeout),
            parameter: spec.parameter,
            proxies: spec.proxies.clone(),
            throttle: spec.throttle,
            grants: spec.grants.clone(),
            rules: spec.rules,
            registries: Arc::clone(&spec.registries),
            given: Arc::clone(&spec.given),
            tenant: Arc::clone(tenant),
        }
    }

    /// Puts this configuration in force for new sessions of a running server. Live sessions keep
    /// theirs.
    ///
    /// If this ends a canary, the result is the canary's procedure: its sessions have to migrate.
    pub(super) fn apply(
        mut self,
        host: &Host,
        service: &Service,
        change: &VersionChange,
    ) -> Option<Arc<EventProcedure>> {
        let tenant = host.tenant(&self.tenant());
        let holding = Arc::clone(&service.holding);
        holding.promise(&tenant.name, self.spec.promise());
        if self.room.is_none() {
            // If this claim finds no room, each shared instance still has to find some.
            self.room = self.spec.claim(&holding, &self.plugin).ok().flatten();
        }
        // The specification was checked with these limits.
        let _ = service.gate.change(self.spec.throttle.into());
        service.gate.set_networks(self.spec.networks.clone());
        if service.breaker().limits() != self.spec.breaker
            || service.procedure().plugin().digest() != self.plugin.digest()
        {
            service.breaker().reset(self.spec.breaker);
        }
        service.gate.set_shared_limits(self.shared_limits(host, &tenant, &holding));
        service.registry.set_name_chars_max(self.spec.name_chars_max);
        service.server_config.store(Arc::new(self.server_config(&service.pause_gate, &tenant)));
        let procedure = self.procedure(&service.name, &service.counters, &tenant, &holding);
        let ended_canary = change.reconfigure(procedure, &self.configured);
        // The accepting task may wait for a moment that this change moved.
        service.steer(|_| true);
        ended_canary
    }

    /// Makes the state that the server's tasks share. The server does not listen yet.
    pub(crate) fn assemble(self, host: &Host) -> Arc<Service> {
        let name = self.name();
        let (counters, pause_gate) =
            (Arc::new(Counters::default()), Arc::new(PauseGate::default()));
        let tenant = host.tenant(&self.tenant());
        let server_config = self.server_config(&pause_gate, &tenant);
        let open = || {
            host.engine().ledger().open(&tenant.name, self.spec.promise(), self.plugin.footprint())
        };
        let holding = self.holding.clone().unwrap_or_else(open);
        let procedure = Arc::new(self.procedure(&name, &counters, &tenant, &holding));
        let shared_limits = self.shared_limits(host, &tenant, &holding);
        let Prepared { spec, configured, recorded, .. } = self;
        let history = match recorded.is_empty() {
            true => History::new(configured, &procedure),
            false => History::resumed(configured, recorded, &procedure),
        };
        Arc::new(Service {
            breaker: Mutex::new(Breaker::new(spec.breaker)),
            workers: host.workers(),
            runtime: host.runtime().clone(),
            gate: Gate::new(spec.throttle, spec.networks, shared_limits),
            registry: Arc::new(Registry::new(spec.name_chars_max)),
            counters,
            fault_lines: Bucket::new(FAULTS_LOGGED_PER_SECOND),
            session_lines: Bucket::new(SESSIONS_LOGGED_PER_SECOND),
            pause_lines: Bucket::new(PAUSES_LOGGED_PER_SECOND),
            pause_gate,
            holder: Holder::default(),
            server_config: ArcSwap::from_pointee(server_config),
            data: Mutex::default(),
            started: Instant::now(),
            task_tracker: Arc::new(TaskTracker::default()),
            holding,
            rollout: Rollout::new(procedure, history, host.records().cloned()),
            loader: host.loader().clone(),
            pool: Arc::clone(host.pool()),
            failure: Mutex::default(),
            state: watch::Sender::new(ServerState::new()),
            notices: watch::Sender::new(Notice {
                number: 0,
                occurrence: Occurrence::Started,
                status: Status::Starting,
            }),
            host_notices: host.notices_sender(),
            name: name.into(),
        })
    }
}

impl Bound {
    /// The server's name.
    #[must_use]
    pub fn name(&self) -> String {
        self.prepared.name()
    }

    pub(crate) fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// The address that the server listens at.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Starts accepting connections.
    #[must_use]
    pub fn run(self) -> ServerHandle {
        self.run_with(Vec::new())
    }

    /// Starts accepting connections, and attaches detached sessions. They get their places before
    /// any new connection.
    pub(crate) fn run_with(self, sessions: Vec<DetachedSession>) -> ServerHandle {
        let Self { prepared, host, listener, given, ids_above } = self;
        let secure = prepared.spec.secure;
        let service = prepared.assemble(&host);
        let ids_above = sessions.iter().map(|session| session.ids_above).fold(ids_above, u64::max);
        service.registry.number_above(ids_above);
        for session in sessions {
            resume_detached(&service, session);
        }
        let (address, listener) = (listener.address(), Arc::new(listener));
        let socket = OpenSocket { listener: Arc::downgrade(&listener), given };
        let (keeper, server) = (host.clone(), Arc::clone(&service.name));
        // The giver of a socket keeps it.
        let keep = move |listener: &Listener| match (!given).then(|| listener.duplicate()) {
            None => {}
            Some(Ok(duplicate)) => keeper.keep(&server, duplicate.into()),
            Some(Err(error)) => {
                tracing::warn!(server = &*server, %error, "the socket is not kept for a next \
                    process");
            }
        };
        keep(&listener);
        let label = service.procedure().plugin().label();
        ServerStarted { server: &service.name, address, secure, plugin: &label }.emit();
        let (seen, accepting) = watch::channel(0);
        let inside = host.runtime().enter();
        let listening = Listening::new(Arc::clone(&service), listener, Box::new(keep));
        drop(inside);
        host.runtime().spawn(serve::accept(seen, listening));
        ServerHandle::new(service, host, address, accepting, socket)
    }
}
