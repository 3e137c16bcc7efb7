//! A counter with a ceiling that may move.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A counter with a ceiling. 0 is no ceiling.
#[derive(Debug)]
pub struct Count {
    taken: AtomicUsize,
    max: AtomicUsize,
}

impl Count {
    /// A counter at zero.
    #[must_use]
    pub fn up_to(max: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), max: AtomicUsize::new(max) })
    }

    /// Places taken now.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Moves the ceiling. Below what is taken it frees nothing, and gives nothing until enough was given back.
    pub(super) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    pub(super) fn take(self: &Arc<Self>) -> Option<Place> {
        let max = self.max.load(Ordering::Relaxed);
        let room = |taken| (max == 0 || taken < max).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, room).ok()?;
        Some(Place(Arc::clone(self)))
    }
}

/// One of a counter's places. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place(Arc<Count>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}
