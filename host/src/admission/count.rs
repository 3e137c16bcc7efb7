//! A counter of places, with a ceiling that may move.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A counter with a ceiling. 0 is no ceiling.
#[derive(Debug)]
pub struct Count {
    taken: AtomicUsize,
    max: AtomicUsize,
}

impl Count {
    /// Creates a counter at zero with this ceiling.
    #[must_use]
    pub fn up_to(max: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), max: AtomicUsize::new(max) })
    }

    /// Returns how many places are taken now.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Returns the ceiling; 0 is none.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// Moves the ceiling. A ceiling below the places taken frees none, and grants none until enough
    /// places were given back.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    pub(super) fn take(self: &Arc<Self>) -> Option<Places> {
        self.take_many(1)
    }

    /// Takes this many places, or none if there are not enough.
    pub fn take_many(self: &Arc<Self>, places: usize) -> Option<Places> {
        let max = self.max();
        let room = |taken: usize| {
            (max == 0 || taken.saturating_add(places) <= max).then_some(taken + places)
        };
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, room).ok()?;
        Some(Places { count: Arc::clone(self), places })
    }
}

/// Some of a counter's places. Dropping it gives them back.
#[derive(Debug)]
pub struct Places {
    count: Arc<Count>,
    places: usize,
}

impl Drop for Places {
    fn drop(&mut self) {
        self.count.taken.fetch_sub(self.places, Ordering::AcqRel);
    }
}
