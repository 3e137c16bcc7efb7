//! Versions of a server that come and go in an order that a number decides, with failures injected:
//! plugins that do not load or fail their trial, sessions that refuse, trap or dawdle, disks that
//! are full, read-only or flaky, a stop in the middle, orders of operators that race each other,
//! and a process that is killed at any step, and started again. What runs is the server's own code,
//! down to the record on the disk; only its sessions are played, and time is of the number's
//! making. A number that fails is printed and can be tried again:
//!
//!     WHARF_SEED=17 cargo test -p wharf simulated

mod broken;
mod model;
mod orders;
mod plugins;
mod sim_env;
mod world;

pub(in crate::server) use sim_env::SimEnv;

use crate::rng::{Rng, for_each_seed};

/// Numbers that are tried where nobody says.
const SEEDS: u64 = 200;
/// RevisionOrigin often the process starts, for one number.
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
fn whatever_happens_to_simulated_versions_what_was_answered_is_true_and_outlives_the_process() {
    let ground = plugins::SimHost::shared();
    let _inside = ground.host.runtime().enter();
    for_each_seed(SEEDS, simulate);
    let _ = std::fs::remove_dir_all(&ground.folder);
}
