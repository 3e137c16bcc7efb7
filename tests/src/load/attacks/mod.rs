//! Latency of another tenant's sessions beside an attack, compared with their latency without.
//!
//! Four sessions are measured: a critical session, a session of the attacker's class, and a native
//! echo in the lane of each. All four exchange messages at the same time, so that the machine
//! treats all alike. Rounds without and with the attack alternate.
//!
//! The servers of each attack are in a process of their own, because an attack that ends the
//! process is a result, too. The attacker's clients and operators are in another process.

mod drive;
pub mod made;
mod probe;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use wharf::control::{Control, ControlConfig, Reload};
use wharf::event::Priority;
use wharf::net::SocketOptions;
use wharf::plugin::{Compiler, Grant, Grants};
use wharf::sched::{BudgetChange, Lane};
use wharf::server::{BreakerLimits, Host, HostConfig, Server, ServerBuilder, ServerHandle};
use wharf::servers::{Plan, PlanError, Servers};

use self::drive::Drive;
pub use self::drive::{Target, drive};
use self::probe::{Latency, Probe};
use super::lanes::native_in;
use super::memory::Weight;
use crate::guests::{component, file};

/// Name of the attacker's server, also in the control API.
const ATTACKER: &str = "attacker";
/// Time that an attack goes on before the measurement.
const WARM_UP: Duration = Duration::from_millis(500);
/// Time that an attack's work may take to end before the next quiet round.
const CALM_MAX: Duration = Duration::from_secs(20);
/// The goals:
///
/// - for the critical session, the ratio of its p99 to its quiet p99, or of that ratio to the
///   native echo's;
/// - for the session of the same class, the difference of its p99 and its quiet p99.
const CRITICAL_RATIO_MAX: f64 = 1.2;
const SAME_CLASS_EXTRA_MAX_US: u64 = 3_000;

/// The plugin of the attacker's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guest {
    /// `tests/guests/attacker.wat`.
    Attacker,
    /// A plugin with many memories and tables.
    Heavy,
}

/// One attack.
#[derive(Debug, Clone, Copy)]
struct Attack {
    name: &'static str,
    guest: Guest,
    /// See [`HostConfig::sessions_max`].
    sessions_max: usize,
    drive: Drive,
}

const fn attack(name: &'static str, drive: Drive) -> Attack {
    Attack { name, guest: Guest::Attacker, sessions_max: 4_000, drive }
}

/// Instances in the pool of the heavy plugin, and the clients that want one, which are more.
const HEAVY_POOL: usize = 1_000;
const HEAVY_CLIENTS: usize = 1_300;

const ATTACKS: [Attack; 10] = [
    attack(
        "20 broadcasters among 2,000",
        Drive::Orders { order: b'B', clients: 20, silent: 2_000 },
    ),
    Attack {
        guest: Guest::Heavy,
        sessions_max: HEAVY_POOL,
        ..attack("many memories and tables", Drive::Waves { clients: HEAVY_CLIENTS })
    },
    attack("connect storm", Drive::Storm { clients: 64 }),
    attack("compilations and queued swaps", Drive::Swaps),
    attack("32 waiting locks", Drive::Locks { waiting: 32 }),
    attack("log flood", Drive::Orders { order: b'L', clients: 8, silent: 0 }),
    attack("timer flood", Drive::Once { order: b'T', clients: 200 }),
    attack("writes to peers that do not read", Drive::Unread { clients: 64 }),
    attack("API flood", Drive::Requests { connections: 16, silent: 500 }),
    attack("huge export names", Drive::Names),
];

/// Measures every attack whose name contains `only`, each in a process of its own, and prints its
/// rows.
///
/// # Errors
/// No attack has such a name, or a process could not be started. An attack that ends the process is
/// no error but a row.
pub fn run(rounds: usize, seconds: f64, only: &str) -> Result<()> {
    println!(
        "| beside | who | p50 us | p99 us | p99.9 us | p99 ratio | of native's | p99 more us | \
         goal \
         | met |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    let chosen: Vec<_> = ATTACKS.iter().filter(|attack| attack.name.contains(only)).collect();
    ensure!(
        !chosen.is_empty(),
        "no attack has {only:?} in its name: {:?}",
        ATTACKS.map(|attack| attack.name)
    );
    for attack in chosen {
        let status = Command::new(std::env::current_exe()?)
            .args(["--rounds", &rounds.to_string(), "--seconds", &seconds.to_string()])
            .args(["attacked", attack.name])
            .status()?;
        if let Some(signal) = status.signal() {
            println!(
                "| {} | the process | died of signal {signal} | | | | | | it lives | no |",
                attack.name
            );
        } else if !status.success() {
            println!("| {} | the process | {status} | | | | | | it lives | no |", attack.name);
        }
    }
    Ok(())
}

/// Measures one attack in this process, and prints its rows.
///
/// # Errors
/// No attack has this name, or a measured session was lost.
pub fn one(name: &str, rounds: usize, time: Duration) -> Result<()> {
    let attack =
        ATTACKS.iter().find(|attack| attack.name == name).context("an attack of that name")?;
    let folder = tempfile::tempdir()?;
    let site = ControlSite::start(attack, folder.path())?;
    attack.drive.prepare(folder.path())?;
    let [critical, same] = [&site.critical, &site.same].map(|server| server.address());
    let natives = [native_in(Lane::Fast)?, native_in(Lane::Standard)?];
    let mut probes = [critical, natives[0], same, natives[1]]
        .into_iter()
        .map(Probe::connect)
        .collect::<Result<Vec<_>>>()?;
    let mut seen = [const { Latency::new() }; 4];
    let (mut resident, mut served) = ([0, 0], 0);
    for _ in 0..rounds {
        for (latency, round) in seen.iter_mut().zip(probe::together(&mut probes, time)?) {
            latency.quiet.push(round);
        }
        resident[0] = resident[0].max(Weight::now()?.resident_kib);
        let driving = Driving::start(attack, site.attacker.address(), folder.path())?;
        std::thread::sleep(WARM_UP);
        let before = site.attacker.counters();
        let attacked = probe::together(&mut probes, time);
        let after = site.attacker.counters();
        resident[1] = resident[1].max(Weight::now()?.resident_kib);
        served += events(&after).saturating_sub(events(&before));
        driving.end()?;
        for (latency, round) in seen.iter_mut().zip(attacked?) {
            latency.beside.push(round);
        }
        site.calms_down();
    }
    let who = ["critical", "native, its lane", "same class", "native, its lane"];
    for (number, (who, latency)) in who.into_iter().zip(&seen).enumerate() {
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| latency.change(share));
        let (quiet, beside) = latency.at(0.99);
        let (ratio, more) = (latency.ratio(0.99), beside as i64 - quiet as i64);
        // The machine's own effect on this lane shows in the native echo's ratio.
        let native = seen[number | 1].ratio(0.99);
        let of_native = ratio / native.max(f64::MIN_POSITIVE);
        let (goal, met) = match number {
            0 => (
                format!("{CRITICAL_RATIO_MAX} of quiet or of native's"),
                ratio.min(of_native) <= CRITICAL_RATIO_MAX,
            ),
            2 => (
                format!("{SAME_CLASS_EXTRA_MAX_US} us more"),
                beside <= quiet + SAME_CLASS_EXTRA_MAX_US,
            ),
            _ => (String::new(), true),
        };
        let met = if goal.is_empty() { "" } else { ["no", "yes"][usize::from(met)] };
        let name = attack.name;
        println!(
            "| {name} | {who} | {p50} | {p99} | {p999} | {ratio:.2} | {of_native:.2} | {more:+} \
             | {goal} | {met} |"
        );
    }
    let [quiet, beside] = resident.map(|kib| kib >> 10);
    eprintln!(
        "{}: resident {quiet} MiB, beside it {beside}; {served} events of the attacker",
        attack.name
    );
    Ok(())
}

fn events(counters: &wharf::telemetry::Snapshot) -> u64 {
    counters.latencies().iter().map(|(_, seen)| seen.count()).sum()
}

/// The two measured servers, the attacker's server, and the control API of all.
struct ControlSite {
    critical: Arc<ServerHandle>,
    same: Arc<ServerHandle>,
    attacker: Arc<ServerHandle>,
    _control: Control,
}

impl ControlSite {
    fn start(attack: &Attack, folder: &Path) -> Result<Self> {
        let (compiler, sessions_max) = (Some(Compiler::this_program()), attack.sessions_max);
        let config = HostConfig { compiler, sessions_max, ..HostConfig::default() };
        let host = Host::new(&config)?;
        let polite = file("neighbour", &component(""));
        let neighbour = |tenant: &str, class| {
            let server = server(&host, tenant).tenant(tenant).priority(class);
            (tenant.to_owned(), server.plugin(&polite))
        };
        let bytes = if attack.guest == Guest::Heavy { made::heavy()? } else { made::attacker()? };
        let grants: Grants = [Grant::Stdio, Grant::Server].into_iter().collect();
        let attacker = server(&host, ATTACKER).plugin(file(ATTACKER, &bytes)).grants(grants);
        // The breaker is off, so that it does not slow the attacker.
        let attacker = attacker.breaker(BreakerLimits { faults: 0, ..BreakerLimits::default() });
        let long = Some(Duration::from_secs(3_600));
        let fuel = Some(1_000_000_000_000);
        let endless = BudgetChange { fuel, cpu: long, wall: long, ..BudgetChange::default() };
        let attacker = attacker.priority(Priority::Normal).budget(Priority::Normal, endless);
        let servers = vec![
            neighbour("critical", Priority::Critical),
            neighbour("same", Priority::Normal),
            (ATTACKER.to_owned(), attacker),
        ];
        let (stop_grace, tenants, inherited) = (Duration::ZERO, BTreeMap::new(), HashMap::new());
        let servers =
            Servers::start(host, Plan { host: config, stop_grace, tenants, servers, inherited })?;
        let nothing = Reload::new(|_| async { Err(PlanError::mistake("nothing to read")) });
        let control = ControlConfig { socket: folder.join(drive::SOCKET), listen: None };
        let control = Control::start(&control, Arc::clone(&servers), nothing)?;
        let get = |name: &str| servers.get(name).context("a server");
        Ok(Self {
            critical: get("critical")?,
            same: get("same")?,
            attacker: get(ATTACKER)?,
            _control: control,
        })
    }

    /// Waits until the attack's clients are gone and nothing is compiled any more. Gives up after
    /// [`CALM_MAX`]; work that goes on then disturbs the next quiet round.
    fn calms_down(&self) {
        let start = Instant::now();
        while start.elapsed() < CALM_MAX && (self.attacker.clients() > 0 || compiles()) {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn server(host: &Host, name: &str) -> ServerBuilder {
    let options = SocketOptions { no_delay: true, ..SocketOptions::default() };
    Server::builder().host(host).name(name).local_host("127.0.0.1").options(options)
}

/// Whether this process has a child process, such as a compiler.
fn compiles() -> bool {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return false };
    tasks.flatten().any(|task| {
        std::fs::read_to_string(task.path().join("children"))
            .is_ok_and(|children| !children.trim().is_empty())
    })
}

/// The process with the attacker's clients and operators. It runs only when no other wants the CPU.
struct Driving(Child);

impl Driving {
    fn start(attack: &Attack, address: std::net::SocketAddr, folder: &Path) -> Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args(["attack", attack.name, &address.to_string()])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut driving = Self(child);
        let mut ready = String::new();
        BufReader::new(driving.0.stdout.take().context("its output")?).read_line(&mut ready)?;
        if !ready.starts_with("ready") {
            driving.end()?;
            bail!("the attack did not start: {ready:?}");
        }
        Ok(driving)
    }

    /// Ends the process, and waits for its end.
    fn end(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        self.0.wait()?;
        Ok(())
    }
}
