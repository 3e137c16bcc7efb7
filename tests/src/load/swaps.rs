//! Swaps under live sessions that exchange messages all the time. Every byte is checked, and every
//! wait is measured.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::rustls::pki_types::ServerName;
use wharf::server::{Host, Server, ServerBuilder, ServerHandle, SwapPolicy, SwapReport};

use super::clients::{Stream, connector};
use super::memory::Weight;
use crate::certificates::Certificates;
use crate::guests::{component, file, versioned};

/// One in this many swaps is to a bad version, which fails for sessions that have exchanged bytes.
const BAD_EVERY: usize = 10;
/// Swaps between two quiet times, in which quiet latency is measured on the same machine, in the
/// same minutes.
const TURN: usize = 4;
/// Longest latency the histograms hold, in microseconds.
const LATENCY_MAX_US: u64 = 60_000_000;

/// The amount of load.
#[derive(Debug, Clone, Copy)]
pub struct Storm {
    /// Clients, half of them over TLS.
    pub clients: usize,
    /// Number of swaps.
    pub swaps: usize,
    /// Length of a quiet time: before the first swap, and after every [`TURN`] swaps.
    pub quiet: Duration,
    /// Least time between the starts of two swaps.
    pub every: Duration,
    /// Time between two messages of one client.
    pub pace: Duration,
}

/// The phases by which latency is counted, in order. The kinds of bad versions follow them.
const PHASES: [&str; 4] = ["quiet", "between two swaps", "loading a version", "moving to it"];
const QUIET: usize = 0;
const BETWEEN: usize = 1;
const LOADING: usize = 2;
const MOVING: usize = 3;

/// The result of the measurement.
#[derive(Debug)]
pub struct Seen {
    /// Time from sending a message to its answer, in microseconds. One histogram each for the quiet
    /// times, for all time of swaps, and for its parts: between two swaps, loading a version,
    /// moving to a good one, and trying a bad one, in total and by its kind.
    pub latency: Vec<(&'static str, Histogram<u64>)>,
    /// The p99 during every [`TURN`] swaps, divided by the p99 of the quiet time just before.
    pub ratios: Vec<f64>,
    /// Sessions that moved, over all swaps, and that stayed because the version was bad.
    pub moved: usize,
    /// See `moved`.
    pub stayed: usize,
    /// Time for which each moved session had neither version.
    pub pauses: Vec<Duration>,
    /// The longest of these in each swap.
    pub longest: Vec<Duration>,
    /// Resident memory and descriptors after a tenth of the swaps, and after all of them.
    pub weights: [(u64, usize); 2],
}

/// The kinds of bad versions, which are used in this order: name, and the code of `restore`.
const BAD: [(&str, &str); 6] = [
    (
        "refuses",
        "(i32.store (i32.const 1064) (i32.const 1)) (i32.store (i32.const 1068) (i32.const 1024)) \
         (i32.store (i32.const 1072) (i32.const 5))",
    ),
    ("traps", "unreachable"),
    ("loops", "(call $spin)"),
    (
        "grows",
        "(loop $more (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 16))))) \
         unreachable",
    ),
    (
        "breaks the contract",
        "(i32.store (i32.const 1064) (i32.const 1)) (i32.store (i32.const 1068) (i32.const -16)) \
         (i32.store (i32.const 1072) (i32.const 64))",
    ),
    (
        "is slow",
        "(loop $more (memory.fill (i32.const 4096) (i32.const 1) (i32.const 60000)) (br $more))",
    ),
];

fn describe(host: &Host, name: &str, label: usize, restore: &str) -> Result<ServerBuilder> {
    let plugin = file(&format!("storm-{label}"), &component_of(label, restore)?);
    Ok(Server::builder().host(host).name(name).local_host("127.0.0.1").plugin(plugin))
}

fn component_of(label: usize, restore: &str) -> Result<Vec<u8>> {
    let label = u8::try_from(label).context("a label is one byte")?;
    Ok(component(&versioned(char::from(label), "", restore)))
}

/// Runs the swaps and the clients. `clients` is the runtime of the clients.
///
/// # Errors
/// An answer was lost, or came twice, out of order or from an older version; a connection closed;
/// or the system failed.
pub fn run(host: &Host, clients: &tokio::runtime::Runtime, storm: Storm) -> Result<Seen> {
    let certificates = Certificates::new();
    let plain = describe(host, "plain", 1, "")?.start()?;
    let secure =
        describe(host, "secure", 1, "")?.credentials(certificates.credentials()).start()?;
    let versions = (1..=storm.swaps).map(version).collect::<Result<Vec<_>>>()?;
    let watch = Arc::new(Watch::new()?);
    let authority = certificates.path("ca.pem");
    let mut talking = clients.block_on(connect(&storm, &plain, &secure, &authority, &watch))?;
    std::thread::sleep(storm.quiet);
    let mut seen = Seen {
        latency: Vec::new(),
        ratios: Vec::new(),
        moved: 0,
        stayed: 0,
        longest: Vec::new(),
        pauses: Vec::new(),
        weights: [(0, 0); 2],
    };
    for (number, path) in versions.iter().enumerate().map(|(index, path)| (index + 1, path)) {
        let start = Instant::now();
        for server in [&plain, &secure] {
            watch.during(LOADING);
            let plugin = server.load_for_swap(path)?;
            watch.during(bad(number).map_or(MOVING, |kind| PHASES.len() + kind));
            let report = host.runtime().block_on(server.swap(plugin, SwapPolicy::HandOff))?;
            watch.during(BETWEEN);
            seen.add(report, number)?;
        }
        std::fs::remove_file(path)?;
        if number == (storm.swaps / 10).max(1) {
            seen.weights[0] = weight()?;
        }
        std::thread::sleep(storm.every.saturating_sub(start.elapsed()));
        if number.is_multiple_of(TURN) {
            seen.ratios.extend(watch.turn());
            watch.during(QUIET);
            std::thread::sleep(storm.quiet);
            watch.during(BETWEEN);
        }
    }
    seen.weights[1] = weight()?;
    watch.stop.store(true, Ordering::Relaxed);
    clients.block_on(async {
        while let Some(one) = talking.join_next().await {
            one??;
        }
        anyhow::Ok(())
    })?;
    seen.latency = watch.seen()?;
    for server in [&plain, &secure] {
        ensure!(server.counters().faults.is_empty(), "faults: {:?}", server.counters().faults);
    }
    Ok(seen)
}

impl Seen {
    /// Prints the result as tables.
    pub fn print(&self) {
        let row = |histogram: &Histogram<u64>| {
            [0.5, 0.99, 0.999, 1.0].map(|share| histogram.value_at_quantile(share))
        };
        println!("| while | messages | p50 us | p99 | p99.9 | max |\n|---|---|---|---|---|---|");
        for (name, histogram) in &self.latency {
            let [p50, p99, p999, max] = row(histogram);
            println!("| {name} | {} | {p50} | {p99} | {p999} | {max} |", histogram.len());
        }
        let mut ratios = self.ratios.clone();
        ratios.sort_unstable_by(f64::total_cmp);
        let [low, median, high] = [1, 2, 3]
            .map(|quarter| ratios.get(ratios.len() * quarter / 4).copied().unwrap_or(f64::NAN));
        println!(
            "p99 of swaps over that of the quiet time before, {} turns: median {median:.2}, \
             quartiles {low:.2} and {high:.2}",
            ratios.len()
        );
        let at = |pauses: &[Duration]| {
            let mut pauses = pauses.to_vec();
            pauses.sort_unstable();
            [0.5, 0.99, 1.0].map(|share| {
                pauses
                    .get(((pauses.len() - 1) as f64 * share) as usize)
                    .copied()
                    .unwrap_or_default()
            })
        };
        println!("{} sessions moved, {} stayed with bad versions", self.moved, self.stayed);
        for (what, pauses) in [
            ("of all sessions that moved", &self.pauses),
            ("the longest of each swap", &self.longest),
        ] {
            let [p50, p99, most] = at(pauses);
            println!("pause, {what}: median {p50:?}, p99 {p99:?}, most {most:?}");
        }
        let [(before, files), (after, files_after)] = self.weights;
        println!(
            "resident {before} KiB and {after} KiB, descriptors {files} and {files_after}, after a \
             tenth and after all"
        );
    }

    fn add(&mut self, report: SwapReport, number: usize) -> Result<()> {
        let stayed: usize = report.stayed.values().sum();
        ensure!(report.ended == 0, "sessions ended: {report:?}");
        ensure!(
            if bad(number).is_some() { report.moved == 0 } else { stayed == 0 },
            "swap {number}: {report:?}"
        );
        self.moved += report.moved;
        self.stayed += stayed;
        self.longest.push(report.pause(1.0));
        self.pauses.extend(report.pauses);
        Ok(())
    }
}

/// Makes the component of a swap, in a file, before the measurement.
fn version(number: usize) -> Result<PathBuf> {
    let what = bad(number)
        .map(|kind| format!("(if (global.get $count) (then {}))", BAD[kind].1))
        .unwrap_or_default();
    Ok(file(&format!("storm-{number}"), &component_of(number + 1, &what)?))
}

fn weight() -> Result<(u64, usize)> {
    Ok((Weight::now()?.resident_kib, std::fs::read_dir("/proc/self/fd")?.count()))
}

/// The kind of bad version that this swap uses. `None` for a good version.
fn bad(number: usize) -> Option<usize> {
    number.is_multiple_of(BAD_EVERY).then_some(number / BAD_EVERY % BAD.len())
}

/// Signals to the clients, and the latencies that they measured.
struct Watch {
    stop: AtomicBool,
    phase: AtomicUsize,
    latencies: Vec<Mutex<Histogram<u64>>>,
    /// Latencies since the last call of `turn`: quiet, and during swaps.
    turn: [Mutex<Histogram<u64>>; 2],
}

impl Watch {
    fn new() -> Result<Self> {
        let one = || Ok(Mutex::new(Histogram::new_with_max(LATENCY_MAX_US, 3)?));
        let latencies = (0..PHASES.len() + BAD.len()).map(|_| one()).collect::<Result<_>>()?;
        Ok(Self {
            stop: AtomicBool::new(false),
            phase: AtomicUsize::new(QUIET),
            latencies,
            turn: [one()?, one()?],
        })
    }

    fn during(&self, phase: usize) {
        self.phase.store(phase, Ordering::Relaxed);
    }

    fn record(&self, latency: Duration) {
        let phase = self.phase.load(Ordering::Relaxed);
        for histogram in [&self.latencies[phase], &self.turn[usize::from(phase != QUIET)]] {
            histogram
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .saturating_record(latency.as_micros() as u64);
        }
    }

    /// Returns the ratio of the p99 during swaps to the quiet p99, and starts both again. `None`
    /// without quiet latencies.
    fn turn(&self) -> Option<f64> {
        let [quiet, swaps] = self.turn.each_ref().map(|histogram| {
            let mut histogram = histogram.lock().unwrap_or_else(PoisonError::into_inner);
            let p99 = histogram.value_at_quantile(0.99);
            histogram.reset();
            p99
        });
        (quiet > 0).then(|| swaps as f64 / quiet as f64)
    }

    fn seen(&self) -> Result<Vec<(&'static str, Histogram<u64>)>> {
        let names = PHASES.into_iter().chain(BAD.map(|(name, _)| name));
        let copy = |one: &Mutex<Histogram<u64>>| {
            one.lock().unwrap_or_else(PoisonError::into_inner).clone()
        };
        let mut seen: Vec<_> = names.zip(self.latencies.iter().map(copy)).collect();
        let mut bad = Histogram::new_with_max(LATENCY_MAX_US, 3)?;
        seen[PHASES.len()..].iter().try_for_each(|(_, kind)| bad.add(kind))?;
        seen.insert(PHASES.len(), ("meeting bad versions", bad.clone()));
        seen[BETWEEN..PHASES.len()].iter().try_for_each(|(_, phase)| bad.add(phase))?;
        seen.insert(BETWEEN, ("swaps, all the time", bad));
        Ok(seen)
    }
}

async fn connect(
    storm: &Storm,
    plain: &ServerHandle,
    secure: &ServerHandle,
    authority: &Path,
    watch: &Arc<Watch>,
) -> Result<JoinSet<Result<()>>> {
    let tls = connector(authority)?;
    let mut talking = JoinSet::new();
    for number in 0..storm.clients {
        let address: SocketAddr = if number % 2 == 0 { plain.address() } else { secure.address() };
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match number % 2 {
            0 => Box::new(stream),
            _ => Box::new(tls.connect(ServerName::try_from("localhost")?, stream).await?),
        };
        talking.spawn(talk(stream, number, storm.pace, Arc::clone(watch)));
    }
    Ok(talking)
}

/// Runs one client: it sends a byte at its pace, and checks that the answer is the next one.
async fn talk(
    mut stream: Box<dyn Stream>,
    number: usize,
    pace: Duration,
    watch: Arc<Watch>,
) -> Result<()> {
    let (mut count, mut label) = (0_u8, 0_u8);
    // The clients do not all start at the same moment.
    tokio::time::sleep(pace * (number % 16) as u32 / 16).await;
    while !watch.stop.load(Ordering::Relaxed) {
        let (start, byte) = (Instant::now(), number as u8 ^ count);
        stream.write_all(&[byte]).await?;
        let mut answer = [0; 3];
        stream
            .read_exact(&mut answer)
            .await
            .with_context(|| format!("client {number} after {count}"))?;
        count = count.wrapping_add(1);
        ensure!(
            answer[1..] == [byte, count],
            "client {number}: {answer:?} where {byte} {count} was next"
        );
        ensure!(answer[0] >= label, "client {number}: version {} after {label}", answer[0]);
        label = answer[0];
        watch.record(start.elapsed());
        tokio::time::sleep(pace).await;
    }
    Ok(())
}
