//! Guests that misbehave. Each costs its own session, with the right reason, while another session
//! on the same server is answered throughout. Nothing is left over.

use std::sync::Arc;
use std::time::Duration;

use wharf::event::Priority;
use wharf::plugin::{InstanceLimits, Plugin};
use wharf::sched::BudgetChange;
use wharf::server::{BreakerLimits, BreakerState, ServerHandle};
use wharf_tests::clients::Client;
use wharf_tests::guests::{bundled, guest, inline, polite};
use wharf_tests::servers::{describe, ended, eventually, fuel_alone, start};

/// Makes one session misbehave by `provoke`. Another session is answered before, during and after.
fn costs_one_session(plugin: Arc<Plugin>, reason: &str, provoke: impl Fn(&ServerHandle) -> Client) {
    let server =
        describe(plugin).timeout(Duration::from_millis(400)).budget(Priority::Normal, fuel_alone());
    let server = server.start().expect("it starts");
    // A guest that misbehaves in every session has a polite neighbour on another server of the same
    // host. On its own server, the next client is answered.
    let neighbour = start(polite());
    let mut honest = Client::connect(neighbour.address());
    honest.echo("before");
    let mut bad = provoke(&server);
    honest.echo("during");
    bad.expect_gone();
    ended(&server, reason, 1);
    honest.echo("after");
    assert_eq!(server.counters().faults.get(reason), Some(&1), "{:?}", server.counters());
    eventually("its place is free", || server.clients() == 0);
}

/// A handler for `event` with `body` and the right type.
fn handler(event: &str, body: &str) -> String {
    let (params, result) = match event {
        "on-connect" => ("(param i32)", "(result i32)"),
        "on-read" => ("(param i32 i32)", "(result i32)"),
        "on-timeout" => ("(param i64)", "(result i32)"),
        "on-timer" => ("(param i32)", "(result i32)"),
        "on-disconnect" => ("(param i32)", ""),
        _ => ("", "(result i32)"),
    };
    format!("(func ${event} {params} {result} {body} unreachable)")
}

/// Makes `event` happen.
fn provoke(event: &str, server: &ServerHandle) -> Client {
    let mut client = Client::connect(server.address());
    match event {
        "on-read" => drop(client.send("x")),
        "on-end" => drop(client.finish()),
        "on-write" => {
            client.send("F");
            // Reading drains the full buffer; the fault then resets the connection.
            let _ = client.rest();
        }
        _ => {}
    }
    client
}

const EVENTS: [&str; 6] = ["on-connect", "on-read", "on-write", "on-timeout", "on-timer", "on-end"];

#[test]
fn trap_in_any_event_ends_one_session() {
    for event in EVENTS {
        let plugin = inline(&format!("trap-{event}"), &handler(event, ""));
        costs_one_session(plugin, "trap:unreachable", |server| provoke(event, server));
    }
}

#[test]
fn endless_loop_in_any_event_ends_by_budget() {
    for event in EVENTS {
        let plugin = inline(&format!("loop-{event}"), &handler(event, "(call $spin)"));
        costs_one_session(plugin, "fuel", |server| provoke(event, server));
    }
}

#[test]
fn fault_in_farewell_changes_no_reason() {
    for (name, body, fault) in [("trap", "", "trap:unreachable"), ("loop", "(call $spin)", "fuel")]
    {
        let plugin = inline(&format!("{name}-on-disconnect"), &handler("on-disconnect", body));
        let server =
            describe(plugin).budget(Priority::Normal, fuel_alone()).start().expect("it starts");
        Client::connect(server.address()).echo("hello").finish().expect_closed();
        ended(&server, "peer-closed", 1);
        assert_eq!(server.counters().faults.get(fault), Some(&1));
    }
}

fn on_read(name: &str, reason: &str) {
    costs_one_session(guest(name), reason, |server| provoke("on-read", server));
}

#[test]
fn memory_bomb_ends_at_its_limit() {
    on_read("memory-bomb", "limit-session-mem");
}

/// Runs a guest that calls the host for ever. Either the fuel or the CPU time may run out first.
fn ends_by_its_budget(name: &str) {
    let server = describe(guest(name)).start().expect("it starts");
    Client::connect(server.address()).send("x").expect_gone();
    eventually("it ended", || !server.counters().faults.is_empty());
    let faults = server.counters().faults;
    assert!(faults.contains_key("fuel") || faults.contains_key("cpu-time"), "{faults:?}");
}

#[test]
fn growing_for_ever_ends_by_its_budget() {
    ends_by_its_budget("grow-forever");
}

#[test]
fn deep_recursion_ends_in_the_guests_stack() {
    on_read("deep-recursion", "trap:stack-overflow");
}

#[test]
fn write_over_the_copy_limit_is_a_fault() {
    on_read("giant-write", "copy-limit");
}

#[test]
fn write_over_the_send_buffer_is_only_refused() {
    let server = describe(guest("large-write")).start().expect("it starts");
    Client::connect(server.address()).send("x").expect("t").send("x").expect("t");
}

#[test]
fn write_after_the_end_is_only_refused() {
    let server = describe(guest("write-after-close")).start().expect("it starts");
    Client::connect(server.address()).send("C").expect_closed();
    ended(&server, "closed-by-plugin", 1);
    assert!(server.counters().faults.is_empty(), "{:?}", server.counters());
}

#[test]
fn bad_pointers_and_actions_only_break_the_contract() {
    on_read("bad-pointer", "trap:contract");
    on_read("bad-action", "trap:contract");
}

#[test]
fn empty_writes_for_ever_are_charged() {
    ends_by_its_budget("empty-writes");
}

#[test]
fn timers_beyond_the_limit_are_refused() {
    let server = describe(guest("timer-hoarder")).start().expect("it starts");
    // The guest set one of the 64 timers in `on-connect`.
    Client::connect(server.address()).send("x").expect([63]);
}

/// A breaker that never trips.
fn off() -> BreakerLimits {
    BreakerLimits { faults: 0, ..BreakerLimits::default() }
}

#[test]
fn honest_session_is_answered_beside_a_loop() {
    // Loops on `L`, echoes everything else.
    let body = "(func $on-read (param $data i32) (param $length i32) (result i32)
        (if (i32.eq (i32.load8_u (local.get $data)) (i32.const 76)) (then (call $spin)))
        (drop (call $try-write (local.get $data) (local.get $length)))
        (i32.const 0))";
    let server = describe(inline("loop-on-command", body))
        .breaker(off())
        .budget(Priority::Normal, fuel_alone())
        .start()
        .expect("it starts");
    let mut honest = Client::connect(server.address());
    for round in 1..=20 {
        honest.echo("before");
        let mut bad = Client::connect(server.address());
        bad.send("L");
        honest.echo("during");
        bad.expect_gone();
        ended(&server, "fuel", round);
    }
    honest.echo("after");
}

#[test]
fn memory_limit_holds_exactly() {
    // Grows by as many pages as the first byte says, beyond its two, and traps if the host refuses
    // them.
    let body = "(func $on-read (param $data i32) (param $length i32) (result i32)
        (if (i32.eq (i32.const -1) (memory.grow (i32.load8_u (local.get $data)))) (then \
        unreachable))
        (drop (call $try-write (local.get $data) (local.get $length)))
        (i32.const 0))";
    let plugin = inline("grow-to", body);
    let limits = InstanceLimits { memory_max_bytes: 16 << 16, ..InstanceLimits::default() };
    let server = describe(plugin).limits(limits).start().expect("it starts");
    Client::connect(server.address()).echo([14]);
    Client::connect(server.address()).send([15]).expect_gone();
    ended(&server, "limit-session-mem", 1);
}

#[test]
fn hundreds_of_faults_leave_nothing_behind() {
    let server = describe(inline("leaky", &handler("on-read", "")))
        .breaker(off())
        .start()
        .expect("it starts");
    let round = |count: u64| {
        for _ in 0..count {
            Client::connect(server.address()).send("x").expect_gone();
        }
        eventually("all are gone", || server.clients() == 0);
    };
    round(50);
    let open = || std::fs::read_dir("/proc/self/fd").expect("a list").count();
    let resident = || wharf_tests::load::memory::Weight::now().expect("a weight").resident_kib;
    let before = resident();
    round(300);
    ended(&server, "trap:unreachable", 350);
    // Other tests of this process come and go. So the bound is generous, and the test waits until
    // their memory is free. A leaked session is some 40 KiB.
    eventually("the memory of 300 faults is free again", || {
        resident().saturating_sub(before) < 300 * 40
    });
    assert!(open() < 2_000, "descriptors leak");
}

#[test]
fn budgets_are_as_the_operator_sets_them() {
    let spins = || {
        inline(
            "spins-on-x",
            "(func $on-read (param i32 i32) (result i32) (call $spin) (i32.const 0))",
        )
    };
    let set = |plugin, change| {
        describe(plugin).budget(Priority::Normal, change).start().expect("it starts")
    };
    let ends = |server: &ServerHandle, reason: &str| {
        let mut client = Client::connect(server.address());
        client.send("s").expect_gone();
        eventually("it is counted", || server.counters().faults.get(reason) == Some(&1));
    };
    let default = BudgetChange::default();
    // A small budget is enough for a small event, and statistics show its share.
    let frugal = set(polite(), BudgetChange { fuel: Some(10_000), ..default });
    let mut client = Client::connect(frugal.address());
    client.echo("enough");
    let seen = frugal.sessions(0, 1).remove(0).stats;
    assert!(seen.budget.fuel == 10_000 && (1..10_000).contains(&seen.peak_fuel), "{seen:?}");
    let much = Some(1_000_000_000_000);
    ends(&set(spins(), BudgetChange { fuel: Some(10_000), ..fuel_alone() }), "fuel");
    ends(
        &set(
            spins(),
            BudgetChange { fuel: much, cpu: Some(Duration::from_millis(5)), ..fuel_alone() },
        ),
        "cpu-time",
    );
    let sleeps = bundled("tests/unruly");
    ends(
        &set(sleeps, BudgetChange { wall: Some(Duration::from_millis(500)), ..default }),
        "wall-time",
    );
    let poor = BudgetChange { start_fuel: Some(10_000), ..default };
    let hoards = inline(
        "starts-slowly",
        "(func $slow (local $i i32) (loop $l (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $i) (i32.const 100000))))) (start $slow)",
    );
    let refused = describe(hoards.clone())
        .budget(Priority::Normal, poor)
        .start()
        .err()
        .expect("it never begins");
    assert!(refused.to_string().contains("its trial instance failed: fuel"), "{refused}");
    let server = set(hoards, default);
    Client::connect(server.address()).echo("it begins");
}

#[test]
fn tripped_breaker_admits_none_until_a_session_succeeds() {
    let limits =
        BreakerLimits { faults: 5, pause: Duration::from_millis(200), ..BreakerLimits::default() };
    // Traps at `T` and is polite otherwise.
    let plugin = inline(
        "traps-on-t",
        "(func $on-read (param $data i32) (param $length i32) (result i32)
          (if (i32.eq (i32.load8_u (local.get $data)) (i32.const 84)) (then unreachable))
          (drop (call $try-write (local.get $data) (local.get $length)))
          (i32.const 0))",
    );
    let server = describe(plugin).breaker(limits).start().expect("it starts");
    let neighbour = start(polite());
    let mut inside = Client::connect(server.address());
    inside.echo("before");
    let trip = |already: u64| {
        // Nine for each session inside, so that the faults have many clients against few.
        for _ in 0..9 * server.session_count().max(1) {
            Client::connect(server.address()).send("T").expect_gone();
        }
        eventually("it trips", || server.counters().notices.get("tripped") == Some(&(already + 1)));
    };
    trip(0);
    assert!(matches!(server.breaker(), BreakerState::Open(_)), "{:?}", server.breaker());
    // Sessions inside and on other servers are not affected.
    inside.echo("inside");
    Client::connect(neighbour.address()).echo("elsewhere");
    // The next connection waits, becomes the trial, and opens the server when it succeeds.
    let mut tried = Client::connect(server.address());
    tried.echo("after the pause");
    eventually("it recovers", || server.counters().notices.get("recovered") == Some(&1));
    let mut next = Client::connect(server.address());
    next.echo("at once");
    assert_eq!(server.breaker(), BreakerState::Closed);
    // A new connection that faults makes the next pause longer. The operator may end the pause.
    trip(1);
    Client::connect(server.address()).send("T").expect_gone();
    eventually("it trips again", || server.counters().notices.get("tripped") == Some(&3));
    server.resume().expect("it runs");
    assert_eq!(server.breaker(), BreakerState::Closed);
    Client::connect(server.address()).echo("resumed");
    inside.echo("still inside");
}
