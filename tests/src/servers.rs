//! Servers for tests on one common host, and waits for conditions.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use wharf::net::SocketOptions;
use wharf::plugin::Plugin;
use wharf::sched::BudgetChange;
use wharf::server::{
    Host, HostConfig, Server, ServerBuilder, ServerHandle, SwapPolicy, SwapReport,
};

/// Time after which a test that waits for a condition fails. Much longer than any condition takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The host of all servers of this test process.
#[must_use]
pub fn host() -> Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    let config = HostConfig { workers: 2, sessions_max: 512, ..HostConfig::default() };
    HOST.get_or_init(|| Host::new(&config).expect("a host")).clone()
}

/// The specification of a server on any free port of the loopback, for further changes.
#[must_use]
pub fn describe(plugin: Arc<Plugin>) -> ServerBuilder {
    let options = SocketOptions { no_delay: true, ..SocketOptions::default() };
    Server::builder().host(&host()).local_host("127.0.0.1").options(options).loaded_plugin(plugin)
}

/// Budgets with times that no event reaches, so that a loop ends by its fuel on any machine.
#[must_use]
pub fn fuel_alone() -> BudgetChange {
    let long = Some(Duration::from_secs(3_600));
    BudgetChange { cpu: long, wall: long, start_cpu: long, ..BudgetChange::default() }
}

/// A running server on any free port of the loopback.
#[must_use]
pub fn start(plugin: Arc<Plugin>) -> ServerHandle {
    describe(plugin).start().expect("the server starts")
}

/// Swaps a server to another plugin. The swap must succeed.
pub fn swap(server: &ServerHandle, plugin: Arc<Plugin>, policy: SwapPolicy) -> SwapReport {
    server.host().runtime().block_on(server.swap(plugin, policy)).expect("a good version")
}

/// Polls until `holds` is true. For conditions of a test that no event reports.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until `times` sessions have ended for this reason.
pub fn ended(server: &ServerHandle, reason: &str, times: u64) {
    let seen = || server.counters().ended.get(reason).copied().unwrap_or(0);
    let start = Instant::now();
    while seen() < times {
        let counters = server.counters();
        assert!(
            start.elapsed() < PATIENCE,
            "waited for {times} sessions to end as {reason}: {counters:?}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(seen(), times, "sessions that ended as {reason}");
}
