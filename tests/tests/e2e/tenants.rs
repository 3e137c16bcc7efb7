//! Limits of tenants, which hold over all of their servers together.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use wharf::sched::QuotaLimits;
use wharf::server::{Host, HostConfig, Server, ServerBuilder, ServerHandle, TenantLimits};
use wharf_tests::clients::Client;
use wharf_tests::guests::{component, file};
use wharf_tests::servers::{ended, eventually};

/// A host for one test, because limits of tenants belong to the host.
fn host(limits: TenantLimits) -> Host {
    let host = Host::new(&HostConfig { workers: 2, sessions_max: 64, ..HostConfig::default() })
        .expect("a host");
    host.limit_tenants(&BTreeMap::from([("a".to_owned(), limits)]));
    host
}

fn describe(host: &Host, name: &str, handlers: &str) -> ServerBuilder {
    let file = file(&format!("tenants-{name}"), &component(handlers));
    Server::builder().host(host).local_host("127.0.0.1").tenant("a").name(name).plugin(file)
}

fn start(server: ServerBuilder) -> ServerHandle {
    server.start().expect("it starts")
}

fn shares(shares: QuotaLimits) -> TenantLimits {
    TenantLimits { max_clients: 0, shares }
}

#[test]
fn tenant_clients_count_together_over_all_servers() {
    let host = host(TenantLimits { max_clients: 2, ..TenantLimits::default() });
    let (one, two) = (start(describe(&host, "one", "")), start(describe(&host, "two", "")));
    let other = start(describe(&host, "other", "").tenant("b"));
    let mut first = Client::connect(one.address());
    let mut second = Client::connect(two.address());
    first.echo("at the limit");
    second.echo("at the limit");
    Client::connect(two.address()).expect_gone();
    eventually("it is counted", || two.counters().refused.get("limit-tenant-clients") == Some(&1));
    Client::connect(other.address()).echo("another tenant");
    drop(first);
    eventually("there is room", || one.clients() == 0);
    Client::connect(two.address()).echo("below the limit");
    second.echo("still here");
}

#[test]
fn tenant_memory_counts_together_over_all_instances() {
    // Every instance has two pages. It grows by as many pages as the first byte says, or traps.
    let grow = "(func $on-read (param $data i32) (param $length i32) (result i32)
        (if (i32.eq (i32.const -1) (memory.grow (i32.load8_u (local.get $data)))) (then \
        unreachable))
        (drop (call $try-write (local.get $data) (local.get $length)))
        (i32.const 0))";
    let host = host(shares(QuotaLimits { memory_max_bytes: 8 << 16, ..QuotaLimits::default() }));
    let (one, two) = (start(describe(&host, "one", grow)), start(describe(&host, "two", grow)));
    let mut first = Client::connect(one.address());
    first.echo([0]);
    let mut second = Client::connect(two.address());
    second.echo([3]);
    // One page is left: too little for an instance, and for a growth by two.
    Client::connect(one.address()).expect_gone();
    ended(&one, "limit-tenant-mem", 1);
    second.send([2]).expect_gone();
    ended(&two, "limit-tenant-mem", 1);
    // The memory of the ended session is free again.
    eventually("its memory is given back", || host.tenants()[0].quota.memory_bytes == 2 << 16);
    first.echo([6]);
    first.send([1]).expect_gone();
    eventually("nothing is taken", || host.tenants()[0].quota.memory_bytes == 0);
    assert_eq!(host.tenants()[0].quota.memory_refused, 3);
}

#[test]
fn events_wait_for_their_share_without_a_fault() {
    let work = "(func $on-read (param $data i32) (param $length i32) (result i32)
        (local $i i32)
        (loop $more
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $more (i32.lt_u (local.get $i) (i32.const 3000000))))
        (drop (call $try-write (local.get $data) (local.get $length)))
        (i32.const 0))";
    let host = host(shares(QuotaLimits { cpus: 0.2, ..QuotaLimits::default() }));
    let servers = [start(describe(&host, "one", work)), start(describe(&host, "two", work))];
    let start = Instant::now();
    // Four busy sessions on two servers. Each slice may exceed the share once.
    let busy: Vec<_> = (0..4)
        .map(|number| {
            let address = servers[number % 2].address();
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                while start.elapsed() < Duration::from_secs(2) {
                    client.echo("x");
                }
            })
        })
        .collect();
    busy.into_iter().for_each(|client| client.join().expect("it is answered"));
    let took = start.elapsed();
    servers
        .iter()
        .zip([2, 2])
        .for_each(|(server, sessions)| ended(server, "peer-closed", sessions));
    let used: Duration = servers.iter().map(|server| server.counters().spent.cpu).sum();
    let most = took.mul_f64(0.2) + Duration::from_millis(200);
    assert!(used <= most, "it used {used:?} in {took:?}");
    assert!(used >= Duration::from_millis(50), "it used {used:?} in {took:?}");
    let seen = host.tenants()[0].quota;
    assert!(seen.cpu_waits > 0 && seen.cpu >= used.mul_f64(0.9), "{seen:?}");
}

#[test]
fn tenant_rate_of_bytes_loses_none() {
    let host = host(shares(QuotaLimits { bytes_per_second: 64 << 10, ..QuotaLimits::default() }));
    // The peer is not blamed for a wait for the share, however short its deadlines are.
    let timeout = Duration::from_millis(200);
    let server = start(describe(&host, "one", "").timeout(timeout));
    let start = Instant::now();
    let mut client = Client::connect(server.address());
    let data: Vec<u8> = (0..64 << 10).map(|at| (at % 251) as u8).collect();
    client.echo(&data);
    let took = start.elapsed();
    // 128 KiB there and back, less the burst and the last piece.
    assert!(took >= Duration::from_millis(1_600), "{took:?}");
    eventually("all of them are counted", || host.tenants()[0].quota.bytes == 128 << 10);
    assert!(host.tenants()[0].quota.bytes_waits > 0, "{:?}", host.tenants());
    host.limit_tenants(&BTreeMap::new());
    client.echo(&data);
    client.echo(&data);
}

#[test]
fn lifted_limit_wakes_waiting_sessions() {
    let host = host(shares(QuotaLimits { bytes_per_second: 1 << 10, ..QuotaLimits::default() }));
    let server = start(describe(&host, "one", ""));
    let mut client = Client::connect(server.address());
    // Bytes for about two minutes at this rate.
    let data = vec![7; 64 << 10];
    client.send(&data);
    eventually("it waits", || host.tenants()[0].quota.bytes_waits > 0);
    host.limit_tenants(&BTreeMap::new());
    client.expect(&data);
}
