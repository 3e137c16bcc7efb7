//! Starting a server: each of the ten arguments, and the error for a bad one.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::time::Duration;

use wharf::event::Priority;
use wharf::net::{BindError, ListenPort, SocketOptions};
use wharf::server::{Server, StartError};
use wharf_tests::clients::Client;
use wharf_tests::guests::{bundled, polite};
use wharf_tests::servers::{describe, ended, eventually, host, start};

fn fixed(address: SocketAddr) -> ListenPort {
    ListenPort::Fixed(NonZeroU16::new(address.port()).expect("a port"))
}

fn problem(outcome: Result<wharf::server::ServerHandle, StartError>) -> String {
    outcome.err().expect("the server must not start").to_string()
}

#[test]
fn client_is_served_right_after_start() {
    let server = start(polite());
    Client::connect(server.address()).echo("hello");
}

#[test]
fn empty_host_listens_on_ipv4_only() {
    for local in ["", "0.0.0.0"] {
        let server = describe(polite()).local_host(local).start().expect("it starts");
        let port = server.address().port();
        Client::connect(SocketAddr::from(([127, 0, 0, 1], port))).echo("v4");
        assert!(TcpStream::connect(("::1", port)).is_err(), "{local:?} must not listen on IPv6");
    }
}

#[test]
fn unspecified_ipv6_address_takes_both_families() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: no IPv6 on this machine");
        return;
    }
    let server = describe(bundled("tests/unruly")).local_host("::").start().expect("it starts");
    let port = server.address().port();
    let mut six = Client::connect(format!("[::1]:{port}").parse().expect("an address"));
    six.send("i");
    let mut four = Client::connect(SocketAddr::from(([127, 0, 0, 1], port)));
    four.send("i");
    six.finish();
    four.finish();
    assert!(String::from_utf8_lossy(&six.rest().0).contains("peer=::1 "));
    assert!(
        String::from_utf8_lossy(&four.rest().0).contains("peer=127.0.0.1 "),
        "mapped addresses are unwrapped"
    );
}

#[test]
fn specific_address_listens_only_there() {
    let server = describe(polite()).local_host("127.0.0.2").start().expect("it starts");
    Client::connect(server.address()).echo("here");
    assert!(TcpStream::connect(("127.0.0.1", server.address().port())).is_err());
}

#[test]
fn name_of_this_system_is_resolved() {
    let server = describe(polite()).local_host("localhost").start().expect("it starts");
    assert!(server.address().ip().is_loopback());
}

#[test]
fn foreign_address_is_refused_by_name() {
    let said = problem(describe(polite()).local_host("192.0.2.1").start());
    assert!(said.contains("192.0.2.1") && said.contains("not an address of this system"), "{said}");
}

#[test]
fn unresolved_name_is_refused_by_name() {
    let said = problem(describe(polite()).local_host("no-such-host.invalid").start());
    assert!(said.contains("no-such-host.invalid"), "{said}");
}

#[test]
fn port_in_use_is_refused_even_with_reuse() {
    let first = start(polite());
    for reuse_address in [false, true] {
        let options = SocketOptions { reuse_address, ..SocketOptions::default() };
        let outcome =
            describe(polite()).local_port(fixed(first.address())).options(options).start();
        assert!(matches!(outcome, Err(StartError::Bind(BindError::InUse { .. }))));
    }
    Client::connect(first.address()).echo("still here");
}

#[test]
fn lingering_address_needs_reuse() {
    let first = start(polite());
    let address = first.address();
    // The address of the side that closes first lingers.
    Client::connect(address).send("C").expect_closed();
    ended(&first, "closed-by-plugin", 1);
    first.stop_blocking(Duration::from_secs(5));
    let again = |reuse_address| {
        let options = SocketOptions { reuse_address, ..SocketOptions::default() };
        describe(polite()).local_port(fixed(address)).options(options).start()
    };
    let said = problem(again(false));
    assert!(said.contains("linger") && said.contains("reuse-address"), "{said}");
    Client::connect(again(true).expect("it starts at once").address()).echo("again");
}

#[test]
fn port_is_free_after_a_stop() {
    let server = start(polite());
    let mut client = Client::connect(server.address());
    client.echo("before");
    let address = server.address();
    server.stop_blocking(Duration::from_secs(5));
    client.expect_closed();
    assert_eq!(server.clients(), 0);
    assert_eq!(server.counters().ended.get("server-stopped"), Some(&1));
    assert_eq!(
        TcpStream::connect(address).err().map(|error| error.kind()),
        Some(ErrorKind::ConnectionRefused)
    );
}

#[test]
fn client_over_the_maximum_is_refused() {
    let server = describe(polite()).max_clients(2).start().expect("it starts");
    let mut first = Client::connect(server.address());
    let mut second = Client::connect(server.address());
    first.echo("1");
    second.echo("2");
    Client::connect(server.address()).expect_gone();
    eventually("the refusal is counted", || {
        server.counters().refused.get("limit-clients") == Some(&1)
    });
    drop(first);
    eventually("the place is free", || server.clients() == 1);
    Client::connect(server.address()).echo("3");
    second.echo("still");
}

#[test]
fn server_runs_with_every_socket_option() {
    let options =
        SocketOptions { reuse_address: true, dont_route: true, keep_alive: true, no_delay: true };
    let server = describe(polite()).options(options).backlog(1).start().expect("it starts");
    Client::connect(server.address()).echo("options");
}

#[test]
fn parameter_and_settings_reach_the_plugin() {
    let server = describe(bundled("tests/unruly"))
        .name("first")
        .parameter(-42)
        .setting("greeting", "good day")
        .priority(Priority::Low)
        .start()
        .expect("it starts");
    let mut client = Client::connect(server.address());
    let port = client.0.local_addr().expect("an address").port();
    client.send("ggreeting").expect("good day");
    client.send("i");
    client.finish();
    let (said, _) = client.rest();
    let said = String::from_utf8_lossy(&said).into_owned();
    let expected = format!(
        "id=1 server=first peer=127.0.0.1 port={port} local=127.0.0.1 parameter=-42 \
         priority=Priority::Low tls=none"
    );
    assert_eq!(said, expected);
}

#[test]
fn plugin_raises_its_class_up_to_the_ceiling() {
    let server =
        |max| describe(bundled("tests/unruly")).priority_max(max).start().expect("it starts");
    let capped = server(Priority::High);
    Client::connect(capped.address()).send("P").expect("Priority::High");
    let uncapped = describe(bundled("tests/unruly")).start().expect("it starts");
    Client::connect(uncapped.address()).send("P").expect("Priority::Normal");
}

#[test]
fn server_without_a_plugin_is_refused() {
    let said = problem(Server::builder().host(&host()).start());
    assert!(said.contains("`plugin`"), "{said}");
}

#[test]
fn values_out_of_range_are_refused_by_name() {
    let marks = wharf::session::Watermarks { high_bytes: 10, low_bytes: 5 };
    for (outcome, name) in [
        (describe(polite()).timeout(Duration::ZERO).start(), "`timeout`"),
        (describe(polite()).watermarks(marks).start(), "`limits.send_buffer_high_bytes`"),
        (
            describe(polite()).priority(Priority::High).priority_max(Priority::Low).start(),
            "`priority_max`",
        ),
        (describe(polite()).secure(true).start(), "`credentials`"),
    ] {
        let said = problem(outcome);
        assert!(said.contains(name), "{said}");
    }
}

#[test]
fn several_servers_are_independent() {
    let (one, other) = (start(bundled("tests/unruly")), start(bundled("tests/unruly")));
    let mut first = Client::connect(one.address());
    first.send("c").expect("1");
    let mut second = Client::connect(other.address());
    second.send("c").expect("1");
    one.stop_blocking(Duration::from_secs(5));
    first.expect_closed();
    second.send("c").expect("1");
}

#[test]
fn dropped_handle_ends_sessions_at_once() {
    let server = start(polite());
    let mut client = Client::connect(server.address());
    client.echo("hello");
    drop(server);
    client.expect_gone();
}
