//! Clients by address: how many there are of each, and how fast they come.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::{Refusal, Throttle};
use crate::locks::lock;

/// Addresses remembered at a time. The sessions of the process bound the addresses with clients. At
/// this many the other addresses are forgotten, which gives each of them a fresh burst and nothing
/// else.
const ADDRESSES_MAX: usize = 65_536;
/// Bits of an IPv6 address that a single customer is given, at least.
const IPV6_PREFIX_BITS: u32 = 64;

/// Clients that count as one: those of an IPv4 address, or of an IPv6 network of 64 bits. An IPv4
/// address in IPv6 form counts as the IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressGroup(IpAddr);

impl AddressGroup {
    /// Returns the group of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let mask = u128::MAX << (128 - IPV6_PREFIX_BITS);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
            address => address,
        })
    }
}

/// The addresses of one server's clients.
#[derive(Debug, Default)]
pub(super) struct Addresses(Mutex<HashMap<AddressGroup, Entry>>);

#[derive(Debug)]
struct Entry {
    clients: usize,
    /// `None` while no rate was ever checked.
    tokens: Option<f64>,
    filled: Instant,
}

/// A client's place at its address. Dropping it gives the place back.
#[derive(Debug)]
pub(super) struct AddressPlace {
    addresses: Arc<Addresses>,
    key: AddressGroup,
}

impl Addresses {
    /// Takes a place for a client of this address.
    pub(super) fn take(
        self: &Arc<Self>,
        address: IpAddr,
        limits: &Throttle,
        now: Instant,
    ) -> Result<AddressPlace, Refusal> {
        let key = AddressGroup::of(address);
        let mut entries = self.lock();
        if entries.len() >= ADDRESSES_MAX && !entries.contains_key(&key) {
            entries.retain(|_, entry| entry.clients > 0);
        }
        let entry =
            entries.entry(key).or_insert_with(|| Entry { clients: 0, tokens: None, filled: now });
        // A new entry has no clients, so a refusal at this maximum leaves no entry behind.
        if limits.max_per_address > 0 && entry.clients >= limits.max_per_address {
            return Err(Refusal::MaxPerAddress);
        }
        if limits.rate_per_address > 0.0 {
            let gained =
                now.saturating_duration_since(entry.filled).as_secs_f64() * limits.rate_per_address;
            let tokens =
                entry.tokens.map_or(limits.burst(), |tokens| (tokens + gained).min(limits.burst()));
            entry.filled = now;
            if tokens < 1.0 {
                entry.tokens = Some(tokens);
                return Err(Refusal::RatePerAddress);
            }
            entry.tokens = Some(tokens - 1.0);
        }
        entry.clients += 1;
        Ok(AddressPlace { addresses: Arc::clone(self), key })
    }

    /// Forgets the used-up rates, because the limits changed.
    pub(super) fn forget_rates(&self) {
        let mut entries = self.lock();
        entries.retain(|_, entry| entry.clients > 0);
        for entry in entries.values_mut() {
            entry.tokens = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AddressGroup, Entry>> {
        lock(&self.0)
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut entries = self.addresses.lock();
        if let Some(entry) = entries.get_mut(&self.key) {
            entry.clients -= 1;
            // An address that is known for its rate stays until there are too many of them.
            if entry.clients == 0 && entry.tokens.is_none() {
                entries.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn addresses_count_singly_and_ipv6_by_network() {
        let (addresses, now) = (Arc::new(Addresses::default()), Instant::now());
        let limits = Throttle { max_per_address: 1, ..Throttle::default() };
        let take = |text: &str| addresses.take(ip(text), &limits, now);
        let _one = take("192.0.2.1").expect("the first");
        assert_eq!(take("::ffff:192.0.2.1").err(), Some(Refusal::MaxPerAddress));
        let other = take("2001:db8:0:1::1").expect("another network");
        assert_eq!(take("2001:db8:0:1:ffff::").err(), Some(Refusal::MaxPerAddress));
        assert!(take("2001:db8:0:2::1").is_ok());
        drop(other);
        assert!(take("2001:db8:0:1::2").is_ok());
    }

    #[test]
    fn a_burst_then_so_many_a_second() {
        let (addresses, start) = (Arc::new(Addresses::default()), Instant::now());
        let limits =
            Throttle { rate_per_address: 2.0, burst_per_address: 3, ..Throttle::default() };
        let took = |after: u64| {
            addresses.take(ip("192.0.2.1"), &limits, start + Duration::from_millis(after)).is_ok()
        };
        assert_eq!([took(0), took(0), took(0), took(0)], [true, true, true, false]);
        assert_eq!([took(499), took(500), took(501)], [false, true, false]);
    }

    #[test]
    fn remembered_addresses_are_bounded() {
        let (addresses, now) = (Arc::new(Addresses::default()), Instant::now());
        let limits = Throttle { rate_per_address: 1.0, ..Throttle::default() };
        let held = addresses.take(ip("192.0.2.1"), &limits, now).expect("a place");
        for number in 0..2 * ADDRESSES_MAX as u32 {
            let address = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0A00_0000 + number));
            drop(addresses.take(address, &limits, now));
        }
        assert!(addresses.lock().len() <= ADDRESSES_MAX);
        assert!(addresses.lock().contains_key(&AddressGroup::of(ip("192.0.2.1"))));
        drop(held);
    }
}
