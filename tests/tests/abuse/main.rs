//! Abuse: what a guest, and the machine under the host, may do wrong. Each case has one test, named
//! by the claim that holds. One oracle judges all of them (`wharf_tests::oracle`).

mod boundaries;
mod calls;
mod cpu;
mod footprints;
mod machine;
mod memory;
mod output;
mod pool;
mod promises;
mod scarce;
mod starts;
mod strangers;
mod strings;

use std::sync::Arc;

use wharf::event::Priority;
use wharf::plugin::Plugin;
use wharf::sched::BudgetChange;
use wharf::server::{ServerBuilder, ServerHandle};
use wharf::telemetry::Snapshot;
use wharf_tests::clients::Client;
use wharf_tests::oracle::{judge, only_faults};
use wharf_tests::servers::{PATIENCE, describe, fuel_alone};

/// Sends a byte to a guest, and checks that the session ends by one of these faults and that
/// nothing else happens.
///
/// If `cpu-time` is not among the reasons, only the fuel is limited, because a slow machine would
/// reach the CPU time first.
fn costs_its_session(plugin: impl FnOnce() -> Arc<Plugin>, reasons: &[&str]) -> Snapshot {
    let budget = if reasons.contains(&"cpu-time") { BudgetChange::default() } else { fuel_alone() };
    costs_its_session_with(
        || describe(plugin()).timeout(PATIENCE).budget(Priority::Normal, budget),
        reasons,
    )
}

/// [`costs_its_session`] on a server with its own specification.
fn costs_its_session_with(server: impl FnOnce() -> ServerBuilder, reasons: &[&str]) -> Snapshot {
    let counters = judge(server, |server| say(server, "x").expect_gone());
    only_faults(&counters, reasons, 1);
    counters
}

/// Connects a client and sends `word`. A server that ends the session at its start may not read it.
fn say(server: &ServerHandle, word: &str) -> Client {
    use std::io::Write;
    let mut client = Client::connect(server.address());
    let _ = client.0.write_all(word.as_bytes());
    client
}
