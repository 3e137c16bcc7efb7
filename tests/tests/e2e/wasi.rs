//! What a Rust guest with the standard library does to its host: output, panics, memory, sleeping, leaving.

use wharf::plugin::InstanceLimits;
use wharf_tests::clients::Client;
use wharf_tests::guests::bundled;
use wharf_tests::servers::{describe, ended, start};

#[test]
fn a_log_flood_is_dropped_and_counted_and_the_session_goes_on() {
    let limits = InstanceLimits { log_lines_per_second: 10, ..InstanceLimits::default() };
    let server = describe(bundled("tests/unruly")).limits(limits).start().expect("it starts");
    Client::connect(server.address()).send("l").expect("done").send("L").expect("done").send("e").expect("done");
    let dropped = server.counters().lines_dropped;
    assert!(dropped > 9_900, "{dropped} lines of 10,000 were dropped");
}

#[test]
fn a_panic_ends_its_session() {
    let server = start(bundled("tests/unruly"));
    let mut other = Client::connect(server.address());
    other.send("?").expect("?");
    Client::connect(server.address()).send("p").expect_reset();
    ended(&server, "trap:unreachable", 1);
    other.send("?").expect("?");
}

#[test]
fn taking_all_memory_ends_its_session() {
    let server = start(bundled("tests/unruly"));
    Client::connect(server.address()).send("m").expect_gone();
    ended(&server, "limit-session-mem", 1);
}

#[test]
fn taking_all_handles_ends_its_session() {
    let limits = InstanceLimits { handles_max: 64, ..InstanceLimits::default() };
    let server = describe(bundled("tests/unruly")).limits(limits).start().expect("it starts");
    Client::connect(server.address()).send("h").expect_gone();
    ended(&server, "handle-limit", 1);
}

#[test]
fn leaving_the_process_leaves_the_session() {
    let server = start(bundled("tests/unruly"));
    Client::connect(server.address()).send("x").expect_gone();
    ended(&server, "exit", 1);
}

#[test]
fn sleeping_past_the_budget_of_an_event_ends_its_session() {
    use wharf::event::Priority;
    // The shortest wall clock of all classes.
    let server = describe(bundled("tests/unruly")).priority(Priority::Critical).start().expect("it starts");
    let mut other = Client::connect(server.address());
    let mut sleeper = Client::connect(server.address());
    sleeper.send("s");
    other.send("?").expect("?");
    sleeper.expect_gone();
    ended(&server, "wall-time", 1);
    other.send("?").expect("?");
}

#[test]
fn stopping_does_not_wait_for_a_sleeper() {
    let server = start(bundled("tests/unruly"));
    let mut sleeper = Client::connect(server.address());
    sleeper.send("?").expect("?").send("s");
    server.stop_blocking(std::time::Duration::from_millis(100));
    assert_eq!(server.clients(), 0);
    sleeper.expect_gone();
}
