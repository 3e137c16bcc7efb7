//! How many tasks of a server's clients there are in each round, and waiting until there is none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct Census {
    /// Rounds with tasks.
    tasks: Mutex<BTreeMap<u64, usize>>,
    left: Notify,
}

/// Proof that a task of the server runs. Counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Alive {
    census: Arc<Census>,
    round: u64,
}

impl Census {
    pub(crate) fn enter(self: &Arc<Self>, round: u64) -> Alive {
        *self.lock().entry(round).or_default() += 1;
        Alive { census: Arc::clone(self), round }
    }

    /// Tasks of the rounds before this one.
    pub(super) fn before(&self, round: u64) -> usize {
        self.lock().range(..round).map(|(_, tasks)| tasks).sum()
    }

    /// Waits until nobody of a round before this one is there. Dropping the future is safe.
    pub(super) async fn until_empty(&self, before: u64) {
        loop {
            let left = self.left.notified();
            if self.before(before) == 0 {
                return;
            }
            left.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let mut tasks = self.census.lock();
        let empty = tasks.get_mut(&self.round).is_some_and(|left| {
            *left -= 1;
            *left == 0
        });
        if empty {
            tasks.remove(&self.round);
            drop(tasks);
            self.census.left.notify_waiters();
        }
    }
}
