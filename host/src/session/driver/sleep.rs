//! A session that was idle for long drops its instance and keeps what the instance saved.
//!
//! The connection, its TLS, timers and limits stay. The next event wakes the session, on the
//! version that is then its own.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};

use super::migrate::called_off_by;
use super::pending_call::{self, CancelScope, PendingCall};
use super::session::{Asleep, Session};
use crate::event::{Fault, FaultKind, Instance, Port, Procedure, Scope, Usage};
use crate::session::live_stats::Doing;
use crate::session::run;

impl<P: Procedure, M> Session<P, M> {
    /// When the session falls asleep if nothing happens, or `None` if it cannot sleep. `exchanged`
    /// is when bytes last moved.
    pub(super) fn sleeps_at(&self, exchanged: Instant) -> Option<Instant> {
        let after = self.handle.config().sleep_after;
        let instance = self.instance.as_ref()?;
        let may = after > Duration::ZERO
            && !self.sleepless
            && self.procedure.can_sleep()
            && !instance.is_shared();
        may.then(|| self.stirred.max(exchanged) + after)
    }

    /// Saves the state and drops the instance. If the state is too large, the session stays awake
    /// until an event other than `on-timeout`.
    pub(super) async fn fall_asleep(&mut self) {
        if let Some(fault) = run::enter(&self.handle, Doing::SLEEP).await {
            return self.end_by("sleep", fault);
        }
        let saved = self.save().await;
        run::leave(&self.handle);
        let quota = Arc::clone(&self.handle.config().quota);
        match saved {
            Ok(mut state) => {
                state.shrink_to_fit();
                // The state was in the memory of the instance, which is freed next. So a tenant at
                // its limit has more memory left afterwards than before.
                quota.keep_memory(state.capacity());
                let used = self.usage();
                let (version, on) =
                    (self.procedure.version().to_owned(), Arc::downgrade(&self.procedure));
                let kept = state.len() as u64;
                self.asleep = Some(Box::new(Asleep { state, version, on, quota }));
                (self.spent_before, self.saved) = (used.fuel, None);
                let instance = self.instance.take();
                self.handle.live_stats.sleeps(Usage { memory_bytes: kept, ..used });
                self.drop_instance(instance).await;
            }
            Err(fault) if fault.kind == FaultKind::StateLimit => self.sleepless = true,
            // As in a migration, no instance is left that could carry on.
            Err(fault) => self.end_by("sleep", fault),
        }
    }

    /// Makes the instance of a sleeping session again. If the current version cannot restore the
    /// state, the version that saved it is tried, if it still exists. The caller is in an event of
    /// the session.
    pub(super) async fn wake(&mut self) -> Result<(), Fault> {
        let Some(mut asleep) = self.asleep.take() else { return Ok(()) };
        let kept = asleep.state.capacity();
        let state = std::mem::take(&mut asleep.state);
        asleep.quota.give_memory(kept);
        let own = Arc::clone(&self.procedure);
        let copy = self.copy_saved(&own, &asleep.version, &state);
        let before = asleep.on.upgrade().filter(|before| !Arc::ptr_eq(before, &own));
        let again = before.as_ref().map(|_| state.clone());
        let woken = match (self.take_over(&own, &asleep.version, state).await, before, again) {
            // The version that saved the state still exists.
            (Err(fault), Some(before), Some(state))
                if !pending_call::is_order(&fault) && !is_want_of_room(&fault) =>
            {
                own.meter().not_woken(self.handle.priority(), &fault);
                let woken = self.take_over(&before, &asleep.version, state).await;
                if woken.is_ok() {
                    self.slot.commit(&before);
                    self.procedure = before;
                }
                woken
            }
            (woken, ..) => woken,
        };
        (self.instance, self.saved) = (Some(woken?), copy);
        self.handle.live_stats.born(self.usage());
        Ok(())
    }

    /// Migrates a sleeping session without waking it. Returns false if the session is awake. The
    /// new version restores the state when the session wakes.
    pub(super) fn moves_asleep(&mut self, to: &Arc<P>) -> bool {
        if self.asleep.is_none() {
            return false;
        }
        self.procedure = Arc::clone(to);
        self.slot.commit(to);
        true
    }

    /// Lets the instance save what another instance needs to carry on.
    pub(super) async fn save(&mut self) -> Result<Vec<u8>, Fault> {
        let class = self.handle.priority();
        let budget = self.handle.config().budgets.event(class);
        let Self { handle, machine, instance, alarm, run_permit, .. } = self;
        let Some(old) = instance else { return Ok(Vec::new()) };
        let mut pending =
            PendingCall { handle, machine, alarm, run_permit, class, lifetime_ends: None };
        pending.call(pin!(old.save(budget)), budget.wall, CancelScope::Session).await
    }

    /// Tries whether this procedure could restore a sleeping session, which sleeps on. Fails if the
    /// try is called off.
    ///
    /// If there is no room for the trial instance, the answer is unknown. That is no fault of the
    /// version, so it counts as success.
    pub(super) async fn tries_asleep(
        &mut self,
        called_off: impl Future<Output = ()> + Send,
        to: &Arc<P>,
    ) -> Result<(), Fault> {
        let Some((state, version)) = self.asleep.as_ref().map(|asleep| asleep.kept()) else {
            return Ok(());
        };
        match self.take_over_unless(called_off, to, &version, state).await {
            Err(fault) if !is_want_of_room(&fault) => Err(fault),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Makes an instance of this procedure that carries on from `state`.
    pub(super) async fn take_over(
        &mut self,
        procedure: &Arc<P>,
        version: &str,
        state: Vec<u8>,
    ) -> Result<P::Instance, Fault> {
        self.take_over_unless(std::future::pending(), procedure, version, state).await
    }

    /// Makes an instance that carries on from `state`, unless `called_off` completes first.
    pub(super) async fn take_over_unless(
        &mut self,
        called_off: impl Future<Output = ()> + Send,
        procedure: &Arc<P>,
        version: &str,
        state: Vec<u8>,
    ) -> Result<P::Instance, Fault> {
        let class = self.handle.priority();
        let (event, start) =
            (self.handle.config().budgets.event(class), self.handle.config().budgets.start(class));
        let scope = Scope { port: self.handle.clone(), peers: self.peers.clone() };
        let Self { handle, machine, alarm, run_permit, .. } = self;
        let mut pending =
            PendingCall { handle, machine, alarm, run_permit, class, lifetime_ends: None };
        // The future is boxed, because it is large and rare.
        let mut taking = Box::pin(async {
            let taking = pin!(procedure.take_over(scope, start, event, version, state));
            match select(pin!(called_off), taking).await {
                Either::Left(_) => {
                    Err(called_off_by("another session of the server could not move"))
                }
                Either::Right((taken, _)) => taken,
            }
        });
        pending.call(taking.as_mut(), start.wall, CancelScope::Session).await
    }
}

/// Whether there was no room for an instance, which says nothing about the version.
fn is_want_of_room(fault: &Fault) -> bool {
    matches!(fault.kind, FaultKind::Capacity | FaultKind::TenantMemory)
}
