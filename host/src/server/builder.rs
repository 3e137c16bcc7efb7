//! The specification of a server. Its stages are: specified, prepared, bound, running.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::checks::{TIMEOUT_DEFAULT, TIMERS_DEFAULT, WATERMARKS_DEFAULT};
#[cfg(doc)]
use super::handle::ServerHandle;
use super::host::{Host, HostError};
use crate::admission::{Network, Networks, Throttle};
use crate::event::Priority;
use crate::net::{BindError, Credentials, CredentialsError, Endpoint, ListenPort, SocketOptions};
#[cfg(doc)]
use crate::oci::RegistryConfig;
use crate::oci::{Registries, RegistryError};
use crate::plugin::{Grants, InstanceLimits, LoadError, Plugin};
use crate::rollout::{FetchError, RecordError, SwapRules, refused_load, refused_pull};
use crate::sched::{BudgetChange, Budgets};
use crate::service::BreakerLimits;
use crate::service::NAME_CHARS_MAX;
#[cfg(doc)]
use crate::session::Deadlines;
use crate::session::Watermarks;
use crate::work::RefusedResource;

/// Entry to starting a server: [`Server::builder`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Server {}

impl Server {
    /// Returns a specification with the defaults, to be filled in and started.
    #[must_use]
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }
}

/// Limits on single operations, and deadlines that end a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// For the PROXY header and the TLS handshake, each. `None`: [`ServerBuilder::timeout`].
    pub handshake: Option<Duration>,
    /// For a write that the peer does not read. `None`: [`ServerBuilder::timeout`].
    pub write: Option<Duration>,
    /// See [`Deadlines::first_byte`].
    pub first_byte: Duration,
    /// See [`Deadlines::idle`].
    pub idle: Duration,
    /// See [`Deadlines::lifetime`].
    pub lifetime: Duration,
    /// See [`Deadlines::min_rate`].
    pub min_rate: u32,
    /// See [`Deadlines::min_read_rate`]. `None`: [`MIN_READ_RATE_DEFAULT`].
    pub min_read_rate: Option<u32>,
}

/// Default bytes per second that a peer has to read while data is queued for it. That is a fifth of
/// what the slowest links in use carry. At this rate a full send buffer of the default size drains
/// in 256 s.
pub const MIN_READ_RATE_DEFAULT: u32 = 1_024;

/// Source of a server's plugin.
#[derive(Clone)]
pub(super) enum Procedures {
    Path(PathBuf),
    /// A plugin that the loader of the same host made.
    Loaded(Arc<Plugin>),
}

/// Specification of a server. Each method says its default.
#[derive(Clone)]
pub struct ServerBuilder {
    pub(super) host: Option<Host>,
    pub(super) name: String,
    pub(super) tenant: Option<String>,
    pub(super) endpoint: Endpoint,
    pub(super) listener: Option<Arc<TcpListener>>,
    pub(crate) throttle: Throttle,
    pub(super) networks: Networks,
    pub(super) proxies: Vec<Network>,
    pub(super) timeout: Duration,
    pub(super) timeouts: Timeouts,
    pub(super) priority: Priority,
    pub(super) priority_max: Option<Priority>,
    pub(super) plugin: Option<Procedures>,
    pub(super) grants: Grants,
    pub(super) registries: Arc<Registries>,
    pub(super) parameter: i64,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) secure: bool,
    pub(super) credentials: Option<Credentials>,
    pub(crate) limits: InstanceLimits,
    pub(crate) shards: usize,
    pub(super) instances_min: usize,
    pub(super) timers_max: usize,
    pub(super) sleep_after: Duration,
    pub(super) name_chars_max: usize,
    pub(super) given: Arc<BTreeSet<String>>,
    pub(super) budgets: Budgets,
    pub(super) breaker: BreakerLimits,
    pub(super) rules: SwapRules,
    pub(super) watermarks: Watermarks,
}

impl Default for ServerBuilder {
    fn default() -> Self {
        let options = SocketOptions::default();
        Self {
            host: None,
            name: String::new(),
            tenant: None,
            endpoint: Endpoint {
                host: String::new(),
                port: ListenPort::AnyFree,
                backlog: 0,
                options,
            },
            listener: None,
            throttle: Throttle::default(),
            networks: Networks::default(),
            proxies: Vec::new(),
            timeout: TIMEOUT_DEFAULT,
            timeouts: Timeouts::default(),
            priority: Priority::Normal,
            priority_max: None,
            plugin: None,
            grants: Grants::none(),
            registries: Arc::default(),
            parameter: 0,
            settings: BTreeMap::new(),
            secure: false,
            credentials: None,
            limits: InstanceLimits::default(),
            shards: 0,
            instances_min: 0,
            timers_max: TIMERS_DEFAULT,
            sleep_after: Duration::ZERO,
            name_chars_max: NAME_CHARS_MAX,
            given: Arc::default(),
            budgets: Budgets::default(),
            breaker: BreakerLimits::default(),
            rules: SwapRules::default(),
            watermarks: WATERMARKS_DEFAULT,
        }
    }
}

/// Why a server was not started. Nothing of the server is left: no socket, thread or session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An invalid value, with the name of its argument.
    #[error("`{argument}`: {problem}")]
    Argument {
        /// Name of the argument, as in the configuration file.
        argument: &'static str,
        /// The expected and the found value.
        problem: String,
    },
    /// The plugin was not loaded.
    #[error(transparent)]
    Plugin(#[from] LoadError),
    /// The plugin did not come from its registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The credentials are not usable.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The address was not bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The shared host did not start. Only if the specification has no host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The record of the server's versions was not read.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl From<FetchError> for StartError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Registry(error) => Self::Registry(error),
            FetchError::Load(error) => Self::Plugin(error),
        }
    }
}

impl StartError {
    /// What the system refused, if that is the cause.
    #[must_use]
    pub fn refusal(&self) -> Option<RefusedResource> {
        match self {
            Self::Plugin(error) => refused_load(error),
            Self::Registry(error) => refused_pull(error),
            // The text comes from the system or from the operator's files.
            Self::Credentials(CredentialsError::Unreadable { cause, .. }) => {
                RefusedResource::in_text(cause)
            }
            Self::Bind(error) => RefusedResource::in_causes(error),
            Self::Host(HostError::Threads(error)) => RefusedResource::of(error),
            Self::Record(error) => error.refusal,
            _ => None,
        }
    }
}

impl ServerBuilder {
    /// Sets the host that runs the server. Default: [`Host::shared`].
    #[must_use]
    pub fn host(mut self, host: &Host) -> Self {
        self.host = Some(host.clone());
        self
    }
    /// Sets the name in logs and for the plugin. Default: the plugin's name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
    /// Sets a host name or address of this system. Default: empty, all IPv4 interfaces. See
    /// [`Endpoint::host`].
    #[must_use]
    pub fn local_host(mut self, host: impl Into<String>) -> Self {
        self.endpoint.host = host.into();
        self
    }
    /// Sets the port. Default: [`ListenPort::AnyFree`].
    #[must_use]
    pub fn local_port(mut self, port: ListenPort) -> Self {
        self.endpoint.port = port;
        self
    }
    /// Sets how many pending connections the system may hold. 0 is 4,096; the system clamps the
    /// value to its maximum. Default 0.
    #[must_use]
    pub fn backlog(mut self, connections: u32) -> Self {
        self.endpoint.backlog = connections;
        self
    }
    /// Listens with a socket from the starter of this process, instead of an address. The socket
    /// keeps its options.
    #[must_use]
    pub fn listener(mut self, socket: TcpListener) -> Self {
        self.listener = Some(Arc::new(socket));
        self
    }
    /// Sets the most clients at a time; the server refuses new connections beyond them. That many
    /// places are promised to this server, so other servers cannot take them. Default 0: the host's
    /// limit alone, and no promise.
    #[must_use]
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.throttle.max_clients = clients;
        self
    }
    /// Sets all limits on new connections at once, [`ServerBuilder::max_clients`] included. They
    /// can change while the server runs: [`ServerHandle::set_throttle`]. Default: none.
    #[must_use]
    pub fn throttle(mut self, throttle: Throttle) -> Self {
        self.throttle = throttle;
        self
    }
    /// Sets the networks whose clients may enter. Default: all.
    #[must_use]
    pub fn networks(mut self, networks: Networks) -> Self {
        self.networks = networks;
        self
    }
    /// Sets the proxies that name the client in a PROXY header. If the list is not empty, each
    /// connection has to come from one of them and start with a header. Default: empty.
    #[must_use]
    pub fn proxies(mut self, proxies: Vec<Network>) -> Self {
        self.proxies = proxies;
        self
    }
    /// Sets the limit on a network operation: the handshake, a write that the peer does not read,
    /// and the idle period after which `on-timeout` fires. 10 ms to a day; default 20 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
    /// Sets limits on single operations, and deadlines that end a session. Default:
    /// [`ServerBuilder::timeout`] for the handshake and for writes, and nothing else.
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }
    /// Sets the owner of the server. Servers of one tenant share its CPU time if a lane is crowded.
    /// Default: the server's name.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }
    /// Sets the class of every session at its start. Default normal.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }
    /// Sets when a plugin that faults again and again gets no new sessions for a while. Default:
    /// see [`BreakerLimits`].
    #[must_use]
    pub fn breaker(mut self, breaker: BreakerLimits) -> Self {
        self.breaker = breaker;
        self
    }
    /// Sets the budget of events of sessions in a class. Default: by class, see [`Budgets`].
    #[must_use]
    pub fn budget(mut self, class: Priority, budget: BudgetChange) -> Self {
        self.budgets.set(class, budget);
        self
    }
    /// Sets the best class that a plugin may ask for. Default: the class of the start.
    #[must_use]
    pub fn priority_max(mut self, priority: Priority) -> Self {
        self.priority_max = Some(priority);
        self
    }
    /// Sets options of the socket. Default: none.
    #[must_use]
    pub fn options(mut self, options: SocketOptions) -> Self {
        self.endpoint.options = options;
        self
    }
    /// Turns TLS on or off. TLS requires credentials. Default: off;
    /// [`ServerBuilder::credentials`] turns it on.
    #[must_use]
    pub fn secure(mut self, secure: bool) -> Self {
        self.secure = secure;
        self
    }
    /// Sets the plugin: a folder with `plugin.toml`, a component file, or a reference to a registry
    /// as `oci://registry.example.com/echo:1.0`. Required.
    #[must_use]
    pub fn plugin(mut self, path: impl Into<PathBuf>) -> Self {
        self.plugin = Some(Procedures::Path(path.into()));
        self
    }
    /// Sets a plugin that is already loaded.
    #[must_use]
    pub fn loaded_plugin(mut self, plugin: Arc<Plugin>) -> Self {
        self.plugin = Some(Procedures::Loaded(plugin));
        self
    }
    /// Sets how the host talks to registries, for a plugin in one. Default:
    /// [`RegistryConfig::default`], which keeps nothing, knows no logins and asks for no signature.
    #[must_use]
    pub fn registries(mut self, registries: Arc<Registries>) -> Self {
        self.registries = registries;
        self
    }
    /// Sets what the plugin may import beyond its session. No effect on a loaded plugin. Default:
    /// nothing.
    #[must_use]
    pub fn grants(mut self, grants: Grants) -> Self {
        self.grants = grants;
        self
    }
    /// Sets a number for the plugin. Default 0.
    #[must_use]
    pub fn parameter(mut self, parameter: i64) -> Self {
        self.parameter = parameter;
        self
    }
    /// Adds a setting for the plugin, which needs the grant `config` to read it.
    #[must_use]
    pub fn setting(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.insert(key.into(), value.into());
        self
    }
    /// Sets the certificate and key of a secure server. Turns TLS on.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self.secure = true;
        self
    }
    /// Sets the limits of an instance.
    #[must_use]
    pub fn limits(mut self, limits: InstanceLimits) -> Self {
        self.limits = limits;
        self
    }
    /// Sets how many instances all sessions share. 1 to 64, or 0 for one instance per session.
    /// Default 0.
    ///
    /// - The events of sessions that share an instance wait for each other.
    /// - A fault ends all sessions of its instance.
    /// - The memory of an instance outlives its sessions.
    #[must_use]
    pub fn shared_instances(mut self, count: usize) -> Self {
        self.shards = count;
        self
    }
    /// Sets how many instances the server's sessions can always have. The host reserves room for
    /// them in each pool of the engine.
    ///
    /// At most [`ServerBuilder::max_clients`], if that is given. Not with shared instances, which
    /// are reserved anyway. Default 0: instances come from the unreserved part of the pools.
    #[must_use]
    pub fn instances_min(mut self, instances: usize) -> Self {
        self.instances_min = instances;
        self
    }
    /// Sets how versions are tried and rolled back. Default: [`SwapRules::default`].
    #[must_use]
    pub fn swap_rules(mut self, rules: SwapRules) -> Self {
        self.rules = rules;
        self
    }
    /// Sets the idle time after which a session sleeps: it saves its state and drops its instance
    /// until its next event. 100 ms to a day, or zero: never. Default zero.
    ///
    /// The plugin has to have `handoff` or be stateless, and each session needs its own instance.
    /// See [`HostConfig::release_memory`](super::HostConfig::release_memory).
    #[must_use]
    pub fn sleep_after(mut self, idle: Duration) -> Self {
        self.sleep_after = idle;
        self
    }
    /// Sets the most timers of a session at a time, up to 1,024. Default 64.
    #[must_use]
    pub fn timers_max(mut self, timers: usize) -> Self {
        self.timers_max = timers;
        self
    }
    /// Sets the most characters of a session's name, up to 127. Default 127.
    #[must_use]
    pub fn name_chars_max(mut self, characters: usize) -> Self {
        self.name_chars_max = characters;
        self
    }
    /// Sets which values the operator configured, by their keys in the configuration file.
    /// [`ServerHandle::limits`] says by them where each value comes from. Default: none.
    #[must_use]
    pub fn given(mut self, keys: BTreeSet<String>) -> Self {
        self.given = Arc::new(keys);
        self
    }
    /// Sets the watermarks of each session's send buffer. Default 256 KiB and 64 KiB.
    #[must_use]
    pub fn watermarks(mut self, watermarks: Watermarks) -> Self {
        self.watermarks = watermarks;
        self
    }
}
