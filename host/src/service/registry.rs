//! The sessions of one server, by number and by name. Ending sessions are hidden from every lookup
//! but a stop of the server and an abort.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use crate::admission::AddressGroup;
use crate::event::{Broadcast, NameError, Peers, Port, SendError};
use crate::locks::lock;
use crate::plugin::EventProcedure;
use crate::rollout::LiveSession;
use crate::rollout::blame::LiveAddresses;
use crate::session::{ProcedureSlot, SessionHandle};

/// Longest name of a session, in characters. A server may set less.
pub(crate) const NAME_CHARS_MAX: usize = 127;
/// Most bytes of a character in UTF-8. A name of more bytes has too many characters, however its
/// letters change in lower case: none of them is dropped.
const CHAR_BYTES_MAX: usize = 4;

#[derive(Debug)]
pub(crate) struct Registry {
    last_id: AtomicU64,
    name_chars_max: AtomicUsize,
    members: Mutex<Members>,
}

#[derive(Debug, Default)]
struct Members {
    /// All sessions until their tasks are over, in the order of their numbers.
    handles: BTreeMap<u64, Member>,
    /// Number of sessions that are not ending.
    active: u32,
    /// Addresses of the sessions that are not ending.
    addresses: LiveAddresses,
    names: HashMap<String, u64>,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) handle: Arc<SessionHandle>,
    /// The epoch in which the session was accepted.
    pub(crate) epoch: u64,
    /// The procedure that handles the session.
    pub(crate) slot: Arc<ProcedureSlot<EventProcedure>>,
    /// The session's name, in lower case.
    pub(crate) name: Option<String>,
    ending: bool,
}

/// A session's entry. Dropping it marks the session as ending, and frees its name.
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
    /// Ends the presence. Returns true if it was the last of the server.
    pub(crate) fn leave(mut self) -> bool {
        self.remove()
    }

    /// Removes the session. A second call finds no registry and does nothing.
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
    /// Marks a session as ending, so that it is neither counted nor found. False if it was already.
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
    /// Makes a registry without sessions. Names may have up to `name_chars_max` characters.
    pub(crate) fn new(name_chars_max: usize) -> Self {
        Self {
            last_id: AtomicU64::new(0),
            name_chars_max: AtomicUsize::new(name_chars_max),
            members: Mutex::default(),
        }
    }

    /// The most characters of a name.
    pub(crate) fn name_chars_max(&self) -> usize {
        self.name_chars_max.load(Ordering::Relaxed)
    }

    /// Sets the most characters of later names.
    pub(crate) fn set_name_chars_max(&self, max: usize) {
        self.name_chars_max.store(max, Ordering::Relaxed);
    }

    /// Returns a number that no session of this server had before.
    pub(crate) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The last number that was given.
    pub(crate) fn last_id(&self) -> u64 {
        self.last_id.load(Ordering::Relaxed)
    }

    /// Makes all later numbers higher than this one.
    pub(crate) fn number_above(&self, id: u64) {
        self.last_id.fetch_max(id, Ordering::Relaxed);
    }

    /// Enters a session under its number. The membership ends when the session is known to end, and
    /// the presence with the session's task.
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

    /// Enters a session with its number, and maybe a name, from another process. `None` if another
    /// session has that number.
    pub(crate) fn enter_again(
        self: &Arc<Self>,
        handle: &Arc<SessionHandle>,
        epoch: u64,
        slot: &Arc<ProcedureSlot<EventProcedure>>,
        name: Option<&str>,
    ) -> Option<(Membership, Presence)> {
        let id = handle.info().id;
        // New numbers of this process are above those of the process before, so no session takes
        // this number between the two calls.
        if self.members().handles.contains_key(&id) {
            return None;
        }
        let entered = self.enter(handle, epoch, slot);
        if let Some(name) = name {
            // Another session may have the name by now.
            let _ = self.set_name(id, name);
        }
        Some(entered)
    }

    /// The session's name, if it has one.
    pub(crate) fn name_of(&self, id: u64) -> Option<String> {
        self.view(id, |_, member| member.name.clone()).flatten()
    }

    /// All sessions with their epochs, ending ones included.
    pub(crate) fn present(&self) -> Vec<(Arc<SessionHandle>, u64)> {
        self.members()
            .handles
            .values()
            .map(|member| (Arc::clone(&member.handle), member.epoch))
            .collect()
    }

    /// All sessions that are not ending, with their procedure slots.
    pub(crate) fn handled(&self) -> Vec<LiveSession> {
        let of =
            |(_, member): (u64, &Member)| (Arc::clone(&member.handle), Arc::clone(&member.slot));
        self.members().active().map(of).collect()
    }

    /// Calls `ask` with the addresses of all sessions that are not ending. `ask` must not call the
    /// registry.
    pub(crate) fn with_addresses<T>(&self, ask: impl FnOnce(&LiveAddresses) -> T) -> T {
        ask(&self.members().addresses)
    }

    /// Returns views of up to `max` sessions that are not ending, with numbers above `after`, in
    /// order.
    pub(crate) fn page<T>(
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

    /// Returns a view of one session that is not ending.
    pub(crate) fn view<T>(&self, id: u64, view: impl Fn(u64, &Member) -> T) -> Option<T> {
        let members = self.members();
        members.handles.get(&id).filter(|member| !member.ending).map(|member| view(id, member))
    }

    /// Marks all sessions of earlier epochs as ending.
    pub(crate) fn retire_before(&self, epoch: u64) {
        let mut members = self.members();
        let old: Vec<_> =
            members.active().filter(|(_, member)| member.epoch < epoch).map(|(id, _)| id).collect();
        for id in old {
            members.retire(id);
        }
    }

    /// Marks a session as ending and returns it, to be ended at once. Also returns a session that
    /// is already ending.
    pub(crate) fn seize(&self, id: u64) -> Option<Arc<SessionHandle>> {
        let mut members = self.members();
        members.retire(id);
        members.handles.get(&id).map(|member| Arc::clone(&member.handle))
    }

    /// Marks a session as ending and returns it, to be ended. `None` if it was already ending.
    pub(crate) fn retire(&self, id: u64) -> Option<Arc<SessionHandle>> {
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
        lock(&self.members)
    }
}

/// A running broadcast.
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
        // One copy for all sessions, and no lock while they get it.
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
        // A guest may give a megabyte, whose lower case would take milliseconds.
        if name.len() > CHAR_BYTES_MAX * self.name_chars_max() {
            return Err(NameError::TooLong);
        }
        // The length counts as stored: some letters have more characters in lower case.
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
        // An ending session gets no name, because no session can find it any more.
        if let Some(member) = handles.get_mut(&own).filter(|member| !member.ending) {
            if let Some(old) = member.name.replace(name.clone()) {
                names.remove(&old);
            }
            names.insert(name, own);
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Option<u64> {
        // As in `set_name`. A session's name may be from a time with a higher limit.
        if name.len() > CHAR_BYTES_MAX * NAME_CHARS_MAX {
            return None;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Letters of one to four bytes, each with its lower case. The last but one has two characters
    /// in lower case, and the last has fewer bytes.
    const LETTERS: [(char, &str); 6] = [
        ('X', "x"),
        ('\u{c9}', "\u{e9}"),
        ('\u{1e00}', "\u{1e01}"),
        ('\u{10400}', "\u{10428}"),
        ('\u{130}', "i\u{307}"),
        ('\u{212a}', "k"),
    ];

    /// Numbers of letters: each up to a bit above every bound of `max` characters, then those
    /// around each power of two, up to a megabyte.
    fn counts(max: usize) -> impl Iterator<Item = usize> {
        let around = |bits: u32| (1_usize << bits) - 1..=(1 << bits) + 1;
        (0..=CHAR_BYTES_MAX * max + 3).chain((10..=20).flat_map(around))
    }

    #[test]
    fn name_has_its_length_in_characters() {
        for max in [1, 2, 63, 64, NAME_CHARS_MAX] {
            let registry = Registry::new(max);
            for (letter, lower) in LETTERS {
                for count in counts(max) {
                    let expected = match count * lower.chars().count() {
                        0 => Err(NameError::Empty),
                        chars if chars > max => Err(NameError::TooLong),
                        _ => Ok(()),
                    };
                    let name = letter.to_string().repeat(count);
                    assert_eq!(registry.set_name(1, &name), expected, "{max}: {count} {letter}");
                }
            }
        }
    }

    #[test]
    fn name_is_found_at_each_length() {
        for (letter, lower) in LETTERS {
            // A server may set less after the session got its name.
            let registry = Registry::new(1);
            for count in counts(NAME_CHARS_MAX) {
                let fits = count > 0 && count * lower.chars().count() <= NAME_CHARS_MAX;
                if fits {
                    registry.members().names.insert(lower.repeat(count), count as u64);
                }
                let name = letter.to_string().repeat(count);
                let expected = fits.then_some(count as u64);
                assert_eq!(registry.find(&name), expected, "{count} {letter}");
            }
        }
    }
}
