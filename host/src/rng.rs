//! Numbers from a number, and trying many of them: what simulations throw.

use std::panic::AssertUnwindSafe;

/// Numbers from a number.
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    /// From 0 on, below `sides`.
    pub(crate) fn throw(&mut self, sides: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    /// True so many times in a hundred.
    pub(crate) fn percent(&mut self, share: u64) -> bool {
        self.throw(100) < share
    }
}

/// Tries as many numbers as `WHARF_SEEDS` says, or else `count`; only one where `WHARF_SEED` says
/// which. One that fails is printed.
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
