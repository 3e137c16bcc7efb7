//! Swaps the version of a plugin under live sessions, and rolls the swap back.
//!
//! ```text
//! cargo run -p wharf --example swap_live -- old.wasm new.wasm
//! ```
//!
//! Both are components, or folders with a `plugin.toml`.
//!
//! Each line of standard input is a command: `swap`, `back` or `list`. The server stops when
//! standard input ends. Clients stay connected meanwhile: their sessions migrate with their state
//! if both versions implement the contract's interface `handoff`.

use std::error::Error;
use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use wharf::plugin::{Grant, Grants};
use wharf::server::{Server, ServerHandle, SwapError, SwapPolicy, SwapReport};

/// How long sessions may take to end when the server stops.
const GRACE: Duration = Duration::from_secs(5);
/// Sessions that `list` prints.
const LIST_MAX: usize = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let mut files = std::env::args().skip(1).map(PathBuf::from);
    let (Some(old), Some(new)) = (files.next(), files.next()) else {
        return Err("usage: swap_live OLD NEW".into());
    };
    let server = start_server(old)?;
    println!("listening on {}", server.address());

    for line in std::io::stdin().lock().lines() {
        match line?.trim() {
            "swap" => report(swap(&server, new.clone())),
            "back" => report(roll_back(&server)),
            "list" => list(&server),
            other => println!("expected `swap`, `back` or `list`, found `{other}`"),
        }
    }
    server.stop_blocking(GRACE);
    println!("stopped");
    Ok(())
}

/// `swap_to` takes the handle in an `Arc`, because a thread of the host loads the new version.
fn start_server(plugin: PathBuf) -> Result<Arc<ServerHandle>, Box<dyn Error>> {
    let grants: Grants = [Grant::Stdio].into_iter().collect();
    let server = Server::builder()
        .name("swapped")
        .plugin(plugin)
        .grants(grants)
        .local_host("127.0.0.1")
        .start()?;
    Ok(Arc::new(server))
}

/// Loads the new version, tries it, gives it to new sessions, and asks each live session to
/// migrate. The futures of a handle run on any runtime. A program without one takes the host's.
fn swap(server: &Arc<ServerHandle>, new: PathBuf) -> Result<SwapReport, SwapError> {
    let runtime = server.host().runtime();
    runtime.block_on(server.swap_to(new, Some(SwapPolicy::HandOff)))
}

/// Gives new and live sessions the version before.
fn roll_back(server: &Arc<ServerHandle>) -> Result<SwapReport, SwapError> {
    server.host().runtime().block_on(server.roll_back())
}

/// The report counts what became of the live sessions. An error changes nothing, except
/// [`SwapError::NotRecorded`].
fn report(swapped: Result<SwapReport, SwapError>) {
    match swapped {
        Ok(report) => println!(
            "{} -> {}: {} moved, {} ended, stayed {:?}, rolled back: {}, longest pause {:?}",
            report.from,
            report.to,
            report.moved,
            report.ended,
            report.stayed,
            report.rolled_back,
            report.pause(1.0),
        ),
        Err(error) => println!("error: {error}"),
    }
}

fn list(server: &ServerHandle) {
    for session in server.sessions(0, LIST_MAX) {
        println!("session {} of {} on {}", session.info.id, session.info.peer, session.plugin);
    }
    println!("{} sessions, new ones get {}", server.session_count(), server.plugin().label());
}
