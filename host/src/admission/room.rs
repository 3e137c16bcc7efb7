//! The source of sessions' claims on instances. This module does not know what a claim is worth.

use std::fmt;
use std::sync::Arc;

/// Gives sessions room for their instances. Neither method blocks.
pub trait InstanceRoom: fmt::Debug + Send + Sync {
    /// Claims room for one session, and returns the amount to give back by [`InstanceRoom::give`].
    /// `None` if there is no room.
    fn claim(&self) -> Option<usize>;

    /// Gives back the amount of one claim.
    fn give(&self, claimed: usize);
}

/// The claim of one session. Dropping it gives the room back.
#[derive(Debug)]
pub(super) struct RoomPlace {
    room: Arc<dyn InstanceRoom>,
    claimed: usize,
}

impl RoomPlace {
    pub(super) fn claim(room: &Arc<dyn InstanceRoom>) -> Option<Self> {
        room.claim().map(|claimed| Self { room: Arc::clone(room), claimed })
    }
}

impl Drop for RoomPlace {
    fn drop(&mut self) {
        self.room.give(self.claimed);
    }
}
