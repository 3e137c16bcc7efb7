//! Places for calls that wait, by tenant. Waiting calls of one tenant take no place from another
//! tenant's calls.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::http::StatusCode;

use super::answer::Problem;
use crate::locks::lock;
use crate::work::HOST;

/// Most calls of one class that one tenant may have under way.
pub(super) const WAITING_TENANT_MAX: usize = 32;
/// Tenants in the table, above which one without calls is dropped with its count of refusals.
const IDLE_MAX: usize = 1_024;

/// What a call waits for. Each class has places of its own, so that no class fills another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Another version or another configuration: swaps, canaries, reloads, upgrades.
    Change,
    /// Other calls and running events: locks and suspensions.
    Wait,
    /// The disk: credentials.
    Read,
    /// The end of something: stops, restarts, roll-backs, promotions.
    End,
}

impl Class {
    pub(super) const ALL: [Self; 4] = [Self::Change, Self::Wait, Self::Read, Self::End];

    /// The class's name in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::Wait => "wait",
            Self::Read => "read",
            Self::End => "end",
        }
    }

    /// The calls of the class, by name, for messages.
    fn calls(self) -> &'static str {
        match self {
            Self::Change => "swap, canary, reload, upgrade",
            Self::Wait => "suspend, lock",
            Self::Read => "renew",
            Self::End => "stop, restart, rollback, promote",
        }
    }
}

/// Counts of calls of one class and tenant.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Calls {
    /// Calls under way.
    pub(super) now: usize,
    /// Calls refused because too many were under way.
    pub(super) refused: u64,
}

type OfTenants = BTreeMap<Arc<str>, [Calls; Class::ALL.len()]>;

/// The counts of calls that wait, by tenant and class.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<OfTenants>);

/// The place of one call. Dropping it frees the place.
pub(super) struct Place {
    of: Arc<Waiting>,
    tenant: Arc<str>,
    class: Class,
}

impl Waiting {
    /// Takes a place for a call about a server of this tenant. A call about the whole process is
    /// [`HOST`]'s.
    ///
    /// # Errors
    /// `too-many-waiting` if [`WAITING_TENANT_MAX`] calls of the class are under way.
    pub(super) fn enter(
        self: &Arc<Self>,
        tenant: Arc<str>,
        class: Class,
    ) -> Result<Place, Problem> {
        let mut tenants = self.tenants();
        let calls = &mut tenants.entry(Arc::clone(&tenant)).or_default()[class as usize];
        if calls.now >= WAITING_TENANT_MAX {
            calls.refused += 1;
            let whose = if &*tenant == HOST {
                "about the process".into()
            } else {
                format!("of the tenant `{tenant}`")
            };
            let message = format!(
                "{WAITING_TENANT_MAX} calls {whose} ({}) are under way already; try again once \
                 some are done",
                class.calls()
            );
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-waiting", message));
        }
        calls.now += 1;
        Ok(Place { of: Arc::clone(self), tenant, class })
    }

    /// The counts of all tenants and classes.
    pub(super) fn seen(&self) -> Vec<(Arc<str>, Class, Calls)> {
        let of = |(tenant, calls): (&Arc<str>, &[Calls; Class::ALL.len()])| {
            let (tenant, calls) = (Arc::clone(tenant), *calls);
            Class::ALL.map(|class| (Arc::clone(&tenant), class, calls[class as usize]))
        };
        self.tenants().iter().flat_map(of).collect()
    }

    fn tenants(&self) -> MutexGuard<'_, OfTenants> {
        lock(&self.0)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut tenants = self.of.tenants();
        let many = tenants.len() > IDLE_MAX;
        let Some(calls) = tenants.get_mut(&self.tenant) else { return };
        calls[self.class as usize].now -= 1;
        if calls.iter().all(|calls| calls.now == 0 && (calls.refused == 0 || many)) {
            tenants.remove(&self.tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_class_takes_no_place_from_others() {
        let waiting = Arc::new(Waiting::default());
        let mut places = Vec::new();
        for (at, full) in Class::ALL.into_iter().enumerate() {
            let tenant: Arc<str> = format!("full-{at}").into();
            for _ in 0..WAITING_TENANT_MAX {
                places.push(waiting.enter(Arc::clone(&tenant), full).expect("below the limit"));
            }
            let refused = waiting.enter(Arc::clone(&tenant), full).err().expect("above the limit");
            assert_eq!(
                (refused.code, refused.message.contains(&*tenant)),
                ("too-many-waiting", true),
                "{refused:?}"
            );
            for other in Class::ALL.into_iter().filter(|other| *other != full) {
                drop(waiting.enter(Arc::clone(&tenant), other).expect("another class"));
            }
            drop(waiting.enter("another".into(), full).expect("another tenant"));
            drop(places.pop());
            places.push(waiting.enter(tenant, full).expect("below the limit again"));
        }
        drop(places);
        assert!(waiting.seen().iter().all(|(_, _, calls)| calls.now == 0));
    }
}
