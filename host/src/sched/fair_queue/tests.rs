//! Tests of the fair queue's promises, on random histories.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

mod clocked;

const SLICE: Duration = Duration::from_millis(1);

/// Threads that run the next flow for a slice, one after the other.
struct Lane {
    fair_queue: FairQueue,
    flows: HashMap<u64, (Flow, usize)>,
    used: HashMap<u64, u64>,
}

impl Lane {
    fn new(threads: usize) -> Self {
        Self {
            fair_queue: FairQueue::new(threads, threads),
            flows: HashMap::new(),
            used: HashMap::new(),
        }
    }

    fn arrive(&mut self, thread: usize, class: Priority, tenant: TenantId) -> u64 {
        let id = self.flows.len() as u64;
        let mut flow = Flow::new(id, class, tenant);
        self.fair_queue.join(thread, &mut flow, Duration::ZERO);
        self.flows.insert(id, (flow, thread));
        id
    }

    /// Runs one slice on every thread. Each flow that ran then waits again.
    fn round(&mut self, slice: impl Fn(u64) -> Duration) {
        let threads = self.fair_queue.threads;
        let running: Vec<_> = (0..threads)
            .filter_map(|thread| Some((thread, self.fair_queue.next(thread, true)?.0)))
            .collect();
        for (thread, id) in running {
            let used = slice(id);
            let (flow, at) = self.flows.get_mut(&id).expect("it arrived");
            self.fair_queue.charge(flow, used);
            self.fair_queue.again(thread, flow);
            *at = thread;
            *self.used.entry(id).or_default() += used.as_nanos() as u64;
        }
    }

    fn used(&self, of: impl Fn(&Flow) -> bool) -> u64 {
        self.used.iter().filter(|(id, _)| of(&self.flows[id].0)).map(|(_, used)| used).sum()
    }
}

fn class() -> impl Strategy<Value = Priority> {
    prop_oneof![Just(Priority::Low), Just(Priority::Normal), Just(Priority::High)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// On one thread, the used times of two busy sessions of a tenant differ by at most a slice of
    /// each, by weight. The same holds for two busy tenants of a class and for two busy classes.
    /// This is the bound of fair queueing.
    #[test]
    fn shares_are_fair_within_a_slice_of_each(
        arrivals in prop::collection::vec((class(), 0_u32..4), 2..20),
        slices in prop::collection::vec(1_u64..1_000, 20),
        rounds in 500_usize..2_000,
    ) {
        let mut lane = Lane::new(1);
        for (class, tenant) in &arrivals {
            lane.arrive(0, *class, *tenant);
        }
        let slice = |id: u64| Duration::from_micros(slices[id as usize % slices.len()]);
        for _ in 0..rounds {
            lane.round(slice);
        }
        // A level's quantum is the longest slice of any flow below it.
        let bound = 2 * 1_000_000 * UNIT as u64;
        let weighed = |class: Priority| {
            lane.used(|flow| flow.class == class) * (UNIT / WEIGHTS[class as usize]) as u64
        };
        let classes: Vec<_> = arrivals.iter().map(|(class, _)| weighed(*class)).collect();
        let spread = |of: &[u64]| of.iter().max().unwrap_or(&0) - of.iter().min().unwrap_or(&0);
        prop_assert!(spread(&classes) <= bound, "{classes:?}");
        for (class, tenant) in &arrivals {
            let tenants: Vec<_> = arrivals.iter().filter(|(other, _)| other == class)
                .map(|(_, tenant)| lane.used(|flow| flow.class == *class
                    && flow.tenant == *tenant)).collect();
            prop_assert!(spread(&tenants) <= 2_000_000, "{class:?}: {tenants:?}");
            let sessions: Vec<_> = lane.flows.values().filter(|(flow,
                _)| flow.class == *class && flow.tenant == *tenant)
                .map(|(flow, _)| lane.used.get(&flow.id).copied().unwrap_or(0)).collect();
            prop_assert!(spread(&sessions) <= 2_000_000, "{class:?} {tenant}: {sessions:?}");
        }
    }

    /// While any flow waits, on any thread, no thread is without work.
    #[test]
    fn no_thread_idles_while_a_flow_waits(
        threads in 1_usize..5,
        arrivals in prop::collection::vec((class(), 0_u32..4), 1..12),
    ) {
        let mut lane = Lane::new(threads);
        for (class, tenant) in &arrivals {
            // All on one thread, which is the worst case.
            lane.arrive(0, *class, *tenant);
        }
        let busy = (0..threads).filter(|thread| lane.fair_queue.next(*thread,
            true).is_some()).count();
        prop_assert_eq!(busy, threads.min(arrivals.len()));
    }

    /// However uneven the threads are filled, tenants of a class have the same time in the end.
    #[test]
    fn tenants_are_equal_over_all_threads(crowd in 2_usize..60, others in 2_u32..8,
        threads in 2_usize..4) {
        let mut lane = Lane::new(threads);
        (0..crowd).for_each(|at| _ = lane.arrive(at % threads, Priority::Normal, 0));
        // One session each, all of them on one thread.
        (1..=others).for_each(|tenant| _ = lane.arrive(0, Priority::Normal, tenant));
        // A single session can have no more than a thread.
        let rounds = 2_000;
        for _ in 0..rounds {
            lane.round(|_| SLICE);
        }
        let fair = (rounds * threads) as f64 / f64::from(others + 1);
        for tenant in 0..=others {
            let used = lane.used(|flow| flow.tenant == tenant) as f64 / 1e6;
            prop_assert!((0.9..1.1).contains(&(used / fair)), "tenant {tenant}: {used} of {fair} \
                ms");
        }
    }

    /// Flows join, withdraw, run and leave in any order. The count of waiting flows stays right,
    /// and no flow is left over.
    #[test]
    fn joined_flows_are_served_or_withdraw(steps in prop::collection::vec((0_u8..3, 0_usize..3,
        class(), 0_u32..3), 0..200)) {
        let mut fair_queue = FairQueue::new(3, 3);
        let (mut waiting, mut running): (HashMap<u64, (Flow, usize)>,
            Vec<Flow>) = Default::default();
        for (id, (what, thread, class, tenant)) in steps.into_iter().enumerate() {
            match what {
                0 => {
                    let mut flow = Flow::new(id as u64, class, tenant);
                    fair_queue.join(thread, &mut flow, Duration::ZERO);
                    waiting.insert(flow.id, (flow, thread));
                }
                1 => if let Some((id, at)) = fair_queue.next(thread, true) {
                    let (flow, joined) = waiting.remove(&id).expect("only who waits is next");
                    prop_assert_eq!(at, joined);
                    running.push(flow);
                } else {
                    prop_assert!(waiting.is_empty());
                },
                _ => if let Some(mut flow) = running.pop() {
                    fair_queue.charge(&mut flow, SLICE);
                    fair_queue.leave(&flow);
                    fair_queue.forget(flow.class, flow.tenant);
                } else if let Some(id) = waiting.keys().next().copied() {
                    let (flow, at) = waiting.remove(&id).expect("it waits");
                    fair_queue.withdraw(at, &flow);
                },
            }
            prop_assert_eq!(fair_queue.waiting(), waiting.len());
        }
    }
}

#[test]
fn late_flow_gets_its_share_and_no_more() {
    let mut lane = Lane::new(1);
    let busy = lane.arrive(0, Priority::Normal, 0);
    for _ in 0..1_000 {
        lane.round(|_| SLICE);
    }
    // A new session is not served alone until it has caught up with a second of the other's time.
    let late_flow = lane.arrive(0, Priority::Normal, 1);
    let before = lane.used[&busy];
    for _ in 0..100 {
        lane.round(|_| SLICE);
    }
    let (late, old) = (lane.used[&late_flow], lane.used[&busy] - before);
    assert!(late.abs_diff(old) <= 2_000_000, "{late} and {old}");
}

#[test]
fn a_lower_class_is_never_starved() {
    let mut lane = Lane::new(1);
    let low = lane.arrive(0, Priority::Low, 0);
    (0..50).for_each(|tenant| _ = lane.arrive(0, Priority::High, tenant));
    for _ in 0..10_000 {
        lane.round(|_| SLICE);
    }
    // 4 of 68 shares.
    let share = lane.used[&low] as f64 / 10_000e6;
    assert!((0.05..0.07).contains(&share), "{share}");
}

#[test]
fn new_event_runs_before_long_event() {
    for tenant in [0, 1] {
        let mut fair_queue = FairQueue::new(1, 1);
        let mut long = Flow::new(9, Priority::Normal, 0);
        long.outlasts();
        fair_queue.join(0, &mut long, SLICE);
        // The new flow's number is once lower and once higher than the long one's.
        for id in [3, 12] {
            fair_queue.join(0, &mut Flow::new(id, Priority::Normal, tenant), Duration::ZERO);
        }
        let order = [(); 3].map(|()| fair_queue.next(0, false).map(|(id, _)| id));
        assert_eq!(order, [Some(3), Some(12), Some(9)], "tenant {tenant}");
    }
}

/// Short events come one after the other, each of another session. The sessions belong to one
/// tenant, two tenants or one tenant each.
#[test]
fn long_event_keeps_its_share_among_new_ones() {
    let short = Duration::from_micros(25);
    for tenant_of in [|_| 0, |id| id as TenantId % 2, |id| id as TenantId] {
        let mut fair_queue = FairQueue::new(1, 1);
        let mut long = Flow::new(0, Priority::Normal, 0);
        long.outlasts();
        fair_queue.join(0, &mut long, SLICE);
        let (mut waiting, mut used) = (HashMap::new(), [Duration::ZERO; 2]);
        for id in 1..20_000 {
            let mut flow = Flow::new(id, Priority::Normal, tenant_of(id));
            fair_queue.join(0, &mut flow, Duration::ZERO);
            waiting.insert(id, flow);
            match fair_queue.next(0, false).expect("a session waits") {
                (0, _) => {
                    fair_queue.charge(&mut long, SLICE);
                    fair_queue.again(0, &long);
                    used[0] += SLICE;
                }
                (id, _) => {
                    let mut flow = waiting.remove(&id).expect("it waits");
                    fair_queue.charge(&mut flow, short);
                    fair_queue.leave(&flow);
                    fair_queue.forget(flow.class, flow.tenant);
                    used[1] += short;
                }
            }
        }
        assert!(
            used[0] > SLICE * 2 && used[1] > short * 10_000,
            "{used:?} {:?}",
            [0, 1, 2].map(tenant_of)
        );
    }
}

/// A tenant and a class with one session can use one thread of many, even if their share is larger.
#[test]
fn unusable_share_is_not_saved_up() {
    for new_tenant in [1, 2] {
        let mut lane = Lane::new(4);
        (0..8).for_each(|at| _ = lane.arrive(at % 4, Priority::Normal, 0));
        lane.arrive(0, Priority::Normal, 1);
        (0..1_000).for_each(|_| lane.round(|_| SLICE));
        (0..8).for_each(|at| _ = lane.arrive(at % 4, Priority::Normal, new_tenant));
        let before = lane.used(|flow| flow.tenant == 0);
        (0..200).for_each(|_| lane.round(|_| SLICE));
        let share = (lane.used(|flow| flow.tenant == 0) - before) as f64 / 800e6;
        let fair = 1.0 / f64::from(new_tenant + 1);
        assert!(share > fair * 0.8, "{new_tenant}: {share}");
    }
    let mut lane = Lane::new(2);
    (0..8).for_each(|at| _ = lane.arrive(at % 2, Priority::Normal, 0));
    lane.arrive(0, Priority::High, 1);
    (0..1_000).for_each(|_| lane.round(|_| SLICE));
    (0..8).for_each(|at| _ = lane.arrive(at % 2, Priority::High, 1));
    let before = lane.used(|flow| flow.tenant == 0);
    (0..200).for_each(|_| lane.round(|_| SLICE));
    let share = (lane.used(|flow| flow.tenant == 0) - before) as f64 / 400e6;
    // 16 of 80 shares.
    assert!(share > 0.15, "{share}");
}

/// What an adversary may do with the sessions of its tenant. All of its events take at most a
/// slice.
#[derive(Debug, Clone, Copy)]
enum Trick {
    /// A session stays for one event.
    Comes { used: u64, waits: usize },
    /// A session comes and goes without a slice.
    Withdraws,
    /// No session of the tenant is there for so many slices of the others.
    Away(usize),
}

fn trick() -> impl Strategy<Value = Trick> {
    prop_oneof![
        (1_u64..=1_000, 1_usize..6).prop_map(|(used, waits)| Trick::Comes { used, waits }),
        Just(Trick::Withdraws),
        (0_usize..4).prop_map(Trick::Away),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A tenant's sessions come and go in any pattern. A session with an endless event has its half
    /// of the thread in the end. No new session starts far from the others' virtual time.
    #[test]
    fn nothing_a_tenant_does_takes_from_anothers_share(
        tricks in prop::collection::vec(trick(), 1..12),
        same_tenant in any::<bool>(),
        longs in 1_u64..4,
    ) {
        let mut fair_queue = FairQueue::new(1, 1);
        let mut long: Vec<_> = (0..longs).map(|id| {
            let mut flow = Flow::new(id, Priority::Normal, 0);
            flow.outlasts();
            fair_queue.join(0, &mut flow, SLICE);
            flow
        }).collect();
        let tenant = TenantId::from(!same_tenant);
        let (mut theirs, mut mine, mut id) = (0, 0, 10);
        let mut waiting: HashMap<u64, (Flow, u64)> = HashMap::new();
        let mut most = 1;
        for trick in tricks.iter().cycle().take(6_000) {
            let steps = match *trick {
                Trick::Comes { used, waits } => {
                    while waiting.len() < waits {
                        id += 1;
                        let mut flow = Flow::new(id, Priority::Normal, tenant);
                        fair_queue.join(0, &mut flow, Duration::ZERO);
                        waiting.insert(id, (flow, used));
                    }
                    most = most.max(waiting.len() as u64);
                    1
                }
                Trick::Withdraws => {
                    id += 1;
                    let mut flow = Flow::new(id, Priority::Normal, tenant);
                    fair_queue.join(0, &mut flow, Duration::ZERO);
                    fair_queue.withdraw(0, &flow);
                    fair_queue.forget(flow.class, flow.tenant);
                    0
                }
                Trick::Away(fair_queue) => fair_queue,
            };
            for _ in 0..steps {
                let (next, _) = fair_queue.next(0, false).expect("a session waits");
                if let Some((mut flow, used)) = waiting.remove(&next) {
                    fair_queue.charge(&mut flow, Duration::from_micros(used));
                    fair_queue.leave(&flow);
                    fair_queue.forget(flow.class, flow.tenant);
                    theirs += used;
                } else {
                    let flow = &mut long[next as usize];
                    fair_queue.charge(flow, SLICE);
                    fair_queue.again(0, flow);
                    mine += 1_000;
                }
            }
            let class = &fair_queue.classes[Priority::Normal as usize];
            let behind = class.time.abs_diff(fair_queue.floor);
            let tenants = class.tenants[&0].time.abs_diff(class.floor);
            let floor = class.tenants[&0].floor;
            let flows = long.iter().map(|flow| flow.time.abs_diff(floor)).max().unwrap_or(0);
            prop_assert!(behind.max(tenants).max(flows) < 20_000_000, "{behind} {tenants} {flows}");
        }
        // Within a tenant each session has its part; otherwise each tenant has.
        let (my_parts, their_parts) = if same_tenant { (longs, most) } else { (1, 1) };
        let (each_of_mine, each_of_theirs) = (mine / my_parts, theirs / their_parts);
        prop_assert!(each_of_mine + 10_000 >= each_of_theirs, "{each_of_mine} and \
            {each_of_theirs}");
    }
}

#[test]
fn order_survives_decades_of_cpu_time() {
    let mut fair_queue = FairQueue::new(1, 1);
    let mut flows =
        [(0, Priority::Low), (1, Priority::High)].map(|(id, class)| Flow::new(id, class, 0));
    let mut used = [0_u64; 2];
    // Each class gets its part of a few years' CPU time on all threads of a large machine.
    let year = Duration::from_secs(365 * 24 * 3_600);
    for flow in &mut flows {
        flow.outlasts();
        fair_queue.join(0, flow, Duration::ZERO);
    }
    for _ in 0..2 {
        assert!(fair_queue.next(0, true).is_some());
    }
    for (flow, years) in flows.iter_mut().zip([36, 36 * 16]) {
        fair_queue.charge(flow, year * years);
        fair_queue.again(0, flow);
    }
    for _ in 0..10_000 {
        let (id, _) = fair_queue.next(0, true).expect("both wait or run");
        let flow = &mut flows[id as usize];
        fair_queue.charge(flow, SLICE);
        fair_queue.again(0, flow);
        used[id as usize] += 1;
    }
    // 4 of 68 shares.
    assert!((0.05..0.07).contains(&(used[0] as f64 / 10_000.0)), "{used:?}");
}
