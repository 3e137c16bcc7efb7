//! The descriptor store: a service manager keeps what a process detaches, and the next process
//! attaches it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use rustix::net::sockopt::socket_acceptconn;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use wharf_tests::clients::Client;
use wharf_tests::control_site::{ControlSite, configure, said};
use wharf_tests::fake_systemd::FakeSystemd;
use wharf_tests::guests::{component, versioned, wharf_binary};
use wharf_tests::holders::{lead_away, listener};
use wharf_tests::new_clients::NewClients;
use wharf_tests::ports::free_port;
use wharf_tests::servers::eventually;

const LISTENS: &str = ".l-echo";
const SESSIONS: &str = ".s";

/// A service under a manager that keeps at most `max` descriptors. Its plugin counts the bytes of
/// each session, and can save and restore.
fn service(max: usize) -> (ControlSite, FakeSystemd) {
    let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
    plugin(folder.path(), "");
    let text = format!(
        "[host]\nsessions_max = 1024\nstop_grace = '200ms'\n[control]\nsocket = 'control.sock'\n\
         [[server]]\nname = 'echo'\nhost = '127.0.0.1'\nport = {port}\nplugin = 'polite.wasm'\n"
    );
    std::fs::write(folder.path().join("wharf.toml"), text).expect("kept");
    started(folder, port, max)
}

fn started(folder: tempfile::TempDir, port: u16, max: usize) -> (ControlSite, FakeSystemd) {
    let manager = FakeSystemd::with_store(folder.path(), max);
    let wharf = manager.start();
    eventually("its socket is kept", || manager.count(LISTENS) == 1);
    (ControlSite { folder, port, wharf }, manager)
}

fn plugin(folder: &Path, restore: &str) {
    std::fs::write(folder.join("polite.wasm"), component(&versioned('a', "", restore)))
        .expect("kept");
}

fn ends(site: &mut ControlSite, signal: Signal) {
    site.wharf.signal(signal);
    assert_eq!(site.wharf.child.wait().expect("it ends").code(), Some(0));
}

fn next(client: &mut Client, count: u8) {
    client.send([1]).expect([b'a', 1, count]);
}

fn status(site: &ControlSite) -> Value {
    site.ok("GET", "/v1/servers/echo", json!({}))
}

#[test]
fn restart_refuses_no_client_and_keeps_plain_sessions() {
    let (mut site, manager) = service(4_096);
    let mut clients: Vec<_> = (0..200).map(|_| Client::connect(site.address())).collect();
    clients.iter_mut().for_each(|client| next(client, 1));
    let ids: Vec<_> =
        site.sessions().iter().map(|session| session["id"].as_u64().expect("an id")).collect();
    site.ok(
        "PUT",
        &format!("/v1/servers/echo/sessions/{}/name", ids[0]),
        json!({ "name": "first" }),
    );
    let new_clients = NewClients::at(site.address(), 200, &[1], &[b'a', 1, 1]);
    new_clients.more(50);
    ends(&mut site, Signal::TERM);
    assert!(manager.count(SESSIONS) >= 400 && manager.count(LISTENS) == 1, "{:?}", manager.names());
    // Without any process, new clients connect, and clients of detached sessions send.
    let mut waits = Client::connect(site.address());
    waits.send([1]);
    clients[7].send([1]);
    site.wharf = manager.start();
    waits.expect([b'a', 1, 1]);
    clients[7].expect([b'a', 1, 2]);
    new_clients.more(50);
    new_clients.end();
    clients
        .iter_mut()
        .enumerate()
        .for_each(|(at, client)| next(client, if at == 7 { 3 } else { 2 }));
    eventually("the store is as before", || manager.names() == [LISTENS]);
    let after = site.sessions();
    let first = after.iter().find(|session| session["name"] == "first").expect("it has its name");
    assert_eq!(first["id"], ids[0]);
    assert!(
        ids.iter().all(|id| after.iter().any(|session| session["id"] == *id)),
        "a number was lost"
    );
    let counters = &status(&site)["counters"];
    assert!(counters["faults"].as_object().is_some_and(serde_json::Map::is_empty), "{counters}");
    assert!(!site.curl(&[], "/metrics").1.contains("session-not-restored"));
    // The next restart keeps the sessions as well.
    ends(&mut site, Signal::TERM);
    site.wharf = manager.start();
    next(&mut clients[0], 3);
}

#[test]
fn sessions_over_the_store_limit_drain() {
    let (mut site, manager) = service(1 + 2 * 3);
    let mut clients: Vec<_> = (0..5).map(|_| Client::connect(site.address())).collect();
    clients.iter_mut().for_each(|client| next(client, 1));
    ends(&mut site, Signal::TERM);
    let said = site.wharf.says("sessions wait for the next process");
    assert!(said.contains("left=3") && said.contains("\"store-full\": 2"), "{said}");
    assert_eq!(manager.count(SESSIONS), 6);
    site.wharf = manager.start();
    let goes_on = |client: &mut Client| {
        let mut heard = [0; 3];
        client.0.write_all(&[1]).and_then(|()| client.0.read_exact(&mut heard)).is_ok()
            && heard == [b'a', 1, 2]
    };
    assert_eq!(clients.iter_mut().map(goes_on).filter(|goes_on| *goes_on).count(), 3);
}

#[test]
fn undetachable_session_finishes_while_new_connections_wait() {
    let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
    std::fs::write(folder.path().join("polite.wasm"), component("")).expect("kept");
    configure(folder.path(), port, "", "");
    let text = std::fs::read_to_string(folder.path().join("wharf.toml"))
        .expect("text")
        .replace("'200ms'", "'1h'");
    std::fs::write(folder.path().join("wharf.toml"), text).expect("kept");
    let (mut site, manager) = started(folder, port, 64);
    let mut old = Client::connect(site.address());
    old.echo("one");
    site.wharf.signal(Signal::TERM);
    let said = site.wharf.says("sessions wait for the next process");
    assert!(said.contains("left=0") && said.contains("\"no-handoff\": 1"), "{said}");
    let mut new_client = Client::connect(site.address());
    new_client.send("two");
    old.echo("three").finish().expect_closed();
    assert_eq!(site.wharf.child.wait().expect("it ends").code(), Some(0));
    site.wharf = manager.start();
    new_client.expect("two").echo("four");
}

#[test]
fn unrestorable_session_is_closed_with_a_reason() {
    let (mut site, manager) = service(64);
    let mut clients: Vec<_> = (0..3).map(|_| Client::connect(site.address())).collect();
    clients.iter_mut().for_each(|client| next(client, 1));
    ends(&mut site, Signal::TERM);
    // The plugin passes its own trial, which has counted nothing, and restores no other session.
    plugin(
        site.folder.path(),
        "(if (i32.gt_u (global.get $count) (i32.const 0)) (then unreachable))",
    );
    site.wharf = manager.start();
    let said = site.wharf.says("could not go on, and was closed");
    assert!(said.contains("unreachable") && said.contains("echo"), "{said}");
    clients.iter_mut().for_each(Client::expect_gone);
    let (_, metrics) = site.curl(&[], "/metrics");
    let counted = |line: &str| line.contains("\"session-not-restored\"") && line.ends_with(" 3");
    assert!(metrics.lines().any(counted), "{metrics}");
    next(&mut Client::connect(site.address()), 1);
    assert_eq!(manager.names(), [LISTENS]);
}

#[test]
fn canary_session_is_not_detached() {
    let (mut site, manager) = service(64);
    let mut client = Client::connect(site.address());
    next(&mut client, 1);
    std::fs::write(site.path("b.wasm"), component(&versioned('b', "", ""))).expect("kept");
    site.plugin(&["canary", "--live", "--share", "1"], Some("b.wasm"));
    client.send([1]).expect([b'b', 1, 2]);
    site.wharf.signal(Signal::TERM);
    let said = site.wharf.says("sessions wait for the next process");
    assert!(said.contains("left=0") && said.contains("\"other-version\": 1"), "{said}");
    assert_eq!(site.wharf.child.wait().expect("it ends").code(), Some(0));
    client.expect_closed();
    assert_eq!(manager.names(), [LISTENS]);
}

#[test]
fn killed_process_leaves_its_listening_socket() {
    let (mut site, manager) = service(64);
    next(&mut Client::connect(site.address()), 1);
    site.wharf.kill();
    let mut new_client = Client::connect(site.address());
    new_client.send([1]);
    site.wharf = manager.start();
    new_client.expect([b'a', 1, 1]);
}

#[test]
fn stale_descriptors_are_removed_and_prevent_no_start() {
    let (mut site, manager) = service(64);
    let mut client = Client::connect(site.address());
    next(&mut client, 1);
    ends(&mut site, Signal::TERM);
    let listens = || TcpListener::bind("127.0.0.1:0").expect("a port");
    let (gone, connected) = (listens(), listens());
    let address = gone.local_addr().expect("an address");
    manager.put(SESSIONS, std::io::pipe().expect("a pipe").0);
    manager.put(SESSIONS, std::fs::File::open("/dev/null").expect("a file"));
    manager.put(SESSIONS, std::fs::File::open(site.path("wharf.toml")).expect("a file"));
    manager.put(
        SESSIONS,
        TcpStream::connect(connected.local_addr().expect("an address")).expect("a connection"),
    );
    manager.put("stored", std::io::pipe().expect("a pipe").0);
    manager.put(".l-gone", gone);
    manager.put(".l-echo", std::io::pipe().expect("a pipe").0);
    manager.put("no-server", listens());
    manager.put("twice", listens());
    manager.put("twice", listens());
    site.wharf = manager.start();
    eventually("only what is of use is there", || manager.names() == [LISTENS]);
    assert!(TcpStream::connect(address).is_err());
    next(&mut client, 2);
}

#[test]
fn drain_and_stop_empty_the_store() {
    let (mut site, manager) = service(64);
    let stopped = site.ctl(&["stop", "echo", "--grace", "0s"]);
    assert!(stopped.status.success(), "{}", said(&stopped));
    assert!(manager.names().is_empty(), "{:?}", manager.names());
    assert!(TcpStream::connect(site.address()).is_err());
    assert!(site.ctl(&["reload"]).status.success());
    eventually("its socket is kept again", || manager.names() == [LISTENS]);
    next(&mut Client::connect(site.address()), 1);
    ends(&mut site, Signal::QUIT);
    assert!(manager.names().is_empty(), "{:?}", manager.names());
}

#[test]
fn store_follows_an_upgrade_to_another_address() {
    let (mut site, manager) = service(64);
    let (before, after) = (site.address(), free_port());
    let text = std::fs::read_to_string(site.path("wharf.toml")).expect("text");
    let text = text.replace(&format!("port = {}", site.port), &format!("port = {after}"));
    std::fs::write(site.path("wharf.toml"), text).expect("kept");
    let mut upgrade = Command::new(wharf_binary());
    let output = upgrade
        .args(["upgrade", "--json", "--socket"])
        .arg(site.socket())
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", said(&output));
    manager.hears("MAINPID=");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let new_process = answer["process"]
        .as_i64()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
        .expect("a process");
    assert!(site.wharf.child.wait().expect("it ends").success());
    site.port = after;
    eventually("the old address is given up", || TcpStream::connect(before).is_err());
    assert_eq!(manager.names(), [LISTENS]);
    // The new process detaches its session like any other.
    let mut client = Client::connect(site.address());
    next(&mut client, 1);
    kill_process(new_process, Signal::TERM).expect("it runs");
    eventually("it has ended", || rustix::process::test_kill_process(new_process).is_err());
    site.wharf = manager.start();
    next(&mut client, 2);
}

#[test]
fn store_gets_the_socket_that_replaced_another() {
    let (mut site, manager) = service(4_096);
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("a port");
    let held = listener(Pid::from_child(&site.wharf.child), site.address());
    lead_away(&held, elsewhere.local_addr().expect("bound"));
    drop(held);
    let listens = || {
        let kept = manager.kept();
        kept.iter().any(|(name, one)| name == LISTENS && socket_acceptconn(one) == Ok(true))
    };
    eventually("the new socket is kept", || manager.count(LISTENS) == 1 && listens());
    next(&mut Client::connect(site.address()), 1);
    site.wharf.kill();
    let mut waits = Client::connect(site.address());
    waits.send([1]);
    site.wharf = manager.start();
    waits.expect([b'a', 1, 1]);
}
