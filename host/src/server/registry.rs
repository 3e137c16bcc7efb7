//! The sessions of one server, by id and by name. Those that are known to end are found by nobody but a stop.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::event::{NameError, Peers, Port, SendError};
use crate::session::Line;

/// Longest name of a session, in characters.
const NAME_CHARS_MAX: usize = 127;

#[derive(Debug, Default)]
pub(crate) struct Registry {
    last_id: AtomicU64,
    members: Mutex<Members>,
}

#[derive(Debug, Default)]
struct Members {
    /// Every session until its task is over, those that are ending included: what a stop has to reach.
    present: HashMap<u64, Arc<Line>>,
    lines: HashMap<u64, Member>,
    names: HashMap<String, u64>,
}

#[derive(Debug)]
struct Member {
    line: Arc<Line>,
    /// In lower case.
    name: Option<String>,
}

/// A session's entry. Dropping it takes the session out and frees its name.
#[derive(Debug)]
pub(crate) struct Membership {
    registry: Weak<Registry>,
    id: u64,
}

/// A session's presence, from its start until its task is over.
#[derive(Debug)]
pub(crate) struct Presence {
    registry: Weak<Registry>,
    id: u64,
}

impl Drop for Presence {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.members().present.remove(&self.id);
        }
    }
}

impl Registry {
    /// A number that no session of this server had before.
    pub(crate) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Enters a session under its id. The membership ends when the session is known to end, the presence with its task.
    pub(crate) fn enter(self: &Arc<Self>, line: &Arc<Line>) -> (Membership, Presence) {
        let id = line.info().id;
        let mut members = self.members();
        members.present.insert(id, Arc::clone(line));
        members.lines.insert(id, Member { line: Arc::clone(line), name: None });
        drop(members);
        let registry = Arc::downgrade(self);
        (Membership { registry: registry.clone(), id }, Presence { registry, id })
    }

    /// Every session, those that are ending included.
    pub(crate) fn present(&self) -> Vec<Arc<Line>> {
        self.members().present.values().map(Arc::clone).collect()
    }

    /// Every session that is not ending.
    fn lines(&self) -> Vec<Arc<Line>> {
        self.members().lines.values().map(|member| Arc::clone(&member.line)).collect()
    }

    fn line(&self, id: u64) -> Option<Arc<Line>> {
        self.members().lines.get(&id).map(|member| Arc::clone(&member.line))
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let Some(registry) = self.registry.upgrade() else { return };
        let mut members = registry.members();
        if let Some(Member { name: Some(name), .. }) = members.lines.remove(&self.id) {
            members.names.remove(&name);
        }
    }
}

impl Peers for Registry {
    fn client_count(&self) -> u32 {
        u32::try_from(self.members().lines.len()).unwrap_or(u32::MAX)
    }

    fn broadcast(&self, own: u64, data: &[u8]) -> u32 {
        // One copy for all of them, and no lock while they are told.
        let data: Arc<[u8]> = data.into();
        let others = self.lines().into_iter().filter(|line| line.info().id != own);
        let taken = others.filter(|line| line.deliver(&data).is_ok()).count();
        u32::try_from(taken).unwrap_or(u32::MAX)
    }

    fn set_name(&self, own: u64, name: &str) -> Result<(), NameError> {
        match name.chars().count() {
            0 => return Err(NameError::Empty),
            chars if chars > NAME_CHARS_MAX => return Err(NameError::TooLong),
            _ => {}
        }
        let name = name.to_lowercase();
        let mut members = self.members();
        let Members { lines, names, .. } = &mut *members;
        if names.get(&name).is_some_and(|&holder| holder != own) {
            return Err(NameError::Taken);
        }
        // A session that is ending keeps no name; it has nobody left to be found by.
        if let Some(member) = lines.get_mut(&own) {
            if let Some(old) = member.name.replace(name.clone()) {
                names.remove(&old);
            }
            names.insert(name, own);
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Option<u64> {
        self.members().names.get(&name.to_lowercase()).copied()
    }

    fn send_to(&self, client: u64, data: &[u8]) -> Result<(), SendError> {
        self.line(client).ok_or(SendError::Closed)?.deliver(&data.into())
    }

    fn disconnect(&self, own: u64, client: u64) -> bool {
        match self.line(client) {
            Some(line) if client != own => {
                line.evict();
                true
            }
            _ => false,
        }
    }
}
