//! What can be done to the sessions of a running server, from outside.

use std::sync::Arc;

use super::handle::ServerHandle;
use super::registry::Member;
use crate::event::{ClientInfo, NameError, Peers, Port, Priority, SendError};
use crate::sched::{CALL_COST, charged};
use crate::session::SessionStats;

/// No session has this id, so that nobody is left out of what the operator broadcasts.
const NOBODY: u64 = 0;

/// One session at one moment.
#[derive(Debug, Clone)]
pub struct SessionView {
    /// Who the client is.
    pub info: ClientInfo,
    /// Its name, in lower case.
    pub name: Option<String>,
    /// Name and version of the plugin that handles it.
    pub plugin: Arc<str>,
    /// What it has done and is doing.
    pub stats: SessionStats,
}

impl ServerHandle {
    /// Sessions that are not ending.
    #[must_use]
    pub fn session_count(&self) -> u32 {
        self.service.registry.client_count()
    }

    /// Up to `max` sessions with ids above `after`, in the order of their ids.
    #[must_use]
    pub fn sessions(&self, after: u64, max: usize) -> Vec<SessionView> {
        self.service.registry.page(after, max, view)
    }

    /// One session; `None` where there is none, or it is ending.
    #[must_use]
    pub fn session(&self, id: u64) -> Option<SessionView> {
        self.service.registry.view(id, view)
    }

    /// The session of that name, ignoring case.
    #[must_use]
    pub fn find_session(&self, name: &str) -> Option<u64> {
        self.service.registry.find(name)
    }

    /// Characters that a name may have.
    #[must_use]
    pub fn name_chars_max(&self) -> usize {
        self.service.registry.name_chars_max()
    }

    /// Names a session.
    ///
    /// # Errors
    /// [`NameError`]; its name stays.
    pub fn name_session(&self, id: u64, name: &str) -> Result<(), NameError> {
        self.service.registry.set_name(id, name)
    }

    /// Ends a session gracefully: what is queued is sent and the plugin is told `evicted`. False
    /// where there is none.
    pub fn disconnect(&self, id: u64) -> bool {
        self.service.registry.disconnect(NOBODY, id)
    }

    /// Ends a session at once: an event that runs is cancelled where it waits or at its next tick,
    /// the connection is reset. One that is ending gracefully is reached, too. False where there is
    /// none.
    pub fn abort(&self, id: u64) -> bool {
        self.service.registry.seize(id).inspect(|handle| handle.abort()).is_some()
    }

    /// Queues `data` for every session; how many took it. One that is full or ending does not stop
    /// the others.
    pub fn broadcast(&self, data: &[u8]) -> u32 {
        let mut broadcast = self.service.registry.broadcast(NOBODY, data);
        while broadcast.go_on(usize::MAX) {}
        broadcast.taken()
    }

    /// Queues `data` for one session.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send_to(&self, id: u64, data: &[u8]) -> Result<(), SendError> {
        self.service.registry.send_to(id, data)
    }

    /// Runs a call for this server, and charges it to the server's tenant, if that has a limit of
    /// CPU time. Cancelling is as safe as it is for `call`.
    pub fn charged<F: Future>(&self, call: F) -> impl Future<Output = F::Output> + use<F> {
        let quota = self.service.quota();
        quota.charge(CALL_COST);
        charged(quota, call)
    }

    /// Gives a session another class from its next event on, whatever the ceiling for its plugin.
    /// The class before; `None` where there is no such session.
    pub fn assign(&self, id: u64, priority: Priority) -> Option<Priority> {
        self.service.registry.view(id, |_, member| member.handle.assign(priority))
    }
}

fn view(_: u64, member: &Member) -> SessionView {
    SessionView {
        info: member.handle.info().clone(),
        name: member.name.clone(),
        plugin: Arc::clone(member.slot.current().metrics().plugin()),
        stats: member.handle.stats(),
    }
}
