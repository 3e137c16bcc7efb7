//! The ledger under random servers, sessions, instances and reloads, with invariants that are
//! checked after each step.

use std::time::Duration;

use super::*;
use crate::rng::{Rng, for_each_seed};

/// Ledgers to try.
const SEEDS: u64 = 300;
/// Steps of each ledger.
const STEPS: usize = 400;

/// One server, with the claims and rooms of its sessions and instances.
struct Server {
    holding: Arc<Holding>,
    tenant: String,
    promise: Promise,
    footprint: Footprint,
    claims: Vec<usize>,
    rooms: Vec<Room>,
}

struct World {
    rng: Rng,
    ledger: Ledger,
    _trials: Arc<Holding>,
    servers: Vec<Server>,
}

/// A ledger that offers these amounts to servers, and the holding of trial instances.
fn offering(offered: Amounts) -> (Ledger, Arc<Holding>) {
    let ledger = Ledger::new(offered.plus(MOVING).plus(TRIALS), Pressure::on_pool(1));
    let trials = ledger.trials();
    (ledger, trials)
}

fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

impl Server {
    /// Takes room for an instance, without waiting.
    fn enter(&mut self) -> bool {
        let taken = self.holding.ledger.take(self.holding.id, Take::Live(self.footprint.amounts()));
        if taken.is_ok() {
            self.rooms.push(Room {
                holding: Arc::clone(&self.holding),
                amounts: self.footprint.amounts(),
            });
        }
        taken.is_ok()
    }

    fn claim(&mut self) -> bool {
        let claimed = self.holding.claim();
        self.claims.extend(claimed);
        claimed.is_ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.claims.drain(..).for_each(|memories| self.holding.unclaim(memories));
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let instances = 1 + rng.throw(400) as usize;
        let memories = instances + rng.throw(3 * instances as u64) as usize;
        Self::offering(rng, Amounts([instances, memories]))
    }

    fn offering(rng: Rng, offered: Amounts) -> Self {
        let (ledger, trials) = offering(offered);
        Self { rng, ledger, _trials: trials, servers: Vec::new() }
    }

    fn below(&mut self, most: usize) -> usize {
        self.rng.throw(most.max(1) as u64) as usize
    }

    /// Adds a server whose promise fits into the rest of the pools.
    fn server(&mut self) {
        let footprint = Footprint::with(self.below(5), 0);
        let left = self.ledger.total().less(MOVING).less(self.ledger.state().committed);
        let most =
            left.of(Resource::Memories).checked_div(footprint.memories).unwrap_or(usize::MAX);
        let sessions =
            if self.rng.percent(50) { self.below(1 + left.of(Resource::Instances)) } else { 0 };
        let limit = if sessions > 0 { sessions } else { left.of(Resource::Instances) };
        let instances = if self.rng.percent(60) { self.below(1 + limit.min(most)) } else { 0 };
        let promise = Promise { sessions, instances };
        let tenant = format!("tenant {}", self.below(4));
        let holding = self.ledger.open(&tenant, promise, footprint);
        self.servers.push(Server {
            holding,
            tenant,
            promise,
            footprint,
            claims: Vec::new(),
            rooms: Vec::new(),
        });
    }

    fn step(&mut self) {
        let at = self.below(self.servers.len());
        let what = self.rng.throw(100);
        let server = &mut self.servers[at];
        match what {
            0..45 => drop(server.claim()),
            45..75 => drop(server.enter()),
            75..85 if !server.claims.is_empty() => {
                let claim = self.rng.throw(server.claims.len() as u64) as usize;
                server.holding.unclaim(server.claims.swap_remove(claim));
            }
            85..95 if !server.rooms.is_empty() => {
                let room = self.rng.throw(server.rooms.len() as u64) as usize;
                drop(server.rooms.swap_remove(room));
            }
            97 => server.holding.promise(&server.tenant, server.promise),
            98 => {
                drop(self.servers.swap_remove(at));
                self.server();
            }
            _ => {}
        }
    }

    /// Checks that the sums of the state agree with its accounts.
    fn is_consistent(&self) {
        let state = self.ledger.state();
        let sum = |of: fn(&Account) -> Amounts| {
            state.accounts.values().fold(Amounts::default(), |sum, account| sum.plus(of(account)))
        };
        assert_eq!((state.used, state.committed), (sum(Account::taken), sum(Account::committed)));
        assert_eq!(
            state.used.less(self.ledger.total()),
            Amounts::default(),
            "more is taken than there is"
        );
        assert_eq!(
            state.committed.less(self.ledger.total()),
            Amounts::default(),
            "more is promised than there is"
        );
        for (tenant, part) in &state.tenants {
            let mine =
                state.accounts.values().filter(|account| account.tenant.as_ref() == Some(tenant));
            assert_eq!(
                part.held,
                mine.fold(Amounts::default(), |sum, account| sum.plus(account.beyond()))
            );
        }
    }
}

#[test]
fn taken_and_promised_never_exceed_the_pools() {
    for_each_seed(SEEDS, |seed| {
        let mut world = World::new(seed);
        (0..1 + world.below(6)).for_each(|_| world.server());
        for _ in 0..STEPS {
            world.step();
            world.is_consistent();
        }
        world.servers.clear();
        world.is_consistent();
        let state = world.ledger.state();
        assert!(state.accounts.len() == 1 && state.tenants.is_empty() && state.sharing == [0, 0]);
    });
}

#[test]
fn promises_hold_however_greedy_the_others_are() {
    for_each_seed(SEEDS, |seed| {
        let mut world = World::new(seed);
        (0..2 + world.below(5)).for_each(|_| world.server());
        let last = world.servers.len() - 1;
        // The other servers take all that there is, in any order.
        for _ in 0..STEPS * 4 {
            let at = world.below(last);
            let server = &mut world.servers[at];
            if world.rng.percent(50) {
                server.claim()
            } else {
                server.enter()
            };
        }
        let server = &mut world.servers[last];
        let Promise { sessions, instances } = server.promise;
        for number in 0..instances {
            assert!(server.claim() && server.enter(), "{number} of {instances} instances");
        }
        for number in instances..sessions {
            assert!(server.claim(), "{number} of {sessions} sessions");
        }
        world.is_consistent();
    });
}

#[test]
fn late_tenants_find_room_and_end_up_equal() {
    for_each_seed(SEEDS, |seed| {
        let mut rng = Rng(seed);
        let offered = Amounts([200, 200 + rng.throw(600) as usize]);
        let mut world = World::offering(rng, offered);
        let tenants = 2 + world.below(3);
        for tenant in 0..tenants {
            let (footprint, promise) = (Footprint::with(1 + world.below(4), 0), Promise::default());
            let tenant = tenant.to_string();
            let holding = world.ledger.open(&tenant, promise, footprint);
            world.servers.push(Server {
                holding,
                tenant,
                promise,
                footprint,
                claims: Vec::new(),
                rooms: Vec::new(),
            });
        }
        while world.servers[0].claim() {}
        assert!((1..tenants).all(|at| world.servers[at].claim()), "a late tenant got nothing");
        // Sessions come and go, and each tenant asks for all that it can get.
        for _ in 0..6_000 {
            let at = world.below(tenants);
            let (server, leaves) = (&mut world.servers[at], world.rng.percent(30));
            if leaves && !server.claims.is_empty() {
                let claim = world.rng.throw(server.claims.len() as u64) as usize;
                server.holding.unclaim(server.claims.swap_remove(claim));
            } else {
                server.claim();
            }
        }
        // In turn, as clients of all tenants come at the same time.
        while world.servers.iter_mut().filter_map(|server| server.claim().then_some(())).count() > 0
        {
        }
        let held = |server: &Server, short: Resource| {
            server.claims.len() * server.footprint.amounts().of(short)
        };
        for server in &world.servers {
            let own = &server.tenant;
            let resource = match server.holding.claim() {
                Err(Shortage::Share { resource, .. } | Shortage::Full { resource, .. }) => resource,
                other => panic!("tenant {own} was refused before, and now: {other:?}"),
            };
            let most =
                world.servers.iter().map(|server| held(server, resource)).max().expect("tenants");
            let has = held(server, resource);
            // The share of all changes by this much with two sessions of the largest footprint.
            let each = |server: &Server| server.footprint.amounts().of(resource);
            let step = 2 * SHARE_TIMES * world.servers.iter().map(each).max().expect("tenants");
            assert!(
                most <= 2 * has + step,
                "tenant {own} is refused {resource}, has {has}, and another has {most}"
            );
        }
    });
}

#[test]
fn one_tenant_has_the_whole_remainder() {
    let (ledger, _trials) = offering(Amounts([100, 300]));
    let [one, other] =
        [(); 2].map(|()| ledger.open("a", Promise::default(), Footprint::with(2, 0)));
    let claimed =
        (0..200).filter(|at| if at % 2 == 0 { one.claim() } else { other.claim() }.is_ok()).count();
    assert_eq!((claimed, ledger.used()), (100, Amounts([100, 200])));
    assert_eq!(ledger.refused(), [("instances", 100), ("memories", 0), ("memory", 0)]);
}

#[test]
fn sleepers_keep_room_and_moves_take_more() {
    let (ledger, _trials) = offering(Amounts([3, 12]));
    let holding = ledger.open("a", Promise::default(), Footprint::with(4, 0));
    let enter = || ready(holding.enter(Footprint::with(4, 0), Duration::ZERO)).and_then(Result::ok);
    let claims: Vec<_> = (0..3).map(|_| holding.claim().expect("room for three")).collect();
    let mut awake: Vec<_> = (0..3).map(|_| enter().expect("room that was claimed")).collect();
    assert!(holding.claim().is_err());
    awake.clear();
    assert_eq!(ledger.used(), Amounts([3, 12]), "sessions that sleep keep their room");
    let awake: Vec<_> = (0..3).map(|_| enter().expect("they wake")).collect();
    let second = enter().expect("one of them moves to another version");
    assert_eq!(ledger.used(), Amounts([4, 16]));
    drop((second, awake));
    claims.into_iter().for_each(|memories| holding.unclaim(memories));
    assert_eq!(ledger.used(), Amounts::default());
}

#[tokio::test]
async fn promised_session_waits_a_while_for_room() {
    let (ledger, _trials) = offering(Amounts([4, 4]));
    let one = Footprint::with(1, 0);
    let greedy = ledger.open("a", Promise::default(), Footprint::with(4, 0));
    let taken = greedy.claim().expect("all four slots");
    let promised = ledger.open("b", Promise { sessions: 2, instances: 0 }, one);
    assert_eq!(promised.claim(), Ok(0), "it is let in without room for its instance");
    let (long, short) = (Duration::from_secs(60), Duration::from_millis(20));
    assert!(promised.enter(one, short).await.is_err(), "there is none for now");
    let waiting = tokio::spawn({
        let promised = Arc::clone(&promised);
        async move { promised.enter(one, long).await.is_ok() }
    });
    tokio::task::yield_now().await;
    greedy.unclaim(taken);
    assert!(waiting.await.expect("it ends"), "room came while it waited");
}
