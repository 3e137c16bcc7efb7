//! Errors of `accept` that no test can cause from outside, against a real server.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::plugins::SimHost;
use crate::rng::Rng;
use crate::server::{Server, ServerHandle, Status};

const PATIENCE: Duration = Duration::from_secs(20);
/// Errors that say that the socket itself is broken, although it listens. Other errors do not say
/// that.
const ERRORS: [Errno; 4] = [Errno::BADF, Errno::INVAL, Errno::NOTSOCK, Errno::FAULT];
const SEEDS: u64 = 8;

fn eventually(what: &str, server: &ServerHandle, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        let seen = (server.status(), server.failure(), server.counters().notices);
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}: {seen:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn errors_cost_no_client(seed: u64) {
    let (ground, mut rng) = (SimHost::shared(), Rng(seed));
    let server = Server::builder()
        .host(&ground.host)
        .local_host("127.0.0.1")
        .loaded_plugin(ground.plugin(0));
    let server = server.start().expect("it starts");
    let listener = server.socket().listener.upgrade().expect("it listens");
    let mut clients = Vec::new();
    for _ in 0..2 {
        let errors: Vec<_> = (0..=rng.throw(3)).map(|_| ERRORS[rng.throw(4) as usize]).collect();
        let (before, reported) = (server.counters(), errors.len() as u64);
        listener.inject(errors);
        clients.push(TcpStream::connect(server.address()).expect("it listens"));
        eventually("the client is accepted", &server, || {
            server.counters().accepted > before.accepted
        });
        let stopped = |notices: &std::collections::BTreeMap<String, u64>| {
            notices.get("accept-stopped").copied()
        };
        let more = stopped(&server.counters().notices).unwrap_or(0)
            - stopped(&before.notices).unwrap_or(0);
        assert_eq!(more, reported, "seed {seed}");
        eventually("it listens", &server, || server.status() == Status::Listening);
    }
    drop(listener);
    ground.host.runtime().block_on(server.stop(Duration::ZERO));
}

#[test]
fn injected_errors_cost_no_client() {
    for seed in 0..SEEDS {
        errors_cost_no_client(seed);
    }
}
