//! The verbs and flags of the command line. Doc comments here are help texts.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::build::BuildArgs;
use super::component::ComponentArgs;
use super::ctl::CtlArgs;
use super::launch::VERB as LAUNCH_VERB;
use super::new::NewArgs;
use super::plugin::PluginArgs;
use super::test::TestArgs;
use super::top::TopArgs;
use super::upgrade::UpgradeArgs;
use crate::config::CONFIG_FILE;
use crate::event::Priority;
use crate::net::{Credentials, ListenPort, SocketOptions};
use crate::plugin::{COMPILE_VERB, Grant};
use crate::server::{Server, ServerBuilder, TIMEOUT_DEFAULT};

/// Runs servers whose event procedures are sandboxed WebAssembly components.
#[derive(Parser)]
#[command(name = "wharf", version, max_term_width = 100)]
pub(super) struct Cli {
    /// What to log: error, warn, info, debug or trace, or a filter such as `wharf=debug`.
    #[arg(long, global = true, env = "WHARF_LOG", default_value = "info")]
    pub(super) log: String,
    /// How log lines are written.
    #[arg(long, global = true, env = "WHARF_LOG_FORMAT", value_enum, default_value = "text")]
    pub(super) log_format: LogFormat,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// How log lines are written.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object each.
    Json,
}

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Serve what a configuration file says, or one server from the command line.
    Serve(ServeArgs),
    /// Say everything that is wrong with a configuration file, and what its plugins import and
    /// export; or what a plugin lacks and wants.
    Check(CheckArgs),
    /// Build a plugin, serve it, and build it again when its source changes.
    Dev(DevArgs),
    /// Make a project for a plugin: a whole example with its build, its test and its hand-over,
    /// that serves at once.
    New(NewArgs),
    /// Build a plugin by the command that its plugin.toml names, and say where the component is.
    Build(BuildArgs),
    /// Play the stories of a plugin without sockets, and say what each event costs and which
    /// classes' budgets it fits.
    Test(TestArgs),
    /// Make a component from a core module or WebAssembly text.
    Component(ComponentArgs),
    /// Steer and watch a running `wharf serve` through its control API.
    Ctl(CtlArgs),
    /// Swap plugins of a running `wharf serve` under its live sessions; push plugins to registries
    /// and pull them.
    Plugin(PluginArgs),
    /// Put a new process in the place of a running `wharf serve`: it takes over the sockets, and
    /// the sessions that can move. Exit code 5 where sessions stayed.
    Upgrade(UpgradeArgs),
    /// Show servers, events, budgets and faults live, until q or Ctrl-C.
    Top(TopArgs),
    /// Turn a component from standard input into machine code for a process of this program that
    /// serves; not for people.
    #[command(hide = true, name = COMPILE_VERB)]
    Compile {
        /// Memory it may have.
        memory_max_bytes: u64,
        /// Seconds it may take.
        seconds: u64,
    },
    /// Start the new process of an upgrade for the one that serves; not for people.
    #[command(hide = true, name = LAUNCH_VERB)]
    Launch {
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Print the completions for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
pub(super) struct ServeArgs {
    /// The configuration file.
    #[arg(long, default_value = CONFIG_FILE, conflicts_with = "plugin")]
    pub(super) config: PathBuf,
    /// Serve this plugin instead: a folder with plugin.toml, a .wasm component, or
    /// oci://REGISTRY/REPOSITORY:TAG.
    #[arg(long, requires = "listen")]
    pub(super) plugin: Option<PathBuf>,
    /// Grant the plugin an import: server, config, stdio, clocks, random or stubs. May be repeated.
    #[arg(long = "grant", value_name = "NAME", requires = "plugin")]
    pub(super) grants: Vec<Grant>,
    /// Open the control API at this socket. With a configuration file, put `[control]` into the
    /// file.
    #[arg(long, value_name = "SOCKET", requires = "plugin")]
    pub(super) control: Option<PathBuf>,
    /// What one server without a file is made of.
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

#[derive(Args)]
pub(super) struct CheckArgs {
    /// The configuration file; or a plugin: a folder with plugin.toml, or a .wasm component.
    #[arg(default_value = CONFIG_FILE)]
    pub(super) path: PathBuf,
}

#[derive(Args)]
pub(super) struct DevArgs {
    /// The plugin's folder, with plugin.toml. The plugin is granted what its plugin.toml asks for.
    pub(super) folder: PathBuf,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

/// One server from the command line.
#[derive(Args)]
pub(super) struct ServerArgs {
    /// Address and port to listen on. `dev` listens on 127.0.0.1:7000 where none is given.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen)]
    pub(super) listen: Option<SocketAddr>,
    /// Clients at a time; 0: no limit.
    #[arg(long)]
    max_clients: Option<usize>,
    /// Pending connections the system may hold; 0: a sensible maximum.
    #[arg(long)]
    backlog: Option<u32>,
    /// How long a network operation may take, and the idle period; 20s where none is given.
    #[arg(long, value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// Class of every session: background, low, normal (the default), high or critical.
    #[arg(long)]
    priority: Option<Priority>,
    /// A socket option. May be repeated.
    #[arg(long = "option", value_name = "NAME")]
    options: Vec<OptionName>,
    /// A number for the plugin.
    #[arg(long, allow_negative_numbers = true)]
    parameter: Option<i64>,
    /// A setting for the plugin. May be repeated.
    #[arg(long = "setting", value_name = "KEY=VALUE", value_parser = key_value)]
    settings: Vec<(String, String)>,
    /// PEM file with the server's certificate chain. Turns TLS on.
    #[arg(long, value_name = "FILE", requires = "private_key")]
    certificate_chain: Option<PathBuf>,
    /// PEM file with the certificate's key.
    #[arg(long, value_name = "FILE", requires = "certificate_chain")]
    private_key: Option<PathBuf>,
    /// An application protocol to negotiate. May be repeated.
    #[arg(long = "alpn", value_name = "NAME", requires = "certificate_chain")]
    alpn: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum OptionName {
    ReuseAddress,
    DontRoute,
    KeepAlive,
    NoDelay,
}

impl ServeArgs {
    /// A flag of a server that was given although a configuration file describes the servers.
    pub(super) fn stray_flag(&self) -> Option<&'static str> {
        let server = &self.server;
        let given = [
            (server.listen.is_some(), "--listen"),
            (server.max_clients.is_some(), "--max-clients"),
            (server.backlog.is_some(), "--backlog"),
            (server.timeout.is_some(), "--timeout"),
            (server.priority.is_some(), "--priority"),
            (!server.options.is_empty(), "--option"),
            (server.parameter.is_some(), "--parameter"),
            (!server.settings.is_empty(), "--setting"),
            (server.certificate_chain.is_some(), "--certificate-chain"),
        ];
        given.iter().find(|(given, _)| *given && self.plugin.is_none()).map(|(_, name)| *name)
    }
}

impl ServerArgs {
    /// The specification of the server, without its plugin. Socket options of the command line are
    /// added to `options`.
    pub(super) fn describe(&self, listen: SocketAddr, mut options: SocketOptions) -> ServerBuilder {
        for option in &self.options {
            match option {
                OptionName::ReuseAddress => options.reuse_address = true,
                OptionName::DontRoute => options.dont_route = true,
                OptionName::KeepAlive => options.keep_alive = true,
                OptionName::NoDelay => options.no_delay = true,
            }
        }
        let port = NonZeroU16::new(listen.port()).map_or(ListenPort::AnyFree, ListenPort::Fixed);
        let mut server = Server::builder()
            .local_host(listen.ip().to_string())
            .local_port(port)
            .max_clients(self.max_clients.unwrap_or(0))
            .backlog(self.backlog.unwrap_or(0))
            .timeout(self.timeout.unwrap_or(TIMEOUT_DEFAULT))
            .priority(self.priority.unwrap_or_default())
            .options(options)
            .parameter(self.parameter.unwrap_or(0));
        for (key, value) in &self.settings {
            server = server.setting(key, value);
        }
        if let (Some(chain), Some(key)) = (&self.certificate_chain, &self.private_key) {
            server = server.credentials(Credentials {
                certificate_chain: chain.clone(),
                private_key: key.clone(),
                protocol_min: Default::default(),
                alpn: self.alpn.clone(),
                client_authority: None,
                client_certificate: Default::default(),
            });
        }
        server
    }
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "expected an address and a port, as 127.0.0.1:7000 or [::]:7000".to_owned())?;
    if address.port() == 0 { Err("port 0: expected 1 to 65535".into()) } else { Ok(address) }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
