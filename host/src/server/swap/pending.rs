//! Swaps, canaries and roll-backs that have put nothing in force yet: a roll-back or a stop calls
//! them off.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::SwapError;
use crate::server::service::Service;
use crate::work::Stop;

/// All of one server. As many as calls that are under way.
#[derive(Debug, Default)]
pub(in crate::server) struct PendingChanges(Mutex<Vec<Stop>>);

/// One of them, until this is dropped.
pub(in crate::server) struct Pending<'a> {
    all: &'a PendingChanges,
    stop: Stop,
}

impl PendingChanges {
    /// One more.
    pub(super) fn add(&self) -> Pending<'_> {
        let stop = Stop::default();
        self.all().push(stop.clone());
        Pending { all: self, stop }
    }

    /// Calls off all that there are now. RevisionOrigin many.
    pub(in crate::server) fn call_off(&self) -> usize {
        let all = self.all();
        all.iter().for_each(Stop::ask);
        all.len()
    }

    fn all(&self) -> MutexGuard<'_, Vec<Stop>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.all.all().retain(|stop| !stop.is(&self.stop));
        // Where the caller has gone, what it began is of no use.
        self.stop.ask();
    }
}

impl Pending<'_> {
    /// What calls it off.
    pub(super) fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Does a step of it, unless it is called off. Dropping the future is safe where it is for the
    /// step.
    ///
    /// # Errors
    /// [`SwapError::Stopping`], [`SwapError::Overtaken`].
    pub(super) async fn unless_called_off<T>(
        &self,
        service: &Service,
        step: impl Future<Output = T>,
    ) -> Result<T, SwapError> {
        let done = tokio::select! {
            biased;
            () = self.stop.asked() => None,
            done = step => Some(done),
        };
        let done = done.filter(|_| !self.stop.is_asked());
        done.ok_or_else(|| {
            if service.status().is_final() { SwapError::Stopping } else { SwapError::Overtaken }
        })
    }
}
