//! A new version that faults soon after its swap is taken back by itself.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::AbortHandle;

use super::exclusive::Rank;
use super::means;
use super::service::Service;
use super::swap::{hand_over, on_build, put_back, same};
use super::versions::SwapRules;
use crate::event::Peers;
use crate::plugin::{EventProcedure, Grants};

/// A version that is watched, and the one before.
#[derive(Debug)]
pub(crate) struct Guard {
    new: Arc<EventProcedure>,
    before: Arc<EventProcedure>,
    until: Instant,
    faults: u32,
    /// There were too many faults, and it is to be taken back as soon as no other order is under way.
    is_over: bool,
    rules: SwapRules,
    /// What both may import.
    grants: Grants,
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
        // Some may be on it under the terms before a reload.
        if !same(of.plugin(), self.new.plugin()) || now > self.until {
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
        let terms = self.terms();
        let (rules, grants) = (terms.rules, terms.grants.clone());
        if rules.watch.is_zero() {
            *self.guard() = None;
            return;
        }
        let (service, until) = (Arc::downgrade(self), means::now() + rules.watch);
        let expiry = means::beside(&self.runtime, async move {
            means::sleep(rules.watch).await;
            let Some(service) = service.upgrade() else { return };
            service.guard().take_if(|guard| guard.until == until && !guard.is_over);
        });
        let (new, before) = (Arc::clone(new), Arc::clone(before));
        *self.guard() = Some(Guard { new, before, until, faults: 0, is_over: false, rules, grants, expiry });
    }

    /// The version in force has other terms since a reload. Where it is watched it is watched on, and what it would go back to gets
    /// those terms as well.
    pub(super) fn watch_on(&self, new: &Arc<EventProcedure>, was: &Arc<EventProcedure>) {
        let mut watching = self.guard();
        let Some(guard) = watching.as_mut().filter(|guard| Arc::ptr_eq(&guard.new, was)) else { return };
        if guard.grants != self.terms().grants {
            // What is linked with others is not to come back.
            *watching = None;
            return;
        }
        guard.new = Arc::clone(new);
        // With other shards it has no places for them, and keeps the terms that it had.
        if new.shards() == guard.before.shards() {
            guard.before = Arc::new(guard.before.under_terms_of(new));
        }
    }

    /// A session on this version faulted by its plugin. Takes the version back where that is one too many.
    pub(crate) fn blame(self: &Arc<Self>, procedure: &Arc<EventProcedure>) {
        let others = self.registry.client_count() as usize;
        let is_over = self.guard().as_mut().is_some_and(|guard| {
            let over = !guard.is_over && guard.fault(procedure, others, means::now());
            guard.is_over |= over;
            over
        });
        if is_over {
            means::beside(&self.runtime, take_back(Arc::clone(self)));
        }
    }
}

async fn take_back(service: Arc<Service>) {
    let _alone = service.swapping.lock(Rank::Next).await;
    // A reload may have given both other terms meanwhile, and a swap may have come before.
    let Some(guard) = service.guard().take_if(|guard| guard.is_over) else { return };
    let (bad, before) = (Arc::clone(&guard.new), Arc::clone(&guard.before));
    drop(guard);
    if !put_back(&service, &before, &bad, "faults") {
        return;
    }
    service.forget_faults();
    if before.hands_over() && bad.hands_over() {
        let live = on_build(&service, &bad);
        hand_over(&service, &before, live, &mut super::SwapReport::default()).await;
    }
    service.record_quietly().await;
}
