//! The mixed load test: clients that check every byte and clients that misbehave, over plain
//! connections and TLS, on several servers of several tenants. Meanwhile versions are swapped, and
//! operators call every operation of the control API. At the end all clients leave, and all counts
//! must add up.
//!
//! The servers run in a `wharf serve` of its own. Clients and operators run in this process.

mod audit;
mod clients;
mod operator;
mod place;
mod rude;
mod weigh;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::audit::Sums;
use self::clients::{Seen, Shared};
use self::operator::Desk;
use self::place::{Kind, Place};
use self::weigh::{Scales, Trend, Weight};
use super::clients::connector;
use crate::rng::Rng;

/// Most swaps that are under way at a time.
const SWAPS_MAX: usize = 8;
/// Number of operators, and the pause of each between two calls.
const OPERATORS: usize = 2;
const OPERATOR_PACE: Duration = Duration::from_millis(100);
/// Well-behaved clients for each one that misbehaves beside them.
const RUDE_EVERY: usize = 10;
/// Longest interval between two measurements of the process, and the least number of measurements
/// in a short run.
const WEIGH_EVERY_MAX: Duration = Duration::from_secs(30);
const WEIGHINGS_MIN: u32 = 40;
/// Time after the last client in which the process must release its resources. Idle threads, for
/// example, end after ten seconds.
const RELEASE_TIME_MAX: Duration = Duration::from_secs(30);
/// Growth of each resource that is no leak: threads and descriptors come and go, and a server has
/// the code of up to three versions.
const DESCRIPTORS_MORE: usize = 4;
const IMAGES_MORE: usize = 100;
const THREADS_MORE: usize = 4;
const MAPPINGS_MORE: usize = 400;
const WAKES_MORE: f64 = 100.0;
/// Growth of resident memory that does not count as one: in the second half of the run by its
/// slope, and in the whole run.
const GROWTH_SHARE_MAX: f64 = 0.03;
const GROWTH_KIB_MAX: f64 = 6_144.0;
const WHOLE_SHARE_MAX: f64 = 0.10;
/// Least length of a run whose growth of memory is judged. In a shorter run memory is still warming
/// up, and its growth is only printed.
const JUDGED_FROM: Duration = Duration::from_secs(600);
/// Time that clients may take to leave.
const LEAVING_TIME_MAX: Duration = Duration::from_secs(90);

/// How much of it.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Options {
    /// Minutes.
    #[arg(long, default_value_t = 20.0)]
    pub minutes: f64,
    /// Clients that behave, half of them over TLS. A tenth as many misbehave beside them.
    #[arg(long, default_value_t = 300)]
    pub clients: usize,
    /// What all choices follow from. Another one each time where it is not given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Milliseconds between two messages of one client, on average.
    #[arg(long, default_value_t = 100)]
    pub pace: u64,
    /// Milliseconds between two swaps.
    #[arg(long, default_value_t = 1_000)]
    pub swap_every: u64,
}

/// Runs the test and prints its results. Blocks.
///
/// # Errors
/// Counts do not add up, bytes were wrong, or resources were not released. All of it is printed
/// before.
pub fn run(options: Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_nanos() as u64 >> 10)
    });
    println!("seed {seed}");
    let instances = (options.clients * 2 + 64).max(128);
    let place = Place::start(instances)?;
    let scales = Scales::of(place.pid());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut wrong = Vec::new();
    let ran = runtime.block_on(mixed(&place, &scales, options, seed, instances, &mut wrong));
    if let Err(error) = ran {
        wrong.push(format!("{error:#}"));
    }
    drop(runtime);
    wrong.extend(place.stop()?);
    for one in &wrong {
        println!("WRONG: {one}");
    }
    if wrong.is_empty() {
        println!("nothing is off (seed {seed})");
        return Ok(());
    }
    bail!("{} things are off; --seed {seed} makes the same choices", wrong.len())
}

async fn mixed(
    place: &Place,
    scales: &Scales,
    options: Options,
    seed: u64,
    instances: usize,
    wrong: &mut Vec<String>,
) -> Result<()> {
    let time = Duration::from_secs_f64(options.minutes * 60.0);
    let tls = connector(&place.authority())?;
    let web =
        place.servers.iter().find(|target| target.kind == Kind::Http).context("a web server")?;
    let page = clients::page(web, &tls).await?;
    let (stop, pace) = (AtomicBool::new(false), Duration::from_millis(options.pace));
    let shared = Arc::new(Shared { stop, pace, tls, page, seen: Seen::default() });
    fill(place, &shared, instances).await?;
    audit::settled(&place.api).await?;
    let before =
        (released(scales, None).await?, tokio::task::block_in_place(|| scales.wakes_per_second())?);

    let operations = operator::operations(&place.api).await?;
    let desk = Arc::new(Desk::of(place));
    let (mut behaving, mut rude, mut working) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    for number in 0..options.clients {
        let target = place.servers[number % place.servers.len()].clone();
        behaving.spawn(clients::talk(
            Arc::clone(&shared),
            target,
            number,
            Rng::of(seed, number as u64),
        ));
    }
    for number in 0..options.clients.div_ceil(RUDE_EVERY) {
        let rng = Rng::of(seed, 1_000_000 + number as u64);
        rude.spawn(rude::misbehave(
            Arc::clone(&shared),
            place.servers.clone(),
            20_000 + number,
            rng,
        ));
    }
    for number in 0..OPERATORS {
        let rng = Rng::of(seed, 2_000_000 + number as u64);
        working.spawn(operator::operate(Arc::clone(&desk), operations.clone(), OPERATOR_PACE, rng));
    }
    working.spawn(swap(Arc::clone(&desk), Duration::from_millis(options.swap_every), seed));

    let samples = weigh(scales, time).await?;

    desk.stop.store(true, Ordering::Relaxed);
    while let Some(done) = working.join_next().await {
        done?;
    }
    operator::restore(&desk).await;
    shared.stop.store(true, Ordering::Relaxed);
    rude.shutdown().await;
    let leaving = async {
        while let Some(done) = behaving.join_next().await {
            done?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(LEAVING_TIME_MAX, leaving).await.context("clients do not leave")??;
    let sums = audit::settled(&place.api).await?;
    wrong.extend(judge_sums(&sums, &audit::metrics(&place.api).await?));
    let after = (
        released(scales, Some(before.0)).await?,
        tokio::task::block_in_place(|| scales.wakes_per_second())?,
    );

    print(&shared.seen, &sums, &desk);
    wrong.extend(shared.seen.words());
    wrong.extend(desk.wrong());
    if time >= Duration::from_secs(60) {
        let called = desk.answers();
        let called = |operation: &String| called.keys().any(|(one, _)| one == operation);
        wrong.extend(
            operations
                .iter()
                .filter(|one| !called(one))
                .map(|one| format!("{one} was never called")),
        );
    }
    wrong.extend(judge_weights(before, after));
    wrong.extend(judge_memory(&samples, time));
    Ok(())
}

/// Uses every slot of the pool once, on each kind of plugin, so that memory which stays with a slot
/// is there from then on.
async fn fill(place: &Place, shared: &Shared, instances: usize) -> Result<()> {
    for kind in Kind::ALL {
        let mut held = Vec::new();
        let targets: Vec<_> = place.servers.iter().filter(|target| target.kind == kind).collect();
        for number in 0..instances {
            let target = targets[number % targets.len()];
            // Clients beyond a tenant's limits, or the pool's, are refused.
            let Ok(mut stream) = clients::connect(target, &shared.tls, number).await else {
                continue;
            };
            if stream.write_all(b"\n").await.is_ok() {
                held.push(stream);
            }
        }
        drop(held);
        audit::settled(&place.api).await?;
    }
    Ok(())
}

/// Weighs the process once it holds no more than `wanted`. Without `wanted`, waits for 3 s at
/// least, and until its number of threads no longer changes. Gives up after [`RELEASE_TIME_MAX`].
async fn released(scales: &Scales, wanted: Option<Weight>) -> Result<Weight> {
    let start = Instant::now();
    let mut before = scales.weigh()?;
    loop {
        sleep(Duration::from_millis(500)).await;
        let now = scales.weigh()?;
        let enough = match wanted {
            Some(wanted) => heavier(&wanted, &now).is_empty(),
            // Idle threads for blocking work end after ten seconds.
            None => start.elapsed() > Duration::from_secs(3) && now.threads == before.threads,
        };
        if enough || start.elapsed() > RELEASE_TIME_MAX {
            return Ok(now);
        }
        before = now;
    }
}

/// Starts swaps at a fixed pace, which does not depend on how long one takes.
async fn swap(desk: Arc<Desk>, every: Duration, seed: u64) {
    let (mut under_way, mut turns) = (JoinSet::new(), interval(every));
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0.. {
        turns.tick().await;
        if desk.stop.load(Ordering::Relaxed) {
            break;
        }
        if under_way.len() >= SWAPS_MAX {
            let _ = under_way.join_next().await;
        }
        under_way.spawn(operator::change(Arc::clone(&desk), Rng::of(seed, 3_000_000 + number)));
    }
    while under_way.join_next().await.is_some() {}
}

async fn weigh(scales: &Scales, time: Duration) -> Result<Vec<Weight>> {
    let every = (time / WEIGHINGS_MIN).min(WEIGH_EVERY_MAX);
    let (start, mut samples) = (Instant::now(), Vec::new());
    println!("| minute | resident MiB | descriptors | threads | mappings |\n|---|---|---|---|---|");
    while start.elapsed() < time {
        sleep(every).await;
        let now = scales.weigh()?;
        samples.push(now);
        let Weight { resident_kib, descriptors, threads, mappings, .. } = now;
        let minute = start.elapsed().as_secs_f64() / 60.0;
        println!(
            "| {minute:.1} | {:.1} | {descriptors} | {threads} | {mappings} |",
            resident_kib as f64 / 1_024.0
        );
    }
    Ok(samples)
}

fn print(seen: &Seen, sums: &std::collections::BTreeMap<String, Sums>, desk: &Desk) {
    let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "\n| operation | answers |\n|---|---|\n{}\n\n{}",
        operator::table(&desk.answers()),
        Sums::HEAD
    );
    for (name, sums) in sums {
        println!("{}", sums.row(name));
    }
    println!(
        "\n{} sessions exchanged {} messages, {} bytes of answers, {} bytes of operators; {} were \
         cut off, {} saw \
         something wrong; clients misbehaved {} times",
        get(&seen.connections),
        get(&seen.messages),
        get(&seen.bytes),
        get(&seen.operators_bytes),
        get(&seen.cut),
        get(&seen.wrong),
        get(&seen.rude),
    );
}

fn judge_sums(
    api: &std::collections::BTreeMap<String, Sums>,
    metrics: &std::collections::BTreeMap<String, Sums>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, sums) in api {
        if !sums.balance() {
            wrong.push(format!("{name} does not add up: {sums:?}"));
        }
        if metrics.get(name) != Some(sums) {
            wrong
                .push(format!("{name}: the metrics say {:?}, the API {sums:?}", metrics.get(name)));
        }
    }
    wrong
}

/// The resources of which the process has more than before.
fn heavier(before: &Weight, after: &Weight) -> Vec<String> {
    let pairs = [
        ("descriptors", before.descriptors, after.descriptors, DESCRIPTORS_MORE),
        ("images", before.images, after.images, IMAGES_MORE),
        ("threads", before.threads, after.threads, THREADS_MORE),
        ("mappings", before.mappings, after.mappings, MAPPINGS_MORE),
        ("timers", before.timers, after.timers, 0),
    ];
    let heavier = pairs.into_iter().filter(|(_, before, after, more)| *after > before + more);
    heavier
        .map(|(what, before, after, _)| format!("{what}: {before} before, {after} after"))
        .collect()
}

fn judge_weights(
    (before, wakes_before): (Weight, f64),
    (after, wakes_after): (Weight, f64),
) -> Vec<String> {
    println!("\n| no client is there | before | after |\n|---|---|---|");
    for (what, before, after) in [
        ("resident KiB", before.resident_kib, after.resident_kib),
        ("descriptors", before.descriptors as u64, after.descriptors as u64),
        ("images of memories", before.images as u64, after.images as u64),
        ("threads", before.threads as u64, after.threads as u64),
        ("mappings", before.mappings as u64, after.mappings as u64),
        ("timers", before.timers as u64, after.timers as u64),
    ] {
        println!("| {what} | {before} | {after} |");
    }
    println!("| wakes a second | {wakes_before:.0} | {wakes_after:.0} |");
    let mut wrong = heavier(&before, &after);
    if wakes_after > wakes_before * 2.0 + WAKES_MORE {
        wrong.push(format!(
            "it wakes {wakes_after:.0} times a second for nothing, {wakes_before:.0} before"
        ));
    }
    wrong
}

fn judge_memory(samples: &[Weight], time: Duration) -> Vec<String> {
    let Some(trend) = Trend::of(samples) else { return vec!["too few weighings".into()] };
    let Trend { slope_per_minute, growth, first, last } = trend;
    println!(
        "\nresident memory: {slope_per_minute:+.0} KiB a minute over the second half, {growth:+.0} \
         KiB in all of it; \
         {first:.0} KiB after settling, {last:.0} KiB at the end"
    );
    let mut wrong = Vec::new();
    if time >= JUDGED_FROM {
        if growth > GROWTH_KIB_MAX.max(first * GROWTH_SHARE_MAX) {
            wrong.push(format!("memory grows: {trend:?}"));
        }
        if last > first * (1.0 + WHOLE_SHARE_MAX) + GROWTH_KIB_MAX {
            wrong.push(format!("memory has grown: {trend:?}"));
        }
    }
    wrong
}
