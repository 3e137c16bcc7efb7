//! A new version that faults soon after its swap is taken back by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::service::Service;
use super::swap::{hand_over, on, put_back};
use crate::event::Peers;
use crate::plugin::EventProcedure;

/// How long a version is watched after its swap.
pub const GUARD_WINDOW: Duration = Duration::from_secs(60);
/// So many of its sessions have to fault meanwhile, and more than one in ten of those that are there.
const FAULTS_MIN: usize = 10;
const FAULTS_SHARE: usize = 10;

/// A version that is watched, and the one before.
#[derive(Debug)]
pub(crate) struct Guard {
    new: Arc<EventProcedure>,
    before: Arc<EventProcedure>,
    until: Instant,
    faults: usize,
    /// Lets go of it when that is over.
    expiry: JoinHandle<()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.expiry.abort();
    }
}

impl Guard {
    /// A session of this version faulted, and so many others are there. Whether that is enough.
    fn fault(&mut self, of: &Arc<EventProcedure>, others: usize, now: Instant) -> bool {
        if !Arc::ptr_eq(of, &self.new) || now > self.until {
            return false;
        }
        self.faults += 1;
        self.faults >= FAULTS_MIN && self.faults * FAULTS_SHARE > self.faults + others
    }
}

impl Service {
    /// Watches a version that was just swapped in, and lets go of the one before when that is over.
    pub(super) fn watch(self: &Arc<Self>, new: &Arc<EventProcedure>, before: &Arc<EventProcedure>) {
        let (service, watched) = (Arc::downgrade(self), Arc::downgrade(new));
        let expiry = tokio::spawn(async move {
            tokio::time::sleep(GUARD_WINDOW).await;
            let Some((service, watched)) = service.upgrade().zip(watched.upgrade()) else { return };
            service.guard().take_if(|guard| Arc::ptr_eq(&guard.new, &watched));
        });
        let (new, before) = (Arc::clone(new), Arc::clone(before));
        *self.guard() = Some(Guard { new, before, until: Instant::now() + GUARD_WINDOW, faults: 0, expiry });
    }

    /// A session on this version faulted by its plugin. Takes the version back where that is one too many.
    pub(crate) fn blame(self: &Arc<Self>, procedure: &Arc<EventProcedure>) {
        let others = self.registry.client_count() as usize;
        let guard = self.guard().take_if(|guard| guard.fault(procedure, others, Instant::now()));
        if let Some(guard) = guard {
            tokio::spawn(take_back(Arc::clone(self), Arc::clone(&guard.new), Arc::clone(&guard.before)));
        }
    }
}

async fn take_back(service: Arc<Service>, bad: Arc<EventProcedure>, before: Arc<EventProcedure>) {
    let _alone = service.swapping.lock().await;
    if !put_back(&service, &before, &bad) {
        return;
    }
    service.forget_faults();
    if before.hands_over() && bad.hands_over() {
        let live = on(&service, &bad);
        hand_over(&service, &before, live, &mut super::SwapReport::default()).await;
    }
}
