//! Calling work off: a flag that threads look at and tasks wait for.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Says to one piece of work that its outcome is not wanted any more. Clones say it to the same
/// piece.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    asked: AtomicBool,
    told: Notify,
}

impl Stop {
    /// Calls the work off. It may end well all the same.
    pub fn ask(&self) {
        self.0.asked.store(true, Ordering::SeqCst);
        self.0.told.notify_waiters();
    }

    /// Whether the work was called off.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.0.asked.load(Ordering::SeqCst)
    }

    /// Whether both call off the same work.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Waits until the work is called off. Dropping the future is safe.
    pub async fn asked(&self) {
        let mut told = pin!(self.0.told.notified());
        // Waits from here on, so that a call between the look and the wait is not missed.
        told.as_mut().enable();
        if !self.is_asked() {
            told.await;
        }
    }
}
