//! Where a client's place among the instances comes from. What that is worth is not known here.

use std::fmt;
use std::sync::Arc;

/// Gives sessions the room of their instances. Neither method blocks.
pub trait InstanceRoom: fmt::Debug + Send + Sync {
    /// Claims room for one session. `None` where there is none. What it takes goes back by
    /// [`InstanceRoom::give`].
    fn claim(&self) -> Option<usize>;

    /// Gives back what one claim took.
    fn give(&self, claimed: usize);
}

/// The room of one session. Dropping it gives it back.
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
