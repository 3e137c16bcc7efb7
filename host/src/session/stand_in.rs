//! What a simulation needs that plays sessions without driving them: the session's side of a
//! hand-over.

use std::sync::Arc;

use super::line::Line;
use super::mailbox::Orders;
use super::successor::{Handed, Handover, Successor};

/// A hand-over that has begun.
pub(crate) struct Begun<P>(Handover<P>);

impl<P> Begun<P> {
    pub(crate) fn to(&self) -> &Arc<P> {
        &self.0.to
    }

    /// Waits for the others, where it moves with them. Whether it moves.
    pub(crate) async fn all_ready(&mut self) -> bool {
        match self.0.ballot.take() {
            Some(ballot) => ballot.cast().await,
            None => true,
        }
    }

    pub(crate) fn report(self, handed: Handed) {
        self.0.report(handed);
    }
}

/// Begins what was asked for.
pub(crate) fn begin<P>(successor: &Successor<P>) -> Option<Begun<P>> {
    successor.take().map(Begun)
}

/// The session is on this one from now on.
pub(crate) fn commit<P>(successor: &Successor<P>, to: &Arc<P>) {
    successor.commit(to);
}

/// The session is to end.
pub(crate) fn close<P>(successor: &Successor<P>) {
    successor.close();
}

/// Whether somebody told the session to end.
pub(crate) fn is_to_end(line: &Line) -> bool {
    let orders = line.mailbox.pending();
    [Orders::EVICT, Orders::STOP, Orders::NOW].into_iter().any(|order| orders.contains(order))
}
