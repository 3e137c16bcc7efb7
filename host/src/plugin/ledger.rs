//! The ledger: what instances use of the engine's pools, what servers are promised of them, and who
//! may have another instance.
//!
//! Each server has a *holding*. A session claims room at the gate and keeps it until it ends. An
//! instance uses the room that its server has claimed. A server has taken the greater of the two.
//! So a sleeping session keeps its room, and a session with two instances takes more.
//!
//! The part of the pools that is promised to no server is the *remainder*. If the ledger gives out
//! all of the pools, the mappings of the process still leave the host's reserve alone.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use super::footprint::{Amounts, Footprint, Resource};
use super::pressure::Pressure;

mod holding;
#[cfg(test)]
mod simulation;

use crate::locks::lock;
pub(super) use holding::Room;
pub use holding::{Claim, Holding};

/// A tenant may hold at most this many times as much of the remainder as is free of it.
const SHARE_TIMES: usize = 8;
/// Room for second instances of sessions that migrate to another version.
const MOVING: Amounts = Amounts([32, 32]);
/// Room for trial instances.
const TRIALS: Amounts = Amounts([32, 32]);
/// Room that one server may take of [`MOVING`] at a time.
const MOVING_EACH: Amounts = Amounts([4, 16]);

/// Why there is no room for another instance. Always the host's doing, and never the plugin's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// The pool is empty, or its rest is promised to others.
    #[error("no room for another instance: {used} of {total} {resource} are taken or promised")]
    Full {
        /// The resource that is short.
        resource: Resource,
        /// Amount that is taken or promised.
        used: usize,
        /// Amount that exists.
        total: usize,
    },
    /// The tenant already has its part of the remainder.
    #[error(
        "no room for another instance: its tenant has {held} of the {resource} that are shared, \
         and \
         {free} are left for others"
    )]
    Share {
        /// The resource that is short.
        resource: Resource,
        /// Amount of the remainder that the tenant holds.
        held: usize,
        /// Amount of the remainder that is free.
        free: usize,
    },
    /// The system is about to refuse memory to the process.
    #[error("no room for another instance: the process has next to no memory left")]
    Memory,
}

impl Shortage {
    /// Stable name of the short resource, for metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full { resource, .. } | Self::Share { resource, .. } => resource.name(),
            Self::Memory => "memory",
        }
    }

    /// Every name.
    pub const NAMES: [&str; 3] = ["instances", "memories", "memory"];
}

/// Promise to a server: what it can always have of the pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Promise {
    /// Sessions that the gate admits: `max_clients`. 0: no promise.
    pub sessions: usize,
    /// Instances that are awake at once: `instances_min`.
    pub instances: usize,
}

impl Promise {
    /// The promise as amounts of the pools, for instances of this footprint.
    #[must_use]
    pub fn of(self, footprint: Footprint) -> Amounts {
        Amounts([self.sessions.max(self.instances), self.instances * footprint.memories])
    }

    /// By resource: whether the server may want more than it is promised.
    fn shares(self) -> [bool; 2] {
        [self.sessions == 0, self.sessions == 0 || self.instances < self.sessions]
    }
}

/// The ledger of one engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    total: Amounts,
    state: Mutex<State>,
    /// Notified when room was given back.
    freed: Notify,
    pressure: Pressure,
    refused: [AtomicUsize; 3],
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    accounts: HashMap<u64, Account>,
    /// Amounts that all holders together have taken.
    used: Amounts,
    /// Amounts that are taken or promised.
    committed: Amounts,
    tenants: HashMap<Arc<str>, TenantPart>,
    /// Number of tenants that take from the remainder, by resource.
    sharing: [usize; 2],
}

#[derive(Debug, Default)]
struct TenantPart {
    /// Amounts that the tenant's servers hold beyond their promises.
    held: Amounts,
    /// Number of the tenant's servers that may want more than they are promised, by resource.
    sharing: [usize; 2],
}

/// Amounts of one holder.
#[derive(Debug, Clone, Default)]
struct Account {
    /// `None`: the host's own account.
    tenant: Option<Arc<str>>,
    reserved: Amounts,
    shares: [bool; 2],
    claimed: Amounts,
    live: Amounts,
}

impl Account {
    fn taken(&self) -> Amounts {
        self.claimed.or(self.live)
    }

    fn committed(&self) -> Amounts {
        self.taken().or(self.reserved)
    }

    fn beyond(&self) -> Amounts {
        self.taken().less(self.reserved)
    }

    /// Whether the holder has more instances than sessions, by at most [`MOVING_EACH`].
    fn moves(&self) -> bool {
        let more = self.live.less(self.claimed);
        more.of(Resource::Instances) > 0 && more.less(MOVING_EACH) == Amounts::default()
    }
}

/// An amount to take, and its purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Take {
    /// Room for a session.
    Claim(Amounts),
    /// Room for a live instance.
    Live(Amounts),
}

impl State {
    /// Replaces an account, and updates the sums.
    fn put(&mut self, id: u64, before: &Account, after: Account) {
        self.used = self.used.less(before.taken()).plus(after.taken());
        self.committed = self.committed.less(before.committed()).plus(after.committed());
        if let Some(tenant) = after.tenant.clone() {
            let part = self.tenants.entry(tenant).or_default();
            part.held = part.held.less(before.beyond()).plus(after.beyond());
        }
        self.accounts.insert(id, after);
    }

    /// Counts a server of this tenant as sharing the remainder, or no longer, by resource.
    fn shares(&mut self, tenant: &Arc<str>, before: [bool; 2], after: [bool; 2]) {
        let part = self.tenants.entry(Arc::clone(tenant)).or_default();
        for at in 0..2 {
            let had = part.sharing[at] > 0;
            part.sharing[at] = part.sharing[at] + usize::from(after[at]) - usize::from(before[at]);
            let has = part.sharing[at] > 0;
            self.sharing[at] = self.sharing[at] + usize::from(has) - usize::from(had);
        }
    }

    /// Removes a tenant that has no server left.
    fn forget(&mut self, tenant: &Arc<str>) {
        if !self.accounts.values().any(|account| account.tenant.as_ref() == Some(tenant)) {
            self.tenants.remove(tenant);
        }
    }

    /// Decides whether an account may change from `before` to `after`.
    fn may(
        &self,
        before: &Account,
        after: &Account,
        total: Amounts,
        take: Take,
    ) -> Result<(), Shortage> {
        let (taken, committed) =
            (after.taken().less(before.taken()), after.committed().less(before.committed()));
        let all = self.used.plus(taken);
        for resource in Resource::ALL.into_iter().filter(|resource| taken.of(*resource) > 0) {
            let (used, total) = (all.of(resource), total.of(resource));
            if used > total {
                return Err(Shortage::Full { resource, used: self.used.of(resource), total });
            }
        }
        if committed == Amounts::default() {
            return Ok(());
        }
        let Some(tenant) = &after.tenant else {
            return self.fits(committed, total, Amounts::default());
        };
        let shared = self.shared(tenant, after.beyond().less(before.beyond()), committed, total);
        match (self.fits(committed, total, MOVING).and(shared), take) {
            // A session that migrates has two instances for a moment, however little is left.
            (Err(_), Take::Live(_)) if after.moves() => {
                self.fits(committed, total, Amounts::default())
            }
            (answer, _) => answer,
        }
    }

    /// Decides whether `more` may be taken or promised, if `kept` stays free.
    fn fits(&self, more: Amounts, total: Amounts, kept: Amounts) -> Result<(), Shortage> {
        let (all, offered) = (self.committed.plus(more), total.less(kept));
        let short = |resource: &Resource| {
            more.of(*resource) > 0 && all.of(*resource) > offered.of(*resource)
        };
        match Resource::ALL.into_iter().find(short) {
            None => Ok(()),
            Some(resource) => {
                let (used, total) = (self.committed.of(resource), offered.of(resource));
                Err(Shortage::Full { resource, used, total })
            }
        }
    }

    /// Decides whether the tenant may hold `more` of the remainder, if other tenants share it.
    fn shared(
        &self,
        tenant: &str,
        more: Amounts,
        committed: Amounts,
        total: Amounts,
    ) -> Result<(), Shortage> {
        let part = self.tenants.get(tenant);
        let free = total.less(MOVING).less(self.committed.plus(committed));
        for resource in Resource::ALL.into_iter().filter(|resource| more.of(*resource) > 0) {
            let (held, own) = part.map_or((0, false), |part| {
                (part.held.of(resource), part.sharing[resource as usize] > 0)
            });
            let others = self.sharing[resource as usize] - usize::from(own);
            let free = free.of(resource);
            // Each tenant gets at least one, so that a small remainder is of use as well.
            if others > 0 && held > 0 && held + more.of(resource) > free.saturating_mul(SHARE_TIMES)
            {
                return Err(Shortage::Share { resource, held, free });
            }
        }
        Ok(())
    }
}

impl Ledger {
    /// Creates a ledger of pools of this size.
    pub(super) fn new(total: Amounts, pressure: Pressure) -> Self {
        let state = Mutex::default();
        Self(Arc::new(Shared {
            total,
            state,
            freed: Notify::new(),
            pressure,
            refused: Default::default(),
        }))
    }

    /// Opens a holding for instances that belong neither to a server nor to a trial.
    pub(super) fn own(&self) -> Arc<Holding> {
        self.add(Account::default())
    }

    /// Opens the holding of trial instances, which always have room for a few.
    pub(super) fn trials(&self) -> Arc<Holding> {
        self.add(Account { reserved: TRIALS.capped(self.0.total), ..Account::default() })
    }

    fn add(&self, account: Account) -> Arc<Holding> {
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        state.put(id, &Account::default(), account);
        drop(state);
        Arc::new(Holding::new(self.clone(), id))
    }

    /// Opens the holding of a server, which has taken nothing yet.
    #[must_use]
    pub fn open(&self, tenant: &str, promise: Promise, footprint: Footprint) -> Arc<Holding> {
        let holding = self.add(Account { tenant: Some(tenant.into()), ..Account::default() });
        holding.promise(tenant, promise);
        holding.serves(footprint);
        holding
    }

    /// Amounts that all servers together can be promised or given.
    #[must_use]
    pub fn offered(&self) -> Amounts {
        self.0.total.less(MOVING).less(TRIALS)
    }

    /// Amounts that are promised to the present servers.
    #[must_use]
    pub fn promised(&self) -> Amounts {
        let state = self.state();
        let servers = state.accounts.values().filter(|account| account.tenant.is_some());
        servers.fold(Amounts::default(), |sum, account| sum.plus(account.reserved))
    }

    /// Size of the pools.
    #[must_use]
    pub fn total(&self) -> Amounts {
        self.0.total
    }

    /// Amounts that are taken now, claims of sessions included.
    #[must_use]
    pub fn used(&self) -> Amounts {
        self.state().used
    }

    /// How often room was refused, by the short resource.
    #[must_use]
    pub fn refused(&self) -> [(&'static str, u64); 3] {
        std::array::from_fn(|at| {
            (Shortage::NAMES[at], self.0.refused[at].load(Ordering::Relaxed) as u64)
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    fn take(&self, id: u64, take: Take) -> Result<(), Shortage> {
        let is_short = self.0.pressure.is_short_of_memory();
        let total = Amounts([usize::MAX, self.0.pressure.memory_slots()]).capped(self.0.total);
        let mut state = self.state();
        let Some(before) = state.accounts.get(&id).cloned() else { return Ok(()) };
        let mut after = before.clone();
        match take {
            Take::Claim(amounts) => after.claimed = after.claimed.plus(amounts),
            Take::Live(amounts) => after.live = after.live.plus(amounts),
        }
        let is_promised = after.committed() == before.committed() && !self.0.pressure.is_critical();
        if is_short && !is_promised {
            return Err(Shortage::Memory);
        }
        state.may(&before, &after, total, take)?;
        state.put(id, &before, after);
        Ok(())
    }

    fn count(&self, shortage: &Shortage) {
        let at =
            Shortage::NAMES.iter().position(|name| *name == shortage.name()).unwrap_or_default();
        self.0.refused[at].fetch_add(1, Ordering::Relaxed);
    }

    fn give(&self, id: u64, take: Take) {
        let mut state = self.state();
        if let Some(before) = state.accounts.get(&id).cloned() {
            let mut after = before.clone();
            match take {
                Take::Claim(amounts) => after.claimed = after.claimed.less(amounts),
                Take::Live(amounts) => after.live = after.live.less(amounts),
            }
            state.put(id, &before, after);
        }
        drop(state);
        self.0.freed.notify_waiters();
    }
}
