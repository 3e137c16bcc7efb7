//! What a simulation needs that plays sessions without driving them: the session's side of a
//! hand-over.

use std::sync::Arc;

use super::handle::SessionHandle;
use super::mailbox::Signals;
use super::procedure_slot::{MigrateOutcome, Migration, ProcedureSlot};

/// A hand-over that has begun.
pub(crate) struct Begun<P>(Migration<P>);

impl<P> Begun<P> {
    pub(crate) fn to(&self) -> &Arc<P> {
        &self.0.to
    }

    /// Waits for the others, where it moves with them. Whether it moves.
    pub(crate) async fn all_ready(&mut self) -> bool {
        match self.0.vote.take() {
            Some(vote) => vote.cast().await,
            None => true,
        }
    }

    pub(crate) fn report(self, handed: MigrateOutcome) {
        self.0.report(handed);
    }
}

/// Begins what was asked for.
pub(crate) fn begin<P>(slot: &ProcedureSlot<P>) -> Option<Begun<P>> {
    slot.take().map(Begun)
}

/// The session is on this one from now on.
pub(crate) fn commit<P>(slot: &ProcedureSlot<P>, to: &Arc<P>) {
    slot.commit(to);
}

/// The session is to end.
pub(crate) fn close<P>(slot: &ProcedureSlot<P>) {
    slot.close();
}

/// Whether somebody told the session to end.
pub(crate) fn is_to_end(handle: &SessionHandle) -> bool {
    let signals = handle.mailbox.pending();
    [Signals::EVICT, Signals::STOP, Signals::NOW].into_iter().any(|signal| signals.contains(signal))
}
