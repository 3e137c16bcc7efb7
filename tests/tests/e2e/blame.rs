//! Blame for faults: strangers at few or many addresses, versions that are worse or not, and the
//! breaker.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use wharf::event::Priority;
use wharf::plugin::Plugin;
use wharf::sched::{BudgetChange, QuotaLimits};
use wharf::server::{
    BreakerLimits, BreakerState, CanaryOptions, CanaryRules, Host, HostConfig, Revision,
    RevisionState, Server, ServerBuilder, ServerHandle, SwapPolicy, SwapRules, TenantLimits,
};
use wharf_tests::clients::Client;
use wharf_tests::guests::{component, file, inline, versioned};
use wharf_tests::rng::Rng;
use wharf_tests::servers::{PATIENCE, describe, eventually, host, swap};

/// Sessions that fault in each test round.
const FAULTS: u32 = 24;

/// A version whose plugin runs `does[i].1` when it reads the byte `does[i].0`.
fn version(label: char, does: &[(char, &str)]) -> Arc<Plugin> {
    inline(&format!("blame-{label}-{}", does.len()), &text(label, does))
}

fn text(label: char, does: &[(char, &str)]) -> String {
    let on = |(byte, what): &(char, &str)| {
        format!(
            "(if (i32.eq (i32.load8_u (local.get $data)) (i32.const {})) (then {what}))\n",
            u32::from(*byte)
        )
    };
    let does: String = does.iter().map(on).collect();
    let begins = "(local.set $at (i32.const 2048))\n  (loop";
    versioned(label, "", "").replace(begins, &format!("{does}{begins}"))
}

/// Faults of every version: a trap, a loop, and a trap in sessions that have sent something before.
const OLD_FAULTS: [(char, &str); 3] = [
    ('B', "unreachable"),
    ('F', "(call $spin)"),
    ('S', "(if (global.get $count) (then unreachable))"),
];

fn old() -> Arc<Plugin> {
    version('a', &OLD_FAULTS)
}

/// A new version that is no worse than the old one.
fn good() -> Arc<Plugin> {
    version('b', &OLD_FAULTS)
}

/// A new version with a fault of its own, at `W`.
fn worse() -> Arc<Plugin> {
    let mut does = OLD_FAULTS.to_vec();
    does.push(('W', "unreachable"));
    version('w', &does)
}

/// How clients reach a server.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// From addresses of the loopback.
    Direct,
    /// Behind a proxy that names an IPv4 address.
    Named4,
    /// Behind a proxy that names an IPv6 address: one network for each client, any address in it.
    Named6,
}

const WAYS: [Way; 3] = [Way::Direct, Way::Named4, Way::Named6];
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 7, 1);

impl Way {
    fn server(self) -> ServerBuilder {
        let server =
            describe(old()).breaker(BreakerLimits { faults: 0, ..BreakerLimits::default() });
        match self {
            Self::Direct => server,
            Self::Named4 | Self::Named6 => {
                server.proxies(vec!["127.0.7.0/24".parse().expect("a network")])
            }
        }
    }

    /// Connects as client `number`.
    fn connect(self, server: &ServerHandle, number: u32, rng: &mut Rng) -> Client {
        let proxied = |header: String| {
            let mut client = connect_from(PROXY, server);
            client.send(header);
            client
        };
        match self {
            Self::Direct => connect_from(Ipv4Addr::new(127, 0, 9, 1 + number as u8), server),
            Self::Named4 => proxied(format!("PROXY TCP4 192.0.2.{number} 192.0.2.200 4000 80\r\n")),
            Self::Named6 => proxied(format!(
                "PROXY TCP6 2001:db8:0:{number}::{:x} ::1 4000 80\r\n",
                rng.below(0xffff)
            )),
        }
    }
}

fn connect_from(address: Ipv4Addr, server: &ServerHandle) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(IpAddr::V4(address), 0).into()).expect("an address");
    socket.connect(&server.address().into()).expect("the server accepts");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    Client(stream)
}

fn notice(server: &ServerHandle, name: &str) -> u64 {
    server.counters().notices.get(name).copied().unwrap_or(0)
}

fn faults(server: &ServerHandle) -> u64 {
    server.counters().faults.values().sum()
}

/// Waits until every fault so far was replayed or was over the quota.
fn replays_are_done(server: &ServerHandle, faults: u64) {
    let names = ["same", "differs", "unsure", "over-quota"].map(|name| format!("replay-{name}"));
    let done = || names.iter().map(|name| notice(server, name)).sum::<u64>();
    eventually("replays are done", || done() == faults);
}

/// Checks that no version is rolled back for the time of several decisions.
fn stays(server: &ServerHandle, round: &str) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        assert_eq!(
            notice(server, "swap-rolled-back"),
            0,
            "{round}: {:?}",
            server.counters().notices
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn last(server: &ServerHandle) -> Revision {
    server.revisions().last().expect("it has versions").0.clone()
}

/// Sends a byte, ends the stream, and waits for the end of the session.
fn say(client: &mut Client, byte: u8) {
    client.send([byte]);
    // The connection may be reset already.
    _ = client.0.shutdown(Shutdown::Write);
    _ = client.rest();
}

/// Runs [`FAULTS`] sessions that end by one of these bytes, from these addresses in rotation.
fn provoke(way: Way, server: &ServerHandle, addresses: u32, bytes: &[u8], rng: &mut Rng) {
    for step in 0..FAULTS {
        let byte = bytes[rng.below(bytes.len() as u64) as usize];
        way.connect(server, step % addresses, rng).send([byte]).expect_gone();
    }
}

#[test]
fn strangers_do_not_take_good_version_back() {
    for (seed, addresses) in [1, 2, 3, 10].into_iter().enumerate() {
        let (way, mut rng) = (WAYS[seed % WAYS.len()], Rng::seeded(seed as u64));
        let others = rng.below(4) as u32;
        let round = format!("{addresses} addresses, {others} others, {way:?}");
        let server = way.server().start().expect("it starts");
        let mut inside: Vec<_> =
            (0..others).map(|other| way.connect(&server, 50 + other, &mut rng)).collect();
        inside.iter_mut().for_each(|client| _ = client.send([1]).skip(3));
        swap(&server, good(), SwapPolicy::HandOff);
        provoke(way, &server, addresses, b"BF", &mut rng);
        eventually("all have faulted", || faults(&server) == u64::from(FAULTS));
        replays_are_done(&server, u64::from(FAULTS));
        stays(&server, &round);
        assert!(
            notice(&server, "replay-same") > 0 && notice(&server, "replay-differs") == 0,
            "{round}"
        );
        assert_eq!(last(&server).state, RevisionState::Current, "{round}");
        inside.iter_mut().for_each(|client| _ = client.send([1]).expect([b'b', 1, 2]));
    }
}

#[test]
fn worse_version_is_rolled_back() {
    for (seed, addresses) in [1, 2, 3, 10].into_iter().enumerate() {
        let (way, mut rng) = (WAYS[(seed + 1) % WAYS.len()], Rng::seeded(seed as u64));
        let round = format!("{addresses} addresses, {way:?}");
        let server = way.server().start().expect("it starts");
        swap(&server, worse(), SwapPolicy::HandOff);
        for step in 0..FAULTS {
            let mut client = way.connect(&server, step % addresses, &mut rng);
            // The last clients may meet the version before.
            say(&mut client, b'W');
        }
        eventually(&round, || notice(&server, "swap-rolled-back") == 1);
        let back = last(&server);
        assert_eq!(back.state, RevisionState::RolledBack("faults".into()), "{round}");
        let figures = back.faults.expect("it says by which faults");
        assert!(
            figures.faults >= 10 && figures.addresses == u64::from(addresses),
            "{round}: {figures:?}"
        );
        assert!(
            figures.excused == 0 && figures.rate > 0.9 && figures.rate_before < 0.1,
            "{round}: {figures:?}"
        );
        way.connect(&server, 0, &mut rng).send("W").expect([b'a', b'W', 1]);
    }
}

#[test]
fn replay_begins_with_what_was_saved_last() {
    let (way, mut rng) = (Way::Direct, Rng::seeded(1));
    let server = way.server().start().expect("it starts");
    let mut clients: Vec<_> = (0..FAULTS).map(|_| way.connect(&server, 0, &mut rng)).collect();
    clients.iter_mut().for_each(|client| _ = client.send([1]).expect([b'a', 1, 1]));
    assert_eq!(swap(&server, good(), SwapPolicy::HandOff).moved, FAULTS as usize);
    // Only sessions that have sent something before fault at this byte.
    clients.iter_mut().for_each(|client| client.send("S").expect_gone());
    replays_are_done(&server, u64::from(FAULTS));
    stays(&server, "saved");
    assert!(
        notice(&server, "replay-same") > 0 && notice(&server, "replay-unsure") == 0,
        "{:?}",
        server.counters()
    );
}

#[test]
fn replays_are_charged_to_tenant() {
    // The limit is so high that CPU time is counted and no event waits for it.
    let shares = QuotaLimits { cpus: 64.0, ..QuotaLimits::default() };
    let host = Host::new(&HostConfig { workers: 2, sessions_max: 64, ..HostConfig::default() })
        .expect("a host");
    host.limit_tenants(&BTreeMap::from([(
        "a".to_owned(),
        TenantLimits { max_clients: 0, shares },
    )]));
    let plugin =
        |label, what| file(&format!("charged-{label}"), &component(&text(label, &[('B', what)])));
    let long = Some(Duration::from_secs(2));
    let budget = BudgetChange {
        fuel: Some(2_000_000_000),
        cpu: long,
        wall: long,
        ..BudgetChange::default()
    };
    let server = Server::builder()
        .host(&host)
        .local_host("127.0.0.1")
        .tenant("a")
        .budget(Priority::Normal, budget);
    // The old version uses its whole budget for the input at which the new version fails at once.
    let server = server.plugin(plugin('a', "(call $spin)")).start().expect("it starts");
    let next = server.load_for_swap(&plugin('b', "unreachable")).expect("it loads");
    host.runtime().block_on(server.swap(next, SwapPolicy::Pin)).expect("a version");
    let mut client = Client::connect(server.address());
    client.send("B").expect_gone();
    replays_are_done(&server, 1);
    let (used, ended) = (host.tenants()[0].quota.cpu, server.counters().spent.cpu);
    assert!(used > ended + Duration::from_millis(50), "{used:?} in all, {ended:?} of sessions");
    assert_eq!(notice(&server, "replay-unsure"), 1);
}

#[test]
fn canary_is_judged_by_its_own_faults() {
    let rules =
        CanaryRules { share: 1.0, duration: Duration::from_secs(600), ..CanaryRules::default() };
    for (plugin, bytes, is_back) in [(good(), b"BF", false), (worse(), b"WW", true)] {
        let (way, mut rng) = (Way::Named6, Rng::seeded(3));
        let server = way.server().swap_rules(SwapRules { canary: rules, ..SwapRules::default() });
        let server = server.start().expect("it starts");
        host()
            .runtime()
            .block_on(server.canary(plugin, CanaryOptions::default()))
            .expect("it begins");
        for step in 0..FAULTS {
            let byte = bytes[rng.below(2) as usize];
            let mut client = way.connect(&server, step % 5, &mut rng);
            say(&mut client, byte);
        }
        match is_back {
            true => {
                eventually("it is rolled back", || notice(&server, "canary-taken-back") == 1);
                let back = last(&server);
                assert_eq!(back.state, RevisionState::RolledBack("faults".into()));
                assert!(back.faults.is_some_and(|figures| figures.faults >= 3), "{back:?}");
            }
            false => {
                replays_are_done(&server, u64::from(FAULTS));
                // The judge looks once a second.
                std::thread::sleep(Duration::from_millis(1_500));
                let seen = server.canary_seen().expect("it runs on");
                assert_eq!(seen.faulted, u64::from(FAULTS), "{seen:?}");
            }
        }
    }
}

#[test]
fn one_address_does_not_close_a_server() {
    for (seed, way) in WAYS.into_iter().enumerate() {
        let mut rng = Rng::seeded(seed as u64);
        let server = way.server().breaker(BreakerLimits::default()).start().expect("it starts");
        let mut other = way.connect(&server, 100, &mut rng);
        other.send([1]).expect([b'a', 1, 1]);
        // In every other case the other client leaves before the faults begin.
        let comes_and_goes = seed % 2 == 1;
        if comes_and_goes {
            _ = other.finish().rest();
            eventually("it is gone", || server.session_count() == 0);
        }
        std::thread::scope(|scope| {
            for number in 0..4 {
                let (server, mut rng) = (&server, Rng::seeded(number));
                scope.spawn(move || {
                    for _ in 0..20 {
                        let byte = b"BF"[rng.below(2) as usize];
                        way.connect(server, 0, &mut rng).send([byte]).expect_gone();
                    }
                });
            }
        });
        eventually("all have faulted", || faults(&server) == 80);
        assert_eq!(
            (server.breaker(), notice(&server, "tripped")),
            (BreakerState::Closed, 0),
            "{way:?}"
        );
        way.connect(&server, 101, &mut rng).send([1]).expect([b'a', 1, 1]);
    }
}

#[test]
fn broken_plugin_trips_from_any_addresses() {
    let broken = || version('x', &[('B', "unreachable")]);
    for addresses in [1, 2, 3, 10] {
        let way = Way::Direct;
        let server = describe(broken()).start().expect("it starts");
        let mut rng = Rng::seeded(addresses.into());
        for step in 0..10 {
            way.connect(&server, step % addresses, &mut rng).send("B").expect_gone();
        }
        eventually(&format!("{addresses} addresses"), || notice(&server, "tripped") == 1);
    }
    // A proxy that does not name its clients: their faults trip the breaker.
    let server = Way::Named4.server().breaker(BreakerLimits::default()).start().expect("it starts");
    let mut named = Way::Named4.connect(&server, 1, &mut Rng::seeded(0));
    named.send([1]).expect([b'a', 1, 1]);
    for _ in 0..10 {
        connect_from(PROXY, &server).send("PROXY UNKNOWN\r\nB").expect_gone();
    }
    eventually("the proxy trips it", || notice(&server, "tripped") == 1);
}
