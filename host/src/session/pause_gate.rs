//! A latch on all sessions of a server: while it is closed, no event of theirs runs.
//!
//! Opening and closing are rare and events are not, so that an event pays for two exchanges on a
//! cache line of its own session and one look at a line that hardly ever changes. Each side first
//! says what it does and then looks at what the other does, in one total order; so one of them
//! always sees the other.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Open at first.
#[derive(Debug, Default)]
pub struct PauseGate {
    closed: AtomicBool,
    /// An event ended while it was closed.
    quieter: Notify,
    /// It opened.
    opened: Notify,
}

impl PauseGate {
    /// Lets no event start. Those that run go on; see [`crate::session::SessionHandle::in_event`].
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Lets events run again.
    pub fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
        self.opened.notify_waiters();
    }

    /// Waits until `quiet` holds, and looks again whenever an event ends. Dropping the future is
    /// safe.
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

    /// Waits until it is open. Dropping the future is safe.
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
