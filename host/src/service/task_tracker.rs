//! Counts the tasks of a server's clients by epoch, and waits until there is none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::locks::lock;
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct TaskTracker {
    /// Number of tasks by epoch, without epochs that have none.
    tasks: Mutex<BTreeMap<u64, usize>>,
    left: Notify,
}

/// Proof that a task of the server runs. The task counts until this is dropped.
#[derive(Debug)]
pub(crate) struct TaskGuard {
    task_tracker: Arc<TaskTracker>,
    epoch: u64,
}

impl TaskTracker {
    pub(crate) fn enter(self: &Arc<Self>, epoch: u64) -> TaskGuard {
        *self.lock().entry(epoch).or_default() += 1;
        TaskGuard { task_tracker: Arc::clone(self), epoch }
    }

    /// Number of tasks of earlier epochs.
    pub(crate) fn before(&self, epoch: u64) -> usize {
        self.lock().range(..epoch).map(|(_, tasks)| tasks).sum()
    }

    /// Waits until no task of an earlier epoch runs. Cancel-safe.
    pub(crate) async fn until_empty(&self, before: u64) {
        loop {
            let left = self.left.notified();
            if self.before(before) == 0 {
                return;
            }
            left.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        lock(&self.tasks)
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        let mut tasks = self.task_tracker.lock();
        let empty = tasks.get_mut(&self.epoch).is_some_and(|left| {
            *left -= 1;
            *left == 0
        });
        if empty {
            tasks.remove(&self.epoch);
            drop(tasks);
            self.task_tracker.left.notify_waiters();
        }
    }
}
