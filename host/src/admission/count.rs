//! A count of clients, with a ceiling that may move.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A count of clients with a ceiling. 0 is no ceiling.
#[derive(Debug)]
pub struct ClientCount {
    taken: AtomicUsize,
    max: AtomicUsize,
}

impl ClientCount {
    /// Creates a count of zero with this ceiling.
    #[must_use]
    pub fn up_to(max: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), max: AtomicUsize::new(max) })
    }

    /// Returns how many slots are taken now.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Returns the ceiling; 0 is none.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// Moves the ceiling. A ceiling below the slots taken frees none, and grants none until enough
    /// slots were given back.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Takes a slot, unless the count is at its ceiling.
    pub(super) fn take(self: &Arc<Self>) -> Option<Slot> {
        let max = self.max();
        let room = |taken: usize| (max == 0 || taken < max).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, room).ok()?;
        Some(Slot(Arc::clone(self)))
    }
}

/// A slot of a client count. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Slot(Arc<ClientCount>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}
