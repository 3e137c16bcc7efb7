//! The sessions of one server, by id and by name. Those that are told to end are found by nobody
//! but a stop.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::blame::LiveAddresses;
use crate::admission::AddressGroup;
use crate::event::{Broadcast, NameError, Peers, Port, SendError};
use crate::plugin::EventProcedure;
use crate::session::{ProcedureSlot, SessionHandle};

/// Longest name of a session, in characters, whatever a server says.
pub(super) const NAME_CHARS_MAX: usize = 127;

#[derive(Debug)]
pub(crate) struct Registry {
    last_id: AtomicU64,
    name_chars_max: AtomicUsize,
    members: Mutex<Members>,
}

#[derive(Debug, Default)]
struct Members {
    /// Every session until its task is over, in the order of their ids.
    handles: BTreeMap<u64, Member>,
    /// Those that are not ending.
    active: u32,
    /// These by address.
    addresses: LiveAddresses,
    names: HashMap<String, u64>,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) handle: Arc<SessionHandle>,
    /// In which it was accepted.
    pub(super) epoch: u64,
    /// What handles it.
    pub(super) slot: Arc<ProcedureSlot<EventProcedure>>,
    /// In lower case.
    pub(super) name: Option<String>,
    ending: bool,
}

/// A session's entry. Dropping it says that the session is known to end, and frees its name.
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

impl Presence {
    /// Ends it. True where it was the last one.
    pub(crate) fn leave(mut self) -> bool {
        self.remove()
    }

    /// Once; a second time there is no registry any more.
    fn remove(&mut self) -> bool {
        let Some(registry) = std::mem::take(&mut self.registry).upgrade() else { return false };
        let mut members = registry.members();
        members.retire(self.id);
        members.handles.remove(&self.id);
        members.handles.is_empty()
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.remove();
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.members().retire(self.id);
        }
    }
}

impl Members {
    /// The session is to end: nobody counts or finds it any more. False where that was so already.
    fn retire(&mut self, id: u64) -> bool {
        let Some(member) = self.handles.get_mut(&id).filter(|member| !member.ending) else {
            return false;
        };
        member.ending = true;
        self.active -= 1;
        self.addresses.remove(AddressGroup::of(member.handle.info().peer.ip()));
        if let Some(name) = member.name.take() {
            self.names.remove(&name);
        }
        true
    }

    fn active(&self) -> impl Iterator<Item = (u64, &Member)> {
        self.handles.iter().filter(|(_, member)| !member.ending).map(|(id, member)| (*id, member))
    }
}

impl Registry {
    /// One without sessions, whose names may have so many characters.
    pub(crate) fn new(name_chars_max: usize) -> Self {
        Self {
            last_id: AtomicU64::new(0),
            name_chars_max: AtomicUsize::new(name_chars_max),
            members: Mutex::default(),
        }
    }

    /// Characters that a name may have.
    pub(super) fn name_chars_max(&self) -> usize {
        self.name_chars_max.load(Ordering::Relaxed)
    }

    /// Names given from now on may have so many characters.
    pub(super) fn set_name_chars_max(&self, max: usize) {
        self.name_chars_max.store(max, Ordering::Relaxed);
    }

    /// A number that no session of this server had before.
    pub(crate) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The last number that was given.
    pub(super) fn last_id(&self) -> u64 {
        self.last_id.load(Ordering::Relaxed)
    }

    /// Numbers given from now on are above this one.
    pub(super) fn number_above(&self, id: u64) {
        self.last_id.fetch_max(id, Ordering::Relaxed);
    }

    /// Enters a session under its id. The membership ends when the session is known to end, the
    /// presence with its task.
    pub(crate) fn enter(
        self: &Arc<Self>,
        handle: &Arc<SessionHandle>,
        epoch: u64,
        slot: &Arc<ProcedureSlot<EventProcedure>>,
    ) -> (Membership, Presence) {
        let id = handle.info().id;
        let slot = Arc::clone(slot);
        let member = Member { handle: Arc::clone(handle), epoch, slot, name: None, ending: false };
        let mut members = self.members();
        members.handles.insert(id, member);
        members.active += 1;
        members.addresses.add(AddressGroup::of(handle.info().peer.ip()));
        drop(members);
        let registry = Arc::downgrade(self);
        (Membership { registry: registry.clone(), id }, Presence { registry, id })
    }

    /// The same for one that has its number and maybe a name from another process. `None`: somebody
    /// has that number.
    pub(crate) fn enter_again(
        self: &Arc<Self>,
        handle: &Arc<SessionHandle>,
        epoch: u64,
        slot: &Arc<ProcedureSlot<EventProcedure>>,
        name: Option<&str>,
    ) -> Option<(Membership, Presence)> {
        let id = handle.info().id;
        // Numbers of this process are above those of the one before, so that nobody comes between
        // the two.
        if self.members().handles.contains_key(&id) {
            return None;
        }
        let entered = self.enter(handle, epoch, slot);
        if let Some(name) = name {
            // Somebody else may carry it by now.
            let _ = self.set_name(id, name);
        }
        Some(entered)
    }

    /// Its name, where it has one.
    pub(super) fn name_of(&self, id: u64) -> Option<String> {
        self.view(id, |_, member| member.name.clone()).flatten()
    }

    /// Every session with its round, those that are ending included.
    pub(super) fn present(&self) -> Vec<(Arc<SessionHandle>, u64)> {
        self.members()
            .handles
            .values()
            .map(|member| (Arc::clone(&member.handle), member.epoch))
            .collect()
    }

    /// Every session that is not ending, with what handles it.
    pub(super) fn handled(&self) -> Vec<(Arc<SessionHandle>, Arc<ProcedureSlot<EventProcedure>>)> {
        let of =
            |(_, member): (u64, &Member)| (Arc::clone(&member.handle), Arc::clone(&member.slot));
        self.members().active().map(of).collect()
    }

    /// Asks something about the addresses of the sessions that are not ending. Nothing else may be
    /// asked of the registry meanwhile.
    pub(super) fn with_addresses<T>(&self, ask: impl FnOnce(&LiveAddresses) -> T) -> T {
        ask(&self.members().addresses)
    }

    /// Up to `max` sessions that are not ending, with ids above `after`, in order.
    pub(super) fn page<T>(
        &self,
        after: u64,
        max: usize,
        view: impl Fn(u64, &Member) -> T,
    ) -> Vec<T> {
        let members = self.members();
        let later =
            members.handles.range(after.saturating_add(1)..).filter(|(_, member)| !member.ending);
        later.take(max).map(|(id, member)| view(*id, member)).collect()
    }

    /// One session that is not ending.
    pub(super) fn view<T>(&self, id: u64, view: impl Fn(u64, &Member) -> T) -> Option<T> {
        let members = self.members();
        members.handles.get(&id).filter(|member| !member.ending).map(|member| view(id, member))
    }

    /// Nobody counts or finds the sessions of earlier rounds any more.
    pub(super) fn retire_before(&self, epoch: u64) {
        let mut members = self.members();
        let old: Vec<_> =
            members.active().filter(|(_, member)| member.epoch < epoch).map(|(id, _)| id).collect();
        for id in old {
            members.retire(id);
        }
    }

    /// Takes one session out of sight, even where it is ending already, and hands it over to be
    /// ended at once.
    pub(super) fn seize(&self, id: u64) -> Option<Arc<SessionHandle>> {
        let mut members = self.members();
        members.retire(id);
        members.handles.get(&id).map(|member| Arc::clone(&member.handle))
    }

    /// Takes one session out of sight and hands it over to be ended.
    pub(super) fn retire(&self, id: u64) -> Option<Arc<SessionHandle>> {
        let mut members = self.members();
        members
            .retire(id)
            .then(|| members.handles.get(&id).map(|member| Arc::clone(&member.handle)))
            .flatten()
    }

    fn handle(&self, id: u64) -> Option<Arc<SessionHandle>> {
        self.view(id, |_, member| Arc::clone(&member.handle))
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A broadcast under way.
struct FanOut {
    data: Arc<[u8]>,
    left: std::vec::IntoIter<Arc<SessionHandle>>,
    taken: u32,
}

impl Broadcast for FanOut {
    fn go_on(&mut self, max: usize) -> bool {
        let taken = self
            .left
            .by_ref()
            .take(max)
            .filter(|handle| handle.deliver(&self.data).is_ok())
            .count();
        self.taken = self.taken.saturating_add(u32::try_from(taken).unwrap_or(u32::MAX));
        self.left.len() > 0
    }

    fn taken(&self) -> u32 {
        self.taken
    }
}

impl Peers for Registry {
    fn client_count(&self) -> u32 {
        self.members().active
    }

    fn broadcast(&self, own: u64, data: &[u8]) -> Box<dyn Broadcast> {
        // One copy for all of them, and no lock while they are told.
        let data: Arc<[u8]> = data.into();
        let others: Vec<_> = {
            let members = self.members();
            members
                .active()
                .filter(|(id, _)| *id != own)
                .map(|(_, member)| Arc::clone(&member.handle))
                .collect()
        };
        Box::new(FanOut { data, left: others.into_iter(), taken: 0 })
    }

    fn set_name(&self, own: u64, name: &str) -> Result<(), NameError> {
        // Counted as it is kept: some letters have more than one in lower case.
        let name = name.to_lowercase();
        match name.chars().count() {
            0 => return Err(NameError::Empty),
            chars if chars > self.name_chars_max() => return Err(NameError::TooLong),
            _ => {}
        }
        let mut members = self.members();
        let Members { handles, names, .. } = &mut *members;
        if names.get(&name).is_some_and(|&holder| holder != own) {
            return Err(NameError::Taken);
        }
        // A session that is ending keeps no name; it has nobody left to be found by.
        if let Some(member) = handles.get_mut(&own).filter(|member| !member.ending) {
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
        self.handle(client).ok_or(SendError::Closed)?.deliver(&data.into())
    }

    fn disconnect(&self, own: u64, client: u64) -> bool {
        if client == own {
            return false;
        }
        self.retire(client).inspect(|handle| handle.evict()).is_some()
    }
}
