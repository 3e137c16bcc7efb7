//! Owners of servers, by name: what the servers of each may use together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::admission::Count;
use crate::sched::{MAIL_MAX_BYTES, Quota, QuotaLimits, QuotaStatus};

/// Fewest bytes of memory that a tenant may be limited to: an instance has at least one page.
const MEMORY_MIN_BYTES: usize = 64 << 10;
/// Fewest bytes of mail that a tenant may be limited to.
const MAIL_MIN_BYTES: usize = 64 << 10;
/// Least and greatest CPUs.
const CPUS: std::ops::RangeInclusive<f64> = 0.001..=1_024.0;
/// Fewest bytes per second: a session moves them in pieces of a kibibyte and more.
const BYTES_PER_SECOND_MIN: u64 = 1 << 10;
/// Longest name of a tenant.
pub const TENANT_MAX_BYTES: usize = 127;

/// What the servers of one tenant may have together. Zero is no limit, and the default.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TenantLimits {
    /// Clients at a time.
    pub max_clients: usize,
    /// CPU time, memory and bytes.
    pub shares: QuotaLimits,
}

impl TenantLimits {
    /// What cannot be: the key, what was expected and what was found.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let QuotaLimits { cpus, memory_max_bytes, mail_max_bytes, bytes_per_second } = self.shares;
        let mut found = Vec::new();
        if cpus != 0.0 && !CPUS.contains(&cpus) {
            found.push(format!(
                "`cpus`: expected {} to {}, or 0 for no limit, found {cpus}",
                CPUS.start(),
                CPUS.end()
            ));
        }
        if memory_max_bytes != 0 && memory_max_bytes < MEMORY_MIN_BYTES {
            found.push(format!(
                "`memory_max_bytes`: expected at least {MEMORY_MIN_BYTES}, or 0 for no limit, \
                 found {memory_max_bytes}"
            ));
        }
        if mail_max_bytes != 0 && mail_max_bytes < MAIL_MIN_BYTES {
            found.push(format!(
                "`mail_max_bytes`: expected at least {MAIL_MIN_BYTES}, or 0 for {MAIL_MAX_BYTES}, \
                 found {mail_max_bytes}"
            ));
        }
        if bytes_per_second != 0 && bytes_per_second < BYTES_PER_SECOND_MIN {
            found.push(format!(
                "`bytes_per_second`: expected at least {BYTES_PER_SECOND_MIN}, or 0 for no limit, \
                 found {bytes_per_second}"
            ));
        }
        found
    }
}

/// One owner of servers.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(super) name: Arc<str>,
    pub(super) quota: Arc<Quota>,
    pub(super) clients: Arc<Count>,
}

impl Tenant {
    /// Whether it has servers, or clients of servers that were its own.
    fn is_in_use(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1
            || Arc::strong_count(&self.quota) > 1
            || Arc::strong_count(&self.clients) > 1
    }
}

/// A tenant at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Clients of its servers, those in the handshake and those on their way out included.
    pub clients: usize,
    /// How many there may be; 0 is no limit.
    pub max_clients: usize,
    /// What it has used and may use.
    pub quota: QuotaStatus,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Tenants(Mutex<BTreeMap<Arc<str>, Arc<Tenant>>>);

impl Tenants {
    /// The tenant of this name.
    pub(super) fn of(&self, name: &str) -> Arc<Tenant> {
        let mut tenants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tenants.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        let tenant = Arc::new(Tenant {
            name: Arc::clone(&name),
            quota: Arc::default(),
            clients: Count::up_to(0),
        });
        tenants.insert(name, Arc::clone(&tenant));
        tenant
    }

    /// The account of the tenant of this name, or one without limits where there is none.
    pub(super) fn quota(&self, name: &str) -> Arc<Quota> {
        let tenants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.get(name).map(|tenant| Arc::clone(&tenant.quota)).unwrap_or_default()
    }

    /// Puts these limits in force; who is not named has none. What is taken beyond them stays
    /// taken.
    pub(super) fn limit(&self, limits: &BTreeMap<String, TenantLimits>) {
        for name in limits.keys() {
            self.of(name);
        }
        let mut tenants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody's servers, and nothing said about them.
        tenants.retain(|name, tenant| tenant.is_in_use() || limits.contains_key(&**name));
        for (name, tenant) in tenants.iter() {
            let limits = limits.get(&**name).copied().unwrap_or_default();
            tenant.quota.set(limits.shares);
            tenant.clients.set_max(limits.max_clients);
        }
    }

    /// Every one, by name.
    pub(super) fn seen(&self) -> Vec<TenantStatus> {
        let tenants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = |tenant: &Arc<Tenant>| TenantStatus {
            name: Arc::clone(&tenant.name),
            clients: tenant.clients.taken(),
            max_clients: tenant.clients.max(),
            quota: tenant.quota.seen(),
        };
        tenants.values().map(seen).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_the_ranges_are_in_and_what_is_beyond_is_not() {
        let problems =
            |shares: QuotaLimits| TenantLimits { max_clients: 0, shares }.problems().len();
        let none = QuotaLimits::default();
        assert_eq!(problems(none), 0);
        let (memory_max_bytes, mail_max_bytes) = (64 << 10, 64 << 10);
        let at =
            QuotaLimits { cpus: 0.001, memory_max_bytes, mail_max_bytes, bytes_per_second: 1_024 };
        assert_eq!(problems(at), 0);
        let (memory_max_bytes, mail_max_bytes) = (memory_max_bytes - 1, mail_max_bytes - 1);
        let below = QuotaLimits {
            cpus: 0.000_9,
            memory_max_bytes,
            mail_max_bytes,
            bytes_per_second: 1_023,
        };
        assert_eq!(problems(below), 4);
        assert_eq!(
            [f64::NAN, -1.0, 1_024.1].map(|cpus| problems(QuotaLimits { cpus, ..none })),
            [1, 1, 1]
        );
    }

    #[test]
    fn limits_that_are_not_named_any_more_are_lifted() {
        let tenants = Tenants::default();
        let tenant = tenants.of("a");
        let limits = TenantLimits { max_clients: 3, ..TenantLimits::default() };
        tenants.limit(&BTreeMap::from([("a".to_owned(), limits), ("b".to_owned(), limits)]));
        assert_eq!((tenant.clients.max(), tenants.seen().len()), (3, 2));
        tenants.limit(&BTreeMap::new());
        assert_eq!((tenant.clients.max(), tenants.seen().len()), (0, 1));
    }
}
