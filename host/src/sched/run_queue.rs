//! The turns of one lane at work: whose turn it is on each of its threads, and who is woken for it.
//!
//! A turn is the right to go on past a slice. While nobody competes nobody needs one: an event runs
//! where its bytes arrived. One that outlasts its slice gets in line, and so does, where sessions
//! of several owners or classes keep a thread from ever resting, every event before it starts.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;

use super::Lane;
use super::fair_queue::{FairQueue, Flow, TenantId};
use crate::event::Priority;

/// A thread that found no rest for a slice is crowded. Until then events start as they come, so
/// that one that comes next waits for each of theirs.
const CROWDED_AFTER: Duration = Duration::from_millis(1);

/// A slice that lasts so long by the clock on the wall is one whose thread gets no CPU: slices end
/// after a millisecond of it.
const STARVED_AFTER: Duration = Duration::from_millis(100);
/// How long the ushers help out after that was last seen.
const RESCUED_FOR: Duration = Duration::from_secs(5);

/// A thread of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorkerId {
    /// Its lane.
    pub lane: Lane,
    /// Its number there.
    pub thread: usize,
}

/// A thread that goes from turn to turn looks at its sockets and timers this often at least, so
/// that a session that becomes ready gets in line.
const LOOKS_EVERY: Duration = Duration::from_millis(1);

thread_local! {
    static HERE: Cell<Option<WorkerId>> = const { Cell::new(None) };
    static RESTED: Cell<Option<Instant>> = const { Cell::new(None) };
    static LOOKED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Where the caller runs; `None` on a thread of no lane.
#[must_use]
pub fn here() -> Option<WorkerId> {
    HERE.get()
}

/// One lane's line.
#[derive(Debug)]
pub struct RunQueue {
    lane: Lane,
    queue: Mutex<Queue>,
    /// As in the queue, to look at without it.
    waiting: AtomicUsize,
    /// Owners and classes with sessions here.
    groups: AtomicUsize,
    next_id: AtomicU64,
    given: AtomicU64,
    taken_over: AtomicU64,
    /// For a lane whose threads may get no CPU at all: when the slice of each began, in
    /// milliseconds; 0 where none runs.
    slices: Vec<AtomicU64>,
    /// Until when its ushers help out, in milliseconds. 0 where they never had to.
    rescued_until: AtomicU64,
    began: Instant,
}

/// A lane's turns at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunQueueStatus {
    /// The lane.
    pub lane: Lane,
    /// Sessions in line.
    pub waiting: usize,
    /// FairQueue given since the start.
    pub given: u64,
    /// Of those, turns on another thread than the one waited for.
    pub taken_over: u64,
}

#[derive(Debug)]
struct Queue {
    fair_queue: FairQueue,
    tickets: HashMap<u64, Arc<Ticket>>,
    /// Whose turn it is, by thread.
    holders: Vec<Option<u64>>,
    tenants: HashMap<(Priority, Arc<str>), (TenantId, usize)>,
    next_tenant: TenantId,
}

/// What a session in line is woken by.
#[derive(Debug, Default)]
pub(super) struct Ticket {
    /// 0, or one more than the thread on which it may run.
    granted: AtomicU32,
    pub(super) waker: AtomicWaker,
}

impl Ticket {
    pub(super) fn granted(&self) -> Option<usize> {
        self.granted.load(Ordering::Acquire).checked_sub(1).map(|thread| thread as usize)
    }
}

impl RunQueue {
    /// The line of a lane with so many threads. The idle lane has as many again, its ushers: they
    /// stand a little above it, and run its sessions while its threads get no CPU at all.
    #[must_use]
    pub fn new(lane: Lane, threads: usize) -> Self {
        let regular = threads;
        let threads = if lane == Lane::Idle { regular * 2 } else { regular };
        let slices = (0..threads - regular).map(|_| AtomicU64::new(0)).collect();
        let queue = Queue {
            fair_queue: FairQueue::new(threads, regular),
            tickets: HashMap::new(),
            holders: vec![None; threads],
            tenants: HashMap::new(),
            next_tenant: 0,
        };
        let (waiting, groups) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (next_id, given, taken_over) =
            (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let (rescued_until, began) = (AtomicU64::new(0), Instant::now());
        let queue = Mutex::new(queue);
        Self {
            lane,
            queue,
            waiting,
            groups,
            next_id,
            given,
            taken_over,
            slices,
            rescued_until,
            began,
        }
    }

    /// Its turns now.
    #[must_use]
    pub fn seen(&self) -> RunQueueStatus {
        RunQueueStatus {
            lane: self.lane,
            waiting: self.waiting.load(Ordering::Relaxed),
            given: self.given.load(Ordering::Relaxed),
            taken_over: self.taken_over.load(Ordering::Relaxed),
        }
    }

    pub(super) fn lane(&self) -> Lane {
        self.lane
    }

    /// The calling thread is this one of the lane from now on.
    pub fn attend(&self, thread: usize) {
        HERE.set(Some(WorkerId { lane: self.lane, thread }));
        RESTED.set(Some(Instant::now()));
    }

    /// The calling thread has rested. To be called whenever it wakes.
    pub fn rested() {
        let now = Some(Instant::now());
        RESTED.set(now);
        LOOKED.set(now);
    }

    /// The calling thread has looked at its sockets and timers just now.
    pub(super) fn looked(now: Instant) {
        LOOKED.set(Some(now));
    }

    /// Whether the calling thread has not looked at its sockets and timers for long.
    pub(super) fn is_to_look(now: Instant) -> bool {
        LOOKED.get().is_none_or(|looked| now.saturating_duration_since(looked) > LOOKS_EVERY)
    }

    /// The calling thread has nothing to do: it takes over who waits elsewhere. To be called before
    /// it rests.
    pub fn offer(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0
            && let Some(place) = here()
            && self.post(place.thread, Instant::now()) == place.thread
        {
            self.give(place.thread, true);
        }
    }

    /// The thread on which a session that is at this one has to get in line: its usher while the
    /// lane's threads get no CPU, and back when they do.
    pub(super) fn post(&self, thread: usize, now: Instant) -> usize {
        let regular = self.slices.len();
        match regular {
            0 => thread,
            _ if self.is_starved(now) => thread % regular + regular,
            _ => thread % regular,
        }
    }

    fn is_starved(&self, now: Instant) -> bool {
        match self.rescued_until.load(Ordering::Relaxed) {
            0 => false,
            until => self.milliseconds(now) < until,
        }
    }

    fn milliseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX) + 1
    }

    /// A guest runs on the calling thread from now on, or does no longer.
    pub(super) fn slice(&self, thread: usize, start: Option<Instant>) {
        if let Some(slice) = self.slices.get(thread) {
            slice.store(start.map_or(0, |start| self.milliseconds(start)), Ordering::Relaxed);
        }
    }

    /// An usher looks whether it is needed, every now and then. How long until it should look
    /// again.
    pub fn look(&self) -> Duration {
        let now = self.milliseconds(Instant::now());
        let long = |slice: &AtomicU64| {
            let start = slice.load(Ordering::Relaxed);
            start != 0 && now.saturating_sub(start) > STARVED_AFTER.as_millis() as u64
        };
        if self.slices.iter().any(long) {
            self.rescued_until.store(now + RESCUED_FOR.as_millis() as u64, Ordering::Relaxed);
        }
        let empty = self.groups.load(Ordering::Relaxed) == 0;
        if empty { STARVED_AFTER * 10 } else { STARVED_AFTER }
    }

    /// Whether events have to get in line before they start, on this thread.
    pub(super) fn is_crowded(&self, thread: usize, now: Instant) -> bool {
        self.post(thread, now) != thread
            || self.groups.load(Ordering::Relaxed) > 1
                && RESTED
                    .get()
                    .is_some_and(|rested| now.saturating_duration_since(rested) > CROWDED_AFTER)
    }

    /// A session of this class and owner is here.
    pub(super) fn enroll(&self, class: Priority, tenant: &Arc<str>) -> Flow {
        let mut queue = self.queue();
        let queue = &mut *queue;
        let next = &mut queue.next_tenant;
        let known = queue.tenants.entry((class, Arc::clone(tenant))).or_insert_with(|| {
            *next = next.wrapping_add(1);
            (*next, 0)
        });
        known.1 += 1;
        let number = known.0;
        self.groups.store(queue.tenants.len(), Ordering::Relaxed);
        Flow::new(self.next_id.fetch_add(1, Ordering::Relaxed), class, number)
    }

    /// It is here no longer. It neither waits nor has a turn.
    pub(super) fn dismiss(&self, flow: &Flow, tenant: &Arc<str>) {
        let mut queue = self.queue();
        let key = (flow.class, Arc::clone(tenant));
        let gone = queue.tenants.get_mut(&key).is_some_and(|known| {
            known.1 -= 1;
            known.1 == 0
        });
        if gone {
            queue.tenants.remove(&key);
            queue.fair_queue.forget(flow.class, flow.tenant);
            self.groups.store(queue.tenants.len(), Ordering::Relaxed);
        }
    }

    /// Gets in line on a thread, having used so much of its own accord.
    pub(super) fn join(
        &self,
        thread: usize,
        flow: &mut Flow,
        ticket: &Arc<Ticket>,
        used: Duration,
    ) {
        let mut queue = self.queue();
        ticket.granted.store(0, Ordering::Relaxed);
        queue.tickets.insert(flow.id, Arc::clone(ticket));
        queue.fair_queue.join(thread, flow, used);
        self.told(&queue);
    }

    /// Its turn on a thread is over for now, and it gets in line again, on that or another.
    pub(super) fn again(
        &self,
        thread: usize,
        next: usize,
        flow: &mut Flow,
        ticket: &Arc<Ticket>,
        used: Duration,
    ) {
        let mut queue = self.queue();
        ticket.granted.store(0, Ordering::Relaxed);
        queue.tickets.insert(flow.id, Arc::clone(ticket));
        queue.holders[thread] = None;
        queue.fair_queue.charge(flow, used);
        queue.fair_queue.again(next, flow);
        self.told(&queue);
    }

    /// It leaves: it waited on this thread, or had its turn on the one of its ticket, and has used
    /// so much of it.
    pub(super) fn leave(&self, thread: usize, flow: &mut Flow, ticket: &Ticket, used: Duration) {
        let mut queue = self.queue();
        let Some(on) = ticket.granted() else {
            queue.tickets.remove(&flow.id);
            queue.fair_queue.withdraw(thread, flow);
            self.told(&queue);
            return;
        };
        ticket.granted.store(0, Ordering::Relaxed);
        queue.fair_queue.charge(flow, used);
        queue.fair_queue.leave(flow);
        queue.holders[on] = None;
        drop(queue);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.dispatch(on);
        }
    }

    /// Gives this thread's turn to whoever is next, where nobody has it.
    pub(super) fn dispatch(&self, thread: usize) {
        self.give(thread, false);
    }

    fn give(&self, thread: usize, idle: bool) {
        let mut queue = self.queue();
        if queue.holders.get(thread) != Some(&None) {
            return;
        }
        let Some((id, waited_on)) = queue.fair_queue.next(thread, idle) else { return };
        self.given.fetch_add(1, Ordering::Relaxed);
        self.taken_over.fetch_add(u64::from(waited_on != thread), Ordering::Relaxed);
        queue.holders[thread] = Some(id);
        self.told(&queue);
        let Some(ticket) = queue.tickets.remove(&id) else { return };
        ticket.granted.store(thread as u32 + 1, Ordering::Release);
        drop(queue);
        ticket.waker.wake();
    }

    fn told(&self, queue: &Queue) {
        self.waiting.store(queue.fair_queue.waiting(), Ordering::Relaxed);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
