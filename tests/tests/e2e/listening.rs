//! Listening sockets that another holder breaks, in each way and at each moment. The server listens
//! again.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::ioctl_fionbio;
use rustix::net::sockopt::socket_acceptconn;
use rustix::net::{bind, listen};
use rustix::process::{Pid, Signal, getpid, kill_process};
use serde_json::{Value, json};
use wharf::net::ListenPort;
use wharf::server::{NewConnections, ServerEnding, ServerHandle, Status, SteerError};
use wharf_tests::certificates::Certificates;
use wharf_tests::clients::Client;
use wharf_tests::control_site::{ControlSite, said};
use wharf_tests::guests::{bundled, polite, wharf_binary};
use wharf_tests::holders::{Harm, lead_away, listener, take_over, unix_listeners};
use wharf_tests::new_process::NewProcess;
use wharf_tests::ports::free_port;
use wharf_tests::rng::Rng;
use wharf_tests::servers::{PATIENCE, describe, eventually, host, start};

use super::tls::{openssl, text};

const LONG: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Idle,
    Load,
    Suspended,
    Rejecting,
    Draining,
    Locked,
    Throttled,
}

const MOMENTS: [Moment; 7] = [
    Moment::Idle,
    Moment::Load,
    Moment::Suspended,
    Moment::Rejecting,
    Moment::Draining,
    Moment::Locked,
    Moment::Throttled,
];

fn run<T>(work: impl Future<Output = T>) -> T {
    host().runtime().block_on(work)
}

/// Waits until a new client is served. Attempts may fail, because the harm loses connections in the
/// backlog.
fn serves(address: SocketAddr) {
    let try_once = || -> std::io::Result<bool> {
        let mut client = TcpStream::connect(address)?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.write_all(b"new")?;
        let mut seen = [0; 3];
        client.read_exact(&mut seen)?;
        Ok(seen == *b"new")
    };
    eventually("a new client is served", || try_once().unwrap_or(false));
}

fn notices(server: &ServerHandle, reason: &str) -> u64 {
    server.counters().notices.get(reason).copied().unwrap_or(0)
}

/// Ends the parallel load of a test, also if the test fails.
struct EndsAtDrop<'a>(&'a AtomicBool);

impl Drop for EndsAtDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Breaks the socket at a moment, waits for the repair, and checks that the server is as before.
fn harm(server: &ServerHandle, at: Moment, how: Harm, reached: SocketAddr) {
    let before = notices(server, "accept-repaired");
    let held = listener(getpid(), server.address());
    let mut lock = None;
    match at {
        Moment::Suspended => run(server.suspend(NewConnections::Queue, None)).expect("it runs"),
        Moment::Rejecting => run(server.suspend(NewConnections::Reject, None)).expect("it runs"),
        Moment::Draining => {
            run(server.suspend(NewConnections::Queue, Some(ServerEnding::Drain(LONG))))
                .expect("it runs");
        }
        Moment::Locked => lock = Some(run(server.lock(LONG, LONG)).expect("no other lock is held")),
        Moment::Throttled => {
            let mut throttle = server.throttle();
            throttle.accept_interval = Duration::from_secs(1);
            server.set_throttle(throttle.into()).expect("a limit");
        }
        Moment::Idle | Moment::Load => {}
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = EndsAtDrop(&over);
        if at == Moment::Load {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _ = TcpStream::connect(reached).map(|mut client| client.write_all(b"load"));
                }
            });
        }
        how.to(&held);
        eventually("it is repaired", || notices(server, "accept-repaired") > before);
    });
    eventually("the same socket listens", || socket_acceptconn(&held) == Ok(true));
    drop(lock);
    if at == Moment::Throttled {
        let mut throttle = server.throttle();
        throttle.accept_interval = Duration::ZERO;
        server.set_throttle(throttle.into()).expect("a limit");
    }
    server.resume().expect("it runs");
    eventually("it says so", || server.status() == Status::Listening);
    assert_eq!(server.failure(), None);
}

#[test]
fn harmed_socket_listens_again() {
    let given = TcpListener::bind("127.0.0.1:0").expect("a port");
    let fixed = ListenPort::Fixed(NonZeroU16::new(free_port()).expect("a port"));
    let dual = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
    let servers = [
        Some(("any port", start(polite()))),
        Some(("fixed port", describe(polite()).local_port(fixed).start().expect("it starts"))),
        dual.then(|| {
            ("two families", describe(polite()).local_host("::").start().expect("it starts"))
        }),
        Some(("given", describe(polite()).listener(given).start().expect("it starts"))),
    ];
    for (seed, (kind, server)) in servers.into_iter().flatten().enumerate() {
        let mut rng = Rng::seeded(seed as u64);
        let reached = SocketAddr::from((Ipv4Addr::LOCALHOST, server.address().port()));
        let mut old = Client::connect(reached);
        old.echo("before");
        for _ in 0..5 {
            let (at, how) = (*rng.one_of(&MOMENTS), *rng.one_of(&Harm::ALL));
            println!("seed {seed}: {kind}, {at:?}, {how:?}");
            harm(&server, at, how, reached);
            old.echo("still here");
            serves(reached);
        }
    }
}

/// Shuts a socket down one to three times in each burst, while its owner repairs the socket.
fn bursts(rng: &mut Rng, socket: &OwnedFd) {
    for _ in 0..*rng.one_of(&[1, 1, 2, 6]) {
        let shutdowns: Vec<Harm> =
            (0..*rng.one_of(&[1, 2, 3])).map(|_| *rng.one_of(&Harm::SHUTDOWNS)).collect();
        println!("    {shutdowns:?}");
        for how in shutdowns {
            how.to(socket);
        }
        // The length of the loop varies the moment of the repair that the next burst meets.
        for _ in 0..*rng.one_of(&[0, 100, 1_000, 10_000]) {
            std::hint::spin_loop();
        }
    }
}

/// Leaves a socket that listens but whose clients cannot talk, unless its owner repairs it first.
fn poison(rng: &mut Rng, socket: &OwnedFd, address: SocketAddr) {
    let how = *rng.one_of(&Harm::SHUTDOWNS);
    println!("    poisoned, {how:?}");
    Harm::ShutBoth.to(socket);
    how.to(socket);
    let _ = bind(socket, &address);
    let _ = listen(socket, 128);
}

#[test]
fn socket_shut_down_often_serves_again() {
    let given = TcpListener::bind("127.0.0.1:0").expect("a port");
    let fixed = ListenPort::Fixed(NonZeroU16::new(free_port()).expect("a port"));
    let dual = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
    let servers = [
        Some(start(polite())),
        Some(describe(polite()).local_port(fixed).start().expect("it starts")),
        dual.then(|| describe(polite()).local_host("::").start().expect("it starts")),
        Some(describe(polite()).listener(given).start().expect("it starts")),
    ];
    std::thread::scope(|scope| {
        for (seed, server) in servers.into_iter().flatten().enumerate() {
            scope.spawn(move || {
                let mut rng = Rng::seeded(seed as u64);
                let reached = SocketAddr::from((Ipv4Addr::LOCALHOST, server.address().port()));
                let mut old = Client::connect(reached);
                old.echo("before");
                for round in 0..6 {
                    println!("seed {seed}, round {round}");
                    let socket = listener(getpid(), server.address());
                    match *rng.one_of(&[true, true, false]) {
                        true => bursts(&mut rng, &socket),
                        false => poison(&mut rng, &socket, server.address()),
                    }
                    serves(reached);
                    old.echo("still here");
                }
                eventually("it says so", || server.status() == Status::Listening);
            });
        }
    });
}

/// A listening socket that is shut down before the server gets it.
#[test]
fn poisoned_socket_is_mended_at_start() {
    for (seed, at) in ["127.0.0.1:0", "0.0.0.0:0"].into_iter().enumerate() {
        let given = TcpListener::bind(at).expect("a port");
        let address = given.local_addr().expect("bound");
        poison(
            &mut Rng::seeded(seed as u64),
            &given.try_clone().expect("a descriptor").into(),
            address,
        );
        let server = describe(polite()).listener(given).start().expect("it starts");
        let mut client = Client::connect((Ipv4Addr::LOCALHOST, server.address().port()).into());
        client.echo("the first client");
    }
}

#[test]
fn harmed_tls_server_serves_again() {
    let certificates = Certificates::new();
    let server = describe(bundled("tests/unruly"))
        .credentials(certificates.credentials())
        .start()
        .expect("it starts");
    for how in Harm::ALL {
        harm(&server, Moment::Idle, how, server.address());
        let said = text(&openssl(server.address(), &certificates, &[], "i"));
        assert!(said.contains("tls=TLSv1.3"), "{said}");
    }
}

#[test]
fn taken_address_is_a_failure_until_freed() {
    let server = start(polite());
    let address = server.address();
    let mut old = Client::connect(address);
    old.echo("before");
    let held = listener(getpid(), address);
    let thief = take_over(&held, address);
    eventually("it has failed", || server.status() == Status::Failed);
    eventually("it says why", || server.failure().is_some_and(|why| why.contains("in use")));
    assert!(notices(&server, "failed") > 0);
    old.echo("still here");
    run(server.suspend(NewConnections::Reject, None)).expect("it runs");
    assert_eq!(
        (server.status(), server.new_connections()),
        (Status::Failed, Some(NewConnections::Reject))
    );
    server.resume().expect("it runs");
    assert!(matches!(run(server.listen_again()),
            Err(SteerError::NotListening(why)) if why.contains("in use")));
    assert!(matches!(run(server.restart(ServerEnding::AtOnce)), Err(SteerError::NotListening(_))));
    drop((thief, held));
    eventually("it listens by itself", || server.status() == Status::Listening);
    assert!(notices(&server, "listening-again") > 0);
    serves(address);
    run(server.stop(Duration::ZERO));
    assert_eq!(server.failure(), None);
    TcpListener::bind(address).expect("a server that was repaired frees its address");
}

#[test]
fn lost_socket_is_replaced_by_a_new_one() {
    let (server, elsewhere) = (start(polite()), TcpListener::bind("127.0.0.1:0").expect("a port"));
    let mut old = Client::connect(server.address());
    old.echo("before");
    let held = listener(getpid(), server.address());
    lead_away(&held, elsewhere.local_addr().expect("bound"));
    serves(server.address());
    old.echo("still here");
    assert_eq!(socket_acceptconn(&held), Ok(false), "the old one is of no use");
    // The new socket is harmed and repaired like any other.
    harm(&server, Moment::Idle, Harm::ShutBoth, server.address());
    serves(server.address());
}

#[test]
fn blocking_socket_holds_up_no_neighbour() {
    let servers: Vec<_> = (0..3).map(|_| start(polite())).collect();
    let mut rng = Rng::seeded(5);
    for _ in 0..6 {
        let harmed = rng.index(servers.len());
        let held = listener(getpid(), servers[harmed].address());
        let clients = *rng.one_of(&[1, 2, 5]);
        println!("server {harmed} blocks, {clients} clients each");
        ioctl_fionbio(&held, false).expect("a mode");
        for _ in 0..clients {
            servers.iter().for_each(|server| serves(server.address()));
        }
        eventually("it does not block any more", || {
            fcntl_getfl(&held).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK))
        });
    }
}

fn process(site: &ControlSite) -> Pid {
    Pid::from_child(&site.wharf.child)
}

fn ready(site: &ControlSite) -> (u16, String) {
    let (code, text) = site.curl(&[], "/readyz");
    let answer: Value = serde_json::from_str(&text).unwrap_or_default();
    (code, answer["error"]["code"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn failed_server_is_told_everywhere() {
    let site = ControlSite::default();
    let mut old = Client::connect(site.address());
    old.echo("before");
    let thief = take_over(&listener(process(&site), site.address()), site.address());
    site.wharf.says("server failed");
    let failed = (503, "not-listening".to_owned());
    eventually("it is not ready", || ready(&site) == failed);
    let shown = site.ok("GET", "/v1/servers/echo", json!({}));
    assert_eq!(shown["status"], "failed");
    assert!(shown["failure"].as_str().is_some_and(|why| why.contains("in use")), "{shown}");
    let (_, metrics) = site.curl(&[], "/metrics");
    assert!(
        metrics.contains("wharf_server_status{server=\"echo\",status=\"failed\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("reason=\"failed\""), "{metrics}");
    assert_eq!(
        site.refused("POST", "/v1/servers/echo/resume", json!({})),
        (409, "not-listening".into())
    );
    assert_eq!(site.ok("POST", "/v1/reload", json!({}))["not_listening"], json!(["echo"]));
    let output = site.ctl(&["restart", "echo"]);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    drop(thief);
    eventually("it is ready again", || ready(&site).0 == 200);
    site.wharf.says("server listening-again");
    assert_eq!(site.ok("POST", "/v1/servers/echo/resume", json!({}))["failure"], json!(null));
    serves(site.address());
}

/// Upgrades the process, and ends the new process with the test.
fn upgraded(site: &ControlSite) -> NewProcess {
    let mut command = std::process::Command::new(wharf_binary());
    let output = command
        .args(["upgrade", "--json", "--socket"])
        .arg(site.socket())
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", said(&output));
    NewProcess::of(&serde_json::from_slice(&output.stdout).expect("an answer"))
}

#[test]
fn new_process_gets_the_new_socket() {
    let (site, elsewhere) =
        (ControlSite::default(), TcpListener::bind("127.0.0.1:0").expect("a port"));
    lead_away(&listener(process(&site), site.address()), elsewhere.local_addr().expect("bound"));
    serves(site.address());
    let new_process = upgraded(&site);
    serves(site.address());
    // The process that has the socket repairs it, whichever it is.
    Harm::ShutBoth.to(&listener(new_process.0, site.address()));
    serves(site.address());
}

/// A site whose control API also has a TCP address. The caller keeps the folder.
fn site_with_address() -> (ControlSite, SocketAddr, tempfile::TempDir) {
    let port = free_port();
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "0123456789abcdef0123456789abcdef").expect("kept");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    let site = ControlSite::with(
        &format!("listen = '127.0.0.1:{port}'\ntoken_file = '{}'", token.display()),
        "",
    );
    (site, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), folder)
}

/// Whether the control API answers at its address.
fn address_answers(at: SocketAddr) -> bool {
    let reached = || -> std::io::Result<usize> {
        let mut client = TcpStream::connect(at)?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        client.read_to_string(&mut answer)?;
        Ok(answer.matches("200 OK").count())
    };
    reached().is_ok_and(|answers| answers == 1)
}

#[test]
fn control_api_outlives_harm_to_its_sockets() {
    let (site, at, _folder) = site_with_address();
    let answers = || {
        let output = site.ctl(&["servers"]);
        output.status.success()
    };
    for how in [Harm::ShutBoth, Harm::ShutRead] {
        for socket in unix_listeners(process(&site)) {
            how.to(&socket);
        }
        site.wharf.says("the control API listens here again");
        eventually("it answers", answers);
        how.to(&listener(process(&site), at));
        site.wharf.says("the control API listens here again");
        eventually("the address answers", || address_answers(at));
    }
    let new_process = upgraded(&site);
    eventually("the new process answers", answers);
    drop(new_process);
}

#[test]
fn blocking_control_sockets_answer_again() {
    let (site, at, _folder) = site_with_address();
    let mut sockets = vec![listener(process(&site), at)];
    sockets.extend(unix_listeners(process(&site)));
    let mut rng = Rng::seeded(9);
    for _ in 0..8 {
        let harmed = rng.one_of(&sockets);
        ioctl_fionbio(harmed, false).expect("a mode");
        for _ in 0..*rng.one_of(&[1, 2, 3]) {
            assert!(address_answers(at));
            assert!(site.ctl(&["servers"]).status.success());
        }
    }
}

#[test]
fn sockets_shut_down_often_answer_again() {
    let (site, at, _folder) = site_with_address();
    for seed in 0..6 {
        let mut rng = Rng::seeded(seed);
        println!("seed {seed}");
        let mut sockets =
            vec![listener(process(&site), at), listener(process(&site), site.address())];
        sockets.extend(unix_listeners(process(&site)));
        // A process that stands still cannot repair before the last shutdown.
        let stands_still = *rng.one_of(&[true, false]);
        if stands_still {
            kill_process(process(&site), Signal::STOP).expect("it is ours");
        }
        for socket in &sockets {
            bursts(&mut rng, socket);
        }
        if stands_still {
            kill_process(process(&site), Signal::CONT).expect("it is ours");
        }
        eventually("the address answers", || address_answers(at));
        eventually("the socket answers", || site.ctl(&["servers"]).status.success());
        serves(site.address());
    }
}
