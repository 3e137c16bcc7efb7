//! Lanes: a live session changes its threads with its class, and its client notices nothing.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use wharf::event::Priority;
use wharf::sched::Lane;
use wharf::server::{Host, HostConfig, Server, ServerHandle};
use wharf_tests::certificates::Certificates;
use wharf_tests::clients::Client;
use wharf_tests::guests::{component, file, inline, polite};
use wharf_tests::servers::{describe, eventually, start};

const LANES: [Priority; 3] = [Priority::Critical, Priority::Background, Priority::Normal];

/// Text in which every line has its number.
fn numbered(lines: usize) -> Vec<u8> {
    (0..lines).flat_map(|line| format!("{line:07}\n").into_bytes()).collect()
}

/// Moves every session through the lanes until the clients are done. Returns the number of moves.
fn shuffle(server: &ServerHandle, clients: Vec<thread::JoinHandle<()>>) -> usize {
    let mut moves = 0;
    while clients.iter().any(|client| !client.is_finished()) {
        for session in server.sessions(0, 1_000) {
            let class = LANES[(session.info.id as usize + moves) % LANES.len()];
            server.assign(session.info.id, class);
        }
        moves += 1;
        thread::sleep(Duration::from_millis(1));
    }
    clients.into_iter().for_each(|client| client.join().expect("every byte came back in order"));
    moves
}

fn openssl_client(address: SocketAddr, certificates: &Certificates) -> thread::JoinHandle<()> {
    let mut client = Command::new("openssl")
        .args([
            "s_client",
            "-quiet",
            "-no_ign_eof",
            "-nocommands",
            "-servername",
            "localhost",
            "-connect",
        ])
        .arg(address.to_string())
        .arg("-CAfile")
        .arg(certificates.path("ca.pem"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl runs");
    let (mut to, mut from) =
        (client.stdin.take().expect("its input"), client.stdout.take().expect("its output"));
    thread::spawn(move || {
        let data = numbered(50_000);
        let sent = data.clone();
        let writer = thread::spawn(move || to.write_all(&sent).map(|()| to));
        let mut seen = vec![0; data.len()];
        from.read_exact(&mut seen).expect("all of it");
        assert!(seen == data, "bytes were lost or out of order");
        drop(writer.join().expect("it wrote").expect("all was taken"));
        client.wait().expect("it ends");
    })
}

fn plain_client(address: SocketAddr) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let data = numbered(50_000);
        let mut client = Client::connect(address);
        let (mut to, sent) = (client.0.try_clone().expect("a handle"), data.clone());
        let writer = thread::spawn(move || to.write_all(&sent));
        let mut seen = vec![0; data.len()];
        client.0.read_exact(&mut seen).expect("all of it");
        assert!(seen == data, "bytes were lost or out of order");
        writer.join().expect("it wrote").expect("all was taken");
    })
}

#[test]
fn sessions_change_lanes_without_losing_a_byte() {
    let server = start(polite());
    let clients = (0..50).map(|_| plain_client(server.address())).collect();
    assert!(shuffle(&server, clients) > 3);
    eventually("all left", || server.clients() == 0);
    assert!(server.counters().faults.is_empty());
}

#[test]
fn tls_session_changes_lanes_without_losing_a_byte() {
    let certificates = Certificates::new();
    let server =
        describe(polite()).credentials(certificates.credentials()).start().expect("it starts");
    let clients = (0..8).map(|_| openssl_client(server.address(), &certificates)).collect();
    assert!(shuffle(&server, clients) > 3);
    assert!(server.counters().faults.is_empty());
}

#[test]
fn idle_session_changes_lane_at_once() {
    let server = start(polite());
    let mut client = Client::connect(server.address());
    client.echo("hello");
    let id = server.sessions(0, 1)[0].info.id;
    let lane = || server.session(id).map(|session| session.stats.lane);
    assert_eq!(lane(), Some(Lane::Standard));
    for class in LANES.into_iter().cycle().take(30) {
        server.assign(id, class);
        eventually("it is there", || lane() == Some(Lane::of(class)));
        client.echo("still here");
    }
    // 4 is critical, and the server lets its plugin use that class.
    let climber =
        "(func $on-read (param i32 i32) (result i32) (drop (call $set-priority (i32.const 4)))
        (drop (call $try-write (local.get 0) (local.get 1))) (i32.const 0))";
    let climbs = describe(inline("climber", climber))
        .priority_max(Priority::Critical)
        .start()
        .expect("it starts");
    let mut client = Client::connect(climbs.address());
    client.echo("up");
    eventually("it climbed", || climbs.sessions(0, 1)[0].stats.lane == Lane::Fast);
    client.echo("still here");
}

#[test]
fn sessions_begin_in_the_lane_of_their_server() {
    for class in LANES {
        let server = describe(polite()).priority(class).start().expect("it starts");
        let mut client = Client::connect(server.address());
        client.echo("hello");
        assert_eq!(server.sessions(0, 1)[0].stats.lane, Lane::of(class));
    }
}

/// A server with one thread in each lane, whose plugin spins for ever at every byte.
fn spinning(host: &Host, tenant: &str, class: Priority) -> ServerHandle {
    let file = file(
        "spins",
        &component("(func $on-read (param i32 i32) (result i32) (call $spin) (i32.const 0))"),
    );
    let builder =
        Server::builder().host(host).local_host("127.0.0.1").tenant(tenant).priority(class);
    builder.plugin(file).start().expect("it starts")
}

/// Connects clients whose event spins until its fuel ends.
fn spin(server: &ServerHandle, clients: usize) -> Vec<Client> {
    let mut clients: Vec<_> = (0..clients).map(|_| Client::connect(server.address())).collect();
    eventually("all are in", || server.session_count() as usize == clients.len());
    for client in &mut clients {
        client.send("x");
    }
    clients
}

fn one_thread() -> Host {
    Host::new(&HostConfig { workers: 1, sessions_max: 128, ..HostConfig::default() })
        .expect("a host")
}

fn faults(server: &ServerHandle) -> u64 {
    server.counters().faults.values().sum()
}

#[test]
fn tenants_share_equally_however_many_sessions() {
    let host = one_thread();
    let (crowd, single) =
        (spinning(&host, "crowd", Priority::Normal), spinning(&host, "single", Priority::Normal));
    let _clients = spin(&crowd, 30);
    let _client = spin(&single, 1);
    eventually("the single one has had its fuel", || faults(&single) == 1);
    // If each session had a share of its own, or in order of arrival, most of the crowd would be
    // done.
    assert!(faults(&crowd) < 10, "{} of the crowd are done", faults(&crowd));
    eventually("the crowd is not starved", || faults(&crowd) == 30);
}

#[test]
fn higher_class_runs_most_without_starving_lower() {
    let host = one_thread();
    let (low, high) =
        (spinning(&host, "low", Priority::Low), spinning(&host, "high", Priority::High));
    let _low = spin(&low, 20);
    let _high = spin(&high, 4);
    eventually("the higher have had their fuel", || faults(&high) == 4);
    assert!(faults(&low) < 10, "{} of the lower are done", faults(&low));
    eventually("the lower are not starved", || faults(&low) == 20);
}

#[test]
fn short_event_runs_before_long_ones() {
    let host = one_thread();
    let spins = spinning(&host, "spins", Priority::Normal);
    let polite = file("polite-beside", &component(""));
    let polite = Server::builder()
        .host(&host)
        .local_host("127.0.0.1")
        .plugin(polite)
        .start()
        .expect("it starts");
    let mut client = Client::connect(polite.address());
    client.echo("before");
    let _clients = spin(&spins, 60);
    for _ in 0..5 {
        client.echo("beside");
    }
    assert!(faults(&spins) < 55, "{} of the long ones were served first", faults(&spins));
    eventually("they end by their fuel", || faults(&spins) == 60);
}

#[test]
fn idle_thread_takes_over_waiting_sessions() {
    // Two threads share the sessions of one tenant. Then the sessions of one of the threads leave.
    let host = Host::new(&HostConfig { workers: 2, sessions_max: 64, ..HostConfig::default() })
        .expect("a host");
    let spins = spinning(&host, "spins", Priority::High);
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(spins.address())).collect();
    eventually("all are in", || spins.session_count() == 20);
    // Every other client is on the same thread.
    for client in clients.iter_mut().step_by(2) {
        client.send("x");
    }
    eventually("they have had their fuel", || faults(&spins) == 10);
    for client in clients.iter_mut().skip(1).step_by(2) {
        client.send("x");
    }
    eventually("and so have the others", || faults(&spins) == 20);
    let standard = host.run_queues()[1];
    assert!(standard.taken_over > 0, "{standard:?}");
    assert_eq!(standard.waiting, 0);
}
