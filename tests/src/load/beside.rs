//! The effect of a flood of control requests on sessions: their latency with and without the flood.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// Clients that exchange messages, and the interval of each: a load that leaves the machine room.
const TALKERS: usize = 8;
const TALK_EVERY: Duration = Duration::from_millis(5);
/// Connections of the flood.
const FLOODERS: usize = 4;
/// Interval between two bursts of a connection.
const FLOOD_EVERY: Duration = Duration::from_millis(4);

const REQUEST: &[u8] = b"GET /v1/servers HTTP/1.1\r\nhost: localhost\r\n\r\n";
const REQUEST_LAST: &[u8] =
    b"GET /v1/servers HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// Measures the latency of sessions that exchange 64 bytes every few milliseconds, in microseconds.
///
/// # Errors
/// A connection failed.
pub async fn paced(address: SocketAddr, time: Duration) -> Result<Histogram<u64>> {
    let mut talkers = JoinSet::new();
    for _ in 0..TALKERS {
        talkers.spawn(async move {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut latency = Histogram::<u64>::new_with_max(60_000_000, 3)?;
            let (out, mut inbox) = ([7; 64], [0; 64]);
            let (start, mut turns) = (Instant::now(), interval(TALK_EVERY));
            turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
            while start.elapsed() < time {
                turns.tick().await;
                let sent = Instant::now();
                stream.write_all(&out).await?;
                stream.read_exact(&mut inbox).await?;
                latency.saturating_record(sent.elapsed().as_micros() as u64);
            }
            anyhow::Ok(latency)
        });
    }
    let mut all = Histogram::<u64>::new_with_max(60_000_000, 3)?;
    while let Some(one) = talkers.join_next().await {
        all.add(one??)?;
    }
    Ok(all)
}

/// Requests the list of servers `per_second` times a second, for `time`. Returns how many answers
/// came.
///
/// # Errors
/// A connection failed.
pub async fn flood(socket: &Path, per_second: usize, time: Duration) -> Result<usize> {
    let burst = per_second * FLOOD_EVERY.as_millis() as usize / 1_000 / FLOODERS;
    let mut flooders = JoinSet::new();
    for _ in 0..FLOODERS {
        let socket: Arc<Path> = socket.into();
        flooders.spawn(async move {
            let mut stream = UnixStream::connect(&socket).await?;
            let (start, mut turns, mut answers) = (Instant::now(), interval(FLOOD_EVERY), 0);
            while start.elapsed() < time {
                turns.tick().await;
                for _ in 0..burst.max(1) {
                    stream.write_all(REQUEST).await?;
                    answer(&mut stream).await?;
                    answers += 1;
                }
            }
            anyhow::Ok(answers)
        });
    }
    let mut sum = 0;
    while let Some(one) = flooders.join_next().await {
        sum += one??;
    }
    Ok(sum)
}

/// Reads one answer to its end.
async fn answer(stream: &mut UnixStream) -> Result<()> {
    let mut seen = Vec::with_capacity(4 << 10);
    loop {
        ensure!(stream.read_buf(&mut seen).await? > 0, "the API closed the connection");
        let Some(head) = seen.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&seen[..head])?.to_ascii_lowercase();
        ensure!(text.starts_with("http/1.1 200"), "{text}");
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .context("a length")?;
        if seen.len() >= head + 4 + length.trim().parse::<usize>()? {
            return Ok(());
        }
    }
}

/// Starts a native responder at `native` that repeats one answer of the API at `socket`. Clients
/// have the same work as with the API, and the answer costs next to nothing.
///
/// # Errors
/// The API did not answer, or the socket cannot be bound.
pub fn answer_natively(native: &Path, socket: &Path) -> Result<()> {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    let mut api = UnixStream::connect(socket)?;
    api.write_all(REQUEST_LAST)?;
    let mut canned = Vec::new();
    api.read_to_end(&mut canned)?;
    let canned: Arc<[u8]> =
        String::from_utf8(canned)?.replace("connection: close\r\n", "").into_bytes().into();
    let listener = UnixListener::bind(native)?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let canned = Arc::clone(&canned);
            std::thread::spawn(move || {
                // The same niceness as the API's thread.
                let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
                let mut request = [0; REQUEST.len()];
                while stream.read_exact(&mut request).is_ok() && stream.write_all(&canned).is_ok() {
                }
            });
        }
    });
    Ok(())
}
