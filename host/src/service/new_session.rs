//! Entry of a new session: it gets a version and a place in the registry.

use std::sync::Arc;

use super::registry::{Membership, Presence};
use super::shared::Service;
use crate::plugin::EventProcedure;
use crate::session::{ProcedureSlot, SessionHandle};

impl Service {
    /// Gives a new session its version. Waits during an atomic migration, so that the session
    /// starts on the version that the others come to.
    pub(crate) async fn let_in(
        &self,
        handle: &Arc<SessionHandle>,
        epoch: u64,
    ) -> (Arc<ProcedureSlot<EventProcedure>>, Membership, Presence) {
        let _entering = self.rollout.entering().await;
        let (procedure, is_canary) = self.rollout.procedure_for_new_session();
        let slot = Arc::new(ProcedureSlot::new(procedure));
        let (membership, presence) = self.registry.enter(handle, epoch, &slot);
        // A swap that happened before the registry knew of this session missed the session.
        if !is_canary || !self.rollout.tries(&slot.current()) {
            slot.start_with(self.procedure());
        }
        (slot, membership, presence)
    }
}
