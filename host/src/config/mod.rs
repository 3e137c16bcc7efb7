//! `wharf.toml`: from text to server specifications. All mistakes are reported at once.
//!
//! This module knows the layers below; they do not know it.

mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod registry;
mod server;
mod swap;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::file::ControlTable;
use crate::control::{ControlConfig, ListenerError, Token, default_socket};
use crate::files;
use crate::oci::{Registries, RegistryConfig};
use crate::plugin::{Compiler, digest};
use crate::sched::QuotaLimits;
use crate::server::{DEADLINE_RANGE, HostConfig, ServerBuilder, TenantLimits};
use crate::servers::Plan;
use crate::span::Span;

/// The file's usual name.
pub const CONFIG_FILE: &str = "wharf.toml";
/// Time that sessions get to end when the process is told to stop, if the file sets none.
pub const STOP_GRACE_DEFAULT: Duration = Duration::from_secs(10);

/// Largest configuration file that is read, in bytes.
const CONFIG_MAX_BYTES: u64 = 16 << 20;

/// Most worker threads. Threads beyond a machine's CPUs only wait for each other.
pub const WORKERS_MAX: usize = 256;

/// A configuration file without mistakes of its own. Whether plugins load and addresses bind is
/// checked later.
pub struct Config {
    /// Values that all servers of the process share.
    pub host: HostConfig,
    /// Time that sessions get to end when the process is told to stop.
    pub stop_grace: Duration,
    /// Where the control API listens. `None`: there is no control API.
    pub control: Option<ControlConfig>,
    /// The limits of tenants, by name.
    pub tenants: BTreeMap<String, TenantLimits>,
    /// The servers, at least one. Each has its place in the file, for messages.
    pub servers: Vec<(String, ServerBuilder)>,
}

/// The mistakes of a configuration file, one a line. Each names the file and the key.
#[derive(Debug, thiserror::Error)]
#[error("{}", .mistakes.join("\n"))]
pub struct ConfigError {
    /// The mistakes, at least one.
    pub mistakes: Vec<String>,
    /// The system's error, if the file could not be read.
    pub source: Option<io::Error>,
}

impl Config {
    /// Reads a file. Paths in it are relative to its folder.
    ///
    /// # Errors
    /// [`ConfigError`], with every mistake that can be found without starting anything.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        let text = files::read_text(file, CONFIG_MAX_BYTES).map_err(|error| ConfigError {
            mistakes: vec![format!("{}: cannot read the configuration: {error}", file.display())],
            source: Some(error),
        })?;
        let folder = file.parent().unwrap_or(Path::new("."));
        let mut config = Self::parse(&text, folder).map_err(|mistakes| ConfigError {
            mistakes: mistakes
                .into_iter()
                .map(|mistake| format!("{}: {mistake}", file.display()))
                .collect(),
            source: None,
        })?;
        if config.host.state_dir.is_none() {
            config.host.state_dir = default_state_dir(file);
        }
        Ok(config)
    }

    /// Makes the plan that starts the servers.
    #[must_use]
    pub fn plan(self) -> Plan {
        Plan {
            host: self.host,
            stop_grace: self.stop_grace,
            tenants: self.tenants,
            servers: self.servers,
            inherited: HashMap::new(),
        }
    }

    fn parse(text: &str, folder: &Path) -> Result<Self, Vec<String>> {
        let written = text.parse::<toml::Table>().unwrap_or_default();
        let file: file::File =
            toml::from_str(text).map_err(|error| vec![error.to_string().trim_end().to_owned()])?;
        if file.server.is_empty() {
            return Err(vec!["no servers: expected at least one `[[server]]` table".into()]);
        }
        let mut mistakes = Vec::new();
        let registries =
            Arc::new(Registries::new(registry::describe(&file.registry, folder, &mut mistakes)));
        let mut servers = Vec::new();
        let mut taken: Vec<(String, SocketAddr)> = Vec::new();
        for (index, table) in file.server.iter().enumerate() {
            let place = match table.name.as_str() {
                "" => format!("server {}", index + 1),
                name => format!("server {} (`{}`)", index + 1, name.escape_debug()),
            };
            match server::describe(table, folder) {
                Ok(spec) => {
                    let spec =
                        spec.given(given(&written, index)).registries(Arc::clone(&registries));
                    if let Some(address) = spec.address() {
                        if let Some((other, _)) =
                            taken.iter().find(|(_, other)| overlap(*other, address))
                        {
                            mistakes.push(format!(
                                "{place}: `host` and `port`: {address} is taken by {other}"
                            ));
                        }
                        taken.push((place.clone(), address));
                    }
                    servers.push((place, spec));
                }
                Err(wrong) => {
                    mistakes.extend(wrong.into_iter().map(|mistake| format!("{place}: {mistake}")));
                }
            }
        }
        let mut names: Vec<_> =
            file.server.iter().map(|table| &table.name).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        for pair in names.windows(2).filter(|pair| pair[0] == pair[1]) {
            mistakes.push(format!("`name`: two servers are called `{}`", pair[0].escape_debug()));
        }
        if file.host.workers > WORKERS_MAX {
            mistakes.push(format!(
                "`host.workers`: expected 0 to {WORKERS_MAX}, found {}",
                file.host.workers
            ));
        }
        let state_dir = file.host.state_dir.as_ref().map(|dir| folder.join(dir));
        if let Some((dir, why)) =
            state_dir.as_ref().and_then(|dir| Some((dir, files::keeps_nothing(dir)?)))
        {
            mistakes.push(format!(
                "`host.state_dir`: expected a folder to write to, or a place for one, found {}: \
                 {why}",
                dir.display()
            ));
        }
        let compiler = compiler(&file.host, &mut mistakes);
        mistakes.extend(too_long("host.stop_grace", file.host.stop_grace));
        let tenants = tenants(&file, &mut mistakes);
        let control = file.control.map(|table| control(&table, folder, &mut mistakes));
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let cache_dir =
            file.host.cache_dir.map_or_else(default_cache_dir, |dir| Some(folder.join(dir)));
        let release_memory = file
            .server
            .iter()
            .any(|table| table.sleep_after.is_some_and(|Span(after)| !after.is_zero()));
        let (workers, sessions_max) = (file.host.workers, file.host.sessions_max);
        let host = HostConfig {
            workers,
            sessions_max,
            cache_dir,
            state_dir,
            release_memory,
            core_modules: file.host.core_modules,
            compiler: Some(compiler),
        };
        let stop_grace = file.host.stop_grace.map_or(STOP_GRACE_DEFAULT, |grace| grace.0);
        Ok(Self { host, stop_grace, control, tenants, servers })
    }
}

/// A mistake if a span is longer than any deadline may be. The clock could not count to its end.
fn too_long(key: &str, span: Option<Span>) -> Option<String> {
    let (_, most) = DEADLINE_RANGE;
    let Span(found) = span.filter(|Span(found)| *found > most)?;
    let (most, found) = (humantime::format_duration(most), humantime::format_duration(found));
    Some(format!("`{key}`: expected at most {most}, found {found}"))
}

/// The limits of the compiler process.
fn compiler(table: &file::HostTable, mistakes: &mut Vec<String>) -> Compiler {
    let mut compiler = Compiler::this_program();
    if let Some(most) = table.compile_memory_max_bytes {
        if most < Compiler::MEMORY_MIN_BYTES {
            let least = Compiler::MEMORY_MIN_BYTES;
            mistakes.push(format!(
                "`host.compile_memory_max_bytes`: expected at least {least}, found {most}"
            ));
        }
        compiler.memory_max_bytes = most;
    }
    if let Some(Span(most)) = table.compile_timeout {
        if most < Compiler::TIME_MIN {
            mistakes.push(format!(
                "`host.compile_timeout`: expected at least {:?}, found {most:?}",
                Compiler::TIME_MIN
            ));
        }
        mistakes.extend(too_long("host.compile_timeout", table.compile_timeout));
        compiler.time_max = most;
    }
    compiler
}

/// Reads the `[registry]` table of a configuration file and ignores the values of its other tables.
/// Without a file, returns the defaults.
///
/// # Errors
/// [`ConfigError`], with every mistake in that table.
pub fn registries(file: Option<&Path>) -> Result<Registries, ConfigError> {
    let Some(path) = file else {
        return Ok(Registries::new(RegistryConfig {
            store_dir: default_store_dir(),
            ..RegistryConfig::default()
        }));
    };
    let wrong = |mistakes: Vec<String>| ConfigError {
        mistakes: mistakes
            .into_iter()
            .map(|mistake| format!("{}: {mistake}", path.display()))
            .collect(),
        source: None,
    };
    let text = files::read_text(path, CONFIG_MAX_BYTES)
        .map_err(|error| wrong(vec![format!("cannot read the configuration: {error}")]))?;
    let file: file::File = toml::from_str(&text)
        .map_err(|error| wrong(vec![error.to_string().trim_end().to_owned()]))?;
    let (folder, mut mistakes) = (path.parent().unwrap_or(Path::new(".")), Vec::new());
    let registry_config = registry::describe(&file.registry, folder, &mut mistakes);
    if mistakes.is_empty() { Ok(Registries::new(registry_config)) } else { Err(wrong(mistakes)) }
}

/// The limits of tenants, by name.
fn tenants(file: &file::File, mistakes: &mut Vec<String>) -> BTreeMap<String, TenantLimits> {
    let mut tenants = BTreeMap::new();
    for (index, table) in file.tenant.iter().enumerate() {
        let place = format!("tenant {} (`{}`)", index + 1, table.name.escape_debug());
        let shares = QuotaLimits {
            cpus: table.cpus,
            memory_max_bytes: table.memory_max_bytes,
            mail_max_bytes: table.mail_max_bytes,
            bytes_per_second: table.bytes_per_second,
        };
        let limits = TenantLimits { max_clients: table.max_clients, shares };
        mistakes.extend(limits.problems().iter().map(|problem| format!("{place}: {problem}")));
        let owns = |server: &file::ServerTable| {
            server.tenant.as_ref().unwrap_or(&server.name) == &table.name
        };
        if table.name.is_empty() {
            mistakes
                .push(format!("{place}: `name`: missing; expected the `tenant` of some server"));
        } else if !file.server.iter().any(owns) {
            mistakes.push(format!(
                "{place}: without effect; no server has this `tenant`, or this `name` and no \
                 tenant: set `tenant = \"{}\"` in a server, or remove the table",
                table.name.escape_debug()
            ));
        }
        if tenants.insert(table.name.clone(), limits).is_some() {
            mistakes.push(format!("{place}: another table is for the same tenant"));
        }
    }
    tenants
}

/// The keys that a server's table sets, each with the tables above it, such as `limits.timers_max`.
fn given(written: &toml::Table, index: usize) -> BTreeSet<String> {
    fn collect(prefix: &str, table: &toml::Table, keys: &mut BTreeSet<String>) {
        for (key, value) in table {
            let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                toml::Value::Table(below) => collect(&key, below, keys),
                _ => drop(keys.insert(key)),
            }
        }
    }
    let mut keys = BTreeSet::new();
    let table = written
        .get("server")
        .and_then(|servers| servers.get(index))
        .and_then(toml::Value::as_table);
    if let Some(table) = table {
        collect("", table, &mut keys);
    }
    keys
}

fn control(table: &ControlTable, folder: &Path, mistakes: &mut Vec<String>) -> ControlConfig {
    let socket = table.socket.as_ref().map_or_else(default_socket, |socket| folder.join(socket));
    let mut listen = None;
    match (&table.listen, &table.token_file) {
        (None, None) => {}
        (None, Some(_)) => mistakes
            .push("`control.token_file`: without effect; `control.listen` is missing".into()),
        (Some(_), None) => mistakes.push(ListenerError::NoToken.to_string()),
        (Some(text), Some(file)) => {
            match (text.parse::<SocketAddr>(), Token::read(&folder.join(file))) {
                (Ok(address), Ok(_)) if !address.ip().is_loopback() => {
                    mistakes.push(ListenerError::NotLoopback(address).to_string());
                }
                (Ok(address), Ok(token)) => listen = Some((address, token)),
                (address, token) => {
                    if address.is_err() {
                        let text = text.escape_debug();
                        mistakes.push(format!(
                            "`control.listen`: `{text}`: expected an address and a port, \
                            as 127.0.0.1:7070"
                        ));
                    }
                    mistakes
                        .extend(token.err().map(|error| format!("`control.token_file`: {error}")));
                }
            }
        }
    }
    ControlConfig { socket, listen }
}

/// The default state directory of a process with this configuration file: systemd's, or else the
/// user's. Each file has its own part of it. `None` if there is neither.
fn default_state_dir(file: &Path) -> Option<PathBuf> {
    let set =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // systemd may name several folders, separated by colons.
    let systemd = || {
        set("STATE_DIRECTORY")
            .map(|all| PathBuf::from(all.to_string_lossy().split(':').next().unwrap_or("")))
    };
    let user =
        || set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    let base = systemd().or_else(|| user().map(|base| base.join("wharf")))?;
    let file = file.canonicalize().ok()?;
    let name = digest(file.as_os_str().as_encoded_bytes());
    Some(base.join(name.get(..16)?))
}

/// The default cache folder, which is the user's own. `None` without a home folder.
#[must_use]
pub fn default_cache_dir() -> Option<PathBuf> {
    let set =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("wharf"))
}

/// The default folder for pulled plugins. `None` without a home folder.
fn default_store_dir() -> Option<PathBuf> {
    default_cache_dir().map(|folder| folder.join("registry"))
}

/// Whether two sockets cannot be bound at the same time.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |one: IpAddr, other: IpAddr| match one {
        IpAddr::V6(ip) if ip.is_unspecified() => true,
        IpAddr::V4(ip) if ip.is_unspecified() => other.is_ipv4(),
        ip => ip == other,
    };
    one.port() == other.port() && (covers(one.ip(), other.ip()) || covers(other.ip(), one.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> String {
        Config::parse(text, Path::new("/etc/wharf")).err().expect("a mistake").join("\n")
    }

    #[test]
    fn a_file_without_servers_is_refused() {
        assert!(mistakes("").contains("no servers"));
        assert!(mistakes("[host]\nworkers = 2\n").contains("no servers"));
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line() {
        let said = mistakes("[[server]]\nport = 7000\nplugin = 'x'\nmax_client = 3\n");
        assert!(said.contains("line 4") && said.contains("max_client"), "{said}");
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let said = mistakes(
            "[[server]]\nname = 'a'\nport = 0\nplugin = 'x'\npriority = 'urgent'\noptions = \
             ['fast']\n\
             [[server]]\nport = 70000\n",
        );
        for word in [
            "(`a`): `port`: expected 1 to 65535",
            "urgent",
            "`options`",
            "server 2: `port`",
            "`plugin`",
        ] {
            assert!(said.contains(word), "no {word} in:\n{said}");
        }
    }

    #[test]
    fn unwritable_state_dir_is_refused_by_its_key() {
        let said = mistakes(
            "[host]\nstate_dir = '/dev/null/state'\n[[server]]\nport = 7000\nplugin = 'x'\n",
        );
        assert!(
            said.contains("`host.state_dir`") && said.contains("/dev/null/state: /dev/null is not"),
            "{said}"
        );
    }

    #[test]
    fn two_servers_on_one_address_are_refused() {
        let two = |one: &str, other: &str| {
            let text = format!(
                "[[server]]\nhost='{one}'\nport=7000\nplugin='x'\n[[server]]\nhost='{other}'\nport=7000\nplugin='x'\n"
            );
            Config::parse(&text, Path::new(".")).is_err()
        };
        assert!(
            two("127.0.0.1", "127.0.0.1")
                && two("", "127.0.0.1")
                && two("::", "127.0.0.1")
                && two("::1", "::")
        );
        assert!(!two("127.0.0.1", "127.0.0.2") && !two("", "::1"));
    }

    #[test]
    fn limits_on_slow_peers_are_read_or_named() {
        let server = |more: &str| format!("[[server]]\nport = 7000\nplugin = 'x'\n{more}\n");
        let is_good = |more: &str| Config::parse(&server(more), Path::new(".")).is_ok();
        for rate in ["0", "1", "4294967295"] {
            assert!(
                is_good(&format!("timeouts.min_read_rate_bytes_per_second = {rate}")),
                "{rate}"
            );
        }
        for rate in ["-1", "4294967296", "1.5", "'1KiB'"] {
            assert!(
                !is_good(&format!("timeouts.min_read_rate_bytes_per_second = {rate}")),
                "{rate}"
            );
        }
        assert!(is_good("swap.held_up = 'end'") && is_good("swap.held_up = 'old-version'"));
        let said = mistakes(&server("swap.held_up = 'leave'"));
        assert!(
            said.contains("`swap.held_up`: expected end or old-version, found `leave`"),
            "{said}"
        );
    }

    #[test]
    fn tenant_without_server_is_told_what_to_set() {
        let said = mistakes("[[tenant]]\nname = 'blue'\n[[server]]\nport = 7000\nplugin = 'x'\n");
        assert!(said.contains("set `tenant = \"blue\"` in a server, or remove"), "{said}");
    }

    #[test]
    fn a_secure_server_without_credentials_is_refused() {
        let said = mistakes("[[server]]\nport = 7000\nplugin = 'x'\noptions = ['secure']\n");
        assert!(said.contains("credentials"), "{said}");
    }
}
