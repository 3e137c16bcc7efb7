//! What a server is made of, checked step by step: described, prepared, bound, running.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use super::handle::ServerHandle;
use super::host::{Host, HostError};
use super::registry::Registry;
use super::service::{Phase, Service};
use crate::admission::Gate;
use crate::event::Priority;
use crate::net::{BindError, Credentials, CredentialsError, Endpoint, ListenPort, Listener, Security, SocketOptions};
use crate::plugin::{EventProcedure, Grants, InstanceLimits, LoadError, Plugin};
use crate::serve;
use crate::session::{LineConfig, Watermarks};
use crate::telemetry::{Bucket, Counters, ServerStarted};

/// Faults of a server that are logged each second, backtrace and all. The others are counted.
const FAULTS_LOGGED_PER_SECOND: u32 = 5;

/// Default of [`ServerBuilder::timeout`].
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(20);
/// Least and greatest timeout.
pub const TIMEOUT_RANGE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(24 * 3_600));
/// Default send buffer.
pub const WATERMARKS_DEFAULT: Watermarks = Watermarks { high_bytes: 256 << 10, low_bytes: 64 << 10 };
/// Least and greatest high-water mark, in bytes.
pub const HIGH_WATER_RANGE: (usize, usize) = (1 << 10, 16 << 20);
/// Least and greatest memory of an instance, in bytes.
pub const MEMORY_RANGE: (usize, usize) = (64 << 10, 256 << 20);
/// Least and greatest bytes of one host call.
pub const COPY_RANGE: (usize, usize) = (64 << 10, 64 << 20);
/// Least and greatest handles of an instance.
pub const HANDLES_RANGE: (usize, usize) = (16, 100_000);

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

/// Where a server's plugin comes from.
#[derive(Clone)]
enum Procedures {
    Path(PathBuf),
    /// By the loader of the same host.
    Loaded(Arc<Plugin>),
}

/// What a server is made of. Each method says its default.
#[derive(Clone)]
pub struct ServerBuilder {
    host: Option<Host>,
    name: String,
    endpoint: Endpoint,
    max_clients: usize,
    timeout: Duration,
    priority: Priority,
    priority_max: Option<Priority>,
    plugin: Option<Procedures>,
    grants: Grants,
    parameter: i64,
    settings: BTreeMap<String, String>,
    secure: bool,
    credentials: Option<Credentials>,
    limits: InstanceLimits,
    watermarks: Watermarks,
}

impl Default for ServerBuilder {
    fn default() -> Self {
        let options = SocketOptions::default();
        Self {
            host: None,
            name: String::new(),
            endpoint: Endpoint { host: String::new(), port: ListenPort::AnyFree, backlog: 0, options },
            max_clients: 0,
            timeout: TIMEOUT_DEFAULT,
            priority: Priority::Normal,
            priority_max: None,
            plugin: None,
            grants: Grants::none(),
            parameter: 0,
            settings: BTreeMap::new(),
            secure: false,
            credentials: None,
            limits: InstanceLimits::default(),
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
    /// The credentials.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The address.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The shared host, where none was given.
    #[error(transparent)]
    Host(#[from] HostError),
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
    /// A host name or address of this system. Default: empty, all IPv4 interfaces. See [`Endpoint::host`].
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
    /// Clients at a time; a newcomer beyond them is refused. Default 0: no limit but the host's.
    #[must_use]
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.max_clients = clients;
        self
    }
    /// How long a network operation may take: the handshake, a write that the peer does not read, and the idle period
    /// after which `on-timeout` fires. 10 ms to a day; default 20 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
    /// The class of every session at its start. Default normal.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
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
    /// The event procedure: a folder with `plugin.toml` or a component file. Required.
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
    /// What the plugin may import beyond its session. Default: nothing. Without effect on a loaded plugin.
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
    /// The send buffer of each session. Default 256 KiB and 64 KiB.
    #[must_use]
    pub fn watermarks(mut self, watermarks: Watermarks) -> Self {
        self.watermarks = watermarks;
        self
    }

    /// Starts the server and returns once it listens: a client that connects right after is served. Blocks while the
    /// plugin is loaded, so not for a runtime's thread.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left of it.
    pub fn start(self) -> Result<ServerHandle, StartError> {
        Ok(self.bind()?.run())
    }

    /// Everything that can fail: checks the values, loads the plugin and the credentials, binds the address. Several
    /// servers that start together are all bound before the first runs.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left bound.
    pub fn bind(self) -> Result<Bound, StartError> {
        self.check()?;
        let host = self.host.clone().map_or_else(Host::shared, Ok)?;
        let plugin = self.load(&host)?;
        let security = self.security()?;
        // The socket registers with the runtime that will poll it.
        let listener = {
            let _inside = host.runtime().enter();
            Listener::open(&self.endpoint)?
        };
        Ok(Bound { description: self, host, plugin, security, listener })
    }

    /// Everything that is wrong with this server short of binding it: values, plugin, credentials, address. And the
    /// plugin, where it loads. Blocks as [`ServerBuilder::start`] does.
    #[must_use]
    pub fn verify(&self, host: &Host) -> (Option<Arc<Plugin>>, Vec<StartError>) {
        let mut wrong = Vec::new();
        let mut note = |error| wrong.push(error);
        self.problems().into_iter().for_each(&mut note);
        let plugin = self.load(host).map_err(&mut note).ok();
        self.security().map_err(&mut note).ok();
        self.endpoint.resolve().map_err(|error| note(error.into())).ok();
        (plugin, wrong)
    }

    /// Where it will listen, if that can be told; `None` for any free port or a name that does not resolve.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.endpoint.resolve().ok().filter(|address| address.port() != 0)
    }

    fn load(&self, host: &Host) -> Result<Arc<Plugin>, StartError> {
        match &self.plugin {
            Some(Procedures::Loaded(plugin)) => Ok(Arc::clone(plugin)),
            Some(Procedures::Path(path)) => Ok(Arc::new(host.loader().load(path, &self.grants)?)),
            None => {
                Err(argument("plugin", "a server needs an event procedure: a folder with plugin.toml or a .wasm file"))
            }
        }
    }

    fn security(&self) -> Result<Security, StartError> {
        match &self.credentials {
            Some(credentials) => Ok(Security::tls(credentials)?),
            None => Ok(Security::plaintext()),
        }
    }

    /// Whether each value can be, by itself and beside the others.
    ///
    /// # Errors
    /// The first of [`ServerBuilder::problems`].
    fn check(&self) -> Result<(), StartError> {
        self.problems().into_iter().next().map_or(Ok(()), Err)
    }

    /// Every value that cannot be, by itself or beside the others.
    #[must_use]
    pub fn problems(&self) -> Vec<StartError> {
        let (marks, limits) = (self.watermarks, self.limits);
        let bytes = |value: usize| format!("{value} bytes");
        let span = |value: Duration| humantime::format_duration(value).to_string();
        let mut found: Vec<_> = [
            within("timeout", self.timeout, TIMEOUT_RANGE, span),
            within("limits.send_buffer_high_bytes", marks.high_bytes, HIGH_WATER_RANGE, bytes),
            within("limits.memory_max_bytes", limits.memory_max_bytes, MEMORY_RANGE, bytes),
            within("limits.copy_max_bytes", limits.copy_max_bytes, COPY_RANGE, bytes),
            within("limits.handles_max", limits.handles_max, HANDLES_RANGE, |value| value.to_string()),
        ]
        .into_iter()
        .filter_map(Result::err)
        .collect();
        let mut note = |wrong: bool, name, problem: String| {
            if wrong {
                found.push(argument(name, problem));
            }
        };
        let (high, low, copy) = (marks.high_bytes, marks.low_bytes, limits.copy_max_bytes);
        let problem = format!("expected less than `limits.send_buffer_high_bytes` ({high}), found {low}");
        note(low >= high, "limits.send_buffer_low_bytes", problem);
        // A write of the whole send buffer has to be a write that is refused politely, and not a fault.
        let problem = format!("expected at least `limits.send_buffer_high_bytes` ({high}), found {copy}");
        note(copy < high, "limits.copy_max_bytes", problem);
        let problem = format!("expected at least `priority` ({})", self.priority);
        note(self.priority_max.is_some_and(|max| max < self.priority), "priority_max", problem);
        let problem = "a secure server needs a certificate chain and a private key";
        note(self.secure && self.credentials.is_none(), "credentials", problem.into());
        let problem = "expected at most 64 bytes without control characters";
        note(self.name.chars().any(char::is_control) || self.name.len() > 64, "name", problem.into());
        found
    }
}

fn argument(argument: &'static str, problem: impl Into<String>) -> StartError {
    StartError::Argument { argument, problem: problem.into() }
}

fn within<T: PartialOrd + Copy>(
    name: &'static str,
    value: T,
    (least, greatest): (T, T),
    show: impl Fn(T) -> String,
) -> Result<(), StartError> {
    if (least..=greatest).contains(&value) {
        return Ok(());
    }
    Err(argument(name, format!("expected {} to {}, found {}", show(least), show(greatest), show(value))))
}

/// A server that listens and does not accept yet. Dropping it frees the address.
pub struct Bound {
    description: ServerBuilder,
    host: Host,
    plugin: Arc<Plugin>,
    security: Security,
    listener: Listener,
}

impl Bound {
    /// Starts accepting.
    #[must_use]
    pub fn run(self) -> ServerHandle {
        let Self { description, host, plugin, security, listener } = self;
        let label = plugin.label();
        let name = match description.name.as_str() {
            "" => label.split(' ').next().unwrap_or_default().to_owned(),
            name => name.to_owned(),
        };
        let counters = Arc::new(Counters::default());
        let limits = description.limits;
        let procedure = EventProcedure::new(plugin, &name, description.settings, limits, Arc::clone(&counters));
        let priority = description.priority;
        let service = Arc::new(Service {
            shards: host.shards(),
            gate: Gate::new(description.max_clients, host.slots()),
            security,
            parameter: description.parameter,
            line_config: LineConfig {
                timeout: description.timeout,
                watermarks: description.watermarks,
                priority,
                priority_max: description.priority_max.unwrap_or(priority),
            },
            registry: Arc::new(Registry::default()),
            counters,
            fault_lines: Bucket::new(FAULTS_LOGGED_PER_SECOND),
            procedure: ArcSwap::from_pointee(procedure),
            phase: watch::Sender::new(Phase::Running),
            name,
        });
        let address = listener.address();
        ServerStarted { server: &service.name, address, secure: description.secure, plugin: &label }.emit();
        let (alive, drained) = mpsc::channel(1);
        host.runtime().spawn(serve::accept(Arc::clone(&service), listener, alive));
        ServerHandle::new(service, host, address, drained)
    }
}
