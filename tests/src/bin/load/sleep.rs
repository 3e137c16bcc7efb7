//! Sleeping sessions, and how long they take to wake.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::Result;
use wharf::server::ServerHandle;

/// Waits until every session has dropped its instance.
pub(super) fn all_sleep(server: &ServerHandle) {
    while server.sessions(0, usize::MAX).iter().any(|session| !session.stats.asleep) {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Prints the time from the first byte to the answer, awake and asleep, on 200 further connections.
pub(super) fn wake(server: &ServerHandle) -> Result<()> {
    let mut sockets = Vec::new();
    for _ in 0..200 {
        let mut socket = TcpStream::connect(server.address())?;
        socket.set_nodelay(true)?;
        answer(&mut socket)?;
        sockets.push(socket);
    }
    let mut times = |what: &str| -> Result<()> {
        let mut all = sockets.iter_mut().map(answer).collect::<Result<Vec<_>>>()?;
        all.sort_unstable();
        println!(
            "first byte to answer, {what}: p50 {:?}, p99 {:?}",
            all[all.len() / 2],
            all[all.len() * 99 / 100]
        );
        Ok(())
    };
    times("awake")?;
    all_sleep(server);
    times("asleep")
}

fn answer(socket: &mut TcpStream) -> Result<Duration> {
    let (start, mut byte) = (Instant::now(), [0]);
    socket.write_all(b"x")?;
    socket.read_exact(&mut byte)?;
    Ok(start.elapsed())
}
