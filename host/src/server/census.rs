//! How many tasks of a server's clients there are, and waiting until there is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct Census {
    tasks: AtomicUsize,
    empty: Notify,
}

/// Proof that a task of the server runs. Counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Alive(Arc<Census>);

impl Census {
    pub(crate) fn enter(self: &Arc<Self>) -> Alive {
        self.tasks.fetch_add(1, Ordering::SeqCst);
        Alive(Arc::clone(self))
    }

    /// Waits until nobody is there. Dropping the future is safe.
    pub(super) async fn until_empty(&self) {
        loop {
            let empty = self.empty.notified();
            if self.tasks.load(Ordering::SeqCst) == 0 {
                return;
            }
            empty.await;
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        if self.0.tasks.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.empty.notify_waiters();
        }
    }
}
