//! A live session moves to another version of its plugin, between two events. The wire, what is
//! queued, timers and limits are the session's and stay.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use super::Session;
use super::beside::{self, Attending, Reach};
use crate::event::{EndReason, Fault, FaultKind, Port, Procedure};
use crate::session::pulse::Doing;
use crate::session::run;
use crate::session::successor::{Ballot, Handed, Handover};

/// What a ballot may take beyond its own patience, which ends it first.
const VERDICT_SPARE: Duration = Duration::from_secs(10);

impl<P: Procedure, M> Session<P, M> {
    /// Does what was asked for, if anything was. Whatever fails on the new side, the old instance
    /// carries on.
    pub(super) async fn hand_over(&mut self) {
        if let Some(departure) = self.successor.take_departure() {
            return self.depart(departure).await;
        }
        if let Some(fault) = run::enter(&self.line, Doing::HANDOVER).await {
            self.end_by("hand-over", fault);
            return;
        }
        // Not before, so that what waits for a latch can be taken back.
        let Some(mut handover) = self.successor.take() else { return run::leave(&self.line) };
        let start = Instant::now();
        let already = Arc::ptr_eq(&handover.to, &self.procedure);
        let outcome = if already { Ok(()) } else { self.move_to(&mut handover).await };
        run::leave(&self.line);
        match outcome {
            Ok(()) if already => handover.report(Handed::Moved(Duration::ZERO)),
            Ok(()) => handover.report(Handed::Moved(start.elapsed())),
            Err(Stay::Stays(fault)) => handover.report(Handed::Stayed(fault)),
            Err(Stay::Ends(fault)) => {
                handover.report(Handed::Lost(fault.clone()));
                self.end_by("hand-over", fault);
            }
        }
    }

    async fn move_to(&mut self, handover: &mut Handover<P>) -> Result<(), Stay> {
        let mut called_off = pin!(called_off(handover));
        if called_off.as_mut().now_or_never().is_some() {
            return Err(Stay::Stays(called_off_by("another session of the server could not move")));
        }
        if self.asleep.is_some() {
            self.tries_asleep(called_off, &handover.to).await.map_err(stay)?;
            self.together(handover).await?;
            self.moves_asleep(&handover.to);
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
        let copy = self.copy_saved(&handover.to, &version, &state);
        let taken = self.take_over_unless(called_off, &handover.to, &version, state).await;
        let new = taken.map_err(stay)?;
        self.together(handover).await?;
        self.spent_before = self.usage().fuel;
        self.saved = copy;
        let old = self.instance.replace(new);
        self.procedure = Arc::clone(&handover.to);
        self.successor.commit(&handover.to);
        self.line.pulse.born(self.usage());
        self.drop_instance(old).await;
        Ok(())
    }

    /// Waits for the others, where it is to move with them.
    async fn together(&mut self, handover: &mut Handover<P>) -> Result<(), Stay> {
        let Some(ballot) = handover.ballot.take() else { return Ok(()) };
        let class = self.line.priority();
        let Self { line, machine, alarm, run_permit, .. } = self;
        let mut attending =
            Attending { line, machine, alarm, run_permit, class, lifetime_ends: None };
        let wall = ballot.patience + VERDICT_SPARE;
        let mut cast = Box::pin(async { Ok(ballot.cast().await) });
        let (together, _) = attending.call(cast.as_mut(), wall, Reach::Session).await;
        if together.map_err(Stay::Ends)? {
            return Ok(());
        }
        Err(Stay::Stays(called_off_by(
            "another session of the server could not move, or it was not decided in time",
        )))
    }

    /// The session is over by a fault, and its instance hears nothing more.
    pub(super) fn end_by(&mut self, what: &'static str, fault: Fault) {
        if !matches!(self.machine.ending().map(|ending| ending.reason), Some(EndReason::Fault(_))) {
            self.machine.lost(fault.kind);
        }
        self.fault = Some((what, fault));
    }
}

/// Done where it is to move with others and that is called off.
fn called_off<P>(handover: &Handover<P>) -> impl Future<Output = ()> + Send + use<P> {
    let called_off = handover.ballot.as_ref().map(Ballot::called_off);
    async move {
        match called_off {
            Some(called_off) => called_off.await,
            None => std::future::pending().await,
        }
    }
}

/// What a fault on the new side means.
fn stay(fault: Fault) -> Stay {
    match beside::is_order(&fault) {
        true => Stay::Ends(fault),
        false => Stay::Stays(fault),
    }
}

pub(super) fn called_off_by(detail: &str) -> Fault {
    Fault::new(FaultKind::HandoffCalledOff, detail)
}

/// Why a session was not moved.
enum Stay {
    /// Its instance carries on.
    Stays(Fault),
    /// Its instance is gone, or the session is to end.
    Ends(Fault),
}
