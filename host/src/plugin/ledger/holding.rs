//! A holding: what one server or other holder has of the pools, for its sessions and its instances.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::{Account, Ledger, Promise, Shortage, Take};
use crate::locks::lock;
use crate::plugin::footprint::{Amounts, Footprint, Resource};

/// How long a session that was promised admission waits for its instance's room.
const ROOM_WAIT_MAX: Duration = Duration::from_millis(500);
/// Sessions of one server that may wait so. The next one is refused at once.
const WAITING_MAX: usize = 64;

/// What one server has of the pools, and what it is promised. The holding is closed when its last
/// clone is dropped. Each session and each instance that took something has a clone.
pub struct Holding {
    pub(super) ledger: Ledger,
    pub(super) id: u64,
    promise: Mutex<Promise>,
    /// Memory slots of an instance of the current version.
    memories: AtomicUsize,
    /// Sessions that wait for room.
    waiting: AtomicUsize,
}

impl fmt::Debug for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holding").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Holding {
    pub(super) fn new(ledger: Ledger, id: u64) -> Self {
        let (promise, memories, waiting) =
            (Mutex::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        Self { ledger, id, promise, memories, waiting }
    }

    /// Sets the owner of the holding and its promise. Amounts that are already taken stay taken.
    pub fn promise(&self, tenant: &str, promise: Promise) {
        *self.promised() = promise;
        let mut state = self.ledger.state();
        let Some(before) = state.accounts.get(&self.id).cloned() else { return };
        let (owner, shares): (Arc<str>, _) = (tenant.into(), promise.shares());
        if let Some(owner) = &before.tenant {
            state.shares(owner, before.shares, [false; 2]);
        }
        // The holding keeps its amounts, so they leave the former tenant's sums first.
        state.put(
            self.id,
            &before,
            Account { tenant: before.tenant.clone(), ..Account::default() },
        );
        state.shares(&owner, [false; 2], shares);
        let former = before.tenant.clone();
        state.put(self.id, &Account::default(), Account { tenant: Some(owner), shares, ..before });
        former.iter().for_each(|former| state.forget(former));
        drop(state);
        self.reserve();
    }

    /// Sets the footprint of the version that new sessions get from now on.
    pub fn serves(&self, footprint: Footprint) {
        self.memories.store(footprint.memories, Ordering::Relaxed);
        self.reserve();
    }

    /// Amounts that the promise would reserve for instances of this footprint.
    #[must_use]
    pub fn would_reserve(&self, footprint: Footprint) -> Amounts {
        self.promised().of(footprint)
    }

    /// Whether the pools have room for the server's promise, if its current version had this
    /// footprint.
    #[must_use]
    pub fn can_keep_promise(&self, footprint: Footprint) -> bool {
        let others = self.ledger.promised().less(self.reserved());
        let all = others.plus(self.would_reserve(footprint));
        all.less(self.ledger.offered()) == Amounts::default()
    }

    /// Amounts that are reserved now.
    #[must_use]
    pub fn reserved(&self) -> Amounts {
        self.would_reserve(self.footprint())
    }

    /// Instances that the server is promised.
    #[must_use]
    pub fn instances_min(&self) -> usize {
        self.promised().instances
    }

    /// Whether the server has no more than it is promised.
    fn has_what_is_promised(&self) -> bool {
        let state = self.ledger.state();
        state.accounts.get(&self.id).is_some_and(|account| account.beyond() == Amounts::default())
    }

    fn promised(&self) -> MutexGuard<'_, Promise> {
        lock(&self.promise)
    }

    fn footprint(&self) -> Footprint {
        Footprint::with(self.memories.load(Ordering::Relaxed), 0)
    }

    fn reserve(&self) {
        let reserved = self.reserved();
        let mut state = self.ledger.state();
        if let Some(before) = state.accounts.get(&self.id).cloned() {
            state.put(self.id, &before, Account { reserved, ..before.clone() });
        }
    }

    /// Claims room for a session of the current version.
    ///
    /// Returns the claimed memory slots, for [`Holding::unclaim`]. The number is 0 if admission was
    /// promised and there is no room for the session's instance yet.
    ///
    /// # Errors
    /// [`Shortage`]; nothing was taken.
    pub fn claim(&self) -> Result<usize, Shortage> {
        let amounts = self.footprint().amounts();
        let claimed = match self.ledger.take(self.id, Take::Claim(amounts)) {
            Ok(()) => Ok(amounts.of(Resource::Memories)),
            // Its admission was promised. The admitted session waits for the room of its instance.
            Err(_) if self.promised().sessions > 0 => {
                self.ledger.take(self.id, Take::Claim(Amounts([1, 0]))).map(|()| 0)
            }
            Err(shortage) => Err(shortage),
        };
        claimed.inspect_err(|shortage| self.ledger.count(shortage))
    }

    /// Gives back the room that a session claimed.
    pub fn unclaim(&self, memories: usize) {
        self.ledger.give(self.id, Take::Claim(Amounts([1, memories])));
    }

    /// Claims room for shared instances.
    ///
    /// # Errors
    /// [`Shortage`]; nothing was taken.
    pub fn claim_many(
        self: &Arc<Self>,
        count: usize,
        footprint: Footprint,
    ) -> Result<Claim, Shortage> {
        let amounts = footprint.amounts().times(count);
        let claimed = self.ledger.take(self.id, Take::Claim(amounts));
        claimed.inspect_err(|shortage| self.ledger.count(shortage))?;
        Ok(Claim { holding: Arc::clone(self), amounts })
    }

    /// Takes room for an instance. If admission was promised, the call waits a while for room.
    /// Dropping the future is safe.
    ///
    /// # Errors
    /// [`Shortage`]; nothing was taken.
    pub(in crate::plugin) async fn enter(
        self: &Arc<Self>,
        footprint: Footprint,
        wait_max: Duration,
    ) -> Result<Room, Shortage> {
        let amounts = footprint.amounts();
        let enter = || self.ledger.take(self.id, Take::Live(amounts));
        let room = || Room { holding: Arc::clone(self), amounts };
        let Err(shortage) = enter() else { return Ok(room()) };
        let waits = (self.promised().sessions > 0).then(|| Waiting::begin(self)).flatten();
        if waits.is_some() {
            let waiting = async {
                loop {
                    let freed = self.ledger.0.freed.notified();
                    if enter().is_ok() {
                        return room();
                    }
                    freed.await;
                }
            };
            if let Ok(room) = tokio::time::timeout(wait_max.min(ROOM_WAIT_MAX), waiting).await {
                return Ok(room);
            }
        }
        self.ledger.count(&shortage);
        Err(shortage)
    }

    /// Decides whether the memory of an instance may grow by `bytes`. The answer is no if the
    /// process has almost no memory left.
    pub(in crate::plugin) fn may_grow(&self, bytes: usize) -> bool {
        let pressure = &self.ledger.0.pressure;
        let may = !pressure.stops_growth()
            || (!pressure.stops_all_growth() && self.has_what_is_promised());
        if may {
            pressure.grants(bytes);
        }
        may
    }

    /// Counts a growth of an instance's memory by `bytes`.
    pub(in crate::plugin) fn grew(&self, bytes: usize) {
        self.ledger.0.pressure.grew(bytes);
    }

    /// Counts `bytes` of an instance's memory as free again.
    pub(in crate::plugin) fn shrank(&self, bytes: usize) {
        self.ledger.0.pressure.shrank(bytes);
    }

    /// Instances of this footprint that the server could take now beyond its present ones, at most
    /// `most`.
    #[must_use]
    pub fn room_for(&self, footprint: Footprint, most: usize) -> usize {
        let state = self.ledger.state();
        let Some(before) = state.accounts.get(&self.id) else { return most };
        let fits = |count: usize| {
            let live = before.live.or(before.claimed).plus(footprint.amounts().times(count));
            let after = Account { live, ..before.clone() };
            state.may(before, &after, self.ledger.0.total, Take::Live(Amounts::default())).is_ok()
        };
        let (mut least, mut over) = (0, most + 1);
        while over - least > 1 {
            let middle = least + (over - least) / 2;
            if fits(middle) { least = middle } else { over = middle }
        }
        least
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut state = self.ledger.state();
        let Some(before) = state.accounts.get(&self.id).cloned() else { return };
        state.put(
            self.id,
            &before,
            Account { tenant: before.tenant.clone(), ..Account::default() },
        );
        state.accounts.remove(&self.id);
        if let Some(tenant) = &before.tenant {
            state.shares(tenant, before.shares, [false; 2]);
            state.forget(tenant);
        }
        drop(state);
        self.ledger.0.freed.notify_waiters();
    }
}

/// A slot among the sessions of a server that wait for room.
struct Waiting<'a>(&'a Holding);

impl<'a> Waiting<'a> {
    fn begin(holding: &'a Holding) -> Option<Self> {
        let more = |waiting: usize| (waiting < WAITING_MAX).then_some(waiting + 1);
        holding.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(holding))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Room of shared instances. Dropping the claim gives the room back.
#[derive(Debug)]
pub struct Claim {
    holding: Arc<Holding>,
    amounts: Amounts,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.holding.ledger.give(self.holding.id, Take::Claim(self.amounts));
    }
}

/// Room of one instance. Must be dropped after the instance's store.
#[derive(Debug)]
pub(in crate::plugin) struct Room {
    pub(super) holding: Arc<Holding>,
    pub(super) amounts: Amounts,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.holding.ledger.give(self.holding.id, Take::Live(self.amounts));
    }
}
