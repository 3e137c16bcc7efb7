//! Abuse: everything that a guest, and the machine under the host, may do wrong. One test each,
//! named by what holds, and one judge for all of them (`wharf_tests::oracle`).

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

/// One client says a word to a guest and is cut off; the session ends by one of these faults and
/// nothing else happens. Where the CPU time is none of them, a slow machine makes it none.
fn costs_its_session(plugin: impl FnOnce() -> Arc<Plugin>, reasons: &[&str]) -> Snapshot {
    let budget = if reasons.contains(&"cpu-time") { BudgetChange::default() } else { fuel_alone() };
    costs_its_session_with(
        || describe(plugin()).timeout(PATIENCE).budget(Priority::Normal, budget),
        reasons,
    )
}

/// The same on a server of its own description.
fn costs_its_session_with(server: impl FnOnce() -> ServerBuilder, reasons: &[&str]) -> Snapshot {
    let counters = judge(server, |server| say(server, "x").expect_gone());
    only_faults(&counters, reasons, 1);
    counters
}

/// A client that says a word. A server that ends the session at its start may not hear it.
fn say(server: &ServerHandle, word: &str) -> Client {
    use std::io::Write;
    let mut client = Client::connect(server.address());
    let _ = client.0.write_all(word.as_bytes());
    client
}
