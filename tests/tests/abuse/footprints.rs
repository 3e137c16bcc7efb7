//! Footprints: the host derives them at load, and instances never take more of the pools than that.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use wharf::event::{Budget, Procedure};
use wharf::plugin::{Binding, EventProcedure, Grants, PluginInstance, Resource};
use wharf::server::{Host, HostConfig};
use wharf_tests::guests::{component, file};
use wharf_tests::oracle::alone;
use wharf_tests::rng::Rng;
use wharf_tests::shapes::{Module, Writes, with_modules};

use super::pool::nowhere;

/// Live instances of each shape: enough that other threads and allocations do not matter.
const LIVE: usize = 24;
const SHAPES: u64 = 24;

/// A random module. Only the first three of a component may have a memory.
fn random_module(rng: &mut Rng, place: u32) -> Module {
    let mut below = |end: u32| rng.below(u64::from(end)) as u32;
    let pages = if place < 3 { below(4) } else { 0 };
    let segments = if pages > 0 { below(3) } else { 0 };
    let data = (0..segments).map(|_| (below(pages * 65_536 - 64), 1 + below(63))).collect();
    let grows = if pages > 0 { below(3) } else { 0 };
    let writes = if below(2) == 0 { Writes::Everything } else { Writes::Nothing };
    let tables = (0..below(2)).map(|_| (1 + below(200), below(200))).collect();
    Module { pages, data, grows, writes, tables }
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").expect("the mappings").lines().count()
}

fn instances(procedure: &EventProcedure) -> Vec<PluginInstance> {
    let budget =
        Budget { fuel: 100_000_000, cpu: Duration::from_secs(5), wall: Duration::from_secs(5) };
    let make = |_| {
        let mut making = pin!(procedure.instantiate(nowhere(), budget));
        loop {
            match making.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(made) => return made.expect("there is room"),
                Poll::Pending => {}
            }
        }
    };
    (0..LIVE).map(make).collect()
}

fn host() -> Host {
    Host::new(&HostConfig { workers: 1, sessions_max: 128, ..HostConfig::default() })
        .expect("a host")
}

fn pool(host: &Host, name: &str) -> u64 {
    host.pools().iter().find(|pool| pool.name == name).expect("a pool").used
}

/// Makes instances of a random shape and checks the pools. Returns the mappings that the instances
/// brought, and the derived ones.
fn measured(host: &Host, seed: u64) -> (usize, usize) {
    let mut rng = Rng::seeded(seed + 1);
    let modules: Vec<_> =
        (0..rng.below(7) as u32).map(|place| random_module(&mut rng, place)).collect();
    let bytes = with_modules(&component(""), &modules);
    let plugin = host.loader().load(&file(&format!("shape-{seed}"), &bytes), &Grants::none());
    let plugin = Arc::new(plugin.unwrap_or_else(|error| panic!("{seed}: {modules:?}: {error}")));
    let footprint = plugin.footprint();
    let memories = 1 + modules.iter().filter(|module| module.pages > 0).count();
    assert_eq!(footprint.memories, memories, "{seed}: {modules:?}");
    let procedure = EventProcedure::new(plugin, Binding::default());
    let before =
        (mappings(), pool(host, "tables"), pool(host, "stacks"), pool(host, "core-instances"));
    let live = instances(&procedure);
    let (real, derived) = (mappings().saturating_sub(before.0), LIVE * footprint.mappings);
    assert!(real <= derived, "{seed}: {modules:?}: {real} mappings, {derived} derived");
    assert_eq!(
        pool(host, "tables") - before.1,
        (LIVE * footprint.tables) as u64,
        "{seed}: {modules:?}"
    );
    assert!(pool(host, "stacks") - before.2 <= LIVE as u64, "{seed}");
    assert!(
        pool(host, "core-instances") - before.3 <= (LIVE * footprint.core_instances) as u64,
        "{seed}"
    );
    let used = host.engine().ledger().used();
    assert_eq!(
        (used.of(Resource::Instances), used.of(Resource::Memories)),
        (LIVE, LIVE * memories),
        "{seed}"
    );
    drop(live);
    assert_eq!(host.engine().ledger().used().0, [0, 0], "{seed}: something was not given back");
    (real, derived)
}

#[test]
fn derived_footprint_covers_real_use() {
    let _alone = alone();
    for seed in 0..SHAPES {
        let (real, derived) = measured(&host(), seed);
        // Stacks have their mappings from the start.
        assert!(derived <= 4 * (real + 2 * LIVE), "{seed}: {real} mappings, {derived} derived");
    }
}

#[test]
fn slots_that_others_used_stay_within_footprints() {
    let _alone = alone();
    let (host, start) = (host(), mappings());
    for seed in 0..2 * SHAPES {
        measured(&host, seed);
        // Only as many slots were ever used as instances lived at a time, beside some warm slots.
        let most = host.pools().iter().find(|pool| pool.name == "mappings").expect("a pool").total
            as usize;
        assert!(mappings() <= start + most, "{seed}: {} mappings", mappings());
    }
}
