//! Latency of a critical session with and without background sessions that burn all CPU time.
//!
//! A native echo runs on a thread with the scheduling of the critical session's lane. Its latency
//! shows the effect of the machine and its kernel under the same background; the rest is Wharf's.
//!
//! The critical client sends at fixed times, even if the last answer is missing. Latency counts
//! from the time when a message was due, so a server that stands still shows in all messages that
//! waited.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use wharf::event::Priority;
use wharf::net::SocketOptions;
use wharf::plugin::{Grant, Grants};
use wharf::sched::{BudgetChange, Lane, take};
use wharf::server::{BreakerLimits, Host, Server, ServerHandle};

use crate::certificates::Certificates;
use crate::guests::{built, component, file, root};
use crate::load::native;

/// Interval between two messages of the critical client.
const SEND_EVERY: Duration = Duration::from_millis(1);
const MESSAGE_BYTES: usize = 64;
/// Time that background sessions run alone before the measurement.
const WARM_UP: Duration = Duration::from_millis(300);

/// The behaviour of the background sessions.
#[derive(Debug, Clone, Copy)]
struct Antagonist {
    name: &'static str,
    /// The order that each client sends, and sends again after each answer.
    order: &'static [u8],
    clients: usize,
    /// Whether each order needs a connection of its own.
    reconnects: bool,
    plugin: Plugin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plugin {
    Antagonist,
    Unruly,
    Secure,
    Idle,
}

const fn standing(name: &'static str, order: &'static [u8]) -> Antagonist {
    Antagonist { name, order, clients: 4, reconnects: false, plugin: Plugin::Antagonist }
}

const fn fleeting(name: &'static str, order: &'static [u8]) -> Antagonist {
    Antagonist { reconnects: true, ..standing(name, order) }
}

const ANTAGONISTS: [Antagonist; 12] = [
    standing("endless loops", b"L"),
    standing("bulk copies", b"M"),
    standing("random walks", b"R"),
    fleeting("page touching", b"P"),
    fleeting("memory growth", b"G"),
    standing("host calls", b"H"),
    Antagonist { plugin: Plugin::Unruly, ..standing("log flood", b"l") },
    Antagonist { clients: 64, ..fleeting("unread writes", b"W") },
    Antagonist { plugin: Plugin::Secure, ..fleeting("TLS handshakes", b"") },
    fleeting("connect and close", b"?"),
    fleeting("instantiate and trap", b"T"),
    Antagonist { clients: 9_000, plugin: Plugin::Idle, ..standing("9,000 idle sessions", b"") },
];

/// Runs every antagonist whose name contains `only`, and prints a row for each.
///
/// # Errors
/// A client or a server failed.
pub fn run(host: &Host, rounds: usize, time: Duration, only: &str) -> Result<()> {
    let polite = file("critical", &component(""));
    let options = SocketOptions { no_delay: true, ..SocketOptions::default() };
    let critical =
        Server::builder().host(host).name("critical").local_host("127.0.0.1").options(options);
    let critical = critical.priority(Priority::Critical).plugin(polite).start()?;
    let native = native_in(Lane::Fast)?;
    println!(
        "| beside | p50 us | p99 us | p99.9 us | p50 | p99 | p99.9 | native p99 us | p50 | p99 | \
         p99.9 | background keeps |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for antagonist in ANTAGONISTS.iter().filter(|one| one.name.contains(only)) {
        let certificates = Certificates::new();
        let server = background(host, antagonist, &certificates)?;
        let (mut wharf, mut reference) = (Latency::default(), Latency::default());
        let (mut alone_done, mut beside_done) = (0.0, 0.0);
        for _ in 0..rounds {
            wharf.calm.push(paced(critical.address(), time)?);
            reference.calm.push(paced(native, time)?);
            let burning = Burning::start(antagonist, server.address())?;
            alone_done += progress(&server, || {
                thread::sleep(time);
                Ok(())
            })?;
            beside_done += progress(&server, || {
                wharf.beside.push(paced(critical.address(), time)?);
                Ok(())
            })?;
            reference.beside.push(paced(native, time)?);
            burning.end()?;
        }
        let [p50, p99, p999] = PERCENTILES.map(|share| wharf.change(share));
        let kept = beside_done / f64::max(alone_done, 1.0);
        let name = antagonist.name;
        let native = format!("{} | {}", reference.change(0.99), reference.ratios());
        println!("| {name} | {p50} | {p99} | {p999} | {} | {native} | {kept:.2} |", wharf.ratios());
    }
    Ok(())
}

const PERCENTILES: [f64; 3] = [0.5, 0.99, 0.999];

/// The latency of one session in each round, in microseconds.
#[derive(Default)]
struct Latency {
    calm: Vec<Histogram<u64>>,
    beside: Vec<Histogram<u64>>,
}

impl Latency {
    /// The medians over the rounds, calm and beside the background. A median hides rounds that the
    /// machine disturbed.
    fn at(&self, share: f64) -> (u64, u64) {
        let median = |rounds: &[Histogram<u64>]| {
            let mut seen: Vec<_> =
                rounds.iter().map(|round| round.value_at_quantile(share)).collect();
            seen.sort_unstable();
            seen.get(seen.len() / 2).copied().unwrap_or(0)
        };
        (median(&self.calm), median(&self.beside))
    }

    fn change(&self, share: f64) -> String {
        let (calm, beside) = self.at(share);
        format!("{calm} > {beside}")
    }

    fn ratios(&self) -> String {
        let ratios = PERCENTILES.map(|share| {
            let (calm, beside) = self.at(share);
            format!("{:.2}", beside as f64 / calm.max(1) as f64)
        });
        ratios.join(" | ")
    }
}

/// Starts a native echo on a thread of its own, with the scheduling of the lane's threads.
pub(super) fn native_in(lane: Lane) -> Result<SocketAddr> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let address = native::start(runtime.handle())?;
    thread::Builder::new().name("native".into()).spawn(move || {
        let _ = take(lane);
        runtime.block_on(std::future::pending::<()>());
    })?;
    Ok(address)
}

fn background(
    host: &Host,
    antagonist: &Antagonist,
    certificates: &Certificates,
) -> Result<ServerHandle> {
    let endless = BudgetChange {
        fuel: Some(1_000_000_000_000),
        cpu: Some(Duration::from_secs(3_600)),
        wall: Some(Duration::from_secs(3_600)),
        ..BudgetChange::default()
    };
    let server = Server::builder().host(host).name("background").local_host("127.0.0.1");
    let server = server.priority(Priority::Background).budget(Priority::Background, endless);
    let server = server.breaker(BreakerLimits { faults: 0, ..BreakerLimits::default() });
    let server = match antagonist.plugin {
        Plugin::Unruly => {
            let (folder, _) = built("tests/unruly");
            let grants: Grants =
                [Grant::Stdio, Grant::Clocks, Grant::Random, Grant::Server, Grant::Config]
                    .into_iter()
                    .collect();
            server.plugin(folder).grants(grants)
        }
        Plugin::Antagonist | Plugin::Idle | Plugin::Secure => {
            let text = std::fs::read_to_string(root().join("tests/guests/antagonist.wat"))?;
            server.plugin(file("antagonist", &component(&text)))
        }
    };
    let server = if antagonist.plugin == Plugin::Secure {
        server.credentials(certificates.credentials())
    } else {
        server
    };
    Ok(server.start()?)
}

/// Events of the server per second while `work` runs.
fn progress(server: &ServerHandle, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let done = || -> u64 {
        let seen = server.counters();
        let events: u64 = seen.latencies().iter().map(|(_, events)| events.count()).sum();
        events + seen.handshakes_failed.values().sum::<u64>()
    };
    let (before, start) = (done(), Instant::now());
    work()?;
    Ok((done() - before) as f64 / start.elapsed().as_secs_f64())
}

/// The process with the background's clients. It runs only when no other wants the CPU.
struct Burning(Child);

impl Burning {
    fn start(antagonist: &Antagonist, address: SocketAddr) -> Result<Self> {
        let number = ANTAGONISTS
            .iter()
            .position(|one| one.name == antagonist.name)
            .context("it is there")?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["burn", &number.to_string(), &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut ready = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut ready)?;
        ensure!(ready.starts_with("ready"), "the clients did not start: {ready}");
        thread::sleep(WARM_UP);
        Ok(Self(child))
    }

    fn end(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        self.0.wait()?;
        Ok(())
    }
}

/// Runs the clients of an antagonist, until the standard input ends.
///
/// # Errors
/// No client could connect.
pub fn burn(number: usize, address: SocketAddr) -> Result<()> {
    let antagonist = *ANTAGONISTS.get(number).context("an antagonist")?;
    // The measurement is about the server, so its clients run in the idle lane.
    let _ = take(Lane::Idle);
    let mut held = Vec::new();
    if antagonist.plugin == Plugin::Idle {
        for _ in 0..antagonist.clients {
            held.push(TcpStream::connect(address)?);
        }
    } else if antagonist.plugin == Plugin::Secure {
        let connect = format!("openssl s_time -connect {address} -new -time 3600");
        let mut handshakes = Command::new("sh")
            .args(["-c", &format!("exec {connect}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        println!("ready");
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
        handshakes.kill()?;
        handshakes.wait()?;
        return Ok(());
    } else {
        for _ in 0..antagonist.clients {
            thread::Builder::new()
                .stack_size(64 << 10)
                .spawn(move || while order(&antagonist, address).is_ok() {})?;
        }
    }
    println!("ready");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    std::process::exit(0);
}

/// Sends orders over one connection.
fn order(antagonist: &Antagonist, address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    if antagonist.order == b"W" {
        stream.write_all(antagonist.order)?;
        thread::sleep(Duration::from_millis(200));
        return Ok(());
    }
    let mut answer = [0; 4_096];
    loop {
        stream.write_all(antagonist.order)?;
        // A guest that traps answers nothing.
        let answered = stream.read(&mut answer).is_ok_and(|count| count > 0);
        if antagonist.reconnects || !answered {
            return Ok(());
        }
    }
}

/// Measures the latency of one session that exchanges a message every millisecond, in microseconds.
/// Latency counts from the time when each message was due.
fn paced(address: SocketAddr, time: Duration) -> Result<Histogram<u64>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let (mut reads, count) =
        (stream.try_clone()?, (time.as_micros() / SEND_EVERY.as_micros()) as u32);
    let start = Instant::now() + Duration::from_millis(5);
    let reader = thread::spawn(move || -> Result<Histogram<u64>> {
        forward();
        let (mut latency, mut message) =
            (Histogram::new_with_max(60_000_000, 3)?, [0; MESSAGE_BYTES]);
        for number in 0..count {
            reads.read_exact(&mut message)?;
            ensure!(message[MESSAGE_BYTES - 4..] == number.to_le_bytes(), "an answer is missing");
            let meant = start + SEND_EVERY * number;
            latency.saturating_record(
                Instant::now().saturating_duration_since(meant).as_micros() as u64
            );
        }
        Ok(latency)
    });
    forward();
    let mut message = [7; MESSAGE_BYTES];
    for number in 0..count {
        let meant = start + SEND_EVERY * number;
        thread::sleep(meant.saturating_duration_since(Instant::now()));
        message[MESSAGE_BYTES - 4..].copy_from_slice(&number.to_le_bytes());
        stream.write_all(&message)?;
    }
    reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?
}

/// Gives the measuring thread a real-time policy, so that its own waits for a CPU are not measured.
/// If the system refuses, the thread asks for niceness -20. If that is refused too, it waits for
/// a CPU as any other.
pub fn forward() {
    let own = rustix::thread::gettid().as_raw_nonzero().to_string();
    let real_time =
        Command::new("chrt").args(["--fifo", "--pid", "50", &own]).stderr(Stdio::null()).status();
    if real_time.is_ok_and(|status| status.success()) {
        return;
    }
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), -20);
}
