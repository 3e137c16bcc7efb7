//! From a description that holds to a server that runs, or that runs on under other terms.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::breaker::Breaker;
use super::builder::ServerBuilder;
use super::census::Census;
use super::course::{Course, Notice, Occurrence, Status};
use super::handle::ServerHandle;
use super::host::Host;
use super::lock::Holder;
use super::registry::Registry;
use super::service::{Service, Terms};
use crate::admission::Gate;
use crate::net::{BindError, Listener, Security};
use crate::plugin::{EventProcedure, Plugin};
use crate::serve;
use crate::session::{Deadlines, Latch, LineConfig};
use crate::telemetry::{Bucket, Counters, ServerStarted};

/// Faults, ends of sessions and pauses of a server that are logged each second. The others are counted.
const FAULTS_LOGGED_PER_SECOND: u32 = 5;
const SESSIONS_LOGGED_PER_SECOND: u32 = 200;
const PAUSES_LOGGED_PER_SECOND: u32 = 1;

/// Everything about a server but its address, known to be good.
pub struct Prepared {
    pub(super) description: ServerBuilder,
    pub(super) plugin: Arc<Plugin>,
    pub(super) security: Security,
}

/// A server that listens and does not accept yet. Dropping it frees the address.
pub struct Bound {
    prepared: Prepared,
    host: Host,
    listener: Listener,
}

impl Prepared {
    /// Its name: the given one, or the plugin's.
    #[must_use]
    pub fn name(&self) -> String {
        let label = self.plugin.label();
        let given = self.description.given_name().map(str::to_owned);
        given.unwrap_or_else(|| label.split(' ').next().unwrap_or_default().to_owned())
    }

    /// Binds its address.
    pub(super) fn listen(self, host: &Host) -> Result<Bound, BindError> {
        // The socket registers with the runtime that will poll it.
        let _inside = host.runtime().enter();
        let listener = match &self.description.inherited {
            Some(socket) => Listener::adopt(socket.try_clone().map_err(BindError::Inherited)?)?,
            None => Listener::open(&self.description.endpoint)?,
        };
        Ok(Bound { prepared: self, host: host.clone(), listener })
    }

    fn settings(&self) -> BTreeMap<String, String> {
        self.description.settings.clone()
    }

    fn terms(&self, latch: &Arc<Latch>) -> Terms {
        let description = &self.description;
        let (timeout, timeouts) = (description.timeout, description.timeouts);
        let line_config = LineConfig {
            timeout,
            deadlines: Deadlines {
                write: timeouts.write.unwrap_or(timeout),
                first_byte: timeouts.first_byte,
                idle: timeouts.idle,
                lifetime: timeouts.lifetime,
                min_rate: timeouts.min_rate,
            },
            watermarks: description.watermarks,
            tenant: description.tenant.clone().unwrap_or_else(|| self.name()).into(),
            priority: description.priority,
            priority_max: description.priority_max.unwrap_or(description.priority),
            budgets: description.budgets,
            latch: Arc::clone(latch),
        };
        Terms {
            security: self.security.clone(),
            ceiling: line_config.priority_max,
            line_config: Arc::new(line_config),
            handshake: timeouts.handshake.unwrap_or(timeout),
            parameter: description.parameter,
            proxies: description.proxies.clone(),
        }
    }

    /// Puts it in force for the newcomers of a server that runs. Everybody inside stays as they are.
    pub(super) fn apply(self, service: &Service) {
        // The description was checked, and these are its limits.
        let _ = service.gate.change(self.description.throttle.into());
        service.gate.set_networks(self.description.networks.clone());
        if service.breaker().limits() != self.description.breaker
            || service.procedure().plugin().digest() != self.plugin.digest()
        {
            service.breaker().reset(self.description.breaker);
        }
        service.terms.store(Arc::new(self.terms(&service.latch)));
        let (settings, limits, counters) = (self.settings(), self.description.limits, Arc::clone(&service.counters));
        let procedure = EventProcedure::new(self.plugin, &service.name, settings, limits, counters);
        service.procedure.store(Arc::new(procedure));
        // The accepting task may be waiting for a moment that was moved.
        service.steer(|_| true);
    }
}

impl Bound {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.prepared.name()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Starts accepting.
    #[must_use]
    pub fn run(self) -> ServerHandle {
        let Self { prepared, host, listener } = self;
        let name = prepared.name();
        let (counters, latch) = (Arc::new(Counters::default()), Arc::new(Latch::default()));
        let terms = prepared.terms(&latch);
        let (label, settings) = (prepared.plugin.label(), prepared.settings());
        let Prepared { description, plugin, .. } = prepared;
        let limits = description.limits;
        let procedure = EventProcedure::new(plugin, &name, settings, limits, Arc::clone(&counters));
        let service = Arc::new(Service {
            breaker: Mutex::new(Breaker::new(description.breaker)),
            lanes: host.lanes(),
            gate: Gate::new(description.throttle, description.networks, host.slots()),
            registry: Arc::new(Registry::default()),
            counters,
            fault_lines: Bucket::new(FAULTS_LOGGED_PER_SECOND),
            session_lines: Bucket::new(SESSIONS_LOGGED_PER_SECOND),
            pause_lines: Bucket::new(PAUSES_LOGGED_PER_SECOND),
            latch,
            holder: Holder::default(),
            terms: ArcSwap::from_pointee(terms),
            data: Mutex::default(),
            started: Instant::now(),
            census: Arc::new(Census::default()),
            procedure: ArcSwap::from_pointee(procedure),
            course: watch::Sender::new(Course::new()),
            notices: watch::Sender::new(Notice {
                number: 0,
                occurrence: Occurrence::Started,
                status: Status::Starting,
            }),
            host_notices: host.notices_sender(),
            name: name.into(),
        });
        let address = listener.address();
        ServerStarted { server: &service.name, address, secure: description.secure, plugin: &label }.emit();
        let (seen, accepting) = watch::channel(0);
        host.runtime().spawn(serve::accept(Arc::clone(&service), listener, seen));
        ServerHandle::new(service, host, address, accepting)
    }
}
