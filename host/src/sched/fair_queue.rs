//! Fair queueing in three levels, class, tenant and session, over the threads of one lane. Pure
//! data: no clock, no thread, no lock.
//!
//! Every class, tenant and session has a virtual time: the CPU time that it was charged. A class's
//! time is divided by its weight. The queue orders by virtual finish time, least first. An event
//! that has outlasted a slice is charged another full slice ahead; a new event is charged nothing.
//! So a new event does not wait for a long one's slice before its session has had its share.
//!
//! A class, tenant or session that returns starts at the least time of those present, or at their
//! mean as it moves on. Therefore an absent session saves up no slices, and a waiting session is
//! not passed for ever. A tenant or class saves up no unusable time either: a single session can
//! use only one thread, even if its share is several. A tenant counts once in its class, for any
//! number of sessions.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::cpu::nanoseconds;
use crate::event::Priority;

/// Shares of the classes in a lane where all of them are busy, lowest class first.
const WEIGHTS: [u128; Priority::ALL.len()] = [1, 4, 16, 64, 64];
/// The largest weight. A class's time is charged in units of it, so that the division loses
/// nothing.
const UNIT: u128 = 64;
/// The time that an event that has outlasted a slice takes next, in nanoseconds.
const SLICE: u128 = 1_000_000;
/// The lag, in nanoseconds, from which on a thread takes over another thread's session: how far
/// that session is behind the thread's own best one. A move costs some microseconds, far less than
/// this.
const TAKE_OVER_LAG: u128 = 4_000_000;

/// Virtual time, in nanoseconds. On 256 threads, 64 bits would overflow for a low class after two
/// months.
type Time = u128;

/// A tenant's number in its lane.
pub(super) type TenantId = u32;

/// One session in the fair queue of its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) id: u64,
    pub(super) class: Priority,
    pub(super) tenant: TenantId,
    /// The session's virtual time in its tenant.
    time: Time,
    /// Whether the session's event has outlasted a slice.
    is_long: bool,
}

impl Flow {
    pub(super) fn new(id: u64, class: Priority, tenant: TenantId) -> Self {
        Self { id, class, tenant, time: 0, is_long: false }
    }

    /// Marks the start of an event. The flow must not be waiting.
    pub(super) fn begins(&mut self) {
        self.is_long = false;
    }

    /// Marks an event that has outlasted a slice. The flow must not be waiting.
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
    /// The flow's virtual time after the slice that it waits for.
    after: Time,
    id: u64,
    is_long: bool,
}

impl Wait {
    fn time(&self) -> Time {
        self.after - ahead(self.is_long)
    }
}

/// Returns the virtual time that the next slice is charged ahead.
fn ahead(is_long: bool) -> Time {
    if is_long { SLICE } else { 0 }
}

/// Returns how far a class or tenant may be behind those that get slices. `factor` is how many
/// times its slices count.
///
/// A waiting flow is never behind by more than half of this, since a thread takes it over before
/// that. A class or tenant further behind has used as much of its share as it could.
fn behind_max(factor: Time) -> Time {
    2 * (TAKE_OVER_LAG + SLICE * factor)
}

/// The flows that wait in a lane, and the virtual times of their classes and tenants.
#[derive(Debug)]
pub(super) struct FairQueue {
    threads: usize,
    /// The first rescue worker's number. Threads below it and threads from it on take nothing over
    /// from each other.
    border: usize,
    classes: [Class; Priority::ALL.len()],
    floor: Time,
    /// The latest time that a class had when it got a slice.
    reached: Time,
    waiting: usize,
}

#[derive(Debug, Default)]
struct Class {
    time: Time,
    /// The number of flows that wait or have a slice.
    active: usize,
    /// The number of tenants with such flows.
    busy: usize,
    floor: Time,
    /// The latest time that a tenant had when it got a slice.
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

/// The next flow of a thread, and its finish times from the outermost level to the innermost.
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

    /// Returns how many flows wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Makes a flow wait for a slice on this thread. `used` is the CPU time that the flow has used
    /// already without one.
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

    /// Makes a flow wait again as its slice is over. The flow keeps its lag behind the others.
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

    /// Removes a flow that waits and got no slice.
    pub(super) fn withdraw(&mut self, thread: usize, flow: &Flow) {
        let tenant = self.classes[flow.class as usize].tenants.get_mut(&flow.tenant);
        if tenant.is_some_and(|tenant| tenant.waiting[thread].remove(&flow.wait())) {
            self.waiting -= 1;
            self.leave(flow);
        }
    }

    /// Returns the flow that this thread runs next, and the thread on which that flow waited. The
    /// flow has a slice from now on.
    ///
    /// An idle thread takes over any flow that waits on another thread. A busy thread takes over
    /// only flows that are far behind.
    pub(super) fn next(&mut self, thread: usize, idle: bool) -> Option<(u64, usize)> {
        let reach = |at| (at < self.border) == (thread < self.border);
        let any = self.best(|_, _, at| reach(at))?;
        let chosen = match self.best(|_, _, at| at == thread) {
            Some(own) if own == any => own,
            // The class may get its whole share from this thread, and so may the tenant. A flow
            // that is behind inside them is then not the best of all, however long it has waited.
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

    /// Charges a flow, its tenant and its class with CPU time.
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

    /// Ends a flow's slice. The flow does not wait for another.
    pub(super) fn leave(&mut self, flow: &Flow) {
        let class = &mut self.classes[flow.class as usize];
        class.active -= 1;
        if let Some(tenant) = class.tenants.get_mut(&flow.tenant) {
            tenant.active -= 1;
            class.busy -= usize::from(tenant.active == 0);
        }
    }

    /// Forgets a tenant in a class where it has no flows left.
    pub(super) fn forget(&mut self, class: Priority, tenant: TenantId) {
        let class = &mut self.classes[class as usize];
        if class.tenants.get(&tenant).is_some_and(|tenant| tenant.active == 0) {
            class.tenants.remove(&tenant);
        }
    }

    /// Returns the next flow among the classes, tenants and threads for which `meant` is true.
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
            // The time of the class is the same for all of them.
            let found = of_class
                .min_by_key(|candidate| (candidate.times[1], candidate.times[2], candidate.tenant));
            // Of two classes with the same time the higher one is first.
            if found.is_some_and(|found| best.is_none_or(|best| found.times[0] < best.times[0])) {
                best = found;
            }
        }
        best
    }
}

/// Returns whether `other` comes first although it waits on another thread. It does if it is far
/// behind `own` on the outermost level at which the two differ.
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
