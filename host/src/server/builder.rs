//! What a server is made of, checked step by step: described, prepared, bound, running.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::breaker::BreakerLimits;
use super::checks::{TIMEOUT_DEFAULT, TIMERS_DEFAULT, WATERMARKS_DEFAULT};
use super::fetch::{refused_load, refused_pull};
#[cfg(doc)]
use super::handle::ServerHandle;
use super::host::{Host, HostError};
use super::registry::NAME_CHARS_MAX;
use super::versions::{RecordError, SwapRules};
use crate::admission::{Network, Networks, Throttle};
use crate::event::Priority;
use crate::net::{BindError, Credentials, CredentialsError, Endpoint, ListenPort, SocketOptions};
#[cfg(doc)]
use crate::oci::RegistryConfig;
use crate::oci::{Registries, RegistryError};
use crate::plugin::{Grants, InstanceLimits, LoadError, Plugin};
use crate::sched::{BudgetChange, Budgets};
#[cfg(doc)]
use crate::session::Deadlines;
use crate::session::Watermarks;
use crate::work::Refusal;

/// Entry to starting a server: [`Server::builder`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Server {}

impl Server {
    /// A description of a server, to be filled in and started.
    #[must_use]
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }
}

/// What single operations may take, and what ends a session, where it is not
/// [`ServerBuilder::timeout`] or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// The PROXY header and the TLS handshake, each. `None`: the timeout.
    pub handshake: Option<Duration>,
    /// A write that the peer does not read. `None`: the timeout.
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

/// Bytes per second that a peer has to read while data is queued for it, where nothing else is
/// said. A fifth of what the slowest lines in use carry. At this rate a full send buffer of the
/// default size is gone after 256 s.
pub const MIN_READ_RATE_DEFAULT: u32 = 1_024;

/// Where a server's plugin comes from.
#[derive(Clone)]
pub(super) enum Procedures {
    Path(PathBuf),
    /// By the loader of the same host.
    Loaded(Arc<Plugin>),
}

/// What a server is made of. Each method says its default.
#[derive(Clone)]
pub struct ServerBuilder {
    pub(super) host: Option<Host>,
    pub(super) name: String,
    pub(super) tenant: Option<String>,
    pub(super) endpoint: Endpoint,
    pub(super) inherited: Option<Arc<TcpListener>>,
    pub(super) throttle: Throttle,
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
    pub(super) limits: InstanceLimits,
    pub(super) shards: usize,
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
            inherited: None,
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

/// Why a server was not started. Nothing of it is left: no socket, no thread, no session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A value that cannot be. Names the argument.
    #[error("`{argument}`: {problem}")]
    Argument {
        /// Its name, as in the configuration file.
        argument: &'static str,
        /// What was expected and what was found.
        problem: String,
    },
    /// The plugin.
    #[error(transparent)]
    Plugin(#[from] LoadError),
    /// The plugin did not come from its registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The credentials.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The address.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The shared host, where none was given.
    #[error(transparent)]
    Host(#[from] HostError),
    /// What was recorded of the versions before.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl StartError {
    /// What the system refused, where that is the cause.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Plugin(error) => refused_load(error),
            Self::Registry(error) => refused_pull(error),
            // The words are the system's, or of files that are the operator's.
            Self::Credentials(CredentialsError::Unreadable { cause, .. }) => {
                Refusal::in_text(cause)
            }
            Self::Bind(error) => Refusal::in_causes(error),
            Self::Host(HostError::Threads(error)) => Refusal::of(error),
            Self::Record(error) => error.refusal,
            _ => None,
        }
    }
}

impl ServerBuilder {
    /// The host to run on. Default: [`Host::shared`].
    #[must_use]
    pub fn host(mut self, host: &Host) -> Self {
        self.host = Some(host.clone());
        self
    }
    /// Its name in logs and for the plugin. Default: the plugin's name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
    /// A host name or address of this system. Default: empty, all IPv4 interfaces. See
    /// [`Endpoint::host`].
    #[must_use]
    pub fn local_host(mut self, host: impl Into<String>) -> Self {
        self.endpoint.host = host.into();
        self
    }
    /// The port. Default: [`ListenPort::AnyFree`].
    #[must_use]
    pub fn local_port(mut self, port: ListenPort) -> Self {
        self.endpoint.port = port;
        self
    }
    /// Pending connections the system may hold. Default 0: 4,096; clamped to the system's maximum.
    #[must_use]
    pub fn backlog(mut self, connections: u32) -> Self {
        self.endpoint.backlog = connections;
        self
    }
    /// A socket that listens already, by whoever started this process, instead of an address. Its
    /// options are left as they are.
    #[must_use]
    pub fn listener(mut self, socket: TcpListener) -> Self {
        self.inherited = Some(Arc::new(socket));
        self
    }
    /// Clients at a time; a newcomer beyond them is refused. So many are promised: others cannot
    /// take their places. Default 0: no limit but the host's, and no promise.
    #[must_use]
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.throttle.max_clients = clients;
        self
    }
    /// All limits on newcomers at once, [`ServerBuilder::max_clients`] included. Default: none.
    /// They may be changed while it runs: [`ServerHandle::set_throttle`].
    #[must_use]
    pub fn throttle(mut self, throttle: Throttle) -> Self {
        self.throttle = throttle;
        self
    }
    /// Who may enter by address. Default: everybody.
    #[must_use]
    pub fn networks(mut self, networks: Networks) -> Self {
        self.networks = networks;
        self
    }
    /// Proxies that say in a PROXY header who the client is. Not empty: each connection has to come
    /// from one of them and start with a header. Default: empty.
    #[must_use]
    pub fn proxies(mut self, proxies: Vec<Network>) -> Self {
        self.proxies = proxies;
        self
    }
    /// How long a network operation may take: the handshake, a write that the peer does not read,
    /// and the idle period after which `on-timeout` fires. 10 ms to a day; default 20 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
    /// What single operations may take, and what ends a session. Default:
    /// [`ServerBuilder::timeout`] for the handshake and for writes, and nothing else.
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }
    /// Whose server it is: servers of one tenant share its turns where a lane is crowded. Default:
    /// the server's name.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }
    /// The class of every session at its start. Default normal.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }
    /// When a plugin that faults again and again gets no newcomers for a while. Default: see
    /// [`BreakerLimits`].
    #[must_use]
    pub fn breaker(mut self, breaker: BreakerLimits) -> Self {
        self.breaker = breaker;
        self
    }
    /// What events of sessions in this class may spend. Default: by class, see [`Budgets`].
    #[must_use]
    pub fn budget(mut self, class: Priority, budget: BudgetChange) -> Self {
        self.budgets.set(class, budget);
        self
    }
    /// The best class a plugin may ask for. Default: the class of the start.
    #[must_use]
    pub fn priority_max(mut self, priority: Priority) -> Self {
        self.priority_max = Some(priority);
        self
    }
    /// Socket options. Default: none.
    #[must_use]
    pub fn options(mut self, options: SocketOptions) -> Self {
        self.endpoint.options = options;
        self
    }
    /// TLS, and so credentials required. Default: off. [`ServerBuilder::credentials`] turns it on.
    #[must_use]
    pub fn secure(mut self, secure: bool) -> Self {
        self.secure = secure;
        self
    }
    /// The event procedure: a folder with `plugin.toml`, a component file, or a reference to a
    /// registry as `oci://registry.example.com/echo:1.0`. Required.
    #[must_use]
    pub fn plugin(mut self, path: impl Into<PathBuf>) -> Self {
        self.plugin = Some(Procedures::Path(path.into()));
        self
    }
    /// The event procedure, loaded already.
    #[must_use]
    pub fn loaded_plugin(mut self, plugin: Arc<Plugin>) -> Self {
        self.plugin = Some(Procedures::Loaded(plugin));
        self
    }
    /// How registries are spoken to, where the plugin is in one. Default: [`RegistryConfig::default`], which
    /// keeps nothing, knows no logins and asks for no signature.
    #[must_use]
    pub fn registries(mut self, registries: Arc<Registries>) -> Self {
        self.registries = registries;
        self
    }
    /// What the plugin may import beyond its session. Default: nothing. Without effect on a loaded
    /// plugin.
    #[must_use]
    pub fn grants(mut self, grants: Grants) -> Self {
        self.grants = grants;
        self
    }
    /// A number for the plugin. Default 0.
    #[must_use]
    pub fn parameter(mut self, parameter: i64) -> Self {
        self.parameter = parameter;
        self
    }
    /// A setting for the plugin, which needs the grant `config` to read it.
    #[must_use]
    pub fn setting(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.insert(key.into(), value.into());
        self
    }
    /// What a secure server proves itself with. Turns TLS on.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self.secure = true;
        self
    }
    /// What an instance may have.
    #[must_use]
    pub fn limits(mut self, limits: InstanceLimits) -> Self {
        self.limits = limits;
        self
    }
    /// Instances that all sessions share, instead of one for each. Their events wait for each
    /// other, a fault ends all sessions of its instance, and what is in its memory outlives them. 1
    /// to 64, or 0 for one for each. Default 0.
    #[must_use]
    pub fn shared_instances(mut self, count: usize) -> Self {
        self.shards = count;
        self
    }
    /// Instances that the server's sessions can always have: room for them is reserved in each pool
    /// of the engine. At most [`ServerBuilder::max_clients`], where that is given. Not with shared
    /// instances, which are reserved as they are. Default 0: its instances come from what is not
    /// reserved.
    #[must_use]
    pub fn instances_min(mut self, instances: usize) -> Self {
        self.instances_min = instances;
        self
    }
    /// How versions are tried and taken back. Default: [`SwapRules::default`].
    #[must_use]
    pub fn swap_rules(mut self, rules: SwapRules) -> Self {
        self.rules = rules;
        self
    }
    /// How long a session is idle before it saves its state and lets its instance go, until
    /// something happens to it: 100 ms to a day, or zero: never. Only with a plugin that hands over
    /// or is stateless, and with an instance for each session. Default zero. See
    /// [`HostConfig::release_memory`](super::HostConfig::release_memory).
    #[must_use]
    pub fn sleep_after(mut self, idle: Duration) -> Self {
        self.sleep_after = idle;
        self
    }
    /// Timers that a session may have at a time, up to 1,024. Default 64.
    #[must_use]
    pub fn timers_max(mut self, timers: usize) -> Self {
        self.timers_max = timers;
        self
    }
    /// Characters that a session's name may have, up to 127. Default 127.
    #[must_use]
    pub fn name_chars_max(mut self, characters: usize) -> Self {
        self.name_chars_max = characters;
        self
    }
    /// Which values somebody wrote down, by their keys in the configuration file: for
    /// [`ServerHandle::limits`], which says where each comes from. Default: none.
    #[must_use]
    pub fn given(mut self, keys: BTreeSet<String>) -> Self {
        self.given = Arc::new(keys);
        self
    }
    /// The send buffer of each session. Default 256 KiB and 64 KiB.
    #[must_use]
    pub fn watermarks(mut self, watermarks: Watermarks) -> Self {
        self.watermarks = watermarks;
        self
    }
}
