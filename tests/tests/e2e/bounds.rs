//! Each limit of an instance and of a session holds below it, at it and not above. Every limit in
//! force is visible.

use std::sync::Arc;

use serde_json::Value;
use wharf::plugin::{Grants, InstanceLimits, Plugin};
use wharf::server::ServerBuilder;
use wharf_tests::clients::Client;
use wharf_tests::control_site::{ControlSite, said};
use wharf_tests::guests::{bundled, component, file, guest, inline};
use wharf_tests::servers::{describe, ended, eventually, host};
use wharf_tests::shapes::{with_modules, worst};

fn limited(plugin: Arc<Plugin>, limits: InstanceLimits) -> ServerBuilder {
    describe(plugin).limits(limits)
}

/// The error of a server that cannot be started.
fn refused(server: ServerBuilder) -> String {
    server.start().err().expect("it is refused").to_string()
}

#[test]
fn table_limit_holds_at_start_and_while_growing() {
    let handlers = "(table $two 100 funcref)
        (func $on-read (param $data i32) (param $length i32) (result i32)
          (if (i32.eq (i32.const -1) (table.grow $two (ref.null func) (i32.load8_u (local.get \
          $data)))) (then unreachable))
          (drop (call $try-write (local.get $data) (local.get $length)))
          (i32.const 0))";
    let plugin = inline("tables", handlers);
    // Linking adds a table of its own, so the test finds the size at the start by trial.
    let limits =
        |elements| InstanceLimits { table_elements_max: elements, ..InstanceLimits::default() };
    let least =
        (100..200).find(|elements| limited(Arc::clone(&plugin), limits(*elements)).start().is_ok());
    let least = least.expect("a hundred, and a few of the linker's");
    let below = refused(limited(Arc::clone(&plugin), limits(least - 1)));
    assert!(below.contains("limit-tables") && below.contains(&(least - 1).to_string()), "{below}");
    let server = limited(plugin, limits(least + 10)).start().expect("it starts");
    Client::connect(server.address()).echo([9]).echo([1]);
    Client::connect(server.address()).echo([10]);
    Client::connect(server.address()).send([11]).expect_gone();
    ended(&server, "limit-tables", 1);
}

#[test]
fn component_with_too_many_modules_is_refused() {
    let plugin = file("modules", &with_modules(&component(""), &worst()));
    let plugin = host().loader().load(&plugin, &Grants::none()).expect("it loads");
    let plugin = Arc::new(plugin);
    let limits =
        |modules| InstanceLimits { core_instances_max: modules, ..InstanceLimits::default() };
    let least =
        (1..=32).find(|modules| limited(Arc::clone(&plugin), limits(*modules)).start().is_ok());
    let least = least.expect("at most as many as there may be");
    assert!(least > 1, "it is linked from several");
    let below = refused(limited(plugin, limits(least - 1)));
    assert!(below.contains("limit-modules"), "{below}");
}

#[test]
fn plugin_over_its_memory_limit_is_refused() {
    let limits = InstanceLimits { memory_max_bytes: 64 << 10, ..InstanceLimits::default() };
    let refused = refused(limited(inline("two-pages", ""), limits));
    assert!(refused.contains("limit-session-mem") && refused.contains("65536 bytes"), "{refused}");
}

#[test]
fn timers_end_at_their_limit() {
    for timers in [0, 1, 5, 200] {
        let server =
            describe(guest("timer-hoarder")).timers_max(timers).start().expect("it starts");
        // The guest sets one timer when a client connects.
        Client::connect(server.address()).send("x").expect([timers.saturating_sub(1) as u8]);
    }
}

#[test]
fn session_name_ends_at_its_limit() {
    let server = describe(bundled("tests/unruly")).name_chars_max(3).start().expect("it starts");
    let mut client = Client::connect(server.address());
    client.send("nab").expect("Ok(())");
    client.send("nabc").expect("Ok(())");
    client.send("nabcd").expect("Err(\"too-long\")");
}

#[test]
fn host_call_bytes_end_at_their_limit() {
    // Writes as many KiB as the first byte says. A write over the send buffer is refused; a write
    // over the copy limit is a fault.
    let handlers = "(func $on-connect (param i32) (result i32) (drop (memory.grow (i32.const 4))) \
        (i32.const 0))
        (func $on-read (param $data i32) (param $length i32) (result i32)
          (i32.store8 (i32.const 1040) (call $try-write (i32.const 65536)
            (i32.add (i32.mul (i32.load8_u (local.get $data)) (i32.const 1024)) (i32.load8_u \
            offset=1 (local.get $data)))))
          (drop (call $try-write (i32.const 1040) (i32.const 1)))
          (i32.const 0))";
    let limits = InstanceLimits { copy_max_bytes: 64 << 10, ..InstanceLimits::default() };
    let server = limited(inline("writes", handlers), limits);
    let marks = wharf::session::Watermarks { high_bytes: 32 << 10, low_bytes: 1 << 10 };
    let server = server.watermarks(marks).start().expect("it starts");
    Client::connect(server.address()).send([32, 0]).skip(32 << 10).expect([0]);
    Client::connect(server.address()).send([32, 1]).expect([2]);
    Client::connect(server.address()).send([63, 0]).expect([2]);
    Client::connect(server.address()).send([65, 0]).expect_gone();
    ended(&server, "copy-limit", 1);
}

#[test]
fn log_lines_end_at_their_limit() {
    let limits = InstanceLimits { log_lines_per_second: 50, ..InstanceLimits::default() };
    let server = limited(bundled("tests/unruly"), limits).start().expect("it starts");
    Client::connect(server.address()).send("e").expect("done");
    assert_eq!(server.counters().lines_dropped, 0);
    // Of ten thousand lines at once, two seconds' allowance passes, and few more while they are
    // written.
    Client::connect(server.address()).send("l").expect("done");
    eventually("they are counted", || server.counters().lines_dropped > 9_000);
    assert!(server.counters().lines_dropped < 9_950, "{}", server.counters().lines_dropped);
}

#[test]
fn limits_are_visible_with_their_source() {
    let site = ControlSite::with(
        "",
        "max_clients = 9\ntenant = 'a'\n[server.limits]\nmemory_max_bytes = \
         1048576\n[server.budgets.low]\nfuel = 20000\n\
         [[tenant]]\nname = 'a'\ncpus = 0.5\n",
    );
    let limits = || {
        site.ok("GET", "/v1/servers/echo/limits", Value::Null)["limits"]
            .as_array()
            .expect("a list")
            .clone()
    };
    let of = |key: &str| {
        let limits = limits();
        let limit =
            limits.iter().find(|limit| limit["key"] == key).unwrap_or_else(|| panic!("no {key}"));
        (limit["value"].to_string(), limit["origin"].as_str().expect("a word").to_owned())
    };
    let is = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    assert_eq!(of("max_clients"), is("9", "configured"));
    assert_eq!(of("limits.memory_max_bytes"), is("1048576", "configured"));
    assert_eq!(of("limits.handles_max"), is("1024", "default"));
    assert_eq!(of("budgets.low.fuel"), is("20000", "configured"));
    assert_eq!(of("budgets.low.cpu"), is("\"40ms\"", "default"));
    assert_eq!(of("tenant.cpus"), is("0.5", "tenant"));
    assert_eq!(of("host.sessions_max"), is("256", "configured"));
    assert_eq!(of("read_max_bytes"), is("65536", "fixed"));
    site.ok("PATCH", "/v1/servers/echo/throttle", serde_json::json!({ "max_clients": 7 }));
    assert_eq!(of("max_clients"), is("7", "changed"));
    let table = said(&site.ctl(&["limits", "echo"]));
    assert!(table.contains("limits.memory_max_bytes") && table.contains("FROM"), "{table}");
    Client::connect(site.address()).echo("x");
    let tenants = said(&site.ctl(&["tenants"]));
    assert!(
        tenants.lines().any(|line| line.starts_with("a ") && line.contains("0.5")),
        "{tenants}"
    );
    let (_, metrics) = site.curl(&[], "/metrics");
    assert!(metrics.contains("wharf_tenant_clients{tenant=\"a\"}"), "{metrics}");
}
