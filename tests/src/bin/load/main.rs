//! The load driver: Wharf beside a native echo in the same run.
//!
//!     cargo run --release -p wharf-tests --bin load -- all

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use wharf::net::SocketOptions;
use wharf::plugin::{COMPILE_VERB, Compiler, Grants, Manifest, compile_for_another};
use wharf::server::{Host, HostConfig, Server, ServerBuilder, ServerHandle};
use wharf_tests::certificates::Certificates;
use wharf_tests::load::attacks;
use wharf_tests::load::bare::{Bare, Metering};
use wharf_tests::load::beside;
use wharf_tests::load::clients::{self, Shape};
use wharf_tests::load::lanes;
use wharf_tests::load::memory::Weight;
use wharf_tests::load::mixed;
use wharf_tests::load::native;
use wharf_tests::load::price;
use wharf_tests::load::report::Duel;
use wharf_tests::load::shares;
use wharf_tests::load::swaps::{self, Storm};

mod control;
mod sleep;

use self::control::control;
use self::sleep::{all_sleep, wake};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
    /// Pairs of rounds for each row.
    #[arg(long, global = true, default_value_t = 9)]
    rounds: usize,
    /// Seconds of a round.
    #[arg(long, global = true, default_value_t = 1.0)]
    seconds: f64,
}

#[derive(Subcommand)]
enum What {
    /// Messages of several sizes over 64 connections.
    Echo,
    /// Connect, one exchange, close.
    Churn,
    /// Idle sessions and what they weigh.
    Idle {
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        sessions: usize,
        /// Over TLS.
        #[arg(long)]
        tls: bool,
        /// On one instance.
        #[arg(long)]
        shared: bool,
        /// Each has let its instance go.
        #[arg(long)]
        asleep: bool,
    },
    /// Latency of sessions while the control API is flooded, beside their latency while it is not.
    Control {
        /// Requests per second.
        #[arg(long, default_value_t = 10_000)]
        requests: usize,
    },
    /// Latency of a critical session while background sessions burn what there is, beside its
    /// latency without them.
    Lanes {
        /// Only those with this in their name.
        #[arg(default_value = "")]
        only: String,
    },
    /// Clients that talk while their plugin is swapped, and every byte is checked.
    Swaps {
        /// How many clients, half of them over TLS.
        #[arg(long, default_value_t = 1_000)]
        clients: usize,
        /// How many swaps.
        #[arg(long, default_value_t = 200)]
        swaps: usize,
        /// Milliseconds between the starts of two swaps.
        #[arg(long, default_value_t = 100)]
        every: u64,
        /// Milliseconds between two messages of one client.
        #[arg(long, default_value_t = 20)]
        pace: u64,
    },
    /// What Wharf costs beside the engine alone, and what metering costs a parser.
    Price,
    /// Who gets how much of the CPU where there is not enough.
    Shares,
    /// Latency of two neighbours beside attacks of another tenant, beside their latency without.
    Attacks {
        /// Only those with this in their name.
        #[arg(default_value = "")]
        only: String,
    },
    /// Clients that check every byte and clients that misbehave, swaps and random operators, for
    /// some minutes; then everything has to add up.
    Mixed(mixed::Options),
    /// Echo, churn and idle.
    All,
    /// One attack; for `attacks`, which has the servers of each in a process of their own.
    #[command(hide = true)]
    Attacked {
        /// Its name.
        name: String,
    },
    /// Clients and operators of an attack; for `attacked`, which has them in another process.
    #[command(hide = true)]
    Attack(attacks::Target),
    /// Background clients; for `lanes`, which wants them in another process.
    #[command(hide = true)]
    Burn {
        /// Which.
        number: usize,
        /// Where.
        address: SocketAddr,
    },
    /// Floods a control socket; for `control`, which wants that in another process.
    #[command(hide = true)]
    Flood {
        /// Where.
        socket: PathBuf,
        /// Requests per second.
        requests: usize,
    },
    /// Compiles a component for the server; for `swaps`, which has that done where the product
    /// does.
    #[command(hide = true, name = COMPILE_VERB)]
    Compile {
        /// Bytes of memory it may have.
        memory_max: u64,
        /// Seconds it may take.
        time_max: u64,
    },
    /// Holds connections open until its standard input ends; for `idle`, which needs another
    /// process's descriptors.
    #[command(hide = true)]
    Hold {
        /// Where.
        address: SocketAddr,
        /// How many.
        count: usize,
        /// The certificate of the authority, where they are TLS.
        authority: Option<PathBuf>,
    },
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if let What::Compile { memory_max, time_max } = cli.what {
        std::process::exit(i32::from(compile_for_another(
            memory_max,
            Duration::from_secs(time_max),
        )));
    }
    match &cli.what {
        What::Attacks { only } => return attacks::run(cli.rounds, cli.seconds, only),
        What::Attacked { name } => {
            return attacks::one(name, cli.rounds, Duration::from_secs_f64(cli.seconds));
        }
        What::Mixed(options) => return mixed::run(*options),
        What::Attack(target) => return attacks::drive(target),
        _ => {}
    }
    let mut clients = tokio::runtime::Builder::new_multi_thread();
    if matches!(cli.what, What::Swaps { .. }) {
        clients.on_thread_start(lanes::forward);
    }
    let clients = clients.worker_threads(2).enable_all().build()?;
    if let What::Hold { address, count, authority } = &cli.what {
        let held = clients.block_on(clients::hold(*address, *count, authority.as_deref()))?;
        println!("held {}", held.count());
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
        return Ok(());
    }
    if let What::Flood { socket, requests } = &cli.what {
        // The measurement is about the API's own work, not the work of this client.
        let _ = rustix::process::setpriority_process(None, 19);
        let clients = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let time = Duration::from_secs_f64(cli.seconds);
        println!("{}", clients.block_on(beside::flood(socket, *requests, time))?);
        return Ok(());
    }
    if let What::Burn { number, address } = cli.what {
        return lanes::burn(number, address);
    }
    let release_memory = matches!(cli.what, What::Idle { asleep: true, .. });
    let compiler = matches!(cli.what, What::Swaps { .. }).then(Compiler::this_program);
    let host = Host::new(&HostConfig { release_memory, compiler, ..HostConfig::default() })?;
    if let What::Lanes { only } = &cli.what {
        return lanes::run(&host, cli.rounds, Duration::from_secs_f64(cli.seconds), only);
    }
    if matches!(cli.what, What::Shares) {
        return shares::run(&host, Duration::from_secs_f64(cli.seconds));
    }
    if let What::Control { requests } = cli.what {
        return control(&host, &clients, &cli, requests);
    }
    if let What::Swaps { clients: count, swaps, every, pace } = cli.what {
        let quiet = Duration::from_secs_f64(cli.seconds * 2.0);
        let storm = Storm {
            clients: count,
            swaps,
            quiet,
            every: Duration::from_millis(every),
            pace: Duration::from_millis(pace),
        };
        swaps::run(&host, &clients, storm)?.print();
        return Ok(());
    }
    if matches!(cli.what, What::Price) {
        return price(&host, &clients, &cli);
    }
    let server = echo(&host)?;
    let servers =
        tokio::runtime::Builder::new_multi_thread().thread_name("native").enable_all().build()?;
    let bench = Bench {
        native: native::start(servers.handle())?,
        server,
        clients,
        rounds: cli.rounds,
        seconds: cli.seconds,
    };
    if matches!(cli.what, What::Echo | What::Churn | What::All) {
        println!("{}", Duel::head());
    }
    if matches!(cli.what, What::Echo | What::All) {
        for (name, size, depth) in [
            ("64 B", 64, 1),
            ("4 KiB", 4 << 10, 1),
            ("64 KiB", 64 << 10, 1),
            ("64 B, 16 in flight", 64, 16),
            ("4 KiB, 16 in flight", 4 << 10, 16),
        ] {
            bench.echo(name, size, depth)?;
        }
    }
    if matches!(cli.what, What::Churn | What::All) {
        bench.churn()?;
    }
    match cli.what {
        What::Idle { sessions, tls, shared, asleep } => {
            let certificates = Certificates::new();
            let server = describe_echo(&host)?.name("idle").shared_instances(usize::from(shared));
            let server = if asleep {
                server.sleep_after(Duration::from_secs(5)).timeout(Duration::from_secs(3_600))
            } else {
                server
            };
            let server = if tls { server.credentials(certificates.credentials()) } else { server }
                .start()?;
            bench.idle(
                &server,
                sessions,
                tls.then(|| certificates.path("ca.pem")).as_deref(),
                asleep,
            )?;
        }
        What::All => bench.idle(&bench.server, 10_000, None, false)?,
        _ => {}
    }
    Ok(())
}

struct Bench {
    native: SocketAddr,
    server: ServerHandle,
    clients: tokio::runtime::Runtime,
    rounds: usize,
    seconds: f64,
}

impl Bench {
    fn shape(&self, connections: usize, size: usize, depth: usize) -> Shape {
        Shape { connections, size, depth, time: Duration::from_secs_f64(self.seconds) }
    }

    fn echo(&self, name: &str, size: usize, depth: usize) -> Result<()> {
        let (shape, mut duel) = (self.shape(64, size, depth), Duel::default());
        for _ in 0..self.rounds {
            let native = self.clients.block_on(clients::messages(self.native, shape))?;
            let wharf = self.clients.block_on(clients::messages(self.server.address(), shape))?;
            duel.add(native, wharf);
        }
        println!("{}", duel.row(name));
        Ok(())
    }

    fn churn(&self) -> Result<()> {
        let (shape, mut duel) = (self.shape(16, 64, 1), Duel::default());
        for _ in 0..self.rounds {
            let native = self.clients.block_on(clients::connections(self.native, shape))?;
            let wharf =
                self.clients.block_on(clients::connections(self.server.address(), shape))?;
            duel.add(native, wharf);
        }
        println!("{}", duel.row("connect, 64 B, close"));
        Ok(())
    }

    fn idle(
        &self,
        server: &ServerHandle,
        sessions: usize,
        authority: Option<&Path>,
        asleep: bool,
    ) -> Result<()> {
        let before = Weight::now()?;
        let address = server.address().to_string();
        let mut holder = Command::new(std::env::current_exe()?)
            .args(["hold", &address, &sessions.to_string()])
            .args(authority)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().context("its output")?).read_line(&mut line)?;
        if asleep {
            all_sleep(server);
        }
        let after = Weight::now()?;
        let alive = server.clients();
        let each =
            |after: u64, before: u64| (after.saturating_sub(before)) as f64 / alive.max(1) as f64;
        println!(
            "{alive} idle sessions: {:.1} KiB each ({:.1} resident, {:.1} page tables)",
            each(after.total_kib(), before.total_kib()),
            each(after.resident_kib, before.resident_kib),
            each(after.tables_kib, before.tables_kib),
        );
        if asleep && authority.is_none() {
            wake(server)?;
        }
        drop(holder.stdin.take());
        holder.wait()?;
        Ok(())
    }
}

/// Measures the native echo, the engine alone and Wharf in alternation, then a parser with and
/// without metering.
fn price(host: &Host, clients: &tokio::runtime::Runtime, cli: &Cli) -> Result<()> {
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins");
    let server = echo(host)?;
    let servers =
        tokio::runtime::Builder::new_multi_thread().thread_name("native").enable_all().build()?;
    let echo = component(&plugins.join("echo"))?;
    let bare = |metering| Bare::load(&echo, metering)?.serve(servers.handle());
    let (plain, metered) = (bare(Metering::None)?, bare(Metering::Interruptible)?);
    let contestants = [native::start(servers.handle())?, plain, metered, server.address()];
    println!(
        "| load | native per s | engine alone of native | with fuel, epochs and fibers | wharf of \
         native | of the metered engine |"
    );
    println!("|---|---|---|---|---|---|");
    for (name, size, depth) in [
        ("64 B", 64, 1),
        ("4 KiB", 4 << 10, 1),
        ("64 KiB", 64 << 10, 1),
        ("64 B, 16 in flight", 64, 16),
    ] {
        let shape =
            Shape { connections: 64, size, depth, time: Duration::from_secs_f64(cli.seconds) };
        let mut rounds = Vec::new();
        for _ in 0..cli.rounds {
            let mut rates = [0.0; 4];
            for (rate, address) in rates.iter_mut().zip(contestants) {
                *rate = clients.block_on(clients::messages(address, shape))?.rate;
            }
            rounds.push(rates);
        }
        println!("{}", price::row(name, &rounds));
    }
    price::parser(&component(&plugins.join("http"))?, cli.rounds)
}

/// Builds a plugin, and returns the path of its component.
fn component(folder: &Path) -> Result<PathBuf> {
    let manifest = Manifest::read(folder)?;
    manifest.run_build_blocking()?;
    Ok(folder.join(&manifest.component))
}

fn echo(host: &Host) -> Result<ServerHandle> {
    Ok(describe_echo(host)?.start()?)
}

fn describe_echo(host: &Host) -> Result<ServerBuilder> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/echo");
    let manifest = Manifest::read(&folder)?;
    manifest.run_build_blocking()?;
    let grants: Grants = manifest.grants.iter().copied().collect();
    let options = SocketOptions { no_delay: true, ..SocketOptions::default() };
    let server = Server::builder()
        .host(host)
        .local_host("127.0.0.1")
        .options(options)
        .plugin(folder)
        .grants(grants);
    Ok(server)
}
