//! Swaps, canaries and roll-backs that are not staged yet. A roll-back or a stop cancels them.

use std::sync::{Mutex, MutexGuard};

use super::live::LiveSessions;
use super::report::SwapError;
use crate::locks::lock;
use crate::work::Stop;

/// All pending changes of one server: one for each call that is under way.
#[derive(Debug, Default)]
pub(super) struct PendingChanges(Mutex<Vec<Stop>>);

/// One pending change, until this value is dropped.
pub(super) struct PendingChange<'a> {
    all: &'a PendingChanges,
    stop: Stop,
}

impl PendingChanges {
    /// Adds a pending change.
    pub(super) fn add(&self) -> PendingChange<'_> {
        let stop = Stop::default();
        self.all().push(stop.clone());
        PendingChange { all: self, stop }
    }

    /// Cancels all pending changes.
    pub(super) fn cancel(&self) {
        self.all().iter().for_each(Stop::ask);
    }

    fn all(&self) -> MutexGuard<'_, Vec<Stop>> {
        lock(&self.0)
    }
}

impl Drop for PendingChange<'_> {
    fn drop(&mut self) {
        self.all.all().retain(|stop| !stop.is(&self.stop));
        // If the caller has gone, its work that still runs is of no use.
        self.stop.ask();
    }
}

impl PendingChange<'_> {
    /// Returns the stop signal that cancels this change.
    pub(super) fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Awaits a step of this change, unless the change is cancelled. Cancel safe if the step is.
    ///
    /// # Errors
    /// - [`SwapError::Stopping`] if the server stops.
    /// - [`SwapError::Overtaken`] if a roll-back cancelled the change.
    pub(super) async fn unless_cancelled<T>(
        &self,
        server: &dyn LiveSessions,
        step: impl Future<Output = T>,
    ) -> Result<T, SwapError> {
        let done = tokio::select! {
            biased;
            () = self.stop.asked() => None,
            done = step => Some(done),
        };
        let done = done.filter(|_| !self.stop.is_asked());
        done.ok_or_else(
            || {
                if server.is_ending() { SwapError::Stopping } else { SwapError::Overtaken }
            },
        )
    }
}
