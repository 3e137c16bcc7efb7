//! The attacker's clients and operators.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use wharf::sched::{Lane, take};

use super::{ATTACKER, ATTACKS, made};
use crate::load::api::Api;
use crate::load::clients;

/// The control socket in the folder of an attack.
pub(super) const SOCKET: &str = "control.sock";
/// The component with huge names in that folder.
const NAMES: &str = "names";
/// Time that a client waits after it was refused or cut off, before it connects again.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Time that a wave of sessions stays.
const WAVE: Duration = Duration::from_millis(150);
/// Connections that are opened at a time.
const OPENING: usize = 16;

/// The behaviour of an attack's clients and operators.
#[derive(Debug, Clone, Copy)]
pub(super) enum Drive {
    /// Each client sends the order again after each answer. Beside them, `silent` clients send
    /// nothing and read everything.
    Orders { order: u8, clients: usize, silent: usize },
    /// Each client sends the order once, and reads everything.
    Once { order: u8, clients: usize },
    /// Each client makes the guest write much, reads nothing, and connects again.
    Unread { clients: usize },
    /// Each client connects, sends one byte, closes, and repeats this.
    Storm { clients: usize },
    /// Many sessions connect, stay for a moment and leave, again and again.
    Waves { clients: usize },
    /// Operators swap to every version of the folder, all at once, again and again.
    Swaps,
    /// Operators swap to the component with huge names, again and again.
    Names,
    /// Many calls wait for the lock, and each holds it as long as it may.
    Locks { waiting: usize },
    /// Operators send large requests about the server, beside `silent` sessions that send nothing.
    Requests { connections: usize, silent: usize },
}

/// Which attack on what.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// The attack's name.
    name: String,
    /// The attacker's server.
    address: SocketAddr,
    /// The folder with the control socket and the components.
    folder: PathBuf,
}

/// Attacks until the standard input ends. Prints `ready` once all clients and operators are at
/// work.
///
/// # Errors
/// No attack has this name, or its clients cannot connect.
pub fn drive(target: &Target) -> Result<()> {
    let attack = ATTACKS
        .iter()
        .find(|attack| attack.name == target.name)
        .context("an attack of that name")?;
    // The measurement is about the server, so its clients run in the idle lane.
    let _ = take(Lane::Idle);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let _entered = runtime.enter();
    let mut work = runtime.block_on(attack.drive.begin(target))?;
    println!("ready");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    work.abort_all();
    std::process::exit(0);
}

impl Drive {
    /// Makes the components that the attack needs, in its folder.
    pub(super) fn prepare(self, folder: &Path) -> Result<()> {
        match self {
            Self::Swaps => drop(made::queue(folder)?),
            Self::Names => drop(made::kept(folder, NAMES, &made::huge_names()?)?),
            _ => {}
        }
        Ok(())
    }

    async fn begin(self, target: &Target) -> Result<JoinSet<()>> {
        let (address, api) = (target.address, Api::at(target.folder.join(SOCKET)));
        let mut work = JoinSet::new();
        match self {
            Self::Orders { order, clients, silent } => {
                silently(&mut work, address, silent).await;
                for _ in 0..clients {
                    work.spawn(again(move || give_orders(address, order)));
                }
            }
            Self::Once { order, clients } => {
                for _ in 0..clients {
                    work.spawn(again(move || order_once(address, order)));
                }
            }
            Self::Unread { clients } => {
                for _ in 0..clients {
                    work.spawn(again(move || unread(address)));
                }
            }
            Self::Storm { clients } => {
                for _ in 0..clients {
                    work.spawn(again(move || async move {
                        loop {
                            let mut stream = clients::connect(address).await?;
                            stream.write_all(b"x").await?;
                            stream.read_u8().await?;
                        }
                    }));
                }
            }
            Self::Waves { clients } => {
                work.spawn(again(move || wave(address, clients)));
            }
            Self::Swaps => {
                for entry in std::fs::read_dir(&target.folder)?.flatten() {
                    let file = entry.path();
                    if file.extension().is_some_and(|extension| extension == "wasm") {
                        swap_in(&mut work, &api, file);
                    }
                }
            }
            Self::Names => swap_in(&mut work, &api, target.folder.join(format!("{NAMES}.wasm"))),
            Self::Locks { waiting } => {
                for _ in 0..waiting {
                    let api = api.clone();
                    let body = json!({ "wait": "60s", "hold": "60s" }).to_string();
                    let path = format!("/v1/servers/{ATTACKER}/lock");
                    work.spawn(repeat(api, "POST", path, body.into_bytes().into()));
                }
            }
            Self::Requests { connections, silent } => {
                silently(&mut work, address, silent).await;
                for number in 0..connections {
                    let (method, path, body) = request(number);
                    let path = format!("/v1/servers/{ATTACKER}{path}");
                    work.spawn(repeat(api.clone(), method, path, body.into()));
                }
            }
        }
        Ok(work)
    }
}

/// One of four requests with a large body or a large answer.
fn request(number: usize) -> (&'static str, &'static str, Vec<u8>) {
    match number % 4 {
        0 => ("GET", "/sessions?limit=1000", Vec::new()),
        1 => ("PUT", "/data", json!({ "data": "x".repeat(60 << 10) }).to_string().into_bytes()),
        2 => ("POST", "/broadcast", vec![b'x'; 64 << 10]),
        _ => ("PATCH", "/throttle", json!({ "max_clients": 0 }).to_string().into_bytes()),
    }
}

fn swap_in(work: &mut JoinSet<()>, api: &Api, file: PathBuf) {
    let body = json!({ "file": file }).to_string().into_bytes();
    let path = format!("/v1/servers/{ATTACKER}/plugin/swap");
    work.spawn(repeat(api.clone(), "POST", path, body.into()));
}

/// Sends the same request again after each answer.
async fn repeat(api: Api, method: &'static str, path: String, body: Arc<[u8]>) {
    loop {
        let answered = api.ask(method, &path, &body).await;
        // A request that was refused for lack of room is repeated after a pause.
        if !answered.is_ok_and(|answer| answer.status < 500) {
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}

/// Repeats some work for ever, with a pause after each failure.
async fn again<F: Future<Output = Result<()>>>(mut work: impl FnMut() -> F) {
    loop {
        if work().await.is_err() {
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}

async fn give_orders(address: SocketAddr, order: u8) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut answer = vec![0; 64 << 10];
    loop {
        stream.write_all(&[order]).await?;
        if stream.read(&mut answer).await? == 0 {
            return Ok(());
        }
    }
}

async fn order_once(address: SocketAddr, order: u8) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&[order]).await?;
    let mut scratch = [0; 256];
    while stream.read(&mut scratch).await? > 0 {}
    Ok(())
}

async fn unread(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"W").await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(())
}

/// Opens sessions that send nothing and read everything.
async fn silently(work: &mut JoinSet<()>, address: SocketAddr, count: usize) {
    for stream in open(address, count).await {
        work.spawn(async move {
            let (mut stream, mut scratch) = (stream, vec![0; 16 << 10]);
            while stream.read(&mut scratch).await.is_ok_and(|count| count > 0) {}
        });
    }
}

/// Opens up to `count` connections. Leaves out connections that fail.
async fn open(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let (mut opening, mut open) = (JoinSet::new(), Vec::new());
    for number in 0..count {
        opening.spawn(TcpStream::connect(address));
        if opening.len() >= OPENING || number + 1 == count {
            open.extend(opening.join_next().await.and_then(|one| one.ok()?.ok()));
        }
    }
    while let Some(one) = opening.join_next().await {
        open.extend(one.ok().and_then(Result::ok));
    }
    open
}

async fn wave(address: SocketAddr, count: usize) -> Result<()> {
    let held = open(address, count).await;
    tokio::time::sleep(WAVE).await;
    drop(held);
    Ok(())
}
