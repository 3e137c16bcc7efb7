//! Commands and options of the command line, with their help texts.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::build::BuildArgs;
use super::component::ComponentArgs;
use super::ctl::CtlArgs;
use super::help::{self, GLOBAL, TLS};
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
#[command(name = "wharf", version, max_term_width = 80, after_help = help::PAGES)]
pub(super) struct Cli {
    /// Log level (error, warn, info, debug, trace or off), or a filter such as `wharf=debug`.
    #[arg(long, global = true, env = "WHARF_LOG", default_value = "info", help_heading = GLOBAL)]
    pub(super) log: String,
    /// Format of log lines.
    #[arg(long, global = true, env = "WHARF_LOG_FORMAT", value_enum, default_value = "text")]
    #[arg(help_heading = GLOBAL)]
    pub(super) log_format: LogFormat,
    /// `None`: bare `wharf`.
    #[command(subcommand)]
    pub(super) verb: Option<Verb>,
}

/// How log lines are written.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object each.
    Json,
}

/// The first paragraph of each is its summary in the list of commands. Further paragraphs are on
/// the command's own page.
#[derive(Subcommand)]
pub(super) enum Verb {
    /// Make a plugin project that serves at once.
    ///
    /// The project is a whole example: source, build command, transcript for `wharf test`, and
    /// hand-off of a session to the next version.
    #[command(after_long_help = help::NEW)]
    New(NewArgs),
    /// Build and serve a plugin, and swap in each new build.
    ///
    /// Builds the plugin by the command in its plugin.toml, serves it, and watches its source. Each
    /// change starts a build. Live sessions move to the new version if the build succeeds; if it
    /// fails, the version before goes on serving. The plugin gets the grants that its plugin.toml
    /// asks for.
    #[command(after_long_help = help::DEV)]
    Dev(DevArgs),
    /// Build a plugin by the command in its plugin.toml.
    ///
    /// Prints the path of the component.
    #[command(after_long_help = help::BUILD)]
    Build(BuildArgs),
    /// Play a plugin's transcripts without sockets.
    ///
    /// Prints the cost of each event and the classes whose budgets fit it. The plugin is built
    /// first if its plugin.toml says how.
    #[command(after_long_help = help::TEST)]
    Test(TestArgs),
    /// Make a component from a core module or WebAssembly text.
    ///
    /// The last step of a build whose compiler makes core modules.
    #[command(after_long_help = help::COMPONENT)]
    Component(ComponentArgs),
    /// Report every mistake in a configuration file or a plugin.
    ///
    /// Prints the imports and exports of each plugin, too. For a plugin without configuration,
    /// prints the grants that it needs and what it lacks.
    #[command(after_long_help = help::CHECK)]
    Check(CheckArgs),
    /// Serve what wharf.toml describes, or one plugin.
    ///
    /// Without `--plugin`, serves all servers of the configuration file. With `--plugin` and
    /// `--listen`, serves one plugin; the server and TLS options describe its server.
    #[command(after_long_help = help::SERVE)]
    Serve(ServeArgs),
    /// Steer and watch a running process through its control API.
    #[command(after_long_help = help::CTL)]
    Ctl(CtlArgs),
    /// Swap plugins under live sessions; push and pull plugins.
    #[command(after_long_help = help::PLUGIN)]
    Plugin(PluginArgs),
    /// Replace the running process and keep its sessions.
    ///
    /// The new process takes over the sockets and the sessions that can move. The other sessions
    /// stay in the old process until they end or `--drain` is over.
    #[command(after_long_help = help::UPGRADE)]
    Upgrade(UpgradeArgs),
    /// Show servers, events, budgets and faults live.
    ///
    /// Ends at q or Ctrl-C.
    #[command(after_long_help = help::TOP)]
    Top(TopArgs),
    /// Compile a component from standard input for another process of this program. Internal.
    #[command(hide = true, name = COMPILE_VERB)]
    Compile {
        /// Most memory, in bytes.
        memory_max_bytes: u64,
        /// Most seconds.
        seconds: u64,
    },
    /// Start the new process of an upgrade for the running one. Internal.
    #[command(hide = true, name = LAUNCH_VERB)]
    Launch {
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Print the completions for a shell.
    #[command(after_long_help = help::COMPLETIONS)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
pub(super) struct ServeArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = CONFIG_FILE, conflicts_with = "plugin")]
    pub(super) config: PathBuf,
    /// Plugin to serve: a folder with plugin.toml, a .wasm component, or
    /// oci://REGISTRY/REPOSITORY:TAG.
    #[arg(long, requires = "listen")]
    pub(super) plugin: Option<PathBuf>,
    /// Import granted to the plugin: server, config, stdio, clocks, random or stubs. May be
    /// repeated.
    #[arg(long = "grant", value_name = "NAME", requires = "plugin")]
    pub(super) grants: Vec<Grant>,
    /// Socket of the control API. A configuration file says it in `[control]` instead.
    #[arg(long, value_name = "SOCKET", requires = "plugin")]
    pub(super) control: Option<PathBuf>,
    /// What one server without a file is made of.
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

#[derive(Args)]
pub(super) struct CheckArgs {
    /// A configuration file, a folder with plugin.toml, or a .wasm component.
    #[arg(default_value = CONFIG_FILE)]
    pub(super) path: PathBuf,
}

#[derive(Args)]
pub(super) struct DevArgs {
    /// The plugin's folder, with plugin.toml.
    pub(super) folder: PathBuf,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

/// One server from the command line.
#[derive(Args)]
#[command(next_help_heading = help::SERVER)]
pub(super) struct ServerArgs {
    /// Address and port to listen on. `dev` listens on 127.0.0.1:7000 by default.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen)]
    pub(super) listen: Option<SocketAddr>,
    /// Most clients at a time. 0, the default: no limit.
    #[arg(long, value_name = "COUNT")]
    max_clients: Option<usize>,
    /// Most pending connections in the kernel. 0, the default: a sensible maximum.
    #[arg(long, value_name = "COUNT")]
    backlog: Option<u32>,
    /// Longest network operation, and the idle period; 20s by default.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// Class of every session: background, low, normal (the default), high or critical.
    #[arg(long, value_name = "CLASS")]
    priority: Option<Priority>,
    /// Socket option. May be repeated.
    #[arg(long = "option", value_name = "NAME")]
    options: Vec<OptionName>,
    /// Number for the plugin.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    parameter: Option<i64>,
    /// Setting for the plugin. May be repeated.
    #[arg(long = "setting", value_name = "KEY=VALUE", value_parser = key_value)]
    settings: Vec<(String, String)>,
    /// PEM file with the server's certificate chain. Turns TLS on.
    #[arg(long, value_name = "FILE", requires = "private_key", help_heading = TLS)]
    certificate_chain: Option<PathBuf>,
    /// PEM file with the certificate's key.
    #[arg(long, value_name = "FILE", requires = "certificate_chain", help_heading = TLS)]
    private_key: Option<PathBuf>,
    /// Application protocol to negotiate. May be repeated.
    #[arg(long = "alpn", value_name = "NAME", requires = "certificate_chain", help_heading = TLS)]
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
