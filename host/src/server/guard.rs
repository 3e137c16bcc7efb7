//! A new version that faults soon after its swap is taken back by itself.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::AbortHandle;

use super::means;
use super::service::Service;
use super::swap::{hand_over, on, put_back};
use super::versions::SwapRules;
use crate::event::Peers;
use crate::plugin::EventProcedure;

/// A version that is watched, and the one before.
#[derive(Debug)]
pub(crate) struct Guard {
    new: Arc<EventProcedure>,
    before: Arc<EventProcedure>,
    until: Instant,
    faults: u32,
    rules: SwapRules,
    /// Lets go of it when that is over.
    expiry: AbortHandle,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.expiry.abort();
    }
}

impl Guard {
    /// What comes back where it faults.
    pub(super) fn before(&self) -> &Arc<EventProcedure> {
        &self.before
    }

    /// A session of this version faulted, and so many others are there. Whether that is enough.
    fn fault(&mut self, of: &Arc<EventProcedure>, others: usize, now: Instant) -> bool {
        if !Arc::ptr_eq(of, &self.new) || now > self.until {
            return false;
        }
        self.faults += 1;
        let all = f64::from(self.faults) + others as f64;
        self.faults >= self.rules.faults_min && f64::from(self.faults) > self.rules.faults_share * all
    }
}

impl Service {
    /// Watches a version that was just swapped in, and lets go of the one before when that is over.
    pub(super) fn watch(self: &Arc<Self>, new: &Arc<EventProcedure>, before: &Arc<EventProcedure>) {
        let rules = self.terms().rules;
        if rules.watch.is_zero() {
            *self.guard() = None;
            return;
        }
        let (service, watched) = (Arc::downgrade(self), Arc::downgrade(new));
        let expiry = means::beside(&self.runtime, async move {
            means::sleep(rules.watch).await;
            let Some((service, watched)) = service.upgrade().zip(watched.upgrade()) else { return };
            service.guard().take_if(|guard| Arc::ptr_eq(&guard.new, &watched));
        });
        let (new, before) = (Arc::clone(new), Arc::clone(before));
        *self.guard() = Some(Guard { new, before, until: means::now() + rules.watch, faults: 0, rules, expiry });
    }

    /// A session on this version faulted by its plugin. Takes the version back where that is one too many.
    pub(crate) fn blame(self: &Arc<Self>, procedure: &Arc<EventProcedure>) {
        let others = self.registry.client_count() as usize;
        let guard = self.guard().take_if(|guard| guard.fault(procedure, others, means::now()));
        if let Some(guard) = guard {
            means::beside(
                &self.runtime,
                take_back(Arc::clone(self), Arc::clone(&guard.new), Arc::clone(&guard.before)),
            );
        }
    }
}

async fn take_back(service: Arc<Service>, bad: Arc<EventProcedure>, before: Arc<EventProcedure>) {
    let _alone = service.swapping.lock().await;
    if !put_back(&service, &before, &bad, "faults") {
        return;
    }
    service.forget_faults();
    if before.hands_over() && bad.hands_over() {
        let live = on(&service, &bad);
        hand_over(&service, &before, live, &mut super::SwapReport::default()).await;
    }
    service.record_quietly().await;
}
