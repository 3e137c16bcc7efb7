//! What one holder has of the pools: claims of its sessions, and room of its instances.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Account, Ledger, Promise, Shortage, Take};
use crate::plugin::footprint::{Amounts, Footprint, Resource};

/// How long a session that was promised admission waits for the room of its instance.
const ROOM_WAIT_MAX: Duration = Duration::from_millis(500);
/// Sessions of one server that wait so; the next one is refused at once.
const WAITING_MAX: usize = 64;

/// What one server has of the pools, and what it is promised. Closed when the last clone is gone,
/// and with it each session and each instance that took something.
pub struct Holding {
    pub(super) ledger: Ledger,
    pub(super) id: u64,
    promise: Mutex<Promise>,
    /// Memory slots of an instance of the version that new sessions get.
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

    /// Whose it is from now on, and what it is promised. What is taken already stays taken.
    pub fn promise(&self, tenant: &str, promise: Promise) {
        *self.promised() = promise;
        let mut state = self.ledger.state();
        let Some(before) = state.accounts.get(&self.id).cloned() else { return };
        let (owner, shares): (Arc<str>, _) = (tenant.into(), promise.shares());
        if let Some(owner) = &before.tenant {
            state.shares(owner, before.shares, [false; 2]);
        }
        // It takes along what it holds.
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

    /// New sessions get a version with this footprint from now on.
    pub fn serves(&self, footprint: Footprint) {
        self.memories.store(footprint.memories, Ordering::Relaxed);
        self.reserve();
    }

    /// What it is promised, where an instance takes so much.
    #[must_use]
    pub fn would_reserve(&self, footprint: Footprint) -> Amounts {
        self.promised().of(footprint)
    }

    /// What is reserved for it now.
    #[must_use]
    pub fn reserved(&self) -> Amounts {
        self.would_reserve(self.footprint())
    }

    /// Instances that it is promised.
    #[must_use]
    pub fn instances_min(&self) -> usize {
        self.promised().instances
    }

    /// Whether all that it has is promised to it.
    fn has_what_is_promised(&self) -> bool {
        let state = self.ledger.state();
        state.accounts.get(&self.id).is_some_and(|account| account.beyond() == Amounts::default())
    }

    fn promised(&self) -> MutexGuard<'_, Promise> {
        self.promise.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Claims room for a session of the version that new sessions get. The memory slots that are
    /// part of it, for [`Holding::unclaim`]: none where a session is promised that has no room yet.
    ///
    /// # Errors
    /// [`Shortage`]; nothing was taken.
    pub fn claim(&self) -> Result<usize, Shortage> {
        let amounts = self.footprint().amounts();
        let claimed = match self.ledger.take(self.id, Take::Claim(amounts)) {
            Ok(()) => Ok(amounts.of(Resource::Memories)),
            // It was promised to be let in, and waits for its instance inside.
            Err(_) if self.promised().sessions > 0 => {
                self.ledger.take(self.id, Take::Claim(Amounts([1, 0]))).map(|()| 0)
            }
            Err(shortage) => Err(shortage),
        };
        claimed.inspect_err(|shortage| self.ledger.count(shortage))
    }

    /// Gives back what a session claimed.
    pub fn unclaim(&self, memories: usize) {
        self.ledger.give(self.id, Take::Claim(Amounts([1, memories])));
    }

    /// Claims room for instances that sessions share.
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

    /// Takes room for an instance. Where its session was promised admission this waits a while for
    /// it. Dropping the future is safe.
    ///
    /// # Errors
    /// [`Shortage`]; nothing was taken.
    pub(in crate::plugin) async fn enter(
        self: &Arc<Self>,
        footprint: Footprint,
        deadline_io: Duration,
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
            if let Ok(room) = tokio::time::timeout(deadline_io.min(ROOM_WAIT_MAX), waiting).await {
                return Ok(room);
            }
        }
        self.ledger.count(&shortage);
        Err(shortage)
    }

    /// Whether the memory of one of its instances may grow by so much: not where the process has
    /// next to no memory left.
    pub(in crate::plugin) fn may_grow(&self, bytes: usize) -> bool {
        let pressure = &self.ledger.0.pressure;
        let may = !pressure.stops_growth()
            || (!pressure.stops_all_growth() && self.has_what_is_promised());
        if may {
            pressure.grants(bytes);
        }
        may
    }

    /// The memory of one of its instances has grown by so much.
    pub(in crate::plugin) fn grew(&self, bytes: usize) {
        self.ledger.0.pressure.grew(bytes);
    }

    /// So much of it is gone again.
    pub(in crate::plugin) fn shrank(&self, bytes: usize) {
        self.ledger.0.pressure.shrank(bytes);
    }

    /// Instances of this footprint that could be taken now beyond what the server has, at most
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

/// A place among the sessions of a server that wait for room.
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

/// Room that instances which are shared have. Dropping it gives it back.
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

/// Room of one instance. To be dropped after the instance's store.
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
