//! Calls of operators and embedders on the sessions of a running server.

use std::sync::Arc;

use super::handle::ServerHandle;
use crate::event::{ClientInfo, NameError, Peers, Port, Priority, SendError};
use crate::sched::{CALL_COST, charged};
use crate::service::Member;
use crate::session::SessionStats;

/// A number that no session has, so that an operator's broadcast reaches all.
const NO_SESSION: u64 = 0;

/// One session at one moment.
#[derive(Debug, Clone)]
pub struct SessionView {
    /// The session's client.
    pub info: ClientInfo,
    /// The session's name, in lower case.
    pub name: Option<String>,
    /// Name and version of the plugin that handles it.
    pub plugin: Arc<str>,
    /// The session's statistics.
    pub stats: SessionStats,
}

impl ServerHandle {
    /// Number of sessions that are not ending.
    #[must_use]
    pub fn session_count(&self) -> u32 {
        self.service.registry.client_count()
    }

    /// Returns up to `max` sessions with numbers above `after`, in order.
    #[must_use]
    pub fn sessions(&self, after: u64, max: usize) -> Vec<SessionView> {
        self.service.registry.page(after, max, view)
    }

    /// Returns one session. `None` if there is none, or if it is ending.
    #[must_use]
    pub fn session(&self, id: u64) -> Option<SessionView> {
        self.service.registry.view(id, view)
    }

    /// Returns the number of the session of that name, ignoring case.
    #[must_use]
    pub fn find_session(&self, name: &str) -> Option<u64> {
        self.service.registry.find(name)
    }

    /// The most characters of a name.
    #[must_use]
    pub fn name_chars_max(&self) -> usize {
        self.service.registry.name_chars_max()
    }

    /// Sets the name of a session.
    ///
    /// # Errors
    /// [`NameError`]; the session keeps its name.
    pub fn name_session(&self, id: u64, name: &str) -> Result<(), NameError> {
        self.service.registry.set_name(id, name)
    }

    /// Ends a session gracefully: the session sends its queue, and its plugin is told `evicted`.
    /// Returns false if there is no such session.
    pub fn disconnect(&self, id: u64) -> bool {
        self.service.registry.disconnect(NO_SESSION, id)
    }

    /// Ends a session at once, even one that is ending gracefully. A running event is cancelled
    /// where it waits or at its next tick, and the connection is reset. Returns false if there is
    /// no such session.
    pub fn abort(&self, id: u64) -> bool {
        self.service.registry.seize(id).inspect(|handle| handle.abort()).is_some()
    }

    /// Queues `data` for every session, and returns how many took it. A session that is full or
    /// ending does not stop the others.
    pub fn broadcast(&self, data: &[u8]) -> u32 {
        let mut broadcast = self.service.registry.broadcast(NO_SESSION, data);
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

    /// Runs a call for this server. If the server's tenant has a limit of CPU time, the call is
    /// charged to the tenant. Cancel-safe if `call` is.
    pub fn charged<F: Future>(&self, call: F) -> impl Future<Output = F::Output> + use<F> {
        let quota = self.service.quota();
        quota.charge(CALL_COST);
        charged(quota, call)
    }

    /// Gives a session another class from its next event on; the plugin's ceiling does not apply.
    /// Returns the class before, or `None` if there is no such session.
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
