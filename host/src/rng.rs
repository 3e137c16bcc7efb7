//! Random numbers from a seed, and runs over many seeds, for simulations.

use std::panic::AssertUnwindSafe;

/// A generator of random numbers from a seed.
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    /// Returns a number from 0 on, below `sides`.
    pub(crate) fn throw(&mut self, sides: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    /// Returns true `share` times in a hundred.
    pub(crate) fn percent(&mut self, share: u64) -> bool {
        self.throw(100) < share
    }
}

/// Runs a test for as many seeds as `WHARF_SEEDS` says, or else `count`. If `WHARF_SEED` is set,
/// runs only that seed. Prints a seed that fails.
pub(crate) fn for_each_seed(count: u64, mut run: impl FnMut(u64)) {
    let number =
        |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("WHARF_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("WHARF_SEEDS").unwrap_or(count),
    };
    for seed in seeds {
        if let Err(failure) = std::panic::catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("WHARF_SEED={seed} fails");
            std::panic::resume_unwind(failure);
        }
    }
}
