//! `cargo run --release -p wharf-tests --bin languages`: measures the table of
//! docs/languages/README.md on this machine.
//!
//! Each language's example is built from scratch (with warm tools), loaded with and without the
//! cache, and played.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use wharf::authoring::{Act, Cost, Language, Manner, Transcript, rehearse};
use wharf::net::SocketOptions;
use wharf::plugin::{Engine, EngineConfig, InstanceLimits, Loader, Plugin};
use wharf::server::{Host, HostConfig, Server};
use wharf_tests::guests::wharf_binary;
use wharf_tests::languages::{Project, missing, project, run_build, tool};
use wharf_tests::load::memory::Weight;
use wharf_tests::transcript::plain;

/// Events of which the median is reported.
const EVENTS: usize = 1_000;
/// Idle sessions while memory is measured.
const SESSIONS: usize = 200;
/// A line of 64 bytes.
const LINE: &str = "a line of sixty-four bytes, its ending included, as logs have..\n";

fn main() -> Result<()> {
    println!(
        "| language | toolchain | build s | size KiB | load s | cached ms | start µs | first event \
         µs | event µs | fuel | \
         idle session KiB | shared: first event µs | event µs | fuel | idle session KiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    let _ = wharf_binary();
    // The first measurement pays for everything that the process uses for the first time. So text,
    // which needs no tools, is measured before the table's first language.
    let warm = measure(Language::Wat)?;
    for language in Language::ALL {
        match (missing(language), language) {
            (Some(tool), _) => println!("| {} | `{tool}` is missing: skipped |", language.name()),
            (None, Language::Wat) => println!("{warm}"),
            (None, _) => println!("{}", measure(language)?),
        }
    }
    Ok(())
}

fn measure(language: Language) -> Result<String> {
    let project = project(language, "0.1.0", &[]);
    let build = build(&project)?;
    let size = std::fs::metadata(&project.manifest.component)?.len() >> 10;
    let cache = tempfile::tempdir()?;
    let engine = Engine::new(EngineConfig { sessions_max: 4, ..EngineConfig::default() })?;
    let loader = Loader::with_cache(engine, cache.path())?;
    let cold = loader.load(&project.folder, &project.grants())?.loading();
    let plugin = Arc::new(loader.load(&project.folder, &project.grants())?);
    let (own, shared) = (costs(&plugin, Manner::Whole)?, costs(&plugin, Manner::Shared)?);
    let start = find(&own, "start")?.cpu;
    let first = |costs: &[Cost]| {
        Ok::<_, anyhow::Error>(find(costs, "on-connect")?.cpu + find(costs, "on-read")?.cpu)
    };
    let [first, shared_first] = [first(&own)?.as_micros(), first(&shared)?.as_micros()];
    let idle = [idle_kib(&project, cache.path(), 0)?, idle_kib(&project, cache.path(), 1)?];
    let [(event, fuel), (shared_event, shared_fuel)] = [event(&own)?, event(&shared)?];
    Ok(format!(
        "| {} | {} | {:.1} | {size} | {:.2} | {:.1} | {} | {first} | {event:.1} | {fuel} | {} | \
         {shared_first} | {shared_event:.1} | {shared_fuel} | {} |",
        language.name(),
        version(language)?,
        build.as_secs_f64(),
        cold.as_secs_f64(),
        plugin.loading().as_secs_f64() * 1e3,
        start.as_micros(),
        idle[0],
        idle[1],
    ))
}

/// The cost of a line on a warm instance: the median CPU time in microseconds, and the fuel.
fn event(costs: &[Cost]) -> Result<(f64, u64)> {
    let mut all: Vec<_> =
        costs.iter().filter(|cost| cost.event == "on-read").skip(EVENTS / 10).collect();
    all.sort_unstable_by_key(|cost| cost.cpu);
    let middle = all.get(all.len() / 2).context("events")?;
    Ok((middle.cpu.as_nanos() as f64 / 1e3, middle.fuel))
}

/// Builds a project again from its sources alone.
fn build(project: &Project) -> Result<Duration> {
    for folder in ["build", "target"] {
        let _ = std::fs::remove_dir_all(project.folder.join(folder));
    }
    let start = Instant::now();
    run_build(&project.folder);
    Ok(start.elapsed())
}

/// The costs of lines of 64 bytes, one after the other in one session.
fn costs(plugin: &Arc<Plugin>, manner: Manner) -> Result<Vec<Cost>> {
    let answer = LINE.to_ascii_uppercase();
    let line =
        |line| [(line, Act::Send(LINE.into())), (line, Act::Expect(answer.clone().into_bytes()))];
    let story = Transcript { settings: Vec::new(), acts: (1..=EVENTS).flat_map(line).collect() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let rehearsal = runtime.block_on(rehearse(plugin, &story, InstanceLimits::default(), manner));
    match rehearsal.problem {
        Some(problem) => bail!("{}: {problem}", plugin.label()),
        None => Ok(rehearsal.costs),
    }
}

fn find<'a>(costs: &'a [Cost], event: &str) -> Result<&'a Cost> {
    costs.iter().find(|cost| cost.event == event).with_context(|| event.to_owned())
}

/// Resident memory and page tables for each of many idle sessions, in KiB.
fn idle_kib(project: &Project, cache: &std::path::Path, shards: usize) -> Result<u64> {
    let config = HostConfig {
        workers: 1,
        sessions_max: SESSIONS + 8,
        cache_dir: Some(cache.to_owned()),
        ..HostConfig::default()
    };
    let host = Host::new(&config)?;
    let options = SocketOptions { no_delay: true, ..SocketOptions::default() };
    let plugin = host.loader().share(&project.folder, &project.grants())?;
    let server = Server::builder()
        .host(&host)
        .local_host("127.0.0.1")
        .options(options)
        .loaded_plugin(plugin);
    let server = server.shared_instances(shards).start()?;
    // The first session pays for the memory that all sessions share.
    let mut first = plain(server.address());
    talk(&mut first)?;
    let before = Weight::now()?.total_kib();
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        let mut client = plain(server.address());
        talk(&mut client)?;
        clients.push(client);
    }
    let idle_kib = Weight::now()?.total_kib().saturating_sub(before) / SESSIONS as u64;
    drop(clients);
    server.stop_blocking(Duration::from_secs(1));
    Ok(idle_kib)
}

fn talk(client: &mut TcpStream) -> Result<()> {
    client.write_all(LINE.as_bytes())?;
    client.read_exact(&mut [0; LINE.len()])?;
    Ok(())
}

/// The version that the toolchain reports.
fn version(language: Language) -> Result<String> {
    let ask = |program: &str, arguments: &[&str]| -> Result<String> {
        let output = tool(program).args(arguments).output().with_context(|| program.to_owned())?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(said
            .split_whitespace()
            .find(|word| word.contains('.'))
            .unwrap_or(&said)
            .trim_start_matches("go")
            .to_owned())
    };
    let package = |name: &str| -> Result<String> {
        let found = Command::new("readlink")
            .arg("-f")
            .arg(wharf_tests::languages::target().join("toolchains/bin").join(name))
            .output()?;
        let folder = std::path::PathBuf::from(String::from_utf8_lossy(&found.stdout).trim());
        let file =
            folder.ancestors().map(|folder| folder.join("package.json")).find(|file| file.exists());
        let text = std::fs::read_to_string(file.context("a package")?)?;
        let package: serde_json::Value = serde_json::from_str(&text)?;
        Ok(package["version"].as_str().unwrap_or("unknown").to_owned())
    };
    Ok(match language {
        Language::Rust => format!("rustc {}", ask("rustc", &["--version"])?),
        Language::C => format!("zig cc {}", ask("zig", &["version"])?),
        Language::Wat => format!("wharf {}", env!("CARGO_PKG_VERSION")),
        Language::JavaScript => format!("componentize-qjs {}", package("componentize-qjs")?),
        Language::TypeScript => {
            format!(
                "componentize-qjs {}, tsc {}, esbuild {}",
                package("componentize-qjs")?,
                package("tsc")?,
                package("esbuild")?
            )
        }
        Language::Python => format!("componentize-py {}", ask("componentize-py", &["--version"])?),
        Language::Go => format!("go {}", ask("go", &["version"])?),
    })
}
