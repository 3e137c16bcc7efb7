//! Guests that burn CPU: each ends by what it spends, and other sessions are served meanwhile.

use std::time::Duration;

use wharf::event::Priority;
use wharf::plugin::{Grants, InstanceLimits};
use wharf::sched::BudgetChange;
use wharf::server::{BreakerLimits, SwapPolicy};
use wharf_tests::clients::Client;
use wharf_tests::guests::{file, guest, inline};
use wharf_tests::oracle::{judge, only_ends, only_faults};
use wharf_tests::servers::{PATIENCE, describe, eventually, fuel_alone, host, swap};

use crate::{costs_its_session, costs_its_session_with, say};

/// Either the fuel or the CPU time may run out first.
const BUDGET: [&str; 2] = ["fuel", "cpu-time"];

#[test]
fn endless_loop_ends_at_its_fuel() {
    costs_its_session(|| guest("endless-loop"), &["fuel"]);
}

#[test]
fn endless_recursion_ends_in_the_guests_own_stack() {
    costs_its_session(|| guest("deep-recursion"), &["trap:stack-overflow"]);
}

#[test]
fn recursion_with_large_frames_ends_in_guest_stack() {
    // So many values live across the call that each frame takes kilobytes.
    let names: Vec<_> = (0..800).map(|number| format!("$v{number}")).collect();
    let declared: String = names.iter().map(|name| format!("(local {name} i64)")).collect();
    let set = |name: &String| {
        format!(
            "(local.set {name} (i64.mul (local.get $depth) (i64.load (i32.wrap_i64 (local.get \
             $depth)))))"
        )
    };
    let set: String = names.iter().map(set).collect();
    let sum: String = names.iter().map(|name| format!("(i64.add (local.get {name})")).collect();
    let body = format!(
        "(func $deeper (param $depth i64) (result i64) {declared} {set}
           {sum} (call $deeper (i64.add (local.get $depth) (i64.const 1))) {})
         (func $on-read (param i32 i32) (result i32) (drop (call $deeper (i64.const 0))) \
         (i32.const 0))",
        ")".repeat(names.len())
    );
    costs_its_session(|| inline("large-frames", &body), &["trap:stack-overflow"]);
}

#[test]
fn bulk_copies_are_charged_by_the_byte() {
    costs_its_session(|| guest("copy-forever"), &BUDGET);
}

#[test]
fn endless_growth_ends_by_its_budget() {
    costs_its_session(|| guest("grow-forever"), &BUDGET);
    costs_its_session(|| guest("grow-nothing"), &BUDGET);
}

#[test]
fn touched_pages_stay_within_the_memory_limit() {
    let counters = judge(
        || describe(guest("touch-pages")),
        |server| {
            let mut client = say(server, "x");
            client.expect("d");
            let memory = server.sessions(0, 1)[0].stats.usage.memory_bytes;
            assert!((31 << 20..=32 << 20).contains(&memory), "{memory} bytes");
            client.send("x").expect("d").finish().expect_closed();
        },
    );
    only_ends(&counters, "peer-closed", 1);
}

#[test]
fn storm_of_page_faults_ends_by_cpu_time() {
    let limits = InstanceLimits { memory_max_bytes: 256 << 20, ..InstanceLimits::default() };
    let budget = BudgetChange {
        fuel: Some(1_000_000_000_000),
        cpu: Some(Duration::from_millis(3)),
        ..BudgetChange::default()
    };
    let server = || describe(guest("touch-pages")).limits(limits).budget(Priority::Normal, budget);
    costs_its_session_with(server, &["cpu-time"]);
}

#[test]
fn table_grows_only_to_its_limit() {
    let counters = judge(
        || describe(guest("table-grower")).budget(Priority::Normal, fuel_alone()),
        |server| {
            say(server, "x").expect("r").finish().expect_closed();
            // A growth by four thousand million elements pays for each of them before the host
            // refuses it.
            say(server, "G").expect_gone();
            say(server, "T").expect_gone();
        },
    );
    assert_eq!(counters.ended.get("peer-closed"), Some(&1), "{counters:?}");
    assert_eq!((counters.faults.len(), counters.faults.get("fuel")), (2, Some(&1)), "{counters:?}");
    assert_eq!(counters.faults.get("limit-tables"), Some(&1), "{counters:?}");
}

#[test]
fn component_with_a_giant_table_is_refused() {
    judge(
        || describe(guest("endless-loop")),
        |_| {
            for (name, table) in [
                ("table-over-the-limit", "10001 funcref"),
                ("table-of-32-bits", "0xffffffff funcref"),
                ("table-of-64-bits", "i64 0x100000000 funcref"),
            ] {
                let text = format!(
                    "(component (core module $m (table {table})) (core instance (instantiate $m)))"
                );
                let bytes = wat::parse_str(text).expect("a component");
                let said = host()
                    .loader()
                    .load(&file(name, &bytes), &Grants::none())
                    .err()
                    .expect(name)
                    .to_string();
                assert!(said.contains("not a component this host can run"), "{said}");
            }
        },
    );
}

#[test]
fn events_below_the_budget_delay_no_session() {
    const BYTES: usize = 25;
    let counters = judge(
        || describe(guest("slicer")).budget(Priority::Normal, fuel_alone()),
        |server| {
            let mut clients: Vec<_> = (0..4).map(|_| Client::connect(server.address())).collect();
            for _ in 0..BYTES {
                for client in &mut clients {
                    client.send("x");
                }
            }
            for client in &mut clients {
                client.expect([b'x'; BYTES]);
            }
            let stats = server.sessions(0, 1)[0].stats;
            assert!(stats.peak_fuel > 25_000_000 && stats.peak_fuel < 50_000_000, "{stats:?}");
            clients.iter_mut().for_each(|client| client.finish().expect_closed());
        },
    );
    only_ends(&counters, "peer-closed", 4);
}

#[test]
fn always_trapping_guest_trips_the_breaker() {
    let limits =
        BreakerLimits { faults: 5, pause: Duration::from_millis(100), ..BreakerLimits::default() };
    let counters = judge(
        || describe(wharf_tests::guests::polite()).breaker(limits),
        |server| {
            let mut before = Client::connect(server.address());
            before.echo("before");
            swap(server, guest("trap-always"), SwapPolicy::Pin);
            for _ in 0..9 {
                say(server, "x").expect_gone();
            }
            eventually("it trips", || server.counters().notices.get("tripped") == Some(&1));
            before.echo("the build before");
            // The session that is tried after the pause fails too, which trips the breaker again.
            say(server, "x").expect_gone();
            eventually("it trips again", || server.counters().notices.get("tripped") == Some(&2));
            before.echo("the build before").finish().expect_closed();
        },
    );
    assert_eq!(counters.faults.get("trap:unreachable"), Some(&10), "{counters:?}");
    assert_eq!(counters.ended.get("peer-closed"), Some(&1), "{counters:?}");
}

#[test]
fn trap_in_the_farewell_frees_everything() {
    let counters = judge(
        || describe(guest("trap-in-farewell")).timeout(PATIENCE),
        |server| {
            for _ in 0..5 {
                Client::connect(server.address()).echo("hello").finish().expect_closed();
            }
        },
    );
    assert_eq!(counters.ended.get("peer-closed"), Some(&5), "{counters:?}");
    assert_eq!(
        (counters.faults.len(), counters.faults.get("trap:unreachable")),
        (1, Some(&5)),
        "{counters:?}"
    );
}

#[test]
fn concurrent_loops_each_end_by_their_budget() {
    let off = BreakerLimits { faults: 0, ..BreakerLimits::default() };
    let counters = judge(
        || describe(guest("endless-loop")).breaker(off),
        |server| {
            let mut clients: Vec<_> = (0..16).map(|_| say(server, "x")).collect();
            clients.iter_mut().for_each(Client::expect_gone);
        },
    );
    only_faults(&counters, &BUDGET, 16);
}
