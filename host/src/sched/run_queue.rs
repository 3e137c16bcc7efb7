//! The run queue of one lane: which session may run on each thread, and whom the queue wakes.
//!
//! A run permit is the right of a session to run past a slice. Without competition no session needs
//! one: an event runs where its bytes arrived. An event that outlasts its slice joins the queue. On
//! a crowded thread every event joins the queue before it starts. A thread is crowded if sessions
//! of several owners or classes keep it from ever resting.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;

use super::Lane;
use super::fair_queue::{FairQueue, Flow, TenantId};
use crate::event::Priority;
use crate::locks::lock;

/// A thread that found no rest for this long is crowded. Until then events start as they come, so a
/// new event waits for each of the events before it.
const CROWDED_AFTER: Duration = Duration::from_millis(1);

/// A slice of more wall time than this means that its thread is starved. Slices end after a
/// millisecond of CPU time.
const STARVED_AFTER: Duration = Duration::from_millis(100);
/// How long rescue workers help after the last starved slice.
const RESCUED_FOR: Duration = Duration::from_secs(5);

/// A thread of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorkerId {
    /// The thread's lane.
    pub lane: Lane,
    /// The thread's number in its lane.
    pub thread: usize,
}

/// A thread that goes from permit to permit looks at its sockets and timers at least this often.
/// With each look, sessions that became ready join the queue.
const LOOKS_EVERY: Duration = Duration::from_millis(1);

thread_local! {
    static HERE: Cell<Option<WorkerId>> = const { Cell::new(None) };
    static RESTED: Cell<Option<Instant>> = const { Cell::new(None) };
    static LOOKED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Returns the caller's worker; `None` on a thread of no lane.
#[must_use]
pub fn here() -> Option<WorkerId> {
    HERE.get()
}

/// The run queue of one lane.
#[derive(Debug)]
pub struct RunQueue {
    lane: Lane,
    queue: Mutex<Queue>,
    /// The queue's count of waiting sessions, readable without the lock.
    waiting: AtomicUsize,
    /// The number of pairs of class and owner with sessions here.
    groups: AtomicUsize,
    next_id: AtomicU64,
    given: AtomicU64,
    taken_over: AtomicU64,
    /// The start of each thread's slice in milliseconds; 0 if no guest runs there. Empty for lanes
    /// that are never starved.
    slices: Vec<AtomicU64>,
    /// The end of the rescue workers' help, in milliseconds. 0 if they never had to help.
    rescued_until: AtomicU64,
    began: Instant,
}

/// The run permits of a lane at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunQueueStatus {
    /// The lane.
    pub lane: Lane,
    /// Sessions that wait in the queue.
    pub waiting: usize,
    /// Permits given since the start.
    pub given: u64,
    /// Permits for another thread than the session waited on. A part of `given`.
    pub taken_over: u64,
}

#[derive(Debug)]
struct Queue {
    fair_queue: FairQueue,
    tickets: HashMap<u64, Arc<Ticket>>,
    /// The session that has the permit, by thread.
    holders: Vec<Option<u64>>,
    tenants: HashMap<(Priority, Arc<str>), (TenantId, usize)>,
    next_tenant: TenantId,
}

/// What wakes a waiting session, and the thread that it was granted.
#[derive(Debug, Default)]
pub(super) struct Ticket {
    /// 0, or one more than the thread on which the session may run.
    granted: AtomicU32,
    pub(super) waker: AtomicWaker,
}

impl Ticket {
    pub(super) fn granted(&self) -> Option<usize> {
        self.granted.load(Ordering::Acquire).checked_sub(1).map(|thread| thread as usize)
    }
}

impl Queue {
    /// Keeps the ticket of a session that waits from now on.
    fn await_permit(&mut self, flow: &Flow, ticket: &Arc<Ticket>) {
        ticket.granted.store(0, Ordering::Relaxed);
        self.tickets.insert(flow.id, Arc::clone(ticket));
    }
}

impl RunQueue {
    /// Creates the queue of a lane with this number of threads.
    ///
    /// The idle lane has as many rescue workers besides. Their priority is a little above its
    /// threads', and they run its sessions while those threads get no CPU time.
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

    /// Returns the lane's run permits at this moment.
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

    /// Registers the calling thread as this thread of the lane.
    pub fn attend(&self, thread: usize) {
        HERE.set(Some(WorkerId { lane: self.lane, thread }));
        RESTED.set(Some(Instant::now()));
    }

    /// Notes that the calling thread has rested. Call this whenever the thread wakes.
    pub fn rested() {
        let now = Some(Instant::now());
        RESTED.set(now);
        LOOKED.set(now);
    }

    /// Notes that the calling thread has just looked at its sockets and timers.
    pub(super) fn looked(now: Instant) {
        LOOKED.set(Some(now));
    }

    /// Returns whether the calling thread has not looked at its sockets and timers for long.
    pub(super) fn is_to_look(now: Instant) -> bool {
        LOOKED.get().is_none_or(|looked| now.saturating_duration_since(looked) > LOOKS_EVERY)
    }

    /// Takes over a session that waits on another thread, since the calling thread has nothing to
    /// do. Call this before the thread rests.
    pub fn offer(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0
            && let Some(place) = here()
            && self.post(place.thread, Instant::now()) == place.thread
        {
            self.give(place.thread, true);
        }
    }

    /// Returns the thread whose queue a session on `thread` has to join. That is the rescue worker
    /// while the lane's threads get no CPU time, and the regular thread otherwise.
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

    /// Notes that a guest runs on this thread since `start`, or that none runs there (`None`).
    pub(super) fn slice(&self, thread: usize, start: Option<Instant>) {
        if let Some(slice) = self.slices.get(thread) {
            slice.store(start.map_or(0, |start| self.milliseconds(start)), Ordering::Relaxed);
        }
    }

    /// Checks whether rescue workers are needed, and returns how long to wait before the next
    /// check. A rescue worker calls this regularly.
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

    /// Returns whether events on this thread have to join the queue before they start.
    pub(super) fn is_crowded(&self, thread: usize, now: Instant) -> bool {
        self.post(thread, now) != thread
            || self.groups.load(Ordering::Relaxed) > 1
                && RESTED
                    .get()
                    .is_some_and(|rested| now.saturating_duration_since(rested) > CROWDED_AFTER)
    }

    /// Returns false if no thread of the lane can be crowded. Reads no clock.
    pub(super) fn may_be_crowded(&self) -> bool {
        self.groups.load(Ordering::Relaxed) > 1 || !self.slices.is_empty()
    }

    /// Adds a session of this class and owner to the lane.
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

    /// Removes a session from the lane. The session neither waits nor has a permit.
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

    /// Makes a session wait on a thread. `used` is the CPU time that it has used already without a
    /// permit.
    pub(super) fn join(
        &self,
        thread: usize,
        flow: &mut Flow,
        ticket: &Arc<Ticket>,
        used: Duration,
    ) {
        let mut queue = self.queue();
        queue.await_permit(flow, ticket);
        queue.fair_queue.join(thread, flow, used);
        self.told(&queue);
    }

    /// Takes a session's permit for `thread` back, and makes the session wait for another on
    /// `next`.
    pub(super) fn again(
        &self,
        thread: usize,
        next: usize,
        flow: &mut Flow,
        ticket: &Arc<Ticket>,
        used: Duration,
    ) {
        let mut queue = self.queue();
        queue.await_permit(flow, ticket);
        queue.holders[thread] = None;
        queue.fair_queue.charge(flow, used);
        queue.fair_queue.again(next, flow);
        self.told(&queue);
    }

    /// Removes a session that waited on `thread`, or had the permit of the thread in its ticket.
    /// `used` is the CPU time that is not charged yet.
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

    /// Gives this thread's permit to the next session, if no session has it.
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
        lock(&self.queue)
    }
}
