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

    pub(super) fn take(self: &Arc<Self>) -> Option<Slots> {
        self.take_many(1)
    }

    /// Takes this many slots, or none if there are not enough.
    pub fn take_many(self: &Arc<Self>, slots: usize) -> Option<Slots> {
        let max = self.max();
        let room = |taken: usize| {
            (max == 0 || taken.saturating_add(slots) <= max).then_some(taken + slots)
        };
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, room).ok()?;
        Some(Slots { count: Arc::clone(self), slots })
    }
}

/// Some slots of a client count. Dropping them gives them back.
#[derive(Debug)]
pub struct Slots {
    count: Arc<ClientCount>,
    slots: usize,
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.count.taken.fetch_sub(self.slots, Ordering::AcqRel);
    }
}
