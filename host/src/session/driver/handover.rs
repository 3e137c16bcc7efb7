//! A live session moves to another version of its plugin, between two events. The wire, what is queued, timers and limits are
//! the session's and stay.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Session;
use super::beside::{self, Attending, Reach};
use crate::event::{EndReason, Fault, FaultKind, Instance, Port, Procedure, Scope};
use crate::session::pulse::Doing;
use crate::session::successor::{Handed, Handover};
use crate::session::turn;

/// However long whoever gives the verdict takes for it, a session does not wait for longer.
const VERDICT_MAX: Duration = Duration::from_secs(120);

impl<P: Procedure, M> Session<P, M> {
    /// Does what was asked for, if anything was. Whatever fails on the new side, the old instance carries on.
    pub(super) async fn hand_over(&mut self) {
        if let Some(fault) = turn::enter(&self.line, Doing::HANDOVER).await {
            self.end_by(fault);
            return;
        }
        // Not before, so that what waits for a latch can be taken back.
        let Some(mut handover) = self.successor.take() else { return turn::leave(&self.line) };
        let start = Instant::now();
        let already = Arc::ptr_eq(&handover.to, &self.procedure);
        let outcome = if already { Ok(()) } else { self.move_to(&mut handover).await };
        turn::leave(&self.line);
        match outcome {
            Ok(()) if already => handover.report(Handed::Moved(Duration::ZERO)),
            Ok(()) => handover.report(Handed::Moved(start.elapsed())),
            Err(Stay::Stays(fault)) => handover.report(Handed::Stayed(fault)),
            Err(Stay::Ends(fault)) => {
                handover.report(Handed::Lost(fault.clone()));
                self.end_by(fault);
            }
        }
    }

    async fn move_to(&mut self, handover: &mut Handover<P>) -> Result<(), Stay> {
        let class = self.line.priority();
        let (event, start) = (self.line.config().budgets.event(class), self.line.config().budgets.start(class));
        let Self { line, machine, instance, alarm, turn, procedure, .. } = self;
        let Some(old) = instance else { return Ok(()) };
        let mut attending = Attending { line, machine, alarm, turn, class };
        let saved = attending.call(pin!(old.save(event)), event.wall, Reach::Session).await;
        let state = saved.map_err(|fault| match fault.kind {
            FaultKind::StateLimit => Stay::Stays(fault),
            _ => Stay::Ends(fault),
        })?;
        let scope = Scope { port: line.clone(), peers: self.peers.clone() };
        // Boxed, because it is large and rare.
        let mut attending = Attending { line, machine, alarm, turn, class };
        let taken = {
            let mut taking = Box::pin(handover.to.take_over(scope, start, event, procedure.version(), state));
            attending.call(taking.as_mut(), start.wall, Reach::Session).await
        };
        let new = taken.map_err(|fault| match beside::is_order(&fault) {
            true => Stay::Ends(fault),
            false => Stay::Stays(fault),
        })?;
        if let Some(ballot) = handover.ballot.take() {
            let mut attending = Attending { line, machine, alarm, turn, class };
            let mut cast = Box::pin(async { Ok(ballot.cast().await) });
            let together = attending.call(cast.as_mut(), VERDICT_MAX, Reach::Session).await;
            if !together.map_err(Stay::Ends)? {
                let detail = "another session of the server could not move";
                return Err(Stay::Stays(Fault::new(FaultKind::HandoffCalledOff, detail)));
            }
        }
        self.spent_before += old.usage().fuel;
        *instance = Some(new);
        *procedure = Arc::clone(&handover.to);
        self.successor.commit(&handover.to);
        self.line.pulse.born(self.usage());
        Ok(())
    }

    /// The session is over by a fault, and its instance hears nothing more.
    fn end_by(&mut self, fault: Fault) {
        if !matches!(self.machine.ending().map(|ending| ending.reason), Some(EndReason::Fault(_))) {
            self.machine.lost(fault.kind);
        }
        self.fault = Some(("hand-over", fault));
    }
}

/// Why a session was not moved.
enum Stay {
    /// Its instance carries on.
    Stays(Fault),
    /// Its instance is gone, or the session is to end.
    Ends(Fault),
}
