//! Tenants by name, each with the limits of all of its servers together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::admission::ClientCount;
use crate::locks::lock;
use crate::sched::{MAIL_MAX_BYTES, Quota, QuotaLimits, QuotaStatus};

/// Least limit on a tenant's memory: an instance has at least one page.
const MEMORY_MIN_BYTES: usize = 64 << 10;
/// Least limit on a tenant's mail.
const MAIL_MIN_BYTES: usize = 64 << 10;
/// Least and greatest limit on CPUs.
const CPUS: std::ops::RangeInclusive<f64> = 0.001..=1_024.0;
/// Least limit on bytes per second: a session moves them in pieces of a kibibyte and more.
const BYTES_PER_SECOND_MIN: u64 = 1 << 10;
/// Longest name of a tenant, in bytes.
pub const TENANT_MAX_BYTES: usize = 127;

/// Limits of all servers of one tenant together. Zero is no limit, and the default.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TenantLimits {
    /// Most clients at a time.
    pub max_clients: usize,
    /// Limits of CPU time, memory and bytes.
    pub shares: QuotaLimits,
}

impl TenantLimits {
    /// Returns each invalid value: its key, and the expected and the found value.
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

/// The owner of one or more servers.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) name: Arc<str>,
    pub(crate) quota: Arc<Quota>,
    pub(crate) clients: Arc<ClientCount>,
}

impl Tenant {
    /// Whether the tenant has servers, or clients of its former servers.
    fn is_in_use(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1
            || Arc::strong_count(&self.quota) > 1
            || Arc::strong_count(&self.clients) > 1
    }
}

/// A tenant at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantStatus {
    /// Name of the tenant.
    pub name: Arc<str>,
    /// Clients of its servers, in the handshake and leaving ones included.
    pub clients: usize,
    /// Most clients; 0 is no limit.
    pub max_clients: usize,
    /// Use and limits of its quota.
    pub quota: QuotaStatus,
}

/// All tenants by name.
#[derive(Debug, Default)]
pub(crate) struct Tenants(Mutex<BTreeMap<Arc<str>, Arc<Tenant>>>);

impl Tenants {
    /// Returns the tenant of this name, a new one if there is none.
    pub(crate) fn of(&self, name: &str) -> Arc<Tenant> {
        let mut tenants = lock(&self.0);
        if let Some(known) = tenants.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        let tenant = Arc::new(Tenant {
            name: Arc::clone(&name),
            quota: Arc::default(),
            clients: ClientCount::up_to(0),
        });
        tenants.insert(name, Arc::clone(&tenant));
        tenant
    }

    /// Returns the quota of the tenant of this name, or one without limits if there is none.
    pub(crate) fn quota(&self, name: &str) -> Arc<Quota> {
        let tenants = lock(&self.0);
        tenants.get(name).map(|tenant| Arc::clone(&tenant.quota)).unwrap_or_default()
    }

    /// Sets the limits of all tenants. A tenant without an entry has none. Use beyond a new limit
    /// stays.
    pub(crate) fn limit(&self, limits: &BTreeMap<String, TenantLimits>) {
        for name in limits.keys() {
            self.of(name);
        }
        let mut tenants = lock(&self.0);
        // Removes tenants without servers and without configured limits.
        tenants.retain(|name, tenant| tenant.is_in_use() || limits.contains_key(&**name));
        for (name, tenant) in tenants.iter() {
            let limits = limits.get(&**name).copied().unwrap_or_default();
            tenant.quota.set(limits.shares);
            tenant.clients.set_max(limits.max_clients);
        }
    }

    /// Status of all tenants, by name.
    pub(crate) fn seen(&self) -> Vec<TenantStatus> {
        let tenants = lock(&self.0);
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
    fn limits_outside_ranges_are_problems() {
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
    fn absent_limits_are_lifted() {
        let tenants = Tenants::default();
        let tenant = tenants.of("a");
        let limits = TenantLimits { max_clients: 3, ..TenantLimits::default() };
        tenants.limit(&BTreeMap::from([("a".to_owned(), limits), ("b".to_owned(), limits)]));
        assert_eq!((tenant.clients.max(), tenants.seen().len()), (3, 2));
        tenants.limit(&BTreeMap::new());
        assert_eq!((tenant.clients.max(), tenants.seen().len()), (0, 1));
    }
}
