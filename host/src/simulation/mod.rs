//! Simulation of a server's versions, decided by a seed, with failures injected:
//! - plugins that do not load or fail their trial,
//! - sessions that refuse, trap or are slow,
//! - disks that are full, read-only or flaky,
//! - a stop in the middle,
//! - orders of operators that race each other,
//! - a process that is killed at any step and started again.
//!
//! The server's own code runs, down to the record on the disk. Only its sessions are simulated, and
//! the seed decides the time. A failing seed is printed and can be run again:
//!
//! ```text
//! WHARF_SEED=17 cargo test -p wharf simulated
//! ```

mod broken;
mod model;
mod orders;
mod plugins;
mod world;

use crate::rng::{Rng, for_each_seed};
use crate::rollout::sim_env::SimEnv;

/// Number of seeds that run by default.
const SEEDS: u64 = 200;
/// Number of lives of the process for each seed.
const LIVES: u64 = 3;

fn simulate(seed: u64) {
    let sim_env = SimEnv::new(Rng(seed));
    let _here = sim_env.begin();
    let world = world::World::new(seed, &sim_env);
    for life in 1..=LIVES {
        world::live(&world, life == LIVES);
        if life < LIVES {
            world::restart(&world);
        }
    }
    let _ = std::fs::remove_dir_all(world.folder());
}

#[test]
fn simulated_versions_keep_their_answers_across_restarts() {
    let ground = plugins::SimHost::shared();
    let _inside = ground.host.runtime().enter();
    for_each_seed(SEEDS, simulate);
    let _ = std::fs::remove_dir_all(&ground.folder);
}
