//! Keeps the input of an event that fails on a version whose faults are investigated.

use super::session::Session;
use crate::event::{Event, FaultKind, Instance, KeptEvent, Origin, Port, Procedure};
use crate::session::evidence::{FaultEvidence, Fidelity, Saved};

impl<P: Procedure, M> Session<P, M> {
    /// Keeps what another version needs to try a failed event, if the procedure keeps inputs and
    /// the fault is the plugin's. `event` is `None` if the start of the instance failed.
    pub(super) fn keep_evidence(&mut self, event: Option<Event<'_>>, kind: FaultKind) {
        if kind.origin() != Origin::Plugin || !self.procedure.keeps_inputs() {
            return;
        }
        let event = match event.map(KeptEvent::of) {
            Some(None) => return,
            Some(kept) => kept,
            None => None,
        };
        let (events, saved) = (self.handle.live_stats.events(), self.saved.take());
        // The count of events includes the failed one.
        let first = match (&saved, event.as_ref().map(KeptEvent::event)) {
            (_, None) => 0,
            (Some(saved), _) => saved.events + 1,
            (None, Some(Event::Connect)) => 1,
            (None, Some(_)) => 2,
        };
        let is_shared = self.instance.as_ref().is_some_and(Instance::is_shared);
        let fidelity =
            if events == first && !is_shared { Fidelity::Exact } else { Fidelity::Partial };
        let (client, class) = (self.handle.info().clone(), self.handle.priority());
        self.evidence = Some(Box::new(FaultEvidence { client, class, event, saved, fidelity }));
    }

    /// Copies a session's saved state, if the procedure `to` keeps inputs.
    pub(super) fn copy_saved(&self, to: &P, version: &str, state: &[u8]) -> Option<Box<Saved>> {
        let quota = &self.handle.config().quota;
        let copy = || Saved::copy(state, version, self.handle.live_stats.events(), quota);
        if to.keeps_inputs() { copy() } else { None }
    }

    /// Drops the copy of the saved state once the procedure keeps no inputs.
    pub(super) fn drop_saved(&mut self) {
        if self.saved.is_some() && !self.procedure.keeps_inputs() {
            self.saved = None;
        }
    }
}
