//! The session's side of a migration, for a simulation that plays sessions without the driver.

use std::sync::Arc;

use super::handle::SessionHandle;
use super::mailbox::Signals;
use super::procedure_slot::{MigrateOutcome, Migration, ProcedureSlot};

/// A migration that has begun.
pub(crate) struct Begun<P>(Migration<P>);

impl<P> Begun<P> {
    pub(crate) fn to(&self) -> &Arc<P> {
        &self.0.to
    }

    /// Waits for the verdict, if the migration is atomic. Returns whether the session moves.
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

/// Begins the requested migration.
pub(crate) fn begin<P>(slot: &ProcedureSlot<P>) -> Option<Begun<P>> {
    slot.take().map(Begun)
}

/// Records that the session is on the procedure `to` from now on.
pub(crate) fn commit<P>(slot: &ProcedureSlot<P>, to: &Arc<P>) {
    slot.commit(to);
}

/// Closes the slot of a session that is to end.
pub(crate) fn close<P>(slot: &ProcedureSlot<P>) {
    slot.close();
}

/// Whether the session was told to end.
pub(crate) fn is_to_end(handle: &SessionHandle) -> bool {
    let signals = handle.mailbox.pending();
    [Signals::EVICT, Signals::STOP, Signals::NOW].into_iter().any(|signal| signals.contains(signal))
}
