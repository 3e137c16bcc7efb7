//! Guests that abuse host calls: for ever, too late, while the client leaves, and in waits that
//! never end.

use std::io::Read;
use std::thread;
use std::time::Duration;

use wharf::event::Priority;
use wharf::plugin::Grant;
use wharf::sched::BudgetChange;
use wharf::server::{BreakerLimits, ServerHandle};
use wharf::session::Watermarks;
use wharf_tests::clients::Client;
use wharf_tests::guests::{guest, polite};
use wharf_tests::imports::granted;
use wharf_tests::oracle::{judge, only_ends};
use wharf_tests::servers::{PATIENCE, describe, ended, eventually};

use crate::{costs_its_session, costs_its_session_with, say};

/// Either the fuel or the CPU time may run out first.
const BUDGET: [&str; 2] = ["fuel", "cpu-time"];
const HIGH: usize = 64 << 10;

fn marks() -> Watermarks {
    Watermarks { high_bytes: HIGH, low_bytes: 16 << 10 }
}

#[test]
fn deaf_peer_flood_is_bounded_and_ended() {
    let counters = judge(
        || describe(guest("write-flood")).watermarks(marks()).timeout(Duration::from_millis(400)),
        |server| {
            let _deaf = say(server, "x");
            let queued =
                || server.sessions(0, 1).first().map_or(0, |session| session.stats.queued_bytes);
            let mut most = 0;
            eventually("it is full", || {
                most = most.max(queued());
                most >= HIGH
            });
            eventually("it is ended", || {
                most = most.max(queued());
                server.session_count() == 0
            });
            assert!(most <= 2 * HIGH, "{most} bytes were queued");
            ended(server, "write-timeout", 1);
        },
    );
    only_ends(&counters, "write-timeout", 1);
}

#[test]
fn full_buffer_that_drains_wakes_the_guest() {
    let counters = judge(
        || describe(polite()),
        |server| {
            let mut client = say(server, "F");
            eventually("the event is over and the buffer full", || {
                let session = server.sessions(0, 1).pop();
                session
                    .is_some_and(|session| (session.stats.events, session.stats.event) == (2, None))
            });
            let mut piece = vec![0; HIGH];
            // `on-write` answers with a letter that nothing else sends.
            loop {
                let count = client.0.read(&mut piece).expect("data");
                if piece[..count].contains(&b'w') {
                    break;
                }
            }
            client.echo("still open").finish().expect_closed();
        },
    );
    only_ends(&counters, "peer-closed", 1);
}

#[test]
fn endless_empty_writes_are_charged_and_keep_nothing() {
    costs_its_session(|| guest("empty-writes"), &BUDGET);
}

#[test]
fn close_at_once_writes_one_farewell() {
    let counters = judge(
        || describe(guest("close-at-once")),
        |server| {
            (0..20).for_each(|_| Client::connect(server.address()).expect("bye").expect_closed());
        },
    );
    only_ends(&counters, "closed-by-plugin", 20);
}

#[test]
fn session_ends_once_however_often_ended() {
    let counters = judge(
        || describe(guest("write-after-close")),
        |server| {
            let mut client = say(server, "hello");
            client.expect("hello");
            let id = server.sessions(0, 1)[0].info.id;
            let first = server.disconnect(id);
            let again: Vec<_> = (0..10).map(|_| server.disconnect(id)).collect();
            assert!(first && again.iter().all(|again| !again));
            client.expect_closed();
            ended(server, "evicted", 1);
            assert!(!server.disconnect(id) && !server.abort(id));
        },
    );
    only_ends(&counters, "evicted", 1);
}

/// Connects one client, which sends and then leaves in one of five ways, or is ended.
fn come_and_go(server: &ServerHandle, number: usize) {
    use std::io::Write;
    let mut client = Client::connect(server.address());
    for _ in 0..number % 4 {
        // Another session may end this one at any moment.
        let _ = client.0.write_all(b"x");
        let _ = client.0.read(&mut [0; 4_000]);
    }
    match number % 5 {
        0 => drop(rustix::net::sockopt::set_socket_linger(&client.0, Some(Duration::ZERO))),
        1 => drop(client.0.shutdown(std::net::Shutdown::Write)),
        2 => {
            let _ = client.0.shutdown(std::net::Shutdown::Write);
            let _ = client.rest();
        }
        _ => {}
    }
}

#[test]
fn calls_that_race_with_an_end_never_fail() {
    let counters = judge(
        || {
            let server = describe(granted("busy-caller", &[Grant::Server]))
                .timeout(Duration::from_millis(500));
            server.breaker(BreakerLimits { faults: 0, ..BreakerLimits::default() })
        },
        |server| {
            thread::scope(|scope| {
                for crowd in 0..4 {
                    scope.spawn(move || {
                        (0..60).for_each(|number| come_and_go(server, crowd + number));
                    });
                }
                scope.spawn(|| {
                    for id in 1..=240 {
                        eventually("it came", || server.counters().accepted >= id);
                        let _ = if id % 3 == 0 { server.abort(id) } else { server.disconnect(id) };
                    }
                });
            });
        },
    );
    assert_eq!(counters.accepted, 240, "{counters:?}");
    let known =
        ["peer-closed", "peer-reset", "evicted", "aborted", "write-timeout", "closed-by-plugin"];
    assert!(counters.ended.keys().all(|reason| known.contains(&reason.as_str())), "{counters:?}");
    assert!(counters.faults.is_empty(), "{counters:?}");
}

#[test]
fn endless_call_ends_by_its_wall_time() {
    let budget = BudgetChange { wall: Some(Duration::from_millis(500)), ..BudgetChange::default() };
    let server = || {
        describe(granted("sleeper", &[Grant::Clocks]))
            .budget(Priority::Normal, budget)
            .timeout(PATIENCE)
    };
    costs_its_session_with(server, &["wall-time"]);
}

#[test]
fn operator_cancels_an_endless_call() {
    let counters = judge(
        || describe(granted("sleeper", &[Grant::Clocks])),
        |server| {
            let mut client = say(server, "x");
            let asleep = || {
                server.sessions(0, 1).pop().filter(|session| session.stats.event == Some("on-read"))
            };
            eventually("it sleeps", || asleep().is_some());
            assert!(server.abort(asleep().expect("it sleeps").info.id));
            client.expect_reset();
        },
    );
    only_ends(&counters, "aborted", 1);
}

#[test]
fn endless_host_calls_are_charged() {
    costs_its_session(|| guest("info-storm"), &BUDGET);
    for (name, grant) in [
        ("clock-storm", Grant::Clocks),
        ("random-storm", Grant::Random),
        ("random-bytes-storm", Grant::Random),
        ("poll-storm", Grant::Clocks),
    ] {
        costs_its_session(|| granted(name, &[grant]), &BUDGET);
    }
}
