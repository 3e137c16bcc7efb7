//! A gate for all sessions of a server: while it is closed, no event of theirs starts.
//!
//! Events are frequent; opening and closing are rare. So an event pays for two exchanges on a cache
//! line of its own session and one load of a line that hardly ever changes.
//!
//! The session and the closer each write first and then read the other's flag, in one total order.
//! So one of them always sees the other.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// A gate that pauses the events of all sessions of a server. Open at first.
#[derive(Debug, Default)]
pub struct PauseGate {
    closed: AtomicBool,
    /// Notified when an event ends while the gate is closed.
    quieter: Notify,
    /// Notified when the gate opens.
    opened: Notify,
}

impl PauseGate {
    /// Closes the gate, so that no event starts. Running events go on; see
    /// [`crate::session::SessionHandle::in_event`].
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Opens the gate, so that events run again.
    pub fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
        self.opened.notify_waiters();
    }

    /// Waits until `quiet` returns true, and calls it again when an event ends. Dropping the future
    /// is safe.
    pub async fn until(&self, quiet: impl Fn() -> bool) {
        loop {
            let quieter = self.quieter.notified();
            if quiet() {
                return;
            }
            quieter.await;
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(super) fn event_ended(&self) {
        if self.is_closed() {
            self.quieter.notify_waiters();
        }
    }

    /// Waits until the gate is open. Dropping the future is safe.
    pub(super) async fn opened(&self) {
        loop {
            let opened = self.opened.notified();
            if !self.is_closed() {
                return;
            }
            opened.await;
        }
    }
}
