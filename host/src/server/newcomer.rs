//! A newcomer gets a version and a place in the registry.

use std::sync::Arc;

use super::registry::{Membership, Presence};
use super::service::Service;
use crate::plugin::EventProcedure;
use crate::session::{Line, Successor};

impl Service {
    /// Gives a session that starts its version. Waits while sessions move together, so that it
    /// starts on the version that they come to.
    pub(crate) async fn let_in(
        &self,
        line: &Arc<Line>,
        round: u64,
    ) -> (Arc<Successor<EventProcedure>>, Membership, Presence) {
        let _entering = self.entrance.read().await;
        let (procedure, is_canary) = self.procedure_for_newcomer();
        let successor = Arc::new(Successor::new(procedure));
        let (membership, presence) = self.registry.enter(line, round, &successor);
        // A swap that came before the registry knew of this session passed it by.
        if !is_canary || !self.tries(&successor.current()) {
            successor.start_with(self.procedure());
        }
        (successor, membership, presence)
    }
}
