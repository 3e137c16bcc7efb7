//! Sources of sessions: client addresses, and the number of live sessions at each.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::admission::{AddressGroup, Network};

/// Whether a session ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndKind {
    /// Not by a fault of its plugin.
    Well,
    /// By a fault of its plugin.
    Faulted,
}

/// Number of clients behind an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Crowd {
    /// One client, or one customer's network.
    One,
    /// Many clients: a configured proxy that did not name its client.
    Many,
}

/// Where the client of a session comes from: its address group, and how many clients that has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClientSource {
    pub(crate) group: AddressGroup,
    pub(crate) crowd: Crowd,
}

impl ClientSource {
    /// Returns the source for a client's address, given the configured proxies. Behind a proxy the
    /// address is the one that the proxy names.
    pub(crate) fn of(address: IpAddr, proxies: &[Network]) -> Self {
        let is_proxy = proxies.iter().any(|proxy| proxy.contains(address));
        let crowd = if is_proxy { Crowd::Many } else { Crowd::One };
        Self { group: AddressGroup::of(address), crowd }
    }
}

/// Live sessions by address. Has at most one entry for each session.
#[derive(Debug, Clone, Default)]
pub(crate) struct LiveAddresses {
    sessions: HashMap<AddressGroup, u32>,
    total: u64,
}

impl LiveAddresses {
    /// Counts a session that began.
    pub(crate) fn add(&mut self, group: AddressGroup) {
        *self.sessions.entry(group).or_default() += 1;
        self.total += 1;
    }

    /// Stops counting a session that is over.
    pub(crate) fn remove(&mut self, group: AddressGroup) {
        let Some(sessions) = self.sessions.get_mut(&group) else { return };
        *sessions -= 1;
        self.total -= 1;
        if *sessions == 0 {
            self.sessions.remove(&group);
        }
    }

    /// Number of sessions at this address.
    pub(crate) fn at(&self, group: AddressGroup) -> u64 {
        self.sessions.get(&group).map_or(0, |sessions| u64::from(*sessions))
    }

    /// Number of sessions at all addresses.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Number of addresses with a session.
    pub(crate) fn count(&self) -> usize {
        self.sessions.len()
    }

    /// Each address with its number of sessions.
    pub(crate) fn each(&self) -> impl Iterator<Item = (AddressGroup, u64)> {
        self.sessions.iter().map(|(group, sessions)| (*group, u64::from(*sessions)))
    }
}
