//! Random test cases from a seed. `WHARF_SEED` sets the seed and so repeats a failed case.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::rng::Rng;

/// The random choices of one test.
pub struct Seed(Rng);

impl Seed {
    /// The generator of this run. Prints its seed, which a failed test then shows.
    #[must_use]
    pub fn of_this_run() -> Self {
        let now = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |now| u64::from(now.subsec_nanos()))
        };
        let given = std::env::var("WHARF_SEED").ok();
        let seed = given.map_or_else(now, |text| text.parse().expect("WHARF_SEED is a number"));
        eprintln!("WHARF_SEED={seed}");
        Self(Rng::seeded(seed))
    }

    /// A number from 0 to below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0.below(end)
    }

    /// A number from `start` to below `end`.
    pub fn between(&mut self, start: u64, end: u64) -> u64 {
        start + self.below(end - start)
    }

    /// A duration from `start` to below `end`, in milliseconds.
    pub fn millis(&mut self, start: u64, end: u64) -> Duration {
        Duration::from_millis(self.between(start, end))
    }
}
