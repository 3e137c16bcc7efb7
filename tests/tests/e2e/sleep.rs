//! Idle sessions that drop their instances, which their clients do not notice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use wharf::event::Priority;
use wharf::plugin::{InstanceLimits, Plugin};
use wharf::sched::QuotaLimits;
use wharf::server::{
    Host, HostConfig, Server, ServerBuilder, ServerHandle, SwapPolicy, SwapRules, TenantLimits,
};
use wharf_tests::clients::Client;
use wharf_tests::guests::{component, file, inline, loops_and_traps, versioned};
use wharf_tests::servers::{describe, ended, eventually, fuel_alone, host, swap};

const SOON: Duration = Duration::from_millis(100);

fn version(label: char, restore: &str) -> Arc<Plugin> {
    inline(&format!("sleeper-{label}-{}", restore.len()), &versioned(label, "", restore))
}

fn sleepers(plugin: Arc<Plugin>) -> ServerBuilder {
    describe(plugin).sleep_after(SOON)
}

fn next(client: &mut Client, label: char, count: u8) {
    client.send([1]).expect([label as u8, 1, count]);
}

fn asleep(server: &ServerHandle) -> usize {
    server.sessions(0, 1_000).iter().filter(|session| session.stats.asleep).count()
}

fn all_sleep(server: &ServerHandle, count: usize) {
    eventually("all sleep", || asleep(server) == count);
}

/// Writes a plugin whose manifest says that it is stateless.
fn stateless(folder: &std::path::Path, version: &str, handlers: &str) {
    std::fs::write(folder.join("plugin.wasm"), component(handlers)).expect("kept");
    let manifest = format!(
        "name = 'plain'\nversion = '{version}'\ncomponent = 'plugin.wasm'\nstateless = true\n"
    );
    std::fs::write(folder.join("plugin.toml"), manifest).expect("kept");
}

#[test]
fn next_byte_wakes_a_sleeping_session_unchanged() {
    let host = Host::new(&HostConfig {
        workers: 2,
        sessions_max: 64,
        release_memory: true,
        ..HostConfig::default()
    });
    let host = host.expect("a host");
    let share = QuotaLimits { memory_max_bytes: 64 << 20, ..QuotaLimits::default() };
    let limits = TenantLimits { max_clients: 0, shares: share };
    host.limit_tenants(&BTreeMap::from([("a".to_owned(), limits)]));
    let plugin = file("sleeper-alone", &component(&versioned('a', "", "")));
    let server = Server::builder()
        .host(&host)
        .local_host("127.0.0.1")
        .tenant("a")
        .plugin(plugin)
        .sleep_after(SOON);
    let server = server.start().expect("it starts");
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(server.address())).collect();
    for round in 1..4 {
        clients.iter_mut().for_each(|client| next(client, 'a', round));
        all_sleep(&server, 20);
        assert_eq!(host.engine().instances(), 0);
        // A few bytes are kept of each session, and count as its tenant's memory.
        let kept = host.tenants()[0].quota.memory_bytes;
        assert!((20..4_096).contains(&kept), "{kept} bytes");
    }
    let seen = server.sessions(0, 1).remove(0).stats;
    assert!(seen.events >= 4 && seen.usage.fuel > 0 && seen.event.is_none(), "{seen:?}");
    drop(clients);
    ended(&server, "peer-closed", 20);
    eventually("nothing is left", || host.tenants()[0].quota.memory_bytes == 0);
    assert!(server.counters().faults.is_empty(), "{:?}", server.counters().faults);
}

#[test]
fn sleeping_session_gets_timers_timeouts_and_its_end() {
    let tells = versioned('a', "", "").replace(
        "(func $on-connect (param $client i32) (result i32) (i32.const 0))",
        "(func $on-connect (param $client i32) (result i32)
           (drop (call $set-timer (i32.const 9) (i64.const 600))) (i32.const 0))
         (func $on-timeout (param $idle i64) (result i32)
           (i32.store8 (i32.const 1040) (i32.const 84))
           (drop (call $try-write (i32.const 1040) (i32.const 1))) (i32.const 0))
         (func $on-disconnect (param $reason i32) unreachable)",
    );
    let server = sleepers(inline("sleeper-tells", &tells))
        .timeout(Duration::from_secs(2))
        .start()
        .expect("it starts");
    let mut client = Client::connect(server.address());
    all_sleep(&server, 1);
    client.expect([b'a', 9]);
    all_sleep(&server, 1);
    client.expect("T");
    all_sleep(&server, 1);
    next(&mut client, 'a', 1);
    all_sleep(&server, 1);
    drop(client);
    // The last event ran.
    eventually("it ended", || server.counters().faults.contains_key("trap:unreachable"));
}

#[test]
fn sleeping_session_wakes_on_the_new_version() {
    let server = sleepers(version('a', "")).start().expect("it starts");
    let mut clients: Vec<_> = (0..10).map(|_| Client::connect(server.address())).collect();
    clients.iter_mut().for_each(|client| next(client, 'a', 1));
    for (label, policy, count) in
        [('b', SwapPolicy::HandOff, 2), ('c', SwapPolicy::AllOrNothing, 3)]
    {
        all_sleep(&server, 10);
        let report = swap(&server, version(label, ""), policy);
        assert_eq!((report.moved, report.stayed.len()), (10, 0), "{report:?}");
        assert_eq!(asleep(&server), 10, "no session was woken for it");
        clients.iter_mut().for_each(|client| next(client, label, count));
    }
}

#[test]
fn session_that_cannot_wake_keeps_its_version() {
    let server = sleepers(version('a', "")).start().expect("it starts");
    let mut client = Client::connect(server.address());
    next(&mut client, 'a', 1);
    all_sleep(&server, 1);
    let bad = || version('x', "(if (global.get $count) (then unreachable))");
    let report = swap(&server, bad(), SwapPolicy::HandOff);
    assert_eq!((report.moved, report.stayed["trap:unreachable"]), (0, 1), "{report:?}");
    assert_eq!(asleep(&server), 1, "it was not woken for it");
    next(&mut client, 'a', 2);
    next(&mut Client::connect(server.address()), 'x', 1);
}

#[test]
fn failed_wake_on_an_untried_version_is_counted() {
    let host = Host::new(&HostConfig { workers: 2, sessions_max: 64, ..HostConfig::default() })
        .expect("a host");
    let limit = |memory_max_bytes| {
        let shares = QuotaLimits { memory_max_bytes, ..QuotaLimits::default() };
        host.limit_tenants(&BTreeMap::from([(
            "full".to_owned(),
            TenantLimits { max_clients: 0, shares },
        )]));
    };
    limit(64 << 20);
    let plugin = file("sleeper-untried", &component(&versioned('a', "", "")));
    let server = Server::builder()
        .host(&host)
        .local_host("127.0.0.1")
        .tenant("full")
        .plugin(plugin)
        .sleep_after(SOON);
    let server = server.start().expect("it starts");
    let mut client = Client::connect(server.address());
    next(&mut client, 'a', 1);
    all_sleep(&server, 1);
    // No memory for an instance of the new version.
    limit(1 << 10);
    let bad = file(
        "sleeper-traps",
        &component(&versioned('x', "", "(if (global.get $count) (then unreachable))")),
    );
    let report = swap(&server, server.load_for_swap(&bad).expect("it loads"), SwapPolicy::HandOff);
    assert_eq!((report.moved, report.stayed.len()), (1, 0), "{report:?}");
    limit(64 << 20);
    next(&mut client, 'a', 2);
    let faults = server.counters().faults;
    assert_eq!(faults.get("trap:unreachable"), Some(&1), "{faults:?}");
}

#[test]
fn version_that_wakes_no_session_is_rolled_back() {
    let server = sleepers(version('a', "")).start().expect("it starts");
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(server.address())).collect();
    clients.iter_mut().for_each(|client| next(client, 'a', 1));
    all_sleep(&server, 20);
    // The sessions have slept since the version before this one.
    assert_eq!(swap(&server, version('b', ""), SwapPolicy::HandOff).moved, 20);
    for (policy, failed) in [(SwapPolicy::HandOff, 5), (SwapPolicy::AllOrNothing, 1)] {
        let report =
            swap(&server, version('x', "(if (global.get $count) (then unreachable))"), policy);
        assert!(report.rolled_back && report.moved == 0, "{report:?}");
        assert_eq!(report.stayed["trap:unreachable"], failed, "{report:?}");
    }
    assert_eq!(asleep(&server), 20);
    clients.iter_mut().for_each(|client| next(client, 'b', 2));
}

#[test]
fn few_sleeping_sessions_meet_a_looping_version() {
    let rules = SwapRules { prepare: Duration::from_secs(60), ..SwapRules::default() };
    let server =
        sleepers(version('a', "")).budget(Priority::Normal, fuel_alone()).swap_rules(rules);
    let server = server.start().expect("it starts");
    let mut clients: Vec<_> = (0..40).map(|_| Client::connect(server.address())).collect();
    // The first session can migrate. The others cannot, some of them later than others.
    let count = |number: usize| if number == 0 { 1 } else { 2 + (number / 3) as u8 };
    for (number, client) in clients.iter_mut().enumerate() {
        (1..=count(number)).for_each(|count| next(client, 'a', count));
    }
    all_sleep(&server, 40);
    let report =
        swap(&server, inline("sleeper-slow", &loops_and_traps('x')), SwapPolicy::AllOrNothing);
    let of = |reason: &str| report.stayed.get(reason).copied().unwrap_or(0);
    let failed = of("trap:unreachable");
    assert!((1..30).contains(&failed), "{report:?}");
    assert_eq!((failed + of("called-off"), report.moved), (40, 0), "{report:?}");
    for (number, client) in clients.iter_mut().enumerate() {
        next(client, 'a', count(number) + 1);
    }
}

#[test]
fn state_over_its_limit_keeps_a_session_awake() {
    let limits = InstanceLimits { state_max_bytes: 3, ..InstanceLimits::default() };
    let plugin = inline("sleeper-large", &versioned('a', "", ""));
    let trials = InstanceLimits::default();
    assert!(trials.state_max_bytes > 4);
    let server = describe(plugin).limits(limits).sleep_after(SOON).start();
    // The rehearsal of the first instance finds that already.
    assert!(server.is_err_and(|error| error.to_string().contains("state-limit")));
    let grows = versioned('a', "", "").replace(
        "(i32.store (i32.const 1060) (i32.const 4))",
        "(i32.store (i32.const 1060) (select (i32.const 5000) (i32.const 4) (global.get $count)))",
    );
    let limits = InstanceLimits { state_max_bytes: 4_096, ..InstanceLimits::default() };
    let server = describe(inline("sleeper-grows", &grows))
        .limits(limits)
        .sleep_after(SOON)
        .start()
        .expect("it starts");
    let (mut small, mut large) =
        (Client::connect(server.address()), Client::connect(server.address()));
    next(&mut large, 'a', 1);
    all_sleep(&server, 1);
    for count in 2..5 {
        next(&mut large, 'a', count);
    }
    next(&mut small, 'a', 1);
    eventually("no session sleeps", || asleep(&server) == 0);
    assert!(server.counters().faults.is_empty(), "{:?}", server.counters().faults);
}

#[test]
fn stateless_plugin_sleeps_and_swaps_without_handoff() {
    let folder = tempfile::tempdir().expect("a folder");
    stateless(folder.path(), "1", "");
    let server = Server::builder()
        .host(&host())
        .local_host("127.0.0.1")
        .plugin(folder.path())
        .sleep_after(SOON);
    let server = server.start().expect("it starts");
    let mut client = Client::connect(server.address());
    client.echo("awake");
    all_sleep(&server, 1);
    client.echo("awake again");
    let shouts = "(func $on-read (param $data i32) (param $length i32) (result i32)
        (i32.store8 (local.get $data) (i32.const 33)) (drop (call $try-write (local.get $data) \
        (i32.const 1))) (i32.const 0))";
    stateless(folder.path(), "2", shouts);
    let report =
        swap(&server, server.load_for_swap(folder.path()).expect("it loads"), SwapPolicy::HandOff);
    assert_eq!((report.moved, report.stayed.len()), (1, 0), "{report:?}");
    client.send("x").expect("!");
    all_sleep(&server, 1);
    client.send("x").expect("!");
}

#[test]
fn sessions_sleep_although_their_tenant_is_full() {
    let host = Host::new(&HostConfig {
        workers: 2,
        sessions_max: 64,
        release_memory: true,
        ..HostConfig::default()
    });
    let host = host.expect("a host");
    let limit = |memory_max_bytes| {
        let shares = QuotaLimits { memory_max_bytes, ..QuotaLimits::default() };
        host.limit_tenants(&BTreeMap::from([(
            "full".to_owned(),
            TenantLimits { max_clients: 0, shares },
        )]));
    };
    limit(64 << 20);
    let plugin = file("sleeper-full", &component(&versioned('a', "", "")));
    let server = Server::builder()
        .host(&host)
        .local_host("127.0.0.1")
        .tenant("full")
        .plugin(plugin)
        .sleep_after(SOON);
    let server = server.timeout(Duration::from_secs(60)).start().expect("it starts");
    let mut client = Client::connect(server.address());
    next(&mut client, 'a', 1);
    // Exactly as much as the tenant has now or has had.
    let has = host.engine().instances() as usize
        * server.sessions(0, 1).remove(0).stats.usage.memory_bytes as usize;
    limit(has.max(64 << 10));
    all_sleep(&server, 1);
    next(&mut client, 'a', 2);
    all_sleep(&server, 1);
    next(&mut client, 'a', 3);
}
