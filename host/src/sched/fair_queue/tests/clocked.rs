//! Tests with threads whose slices end at different times, so that the order in which threads look
//! favours no flow.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::*;
use super::class;

/// A lane in which each flow that ran waits again, until the flow departs.
struct Clocked {
    fair_queue: FairQueue,
    flows: HashMap<u64, Flow>,
    /// The thread on which each waiting flow waits.
    waiting: HashMap<u64, usize>,
    /// By thread: the end of its slice, in microseconds, and its flow.
    threads: Vec<(u64, Option<u64>)>,
    /// The time that each flow runs if its event has not outlasted a slice.
    slices: Vec<u64>,
    /// When each flow had its last slice, or arrived.
    since: HashMap<u64, u64>,
    arrived: u64,
    /// By class and tenant.
    used: HashMap<(Priority, TenantId), u64>,
}

impl Clocked {
    fn new(threads: usize, slices: Vec<u64>) -> Self {
        let (flows, waiting, since, used) = Default::default();
        Self {
            fair_queue: FairQueue::new(threads, threads),
            flows,
            waiting,
            threads: vec![(0, None); threads],
            slices,
            since,
            arrived: 0,
            used,
        }
    }

    fn now(&self) -> u64 {
        self.threads.iter().map(|(until, _)| *until).min().unwrap_or(0)
    }

    fn arrive(&mut self, thread: usize, class: Priority, tenant: TenantId) {
        let (id, thread) = (self.arrived, thread % self.threads.len());
        self.arrived += 1;
        let mut flow = Flow::new(id, class, tenant);
        if id.is_multiple_of(3) {
            flow.outlasts();
        }
        self.fair_queue.join(thread, &mut flow, Duration::ZERO);
        self.flows.insert(id, flow);
        self.waiting.insert(id, thread);
        self.since.insert(id, self.now());
    }

    fn depart(&mut self, id: u64) {
        let Some(flow) = self.flows.remove(&id) else { return };
        match self.waiting.remove(&id) {
            Some(thread) => self.fair_queue.withdraw(thread, &flow),
            None => self.fair_queue.leave(&flow),
        }
        self.threads
            .iter_mut()
            .filter(|(_, who)| *who == Some(id))
            .for_each(|thread| thread.1 = None);
        self.since.remove(&id);
        if !self
            .flows
            .values()
            .any(|other| (other.class, other.tenant) == (flow.class, flow.tenant))
        {
            self.fair_queue.forget(flow.class, flow.tenant);
        }
    }

    /// Ends the slice that ends next, and gives its thread another.
    fn step(&mut self) {
        let now = self.now();
        let thread = (0..self.threads.len())
            .find(|thread| self.threads[*thread].0 == now)
            .expect("there is one");
        if let Some(id) = self.threads[thread].1.take() {
            let (slice, flow) = (self.slice(id), self.flows.get_mut(&id).expect("it runs"));
            self.fair_queue.charge(flow, Duration::from_micros(slice));
            *self.used.entry((flow.class, flow.tenant)).or_default() += slice;
            self.fair_queue.again(thread, flow);
            self.waiting.insert(id, thread);
            self.since.insert(id, now);
        }
        let next = self.fair_queue.next(thread, true).map(|(id, _)| id);
        next.iter().for_each(|id| _ = self.waiting.remove(id));
        self.threads[thread] = (now + next.map_or(10, |id| self.slice(id)), next);
    }

    fn slice(&self, id: u64) -> u64 {
        if id.is_multiple_of(3) { 1_000 } else { self.slices[id as usize % self.slices.len()] }
    }

    fn count(&self, of: impl Fn(&Flow) -> bool) -> u64 {
        self.flows.values().filter(|flow| of(flow)).count() as u64
    }

    /// Returns the number of slices of which this flow gets one, where every flow has its share of
    /// one thread.
    fn parts(&self, flow: &Flow) -> u64 {
        let there =
            Priority::ALL.iter().filter(|class| self.count(|other| other.class == **class) > 0);
        let weights: u128 = there.map(|class| WEIGHTS[*class as usize]).sum();
        let of_class =
            |tenant| self.count(|other| other.class == flow.class && other.tenant == tenant);
        let tenants = (0..4).filter(|tenant| of_class(*tenant) > 0).count() as u64;
        weights.div_ceil(WEIGHTS[flow.class as usize]) as u64 * tenants * of_class(flow.tenant)
    }
}

/// A step of a history on a lane.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Arrive { thread: usize, class: Priority, tenant: TenantId },
    Depart(prop::sample::Index),
    Slices(usize),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (0_usize..4, class(), 0_u32..4).prop_map(|(thread, class,
            tenant)| Happens::Arrive { thread, class, tenant }),
        2 => any::<prop::sample::Index>().prop_map(Happens::Depart),
        2 => (0_usize..1_000).prop_map(Happens::Slices),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// After any history, a waiting flow runs about when its share of the lane is a slice.
    #[test]
    fn waits_are_bounded_after_any_history(
        threads in 1_usize..5,
        history in prop::collection::vec(happens(), 1..60),
        slices in prop::collection::vec(1_u64..1_000, 7),
    ) {
        let mut lane = Clocked::new(threads, slices);
        for what in history {
            match what {
                Happens::Arrive { thread, class, tenant } => lane.arrive(thread, class, tenant),
                Happens::Depart(which) => {
                    let mut ids: Vec<_> = lane.flows.keys().copied().collect();
                    ids.sort_unstable();
                    if !ids.is_empty() {
                        lane.depart(ids[which.index(ids.len())]);
                    }
                }
                Happens::Slices(slices) => (0..slices).for_each(|_| lane.step()),
            }
        }
        let parts: HashMap<_, _> = lane.flows.values().map(|flow| (flow.id,
            lane.parts(flow))).collect();
        let start = lane.now();
        for _ in 0..2_000 {
            lane.step();
            for id in lane.waiting.keys() {
                let (waits, parts) = (lane.now() - lane.since[id].max(start), parts[id]);
                prop_assert!(waits < (4 * parts + 20) * 1_000, "{id} waits for {waits} us, of \
                    {parts} parts");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Classes and tenants with enough sessions for all threads have their shares over all of them.
    /// The length of their events and the threads they arrived on do not matter.
    #[test]
    fn event_length_does_not_change_shares(
        threads in 1_usize..5,
        tenants in prop::collection::vec((class(), 0_u32..4, 0_usize..4, 0_usize..5,
            any::<bool>()), 2..8),
        slices in prop::collection::vec(20_u64..1_000, 7),
    ) {
        let mut lane = Clocked::new(threads, slices);
        for (class, tenant, thread, more, spread) in &tenants {
            for at in 0..threads + more {
                lane.arrive(if *spread { at } else { *thread }, *class, *tenant);
            }
        }
        (0..15_000).for_each(|_| lane.step());
        let weights = |class: Priority| WEIGHTS[class as usize] as f64;
        let mut classes: HashMap<Priority, (u64, u64, u64)> = HashMap::new();
        for ((class, _), used) in &lane.used {
            let (sum, least, most) = classes.entry(*class).or_insert((0, u64::MAX, 0));
            (*sum, *least, *most) = (*sum + used, (*least).min(*used), (*most).max(*used));
        }
        let all: f64 = classes.keys().map(|class| weights(*class)).sum();
        let total = lane.used.values().sum::<u64>() as f64;
        for (class, (sum, least, most)) in &classes {
            prop_assert!(most - least < 30_000, "{class:?}: {least} to {most} us");
            let fair = total * weights(*class) / all;
            prop_assert!((*sum as f64 - fair).abs() < 30_000.0, "{class:?}: {sum} of {fair} us");
        }
    }
}

/// A class and a tenant get all of their share on one thread, with short events. Their long events
/// wait on the other thread, behind others'.
#[test]
fn short_events_starve_no_long_event_elsewhere() {
    for (tenants, rival) in [([2, 1, 0, 0], Priority::Normal), ([0, 3, 0, 3], Priority::Low)] {
        let mut lane = Clocked::new(2, vec![1, 292, 743, 1, 292, 622, 1]);
        let [a, b, c, d] = tenants;
        for (class, tenant) in [
            (Priority::Low, a),
            (Priority::Low, c),
            (rival, b),
            (Priority::Low, a),
            (Priority::Low, c),
            (rival, d),
        ] {
            lane.arrive(0, class, tenant);
        }
        for _ in 0..4_000 {
            lane.step();
            for id in lane.waiting.keys() {
                let waits = lane.now() - lane.since[id];
                assert!(waits < 100_000, "{id} waits for {waits} us");
            }
        }
    }
}
