//! Who is next: fair queueing in three levels, class, tenant and session, over the threads of one
//! lane. Pure data: no clock, no thread, no lock.
//!
//! Every class, tenant and session has a virtual time: the CPU time it was charged, a class's
//! divided by its weight. Who would have the least after its turn is next: one whose event has
//! outlasted a slice will take another whole one, and one that starts hardly anything, so that it
//! does not wait for the other's slice before it has had more than its share. Whoever comes back
//! after a while starts at the least of those that are there, or at their mean as it moves on, so
//! that nobody saves up turns and nobody who waits is passed for ever. Nor does a tenant or class
//! save up what it has no use for: one with a single session has one thread at most, whatever its
//! share is of many. A tenant counts once in its class, however many sessions it has there.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::cpu::nanoseconds;
use crate::event::Priority;

/// QuotaLimits of the classes in a lane where all of them are busy, lowest class first.
const WEIGHTS: [u128; Priority::ALL.len()] = [1, 4, 16, 64, 64];
/// The largest weight: a class's time is charged in units of it, so that nothing is lost in the
/// division.
const UNIT: u128 = 64;
/// What an event that has outlasted a slice takes next, in nanoseconds.
const SLICE: u128 = 1_000_000;
/// A thread takes over a session of another that is behind its own best by so much. Moving one
/// costs some microseconds, so that this is far above them.
const TAKE_OVER_LAG: u128 = 4_000_000;

/// Virtual time, in nanoseconds. In 64 bits a low class would have come to its end after two months
/// on 256 threads.
type Time = u128;

/// A tenant's number in its lane.
pub(super) type TenantId = u32;

/// One session in the queueing of its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) id: u64,
    pub(super) class: Priority,
    pub(super) tenant: TenantId,
    /// Its virtual time in its tenant.
    time: Time,
    /// Its event has outlasted a slice.
    is_long: bool,
}

impl Flow {
    pub(super) fn new(id: u64, class: Priority, tenant: TenantId) -> Self {
        Self { id, class, tenant, time: 0, is_long: false }
    }

    /// An event starts. Not to be called while it waits.
    pub(super) fn begins(&mut self) {
        self.is_long = false;
    }

    /// Its event has outlasted a slice. Not to be called while it waits.
    pub(super) fn outlasts(&mut self) {
        self.is_long = true;
    }

    fn wait(&self) -> Wait {
        Wait { after: self.time + ahead(self.is_long), id: self.id, is_long: self.is_long }
    }
}

/// A flow that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Wait {
    /// Its virtual time after the turn that it waits for.
    after: Time,
    id: u64,
    is_long: bool,
}

impl Wait {
    fn time(&self) -> Time {
        self.after - ahead(self.is_long)
    }
}

/// What the turn will take that is waited for.
fn ahead(is_long: bool) -> Time {
    if is_long { SLICE } else { 0 }
}

/// How far behind those that get turns a class or tenant may be, whose slices count so many times.
/// Who waits is never further behind than half of it, for then it is taken over; who is further has
/// used all that it could of its share.
fn behind_max(factor: Time) -> Time {
    2 * (TAKE_OVER_LAG + SLICE * factor)
}

/// Who waits and who has used what.
#[derive(Debug)]
pub(super) struct FairQueue {
    threads: usize,
    /// Threads below this number and those from it on take nothing over from each other.
    border: usize,
    classes: [Class; Priority::ALL.len()],
    floor: Time,
    /// The latest time of a class as it got a turn.
    reached: Time,
    waiting: usize,
}

#[derive(Debug, Default)]
struct Class {
    time: Time,
    /// Flows that wait or have a turn.
    active: usize,
    /// Tenants of them.
    busy: usize,
    floor: Time,
    /// The latest time of a tenant as it got a turn.
    reached: Time,
    tenants: HashMap<TenantId, Tenant>,
}

#[derive(Debug)]
struct Tenant {
    time: Time,
    active: usize,
    floor: Time,
    /// By thread: the flows that wait there.
    waiting: Vec<BTreeSet<Wait>>,
}

/// The one that is next on a thread, and its times after that turn from the outermost level in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Candidate {
    class: usize,
    tenant: TenantId,
    thread: usize,
    times: [Time; 3],
    wait: Wait,
}

impl FairQueue {
    pub(super) fn new(threads: usize, border: usize) -> Self {
        Self { threads, border, classes: Default::default(), floor: 0, reached: 0, waiting: 0 }
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The flow wants a turn on this thread. It has used so much already, of its own accord.
    pub(super) fn join(&mut self, thread: usize, flow: &mut Flow, used: Duration) {
        let at = flow.class as usize;
        if self.classes[at].active == 0 {
            let others =
                self.classes.iter().filter(|class| class.active > 0).map(|class| class.time).min();
            self.floor = others.map_or(self.floor, |least| self.floor.max(least));
            self.classes[at].time = self.classes[at].time.max(self.floor);
        }
        let (threads, class) = (self.threads, &mut self.classes[at]);
        class.active += 1;
        if class.tenants.get(&flow.tenant).is_none_or(|tenant| tenant.active == 0) {
            let others = class
                .tenants
                .values()
                .filter(|tenant| tenant.active > 0)
                .map(|tenant| tenant.time)
                .min();
            class.floor = others.map_or(class.floor, |least| class.floor.max(least));
        }
        let new =
            || Tenant { time: 0, active: 0, floor: 0, waiting: vec![BTreeSet::new(); threads] };
        let tenant = class.tenants.entry(flow.tenant).or_insert_with(new);
        if tenant.active == 0 {
            tenant.time = tenant.time.max(class.floor);
            class.busy += 1;
        }
        tenant.active += 1;
        let least =
            tenant.waiting.iter().filter_map(|waiting| waiting.first()).map(Wait::time).min();
        tenant.floor = least.map_or(tenant.floor, |least| tenant.floor.max(least));
        flow.time = flow.time.max(tenant.floor);
        self.charge(flow, used);
        self.again(thread, flow);
    }

    /// The flow's turn is over and it wants another at once. It keeps what it is behind.
    pub(super) fn again(&mut self, thread: usize, flow: &Flow) {
        let at = flow.class as usize;
        let class = &mut self.classes[at];
        class.time = class.time.max(self.reached.saturating_sub(behind_max(UNIT / WEIGHTS[at])));
        if let Some(tenant) = class.tenants.get_mut(&flow.tenant) {
            tenant.time = tenant.time.max(class.reached.saturating_sub(behind_max(1)));
            tenant.waiting[thread].insert(flow.wait());
            self.waiting += 1;
        }
    }

    /// The flow waits no longer: it was not given a turn.
    pub(super) fn withdraw(&mut self, thread: usize, flow: &Flow) {
        let tenant = self.classes[flow.class as usize].tenants.get_mut(&flow.tenant);
        if tenant.is_some_and(|tenant| tenant.waiting[thread].remove(&flow.wait())) {
            self.waiting -= 1;
            self.leave(flow);
        }
    }

    /// The flow that this thread runs next, and the thread on which it waited. It has a turn from
    /// now on. A thread that has nothing else to do takes over who waits on others; one that has
    /// does so for those that are far behind only.
    pub(super) fn next(&mut self, thread: usize, idle: bool) -> Option<(u64, usize)> {
        let reach = |at| (at < self.border) == (thread < self.border);
        let any = self.best(|_, _, at| reach(at))?;
        let chosen = match self.best(|_, _, at| at == thread) {
            Some(own) if own == any => own,
            // Its class may have its share from this thread alone, and its tenant as well: whoever
            // is behind in them is not the best of all then, however long it has waited.
            Some(own) => {
                let behind = |other: &Candidate| lags(other, &own);
                let in_class = |class, at| class == own.class && reach(at);
                Some(any)
                    .filter(behind)
                    .or_else(|| self.best(|class, _, at| in_class(class, at)).filter(behind))
                    .or_else(|| {
                        self.best(|class, of, at| in_class(class, at) && of == own.tenant)
                            .filter(behind)
                    })
                    .unwrap_or(own)
            }
            None if idle => any,
            None => return None,
        };
        let class = &mut self.classes[chosen.class];
        self.reached = self.reached.max(class.time);
        let tenant = class.tenants.get_mut(&chosen.tenant)?;
        class.reached = class.reached.max(tenant.time);
        tenant.waiting[chosen.thread].remove(&chosen.wait);
        self.waiting -= 1;
        Some((chosen.wait.id, chosen.thread))
    }

    /// The flow has used so much CPU time of its turn.
    pub(super) fn charge(&mut self, flow: &mut Flow, used: Duration) {
        let (at, ns) = (flow.class as usize, Time::from(nanoseconds(used)));
        let there = (0..self.classes.len()).filter(|other| self.classes[*other].active > 0);
        let weights: Time = there.map(|other| WEIGHTS[other]).sum();
        self.floor += ns * UNIT / weights.max(WEIGHTS[at]);
        let class = &mut self.classes[at];
        class.time += ns * (UNIT / WEIGHTS[at]);
        class.floor += ns / class.busy.max(1) as Time;
        if let Some(tenant) = class.tenants.get_mut(&flow.tenant) {
            tenant.time += ns;
            tenant.floor += ns / tenant.active.max(1) as Time;
        }
        flow.time += ns;
    }

    /// The flow's turn is over.
    pub(super) fn leave(&mut self, flow: &Flow) {
        let class = &mut self.classes[flow.class as usize];
        class.active -= 1;
        if let Some(tenant) = class.tenants.get_mut(&flow.tenant) {
            tenant.active -= 1;
            class.busy -= usize::from(tenant.active == 0);
        }
    }

    /// No flow of this tenant is in the class any more.
    pub(super) fn forget(&mut self, class: Priority, tenant: TenantId) {
        let class = &mut self.classes[class as usize];
        if class.tenants.get(&tenant).is_some_and(|tenant| tenant.active == 0) {
            class.tenants.remove(&tenant);
        }
    }

    /// The next one among those of a class and tenant, and on a thread, that are meant.
    fn best(&self, meant: impl Fn(usize, TenantId, usize) -> bool) -> Option<Candidate> {
        let mut best: Option<Candidate> = None;
        for (at, class) in
            self.classes.iter().enumerate().rev().filter(|(_, class)| class.active > 0)
        {
            let factor = UNIT / WEIGHTS[at];
            let of_class = class.tenants.iter().filter_map(|(id, tenant)| {
                let sets =
                    tenant.waiting.iter().enumerate().filter(|(thread, _)| meant(at, *id, *thread));
                let (wait, thread) =
                    sets.filter_map(|(thread, waiting)| Some((*waiting.first()?, thread))).min()?;
                let ahead = ahead(wait.is_long);
                let times = [class.time + ahead * factor, tenant.time + ahead, wait.after];
                Some(Candidate { class: at, tenant: *id, thread, times, wait })
            });
            // What the class has had is the same for all of them.
            let found = of_class
                .min_by_key(|candidate| (candidate.times[1], candidate.times[2], candidate.tenant));
            // Of two classes with the same time the higher is first.
            if found.is_some_and(|found| best.is_none_or(|best| found.times[0] < best.times[0])) {
                best = found;
            }
        }
        best
    }
}

/// Whether `other` is so far behind what `own` has had, on the outermost level at which they
/// differ, that it comes first although it waits on another thread.
fn lags(other: &Candidate, own: &Candidate) -> bool {
    let level = match (other.class == own.class, other.tenant == own.tenant) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    };
    other.times[level] + TAKE_OVER_LAG < own.times[level]
}

#[cfg(test)]
mod tests;
