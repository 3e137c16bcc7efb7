//! A stop flag for work, which threads look at and tasks wait for.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Tells one piece of work that its outcome is no longer wanted. Clones tell the same piece of
/// work.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    asked: AtomicBool,
    told: Notify,
}

impl Stop {
    /// Cancels the work. The work may still succeed.
    pub fn ask(&self) {
        self.0.asked.store(true, Ordering::SeqCst);
        self.0.told.notify_waiters();
    }

    /// Returns whether the work was cancelled.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.0.asked.load(Ordering::SeqCst)
    }

    /// Returns whether both cancel the same work.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Waits until the work is cancelled. Cancel safe.
    pub async fn asked(&self) {
        let mut told = pin!(self.0.told.notified());
        // Registers before the check, so that a call between the check and the wait is not missed.
        told.as_mut().enable();
        if !self.is_asked() {
            told.await;
        }
    }
}
