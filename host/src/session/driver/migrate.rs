//! Migrates a live session to another version of its plugin, between two events.
//!
//! The stream, the queued bytes, the timers and the limits belong to the session and stay.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use super::pending_call::{self, CancelScope, PendingCall};
use super::session::Session;
use crate::event::{EndReason, Fault, FaultKind, Port, Procedure};
use crate::session::live_stats::Doing;
use crate::session::procedure_slot::{MigrateOutcome, Migration, PrepareVote};
use crate::session::run;

/// How long a vote may take beyond its own deadline, which normally ends it first.
const VERDICT_SPARE: Duration = Duration::from_secs(10);

impl<P: Procedure, M> Session<P, M> {
    /// Starts the requested transfer or migration, if there is one. If anything fails on the new
    /// side, the old instance carries on.
    pub(super) async fn migrate(&mut self) {
        if let Some(transfer) = self.slot.take_transfer() {
            return self.transfer(transfer).await;
        }
        if let Some(fault) = run::enter(&self.handle, Doing::MIGRATE).await {
            self.end_by("hand-over", fault);
            return;
        }
        // The request is taken only now, so that it can be withdrawn while the pause gate is
        // closed.
        let Some(mut migration) = self.slot.take() else { return run::leave(&self.handle) };
        let start = Instant::now();
        let already = Arc::ptr_eq(&migration.to, &self.procedure);
        let outcome = if already { Ok(()) } else { self.move_to(&mut migration).await };
        run::leave(&self.handle);
        match outcome {
            Ok(()) if already => migration.report(MigrateOutcome::Moved(Duration::ZERO)),
            Ok(()) => migration.report(MigrateOutcome::Moved(start.elapsed())),
            Err(Stay::Stays(fault)) => migration.report(MigrateOutcome::Stayed(fault)),
            Err(Stay::Ends(fault)) => {
                migration.report(MigrateOutcome::Lost(fault.clone()));
                self.end_by("hand-over", fault);
            }
        }
    }

    async fn move_to(&mut self, migration: &mut Migration<P>) -> Result<(), Stay> {
        let mut called_off = pin!(called_off(migration));
        if called_off.as_mut().now_or_never().is_some() {
            return Err(Stay::Stays(called_off_by("another session of the server could not move")));
        }
        if self.asleep.is_some() {
            self.tries_asleep(called_off, &migration.to).await.map_err(stay)?;
            self.await_verdict(migration).await?;
            self.moves_asleep(&migration.to);
            return Ok(());
        }
        if self.instance.is_none() {
            return Ok(());
        }
        let saved = self.save().await;
        let state = saved.map_err(|fault| match fault.kind {
            FaultKind::StateLimit => Stay::Stays(fault),
            _ => Stay::Ends(fault),
        })?;
        let version = self.procedure.version().to_owned();
        let copy = self.copy_saved(&migration.to, &version, &state);
        let taken = self.take_over_unless(called_off, &migration.to, &version, state).await;
        let new = taken.map_err(stay)?;
        self.await_verdict(migration).await?;
        self.spent_before = self.usage().fuel;
        self.saved = copy;
        let old = self.instance.replace(new);
        self.procedure = Arc::clone(&migration.to);
        self.slot.commit(&migration.to);
        self.handle.live_stats.born(self.usage());
        self.drop_instance(old).await;
        Ok(())
    }

    /// Waits for the verdict on all sessions, if the migration is atomic.
    async fn await_verdict(&mut self, migration: &mut Migration<P>) -> Result<(), Stay> {
        let Some(vote) = migration.vote.take() else { return Ok(()) };
        let class = self.handle.priority();
        let Self { handle, machine, alarm, run_permit, .. } = self;
        let mut pending =
            PendingCall { handle, machine, alarm, run_permit, class, lifetime_ends: None };
        let wall = vote.wait_max + VERDICT_SPARE;
        let mut cast = Box::pin(async { Ok(vote.cast().await) });
        let verdict = pending.call(cast.as_mut(), wall, CancelScope::Session).await;
        if verdict.map_err(Stay::Ends)? {
            return Ok(());
        }
        Err(Stay::Stays(called_off_by(
            "another session of the server could not move, or it was not decided in time",
        )))
    }

    /// Ends the session with a fault. Its instance gets no further event.
    pub(super) fn end_by(&mut self, what: &'static str, fault: Fault) {
        if !matches!(self.machine.ending().map(|ending| ending.reason), Some(EndReason::Fault(_))) {
            self.machine.lost(fault.kind);
        }
        self.fault = Some((what, fault));
    }
}

/// Completes if the migration is atomic and is called off.
fn called_off<P>(migration: &Migration<P>) -> impl Future<Output = ()> + Send + use<P> {
    let called_off = migration.vote.as_ref().map(PrepareVote::called_off);
    async move {
        match called_off {
            Some(called_off) => called_off.await,
            None => std::future::pending().await,
        }
    }
}

/// Decides what a fault on the new side means for the session.
fn stay(fault: Fault) -> Stay {
    match pending_call::is_order(&fault) {
        true => Stay::Ends(fault),
        false => Stay::Stays(fault),
    }
}

pub(super) fn called_off_by(detail: &str) -> Fault {
    Fault::new(FaultKind::HandoffCalledOff, detail)
}

/// Why a session was not migrated.
enum Stay {
    /// Its old instance carries on.
    Stays(Fault),
    /// Its instance is gone, or the session is to end.
    Ends(Fault),
}
