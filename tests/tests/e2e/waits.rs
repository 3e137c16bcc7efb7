//! Events that wait for their session's own peer. The limits of the peer end them, with the peer's
//! reason, and no version of a plugin is blamed.

use std::time::{Duration, Instant};

use wharf::event::Priority;
use wharf::sched::BudgetChange;
use wharf::server::{
    CanaryOptions, CanaryRules, ServerBuilder, ServerHandle, SwapPolicy, SwapRules, Timeouts,
};
use wharf::session::Watermarks;
use wharf_tests::clients::Client;
use wharf_tests::guests::inline;
use wharf_tests::readers::{PIECE_BYTES, Pattern, Reader, THINKER, writer};
use wharf_tests::seeds::Seed;
use wharf_tests::servers::{describe, ended, eventually, host, swap};

/// How long an event may take, without its waits for the peer.
const WALL: Duration = Duration::from_millis(500);
/// How long a peer may read nothing.
const WRITE: Duration = Duration::from_secs(1);
/// The least rate at which a peer must read, in bytes a second.
const MIN_READ_RATE: u32 = 256 << 10;
/// Pieces that a client asks for: more than the buffers of the kernel take.
const PIECES: u8 = 120;

fn writers(timeouts: Timeouts) -> ServerBuilder {
    let wall = BudgetChange { wall: Some(WALL), ..BudgetChange::default() };
    let marks = Watermarks { high_bytes: 64 << 10, low_bytes: 16 << 10 };
    describe(writer('a')).timeouts(timeouts).budget(Priority::Normal, wall).watermarks(marks)
}

fn strict() -> Timeouts {
    Timeouts { write: Some(WRITE), min_read_rate: Some(MIN_READ_RATE), ..Timeouts::default() }
}

fn start(server: ServerBuilder) -> ServerHandle {
    server.start().expect("it starts")
}

fn waits(server: &ServerHandle) -> usize {
    server.sessions(0, 100).iter().filter(|session| session.stats.event == Some("on-read")).count()
}

/// Connects `count` clients that read too little, each in its own way, until the server ends their
/// sessions.
fn give_up_slow_readers(server: &ServerHandle, count: usize, seed: &mut Seed) {
    let mut readers: Vec<_> = (0..count)
        .map(|_| {
            (Reader::connect(server.address()), Pattern::below(MIN_READ_RATE as usize / 2, seed))
        })
        .collect();
    std::thread::scope(|scope| {
        for (reader, pattern) in &mut readers {
            scope.spawn(|| reader.ask(PIECES).read_until_gone(*pattern, Duration::from_secs(15)));
        }
    });
    eventually("the slow readers are gone", || server.session_count() == 0);
    let counters = server.counters();
    let patterns: Vec<_> = readers.iter().map(|(_, pattern)| *pattern).collect();
    assert!(counters.faults.is_empty(), "{patterns:?}: {:?}", counters.faults);
    let timed_out = counters.ended.get("write-timeout").copied();
    assert_eq!(timed_out, Some(count as u64), "{patterns:?}: {:?}", counters.ended);
}

#[test]
fn steady_reader_gets_everything() {
    let mut seed = Seed::of_this_run();
    let server = start(writers(strict()));
    let bytes = usize::from(PIECES) * PIECE_BYTES;
    let patterns: Vec<_> =
        (0..4).map(|_| Pattern::above(MIN_READ_RATE as usize * 5, &mut seed)).collect();
    std::thread::scope(|scope| {
        for pattern in patterns {
            let address = server.address();
            scope.spawn(move || {
                let (mut reader, begun) = (Reader::connect(address), Instant::now());
                assert_eq!(reader.ask(PIECES).read(pattern, bytes), bytes, "{pattern:?}");
                assert!(begun.elapsed() > WALL, "{pattern:?} was too fast to show anything");
                reader.0.send([1]).expect([b'a', 1, 1]);
            });
        }
    });
    assert!(server.counters().faults.is_empty(), "{:?}", server.counters().faults);
}

#[test]
fn slow_reader_ends_by_its_own_reason() {
    let mut seed = Seed::of_this_run();
    give_up_slow_readers(&start(writers(strict())), 8, &mut seed);
}

#[test]
fn rate_of_zero_leaves_only_the_write_timeout() {
    let timeouts = Timeouts { min_read_rate: Some(0), ..strict() };
    let server = start(writers(timeouts));
    let mut reader = Reader::connect(server.address());
    // Far below the rate of the other tests, but more than nothing each second.
    let drips = Pattern::Paced { bytes: 24 << 10, rest: Duration::from_millis(250) };
    assert!(!reader.ask(PIECES).read_until_gone(drips, WRITE * 4));
    assert!(server.counters().ended.is_empty(), "{:?}", server.counters().ended);
    ended(&server, "write-timeout", 1);
}

#[test]
fn shared_instance_waits_two_seconds_for_a_peer() {
    // A long write timeout and no rate: only the limit of a shared instance can end the session.
    let timeouts = Timeouts { min_read_rate: Some(0), ..Timeouts::default() };
    let patterns = [
        Pattern::Never,
        Pattern::Paced { bytes: 8 << 10, rest: Duration::from_millis(900) },
        Pattern::Paced { bytes: 64 << 10, rest: Duration::from_millis(150) },
    ];
    std::thread::scope(|scope| {
        for pattern in patterns {
            scope.spawn(move || {
                let server = start(writers(timeouts).shared_instances(1));
                let mut other = Reader::connect(server.address());
                other.0.send([1]).expect([b'a', 1, 1]);
                let mut reader = Reader::connect(server.address());
                let began = Instant::now();
                reader.ask(PIECES);
                eventually("it waits for its reader", || waits(&server) == 1);
                let asked = Instant::now();
                std::thread::scope(|scope| {
                    scope.spawn(|| reader.read_until_gone(pattern, Duration::from_secs(15)));
                    // The instance is the same, and counts on.
                    other.0.send([1]).expect([b'a', 1, 2]);
                    let held_up = began.elapsed();
                    assert!(held_up >= Duration::from_secs(2), "{pattern:?}: {held_up:?}");
                    assert!(
                        asked.elapsed() < Duration::from_secs(8),
                        "{pattern:?}: {:?}",
                        asked.elapsed()
                    );
                });
                ended(&server, "write-timeout", 1);
                assert!(
                    server.counters().faults.is_empty(),
                    "{pattern:?}: {:?}",
                    server.counters().faults
                );
            });
        }
    });
}

#[test]
fn slow_readers_take_no_version_back() {
    let mut seed = Seed::of_this_run();
    let rules = SwapRules { faults_min: 3, ..SwapRules::default() };
    let server = start(writers(strict()).swap_rules(rules));
    let report = swap(&server, writer('b'), SwapPolicy::HandOff);
    assert!(!report.rolled_back, "{report:?}");
    give_up_slow_readers(&server, 12, &mut seed);
    Reader::connect(server.address()).0.send([1]).expect([b'b', 1, 1]);
    assert_eq!(server.counters().notices.get("swap-rolled-back"), None);
}

#[test]
fn slow_readers_end_no_canary() {
    let mut seed = Seed::of_this_run();
    let rules = CanaryRules { sessions_min: 1, ..CanaryRules::default() };
    let server =
        start(writers(strict()).swap_rules(SwapRules { canary: rules, ..SwapRules::default() }));
    let options =
        CanaryOptions { share: Some(1.0), live: None, duration: Some(Duration::from_secs(600)) };
    host().runtime().block_on(server.canary(writer('b'), options)).expect("a canary");
    give_up_slow_readers(&server, 30, &mut seed);
    assert!(server.canary_seen().is_some(), "{:?}", server.counters().notices);
    Reader::connect(server.address()).0.send([1]).expect([b'b', 1, 1]);
}

#[test]
fn ended_session_waits_briefly_for_its_peer() {
    // Fast enough that the server would wait without end.
    let reads = Pattern::Paced { bytes: 96 << 10, rest: Duration::from_millis(250) };
    let begin = |timeouts: Timeouts| {
        let server = start(writers(timeouts));
        let mut reader = Reader::connect(server.address());
        reader.ask(u8::MAX);
        (server, reader)
    };
    let lifetime = Timeouts { lifetime: Duration::from_secs(1), ..Timeouts::default() };
    let cases = [("session-timeout", begin(lifetime)), ("evicted", begin(Timeouts::default()))];
    std::thread::scope(|scope| {
        for (reason, (server, mut reader)) in cases {
            scope.spawn(move || {
                eventually("it waits for its reader", || waits(&server) == 1);
                if reason == "evicted" {
                    assert!(server.disconnect(1));
                }
                assert!(
                    reader.read_until_gone(reads, Duration::from_secs(15)),
                    "{reason}: it goes on"
                );
                ended(&server, reason, 1);
                assert!(
                    server.counters().faults.is_empty(),
                    "{reason}: {:?}",
                    server.counters().faults
                );
            });
        }
    });
}

#[test]
fn waiting_event_pays_no_cpu_of_others() {
    let server = start(writers(Timeouts::default()));
    let mut readers: Vec<_> = (0..8).map(|_| Reader::connect(server.address())).collect();
    readers.iter_mut().for_each(|reader| _ = reader.ask(PIECES));
    eventually("all events wait", || waits(&server) == readers.len());
    // Each of these runs on the threads of the waiting sessions, for longer than one of their
    // events may take.
    let minute = Some(Duration::from_secs(60));
    let budget = BudgetChange {
        fuel: Some(1_000_000_000_000),
        cpu: minute,
        wall: minute,
        ..BudgetChange::default()
    };
    let other = start(describe(inline("thinker", THINKER)).budget(Priority::Normal, budget));
    let mut thinking: Vec<_> = (0..6).map(|_| Client::connect(other.address())).collect();
    thinking.iter_mut().for_each(|client| _ = client.send("x"));
    thinking.iter_mut().for_each(|client| _ = client.expect("x"));
    let bytes = usize::from(PIECES) * PIECE_BYTES;
    let all = Pattern::Paced { bytes, rest: Duration::ZERO };
    std::thread::scope(|scope| {
        for reader in &mut readers {
            scope.spawn(move || assert_eq!(reader.read(all, bytes), bytes));
        }
    });
    assert!(server.counters().faults.is_empty(), "{:?}", server.counters().faults);
}
