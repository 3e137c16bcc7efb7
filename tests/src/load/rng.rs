//! Numbers from a seed, for load that can be repeated.

/// A generator of numbers. The same seed gives the same numbers.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The numbers of one part of a run: each part has a generator of its own.
    #[must_use]
    pub fn of(seed: u64, part: u64) -> Self {
        let mut mixed = Self(seed);
        let start = mixed.throw() ^ part.wrapping_mul(0xd6e8_feb8_6659_fd93);
        Self(start)
    }

    /// Any number.
    pub fn throw(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `low` on, up to and with `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.throw() % (high - low + 1)
    }

    /// True so many times in a hundred.
    pub fn percent(&mut self, share: u64) -> bool {
        self.throw() % 100 < share
    }

    /// One of them. There has to be at least one.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[(self.throw() % all.len() as u64) as usize]
    }

    /// Changes their order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for at in (1..all.len()).rev() {
            all.swap(at, self.between(0, at as u64) as usize);
        }
    }
}
