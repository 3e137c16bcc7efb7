//! Servers that are steered while fifty clients are connected: suspend, resume, restart, stop, and
//! the lock.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use wharf::server::{
    LockError, NewConnections, Occurrence, ServerEnding, ServerHandle, Status, SteerError,
};
use wharf_tests::clients::Client;
use wharf_tests::guests::{bundled, guest, polite};
use wharf_tests::servers::{ended, eventually, host, start};

const CLIENTS: usize = 50;
const LONG: Duration = Duration::from_secs(20);

fn crowd(server: &ServerHandle) -> Vec<Client> {
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::connect(server.address())).collect();
    serves(&mut clients);
    clients
}

fn serves(clients: &mut [Client]) {
    for client in clients {
        client.echo("hello");
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    host().runtime().block_on(work)
}

/// Checks that nothing arrives for 100 ms. No event marks an absence.
fn quiet(client: &mut Client) {
    client.0.set_read_timeout(Some(Duration::from_millis(100))).expect("a deadline");
    let seen = client.0.read(&mut [0; 1]);
    assert_eq!(seen.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    client.0.set_read_timeout(Some(LONG)).expect("a deadline");
}

#[test]
fn suspended_server_queues_new_connections_and_keeps_sessions() {
    let server = start(polite());
    let mut clients = crowd(&server);
    run(server.suspend(NewConnections::Queue, None)).expect("it runs");
    run(server.suspend(NewConnections::Queue, None)).expect("twice is once");
    assert_eq!(server.status(), Status::Suspended);
    let mut waiting: Vec<_> = (0..10).map(|_| Client::connect(server.address())).collect();
    for client in &mut waiting {
        client.send("early");
    }
    quiet(&mut waiting[0]);
    assert_eq!(server.session_count() as usize, CLIENTS);
    serves(&mut clients);
    server.resume().expect("it runs");
    server.resume().expect("twice is once");
    assert_eq!(server.status(), Status::Listening);
    for client in &mut waiting {
        client.expect("early");
    }
    // Clients get ids in the order in which they are served, and queued clients came before this
    // one.
    let mut late = Client::connect(server.address());
    late.echo("late");
    let port = |client: &Client| client.0.local_addr().expect("an address").port();
    let served: Vec<_> =
        server.sessions(0, 1_000).iter().map(|session| session.info.peer.port()).collect();
    assert_eq!(served.last(), Some(&port(&late)));
    serves(&mut clients);
}

#[test]
fn suspended_server_may_close_new_connections_at_once() {
    let server = start(polite());
    let mut clients = crowd(&server);
    run(server.suspend(NewConnections::Reject, None)).expect("it runs");
    for _ in 0..5 {
        Client::connect(server.address()).expect_gone();
    }
    eventually("all are counted", || server.counters().refused.get("suspended") == Some(&5));
    serves(&mut clients);
    server.resume().expect("it runs");
    Client::connect(server.address()).echo("back");
}

#[test]
fn suspension_may_end_every_session_once() {
    let server = start(polite());
    let mut notices = server.notices();
    let mut clients = crowd(&server);
    run(server.suspend(NewConnections::Queue, Some(ServerEnding::AtOnce))).expect("it runs");
    eventually("the count drops at once", || server.session_count() == 0);
    for client in &mut clients {
        client.expect_closed();
    }
    let idle =
        run(notices.wait_for(|notice| notice.occurrence == Occurrence::Idle)).map(|notice| *notice);
    assert_eq!(idle.expect("a notice").status, Status::Suspended);
    ended(&server, "server-stopped", CLIENTS as u64);
    server.resume().expect("it runs");
    Client::connect(server.address()).echo("fresh");
}

#[test]
fn draining_suspension_ends_sessions_unless_resumed() {
    let server = start(polite());
    let mut clients = crowd(&server);
    run(server.suspend(NewConnections::Queue, Some(ServerEnding::Drain(LONG)))).expect("it runs");
    serves(&mut clients);
    server.resume().expect("it runs");
    run(server.suspend(NewConnections::Queue, Some(ServerEnding::Drain(Duration::from_millis(50)))))
        .expect("it runs");
    for client in &mut clients {
        client.expect_closed();
    }
    ended(&server, "server-stopped", CLIENTS as u64);
}

#[test]
fn restart_keeps_listener_and_ids() {
    let server = start(polite());
    let mut clients = crowd(&server);
    let address = server.address();
    let restarting = std::thread::scope(|scope| {
        let restart = scope.spawn(|| run(server.restart(ServerEnding::AtOnce)));
        // Connecting works throughout, and the restarted server serves these connections.
        let mut during: Vec<_> =
            (0..20).map(|_| TcpStream::connect(address).expect("it is bound")).collect();
        for client in &mut during {
            std::io::Write::write_all(client, b"x").expect("it is open");
        }
        restart.join().expect("no panic")
    });
    assert_eq!(restarting, Ok(0));
    for client in &mut clients {
        client.expect_closed();
    }
    ended(&server, "server-stopped", server.counters().ended["server-stopped"]);
    assert_eq!((server.status(), server.address()), (Status::Listening, address));
    let mut fresh = Client::connect(address);
    fresh.echo("fresh");
    let port = fresh.0.local_addr().expect("an address").port();
    let sessions = server.sessions(0, 1_000);
    let own =
        sessions.iter().find(|session| session.info.peer.port() == port).expect("its session");
    assert!(own.info.id > CLIENTS as u64, "{}", own.info.id);
}

#[test]
fn restart_cuts_off_sessions_that_stay() {
    let server = start(bundled("tests/unruly"));
    let mut sleepers: Vec<_> = (0..3).map(|_| Client::connect(server.address())).collect();
    for sleeper in &mut sleepers {
        sleeper.send("s");
    }
    eventually("they sleep", || {
        server
            .sessions(0, 10)
            .iter()
            .filter(|session| session.stats.event == Some("on-read"))
            .count()
            == 3
    });
    assert_eq!(run(server.restart(ServerEnding::AtOnce)), Ok(3));
    ended(&server, "drain-deadline", 3);
    Client::connect(server.address()).send("?").expect("?");
}

#[test]
fn stopped_server_frees_its_port_and_stays_stopped() {
    let server = start(polite());
    let mut notices = server.notices();
    let mut clients = crowd(&server);
    let address = server.address();
    run(server.stop(LONG));
    assert_eq!(server.status(), Status::Stopped);
    assert_eq!((server.clients(), server.session_count()), (0, 0));
    assert_eq!(server.counters().ended.get("server-stopped"), Some(&(CLIENTS as u64)));
    assert_eq!(notices.borrow_and_update().occurrence, Occurrence::Stopped);
    assert!(TcpStream::connect(address).is_err());
    for client in &mut clients {
        client.expect_closed();
    }
    assert_eq!(run(server.suspend(NewConnections::Queue, None)), Err(SteerError::Stopping));
    assert_eq!(run(server.restart(ServerEnding::AtOnce)), Err(SteerError::Stopping));
    assert_eq!(server.resume(), Err(SteerError::Stopping));
    assert!(matches!(run(server.lock(LONG, LONG)), Err(LockError::Stopping)));
    // The server says `idle` neither at the start nor at the stop.
    assert_eq!(server.counters().notices.get("idle"), None);
    assert_eq!(server.counters().notices.get("stopped"), Some(&1));
}

#[test]
fn idle_is_reported_when_the_last_client_leaves() {
    let server = start(polite());
    for round in 1..=3 {
        drop(crowd(&server));
        eventually("it is idle", || server.counters().notices.get("idle") == Some(&round));
    }
}

#[test]
fn locked_server_runs_no_event_and_accepts_none() {
    let server = start(polite());
    let mut clients = crowd(&server);
    let lock = run(server.lock(LONG, LONG)).expect("no lock is held");
    assert!(lock.is_held() && server.is_locked());
    let events: u64 = server.sessions(0, 100).iter().map(|session| session.stats.events).sum();
    for client in &mut clients {
        client.send("held");
    }
    let mut new_client = Client::connect(server.address());
    new_client.send("new");
    quiet(&mut clients[0]);
    quiet(&mut new_client);
    let sessions = server.sessions(0, 100);
    assert_eq!(sessions.iter().map(|session| session.stats.events).sum::<u64>(), events);
    assert!(sessions.iter().all(|session| session.stats.event.is_none()));
    drop(lock);
    for client in &mut clients {
        client.expect("held");
    }
    new_client.expect("new");
}

#[test]
fn lock_is_exclusive_limited_and_released_by_token() {
    let server = start(polite());
    let short = Duration::from_millis(30);
    let lock = run(server.lock(LONG, LONG)).expect("no lock is held");
    assert!(matches!(run(server.lock(short, LONG)), Err(LockError::Busy)));
    assert!(matches!(run(server.lock(LONG * 4, LONG)), Err(LockError::Limit)));
    let token = lock.into_token();
    assert!(!server.unlock(token + 1_000_000) && server.is_locked());
    assert!(server.unlock(token) && !server.unlock(token) && !server.is_locked());
    let lost = run(server.lock(LONG, short)).expect("it is free").into_token();
    // The holder does not unlock.
    let next = run(server.lock(LONG, LONG)).expect("its time is over");
    assert!(!server.unlock(lost) && next.is_held());
    drop(next);
    Client::connect(server.address()).echo("open");
}

#[test]
fn lock_waits_for_events_until_its_deadline() {
    let server = start(bundled("tests/unruly"));
    let mut sleeper = Client::connect(server.address());
    sleeper.send("s");
    eventually("it sleeps", || {
        server.sessions(0, 1).iter().any(|session| session.stats.event == Some("on-read"))
    });
    let mut other = Client::connect(server.address());
    other.send("?").expect("?");
    assert!(matches!(run(server.lock(Duration::from_millis(50), LONG)), Err(LockError::NotQuiet)));
    other.send("?").expect("?");
}

#[test]
fn stopping_and_restarting_take_a_lock_back() {
    let server = start(polite());
    let mut clients = crowd(&server);
    let lock = run(server.lock(LONG, LONG)).expect("no lock is held");
    for client in &mut clients {
        client.send("held");
    }
    let start = Instant::now();
    assert_eq!(run(server.restart(ServerEnding::AtOnce)), Ok(0));
    assert!(!lock.is_held() && start.elapsed() < LONG);
    let lock = run(server.lock(LONG, LONG)).expect("it is free");
    run(server.stop(LONG));
    assert!(!lock.is_held() && start.elapsed() < LONG);
}

#[test]
fn concurrent_steering_leaves_a_server_that_serves() {
    let server = start(guest("journal"));
    std::thread::scope(|scope| {
        for number in 0..4 {
            let server = &server;
            scope.spawn(move || {
                for _ in 0..20 {
                    match number {
                        0 => run(server.suspend(NewConnections::Queue, None)).expect("it runs"),
                        1 => server.resume().expect("it runs"),
                        2 => drop(run(server.lock(LONG, LONG))),
                        _ => drop(run(server.restart(ServerEnding::AtOnce))),
                    }
                    let _ = TcpStream::connect(server.address());
                }
            });
        }
    });
    server.resume().expect("it runs");
    assert_eq!(server.status(), Status::Listening);
    Client::connect(server.address()).expect("c");
}

#[test]
fn restart_waits_only_for_sessions_before_it() {
    let server = start(bundled("tests/unruly"));
    let mut sleeper = Client::connect(server.address());
    sleeper.send("s");
    eventually("it sleeps", || {
        server.sessions(0, 1).iter().any(|session| session.stats.event == Some("on-read"))
    });
    let overtaken = std::thread::scope(|scope| {
        let restart = scope.spawn(|| run(server.restart(ServerEnding::AtOnce)));
        eventually("it restarts", || server.status() == Status::Restarting);
        run(server.suspend(NewConnections::Queue, None)).expect("it runs");
        server.resume().expect("it runs");
        let mut new_client = Client::connect(server.address());
        new_client.send("?").expect("?");
        let overtaken = restart.join().expect("no panic");
        new_client.send("?").expect("?");
        overtaken
    });
    assert_eq!(overtaken, Err(SteerError::Overtaken));
    ended(&server, "drain-deadline", 1);
}

#[test]
fn abort_and_drain_pass_a_lock() {
    let server = start(polite());
    let mut client = Client::connect(server.address());
    client.echo("hello");
    let lock = run(server.lock(LONG, LONG)).expect("no lock is held");
    client.send("held");
    let start = Instant::now();
    assert!(server.abort(1));
    // The connection is gone at once. The plugin hears of it when events run again.
    client.expect_reset();
    assert!(lock.is_held() && start.elapsed() < LONG);
    run(server.drain(Duration::from_millis(1)));
    assert!(!lock.is_held());
    run(server.stop(LONG));
}

#[test]
fn suspension_precedes_calls_that_wait_for_locks() {
    let server = start(polite());
    let mut clients = crowd(&server);
    let _held = run(server.lock(LONG, LONG)).expect("no lock is held");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| run(server.lock(LONG, LONG)).map(drop));
        // The call may wait already or start later; the result is the same.
        std::thread::sleep(Duration::from_millis(50));
        run(server.suspend(NewConnections::Queue, Some(ServerEnding::AtOnce))).expect("it runs");
        assert!(matches!(waits.join().expect("it was told"), Err(LockError::Stopping)));
    });
    for client in &mut clients {
        client.expect_closed();
    }
    ended(&server, "server-stopped", CLIENTS as u64);
    assert!(server.counters().faults.is_empty() && !server.is_locked());
    eventually("sessions have ended, and there is a lock to be had again", || {
        run(server.lock(LONG, LONG)).is_ok()
    });
}
