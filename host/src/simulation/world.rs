//! One life of the simulated process: a server, its sessions, the operators' orders, and the checks
//! after every step.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::model::{FAULTS_MIN, Had, Number, Order, Outcome, Possible, VersionState, WorldView};
use super::orders::give;
use super::plugins::{ALL, GOOD, SimHost};
use crate::event::{ClientInfo, Fault, FaultKind, Port};
use crate::handover::OpenSocket;
use crate::net::Stream;
use crate::plugin::EventProcedure;
use crate::rollout::blame::Blamed;
use crate::rollout::sim_env::{Disk, SimEnv, Tasks};
use crate::rollout::{LiveSessions, RevisionState, count_session_end};
use crate::sched::{Lane, Placement, RunQueue};
use crate::server::ServerHandle;
use crate::server::{
    CanaryRules, HISTORY_MAX, Server, ServerBuilder, SwapPolicy, SwapRules, VERSIONS_MAX,
};
use crate::service::Directive;
use crate::service::Service;
use crate::session::{MigrateOutcome, ProcedureSlot, SessionHandle, test_support};

/// Number of sessions at once, at most.
const SESSIONS_MAX: usize = 12;
/// Number of addresses that the sessions come from.
const ADDRESSES: u64 = 5;
/// Number of steps of one life, at most. A life with more steps is stuck.
const STEPS_MAX: usize = 200_000;

/// How often sessions of a version refuse, fault or are slow, in percent.
#[derive(Debug, Clone, Copy, Default)]
struct FaultProfile {
    refuses: u64,
    faults: u64,
    dawdles: u64,
}

/// State of the simulation of one seed.
pub(super) struct World {
    pub(super) sim_env: Arc<SimEnv>,
    seed: u64,
    pub(super) possible: RefCell<Possible>,
    profiles: Vec<FaultProfile>,
    orders: Cell<usize>,
    /// Every version that was in memory.
    known: RefCell<Vec<Weak<EventProcedure>>>,
    last: RefCell<Option<WorldView>>,
    pub(super) sessions: RefCell<BTreeMap<u64, Arc<ProcedureSlot<EventProcedure>>>>,
    /// Revision and plugin of the last atomic migration. Until versions change again, no session
    /// may handle an event with another plugin.
    together: Cell<Option<(u64, Number)>>,
    /// Orders that are under way, with their policies.
    under_way: RefCell<BTreeMap<usize, (Order, SwapPolicy)>>,
    pub(super) configured: Cell<Number>,
}

impl World {
    pub(super) fn new(seed: u64, sim_env: &Arc<SimEnv>) -> Rc<Self> {
        let mut profiles = Vec::new();
        for _ in 0..ALL {
            let some = |share: u64, most: u64| {
                if sim_env.percent(share) { sim_env.throw(most) } else { 0 }
            };
            profiles.push(FaultProfile {
                refuses: some(30, 80),
                faults: some(30, 30),
                dawdles: some(40, 20),
            });
        }
        let configured = sim_env.throw(GOOD) as usize;
        Rc::new(Self {
            sim_env: Arc::clone(sim_env),
            seed,
            possible: RefCell::new(Possible::new(configured)),
            profiles,
            orders: Cell::default(),
            known: RefCell::default(),
            last: RefCell::default(),
            sessions: RefCell::default(),
            together: Cell::default(),
            under_way: RefCell::default(),
            configured: Cell::new(configured),
        })
    }

    fn server(&self) -> String {
        format!("server-{}", self.seed)
    }

    /// Folder of the server's record.
    pub(super) fn folder(&self) -> PathBuf {
        SimHost::shared().folder.join("state").join(self.server())
    }

    pub(super) fn spec(&self, plugin: Number) -> ServerBuilder {
        let ground = SimHost::shared();
        let policy = SwapPolicy::ALL[self.seed as usize % SwapPolicy::ALL.len()];
        let canary = CanaryRules {
            share: 0.5,
            duration: Duration::from_secs(8),
            sessions_min: 2,
            ..CanaryRules::default()
        };
        let rules = SwapRules {
            policy,
            failures_min: 2,
            failures_share: 0.2,
            watch: Duration::from_secs(20),
            faults_min: FAULTS_MIN,
            canary,
            ..SwapRules::default()
        };
        let builder =
            Server::builder().name(self.server()).host(&ground.host).plugin(ground.file(plugin));
        builder.limits(SimHost::limits()).swap_rules(rules)
    }

    /// Starts the process, the first time or again.
    fn start(&self) -> Arc<ServerHandle> {
        let ground = SimHost::shared();
        let prepared = self.spec(self.configured.get()).prepare(&ground.host);
        let prepared = prepared.unwrap_or_else(|error| panic!("it does not start again: {error}"));
        let service = prepared.assemble(&ground.host);
        let (_, accepting) = watch::channel(0);
        let socket = OpenSocket { listener: Weak::new(), given: false };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        Arc::new(ServerHandle::new(service, ground.host.clone(), address, accepting, socket))
    }

    /// Looks at the server and checks the rules that hold at every moment.
    fn look(&self, service: &Service) {
        let ground = SimHost::shared();
        let canary = service.rollout.canary();
        let had: Vec<Had> = service
            .rollout
            .revisions()
            .iter()
            .map(|one| {
                let state = match one.state {
                    RevisionState::Current => VersionState::Current,
                    RevisionState::Canary => VersionState::Canary,
                    RevisionState::Superseded => VersionState::Superseded,
                    RevisionState::RolledBack(_) => VersionState::RolledBack,
                };
                Had { number: one.number, plugin: ground.number(&one.digest), state }
            })
            .collect();
        let look = WorldView { had, canary: canary.as_ref().map(|canary| canary.seen().revision) };
        let current: Vec<_> =
            look.had.iter().filter(|had| had.state == VersionState::Current).collect();
        assert_eq!(current.len(), 1, "one version is current: {look:?}");
        assert_eq!(
            current[0].plugin,
            ground.number_of(&service.procedure()),
            "new sessions get the current version"
        );
        assert!(
            look.had.windows(2).all(|pair| pair[0].number < pair[1].number),
            "numbers come in order: {look:?}"
        );
        let held = self.hold(service, canary.map(|canary| Arc::clone(&canary.procedure)));
        // A failed swap leaves no trace: no session is on a version that has no revision.
        let came = |one: &Number| look.had.iter().any(|had| had.plugin == *one);
        assert!(
            look.had.len() >= HISTORY_MAX || held.iter().all(came),
            "{held:?} are held: {look:?}"
        );
        if self.last.borrow().as_ref() != Some(&look) {
            let number = current[0].number;
            let plugin = current[0].plugin;
            let together = self.under_way.borrow().values().any(|(order, policy)| {
                matches!(order, Order::Swap(swapped) if *swapped == plugin)
                    && *policy == SwapPolicy::AllOrNothing
            });
            let alone = self.under_way.borrow().len() == 1;
            let fresh = self
                .last
                .borrow()
                .as_ref()
                .is_none_or(|last| !last.had.iter().any(|had| had.number == number));
            self.together.set((together && alone && fresh).then_some((number, plugin)));
            self.possible.borrow_mut().looks(&look);
            *self.last.borrow_mut() = Some(look);
        }
    }

    /// Checks that at most [`VERSIONS_MAX`] versions are in use, and returns those versions.
    fn hold(&self, service: &Service, canary: Option<Arc<EventProcedure>>) -> BTreeSet<Number> {
        let mut held: Vec<Arc<EventProcedure>> = vec![service.procedure()];
        held.extend(canary);
        held.extend(service.rollout.before_probation());
        held.extend(service.registry.handled().iter().map(|(_, slot)| slot.current()));
        let mut known = self.known.borrow_mut();
        for one in &held {
            if !known.iter().any(|known| known.as_ptr() == Arc::as_ptr(one)) {
                known.push(Arc::downgrade(one));
            }
        }
        let versions: BTreeSet<Number> =
            held.iter().map(|one| SimHost::shared().number_of(one)).collect();
        assert!(versions.len() <= VERSIONS_MAX, "too many versions are held: {versions:?}");
        versions
    }

    /// Number of versions that are still in memory.
    pub(super) fn left(&self) -> usize {
        self.known.borrow().iter().filter(|known| known.strong_count() > 0).count()
    }

    pub(super) fn gives(&self, order: Order, policy: SwapPolicy) -> usize {
        let number = self.orders.replace(self.orders.get() + 1);
        self.possible.borrow_mut().gives(number, order);
        self.under_way.borrow_mut().insert(number, (order, policy));
        number
    }

    pub(super) fn answers(&self, number: usize, service: &Service, answer: &Outcome) {
        if self.sim_env.is_killed() {
            return;
        }
        self.look(service);
        // An unchanged look rules out states as well.
        let last = self.last.borrow().clone();
        last.iter().for_each(|last| self.possible.borrow_mut().looks(last));
        self.possible.borrow_mut().answers(number, answer);
        self.under_way.borrow_mut().remove(&number);
    }
}

/// A simulated session: events now and then, migrations between them, and an end.
async fn session(world: Rc<World>, service: Arc<Service>) {
    let sim_env = Arc::clone(&world.sim_env);
    if service.status().is_final() {
        return;
    }
    let task = service.task(0);
    let id = service.registry.next_id();
    let peer = SocketAddr::from((Ipv4Addr::new(192, 0, 2, (id % ADDRESSES) as u8), 1));
    let handle = handle(&service, id, peer);
    let (slot, membership, presence) = service.let_in(&handle, 0).await;
    match service.directive(0) {
        Directive::Stay => {}
        Directive::End => handle.stop(),
        Directive::EndNow => handle.cancel(),
    }
    world.sessions.borrow_mut().insert(id, Arc::clone(&slot));
    let profile = |of: &EventProcedure| world.profiles[SimHost::shared().number_of(of)];
    let mut on = slot.current();
    let faulted = loop {
        let long = sim_env.percent(profile(&on).dawdles);
        sim_env.rest(Duration::from_millis(if long { 14_000 } else { 400 })).await;
        if test_support::is_to_end(&handle) || sim_env.percent(2) {
            break false;
        }
        on = slot.current();
        if let Some((_, plugin)) = world.together.get() {
            let own = SimHost::shared().number_of(&on);
            assert_eq!(
                own, plugin,
                "session {id} handles an event with {own} after all moved to {plugin} together"
            );
        }
        if sim_env.percent(profile(&on).faults) {
            break true;
        }
        let Some(mut begun) = test_support::begin(&slot) else { continue };
        let to = Arc::clone(begun.to());
        let stays = |kind| MigrateOutcome::Stayed(Fault::new(kind, "injected"));
        match sim_env.throw(100) {
            _ if Arc::ptr_eq(&to, &on) => begun.report(MigrateOutcome::Moved(Duration::ZERO)),
            0 | 1 => {
                begun.report(MigrateOutcome::Lost(Fault::new(
                    FaultKind::Trap("injected"),
                    "injected",
                )));
                break true;
            }
            refused if refused < profile(&to).refuses => {
                begun.report(stays(FaultKind::HandoffRefused));
            }
            _ => {
                let long = sim_env.percent(profile(&to).dawdles);
                sim_env.rest(Duration::from_millis(if long { 8_000 } else { 5 })).await;
                match begun.all_ready().await {
                    true => {
                        test_support::commit(&slot, &to);
                        begun.report(MigrateOutcome::Moved(Duration::ZERO));
                        on = to;
                    }
                    false => begun.report(stays(FaultKind::HandoffCalledOff)),
                }
            }
        }
    };
    world.sessions.borrow_mut().remove(&id);
    test_support::close(&slot);
    drop(membership);
    let blamed = faulted.then(|| {
        world.possible.borrow_mut().faults(SimHost::shared().number_of(&on));
        Blamed { event: "on-read", kind: FaultKind::Trap("injected"), evidence: None }
    });
    count_session_end(&service, service.source(handle.info().peer.ip()), &on, blamed);
    presence.leave();
    drop(task);
}

fn handle(service: &Service, id: u64, peer: SocketAddr) -> Arc<SessionHandle> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let _client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it is there");
    let (server, _) = listener.accept().expect("it came");
    server.set_nonblocking(true).expect("a socket");
    let local = server.local_addr().expect("bound");
    let run_queues = Lane::ALL.map(|lane| Arc::new(RunQueue::new(lane, 1)));
    let placement = Arc::new(Placement::new(Lane::Standard, Arc::new(run_queues)));
    let info =
        ClientInfo { id, server: Arc::clone(&service.name), peer, local, tls: None, parameter: 0 };
    SessionHandle::new(
        info,
        Arc::clone(&service.server_config().session_config),
        placement,
        Stream::plain(server).expect("a reactor"),
    )
}

/// Gives orders, several at a time, starts sessions, and injects failures.
async fn conduct(
    world: Rc<World>,
    handle: Arc<ServerHandle>,
    more: Rc<RefCell<Vec<Job>>>,
    last: bool,
) {
    let sim_env = Arc::clone(&world.sim_env);
    let steps = 6 + sim_env.throw(14);
    for _ in 0..steps {
        let any = sim_env.throw(ALL) as usize;
        let job = match sim_env.throw(20) {
            0..4 => Job::Order(Order::Swap(any)),
            4..6 => Job::Order(Order::Canary(any)),
            6 => Job::Order(Order::Promote),
            7 | 8 => Job::Order(Order::RollBack),
            9 | 10 => Job::Order(Order::Reload(any)),
            11 if sim_env.percent(15) && !last => Job::Order(Order::Stop),
            12 => {
                let disk = [Disk::Good, Disk::Good, Disk::Full, Disk::ReadOnly, Disk::Flaky(4)];
                sim_env.set_disk(disk[sim_env.throw(disk.len() as u64) as usize]);
                continue;
            }
            13 if sim_env.percent(40) && !last => {
                sim_env.kill_in(sim_env.throw(24));
                continue;
            }
            14..18 => Job::Session,
            _ => {
                sim_env.rest(Duration::from_secs(12)).await;
                continue;
            }
        };
        if world.sessions.borrow().len() < SESSIONS_MAX || matches!(job, Job::Order(_)) {
            more.borrow_mut().push(job);
        }
        if sim_env.percent(70) {
            sim_env.rest(Duration::from_secs(3)).await;
        }
    }
    drop(handle);
}

enum Job {
    Order(Order),
    Session,
}

/// Runs one life of the process. Returns when the process is killed or, in the last life, when no
/// task has anything left to do.
pub(super) fn live(world: &Rc<World>, last: bool) {
    let sim_env = Arc::clone(&world.sim_env);
    sim_env.set_disk(Disk::Good);
    let handle = world.start();
    let service = Arc::clone(&handle.service);
    *world.last.borrow_mut() = None;
    world.look(&service);
    let mut tasks = Tasks::new(&sim_env);
    for _ in 0..sim_env.throw(5) {
        tasks.add(session(Rc::clone(world), Arc::clone(&service)));
    }
    let more = Rc::new(RefCell::new(Vec::new()));
    tasks.add(conduct(Rc::clone(world), Arc::clone(&handle), Rc::clone(&more), last));
    // If no change on the disk kills the process, it is killed after this many steps.
    let most = if last { STEPS_MAX } else { 50 + sim_env.throw(1_500) as usize };
    let mut steps = 0;
    while tasks.step() && !sim_env.is_killed() && steps < most {
        steps += 1;
        for job in more.borrow_mut().drain(..) {
            match job {
                Job::Order(order) => tasks.add(give(Rc::clone(world), Arc::clone(&handle), order)),
                Job::Session => tasks.add(session(Rc::clone(world), Arc::clone(&service))),
            }
        }
        if !sim_env.is_killed() {
            world.look(&service);
        }
    }
    assert!(steps < STEPS_MAX, "it does not come to rest");
    if last {
        assert!(
            world.under_way.borrow().is_empty(),
            "an order was never answered: {:?}",
            world.under_way.borrow()
        );
        let current = Arc::downgrade(&service.procedure());
        let known = world.known.borrow();
        let left: Vec<_> =
            known.iter().filter(|one| one.strong_count() > 0 && !one.ptr_eq(&current)).collect();
        assert!(left.is_empty(), "{} versions are in memory without a session", left.len());
    }
    drop(tasks);
    drop((service, handle));
    sim_env.revive();
    world.sessions.borrow_mut().clear();
    assert_eq!(world.left(), 0, "versions outlive their server");
    world.under_way.borrow_mut().clear();
    world.together.set(None);
}

/// Starts another process after a kill, perhaps with a changed configuration.
pub(super) fn restart(world: &World) {
    // A process that was killed while it tried a bad plugin is not started with that plugin.
    if world.sim_env.percent(25) || world.configured.get() >= GOOD as usize {
        world.configured.set(world.sim_env.throw(GOOD) as usize);
    }
    world.possible.borrow_mut().restarts(world.configured.get());
}
