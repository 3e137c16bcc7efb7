//! What a flood of control requests does to sessions: their latency with it, beside their latency without.

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

/// Clients that talk, and how often each does: a load that leaves the machine room.
const TALKERS: usize = 8;
const TALK_EVERY: Duration = Duration::from_millis(5);
/// Connections of the flood.
const FLOODERS: usize = 4;
/// How often each sends a burst, and of how many requests.
const FLOOD_EVERY: Duration = Duration::from_millis(4);

/// Latency of sessions that exchange 64 bytes every few milliseconds, in microseconds.
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

/// Asks for the list of servers so many times a second, until it is cut off; how many answers came.
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
                    stream.write_all(b"GET /v1/servers HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
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
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")).context("a length")?;
        if seen.len() >= head + 4 + length.trim().parse::<usize>()? {
            return Ok(());
        }
    }
}
