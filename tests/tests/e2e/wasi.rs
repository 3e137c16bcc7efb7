//! A Rust guest with the standard library: output, panics, memory, sleeping and exit.

use std::sync::Arc;

use wharf::plugin::{Grant, Grants, InstanceLimits};
use wharf_tests::clients::Client;
use wharf_tests::guests::{bundled, component_in, contract, file};
use wharf_tests::servers::{describe, ended, host, start};
use wit_component::StringEncoding;

#[test]
fn log_flood_is_dropped_and_counted() {
    let limits = InstanceLimits { log_lines_per_second: 10, ..InstanceLimits::default() };
    let server = describe(bundled("tests/unruly")).limits(limits).start().expect("it starts");
    Client::connect(server.address())
        .send("l")
        .expect("done")
        .send("L")
        .expect("done")
        .send("e")
        .expect("done");
    let dropped = server.counters().lines_dropped;
    assert!(dropped > 9_900, "{dropped} lines of 10,000 were dropped");
}

#[test]
fn panic_ends_its_session() {
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
fn guest_exit_ends_its_session() {
    let server = start(bundled("tests/unruly"));
    Client::connect(server.address()).send("x").expect_gone();
    ended(&server, "exit", 1);
}

#[test]
fn sleep_past_the_budget_ends_its_session() {
    use wharf::event::Priority;
    // The class with the shortest wall time.
    let server =
        describe(bundled("tests/unruly")).priority(Priority::Critical).start().expect("it starts");
    let mut other = Client::connect(server.address());
    let mut sleeper = Client::connect(server.address());
    sleeper.send("s");
    other.send("?").expect("?");
    sleeper.expect_gone();
    ended(&server, "wall-time", 1);
    other.send("?").expect("?");
}

#[test]
fn stop_does_not_wait_for_a_sleeping_guest() {
    let server = start(bundled("tests/unruly"));
    let mut sleeper = Client::connect(server.address());
    sleeper.send("?").expect("?").send("s");
    server.stop_blocking(std::time::Duration::from_millis(100));
    assert_eq!(server.clients(), 0);
    sleeper.expect_gone();
}

/// A part of `wasi:filesystem` and of `wasi:sockets`, as runtimes of languages import them.
const UNUSED: &str = "package wasi:filesystem@0.2.6 {
    interface types { resource descriptor; }
    interface preopens {
        use types.{descriptor};
        get-directories: func() -> list<tuple<descriptor, string>>;
    }
}
package wasi:sockets@0.2.6 {
    interface network { resource network; }
    interface instance-network {
        use network.{network};
        instance-network: func() -> network;
    }
}";

#[test]
fn stubs_have_no_files_and_trap_at_sockets() {
    let (world, imports) = (
        "world plugin {\n",
        "import wasi:filesystem/preopens@0.2.6;\nimport wasi:sockets/instance-network@0.2.6;\n",
    );
    let contract = format!("{}\n{UNUSED}", contract().replace(world, &format!("{world}{imports}")));
    // `f` answers the number of folders, `s` asks for a socket, and any other byte is echoed.
    let handlers = "(import \"wasi:filesystem/preopens@0.2.6\" \"get-directories\" (func $folders \
        (param i32)))
(import \"wasi:sockets/instance-network@0.2.6\" \"instance-network\" (func $network (result i32)))
(func $on-read (param $data i32) (param $length i32) (result i32)
  (if (i32.eq (i32.load8_u (local.get $data)) (i32.const 115)) (then (drop (call $network))))
  (if (i32.eq (i32.load8_u (local.get $data)) (i32.const 102)) (then
    (call $folders (i32.const 1040))
    (i32.store8 (local.get $data) (i32.add (i32.const 48) (i32.load (i32.const 1044))))))
  (drop (call $try-write (local.get $data) (local.get $length)))
  (i32.const 0))";
    let file =
        file("with-stubs", &component_in(handlers, &contract, "0.1.0", StringEncoding::UTF8));
    let refused =
        host().loader().load(&file, &Grants::none()).err().expect("it is not granted").to_string();
    assert!(
        refused.contains("`wasi:sockets/instance-network@0.2.6` needs the grant \"stubs\""),
        "{refused}"
    );
    let plugin =
        host().loader().load(&file, &[Grant::Stubs].into_iter().collect()).expect("it is granted");
    let server = start(Arc::new(plugin));
    let (mut bystander, mut client) =
        (Client::connect(server.address()), Client::connect(server.address()));
    bystander.echo("there");
    client.send("f").expect("0").send("s").expect_gone();
    ended(&server, "trap:contract", 1);
    bystander.echo("and still there");
}
