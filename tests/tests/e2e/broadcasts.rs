//! A long broadcast gives way to other sessions, and ends by its budget.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use wharf::event::{
    Action, Broadcast, Budget, ClientInfo, Event, FaultKind, Instance, NameError, Peers, Port,
    Priority, Procedure, Scope, SendError, WriteError,
};
use wharf::plugin::{Binding, EventProcedure, Grant, Grants};
use wharf_tests::guests::{component, file};
use wharf_tests::rng::Rng;
use wharf_tests::servers::host;

/// A broadcast to so many sessions that sending takes long.
struct Crowd {
    left: usize,
    told: Arc<AtomicUsize>,
}

impl Broadcast for Crowd {
    fn go_on(&mut self, max: usize) -> bool {
        let now = max.min(self.left);
        let until = Instant::now() + EACH * now as u32;
        while Instant::now() < until {}
        self.left -= now;
        self.told.fetch_add(now, Ordering::Relaxed);
        self.left > 0
    }

    fn taken(&self) -> u32 {
        self.told.load(Ordering::Relaxed) as u32
    }
}

/// Time that one receiver takes.
const EACH: Duration = Duration::from_micros(10);

struct Others {
    count: usize,
    told: Arc<AtomicUsize>,
}

impl Peers for Others {
    fn client_count(&self) -> u32 {
        self.count as u32
    }
    fn broadcast(&self, _: u64, _: &[u8]) -> Box<dyn Broadcast> {
        Box::new(Crowd { left: self.count, told: Arc::clone(&self.told) })
    }
    fn set_name(&self, _: u64, _: &str) -> Result<(), NameError> {
        Ok(())
    }
    fn find(&self, _: &str) -> Option<u64> {
        None
    }
    fn send_to(&self, _: u64, _: &[u8]) -> Result<(), SendError> {
        Err(SendError::Closed)
    }
    fn disconnect(&self, _: u64, _: u64) -> bool {
        false
    }
}

/// A session that counts the slices of its event.
struct Counting {
    info: ClientInfo,
    slices: Arc<AtomicUsize>,
}

impl Port for Counting {
    fn info(&self) -> &ClientInfo {
        &self.info
    }
    fn poll_write(&self, _: &mut Context<'_>, _: &[u8]) -> Poll<Result<(), WriteError>> {
        Poll::Ready(Ok(()))
    }
    fn write_capacity(&self) -> u32 {
        0
    }
    fn priority(&self) -> Priority {
        Priority::Normal
    }
    fn set_priority(&self, _: Priority) -> Priority {
        Priority::Normal
    }
    fn poll_slice(&self, _: &mut Context<'_>) -> Poll<()> {
        self.slices.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(())
    }
    fn set_timer(&self, _: u32, _: u64) -> bool {
        true
    }
}

/// Broadcasts once to `count` sessions, with a budget of `cpu`. Returns how the event ended, how
/// many receivers it reached, and its slices.
fn broadcast_to(count: usize, cpu: Duration) -> (Result<Action, FaultKind>, usize, usize) {
    let guest = r#"
(import "wharf:server/server@0.1.0" "broadcast" (func $broadcast (param i32 i32) (result i32)))
(func $on-connect (param $client i32) (result i32) (i32.const 0))
(func $on-read (param $data i32) (param $length i32) (result i32)
  (drop (call $broadcast (local.get $data) (local.get $length)))
  (i32.const 0))"#;
    let grants = [Grant::Server].into_iter().collect::<Grants>();
    let plugin =
        host().loader().share(&file("broadcaster", &component(guest)), &grants).expect("a plugin");
    let procedure = EventProcedure::new(plugin, Binding::default());
    let (told, slices) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let info = ClientInfo {
        id: 1,
        server: "none".into(),
        peer: nowhere,
        local: nowhere,
        tls: None,
        parameter: 0,
    };
    let port = Arc::new(Counting { info, slices: Arc::clone(&slices) });
    let scope = Scope { port, peers: Arc::new(Others { count, told: Arc::clone(&told) }) };
    let budget = Budget { fuel: 1_000_000_000, cpu, wall: Duration::from_secs(60) };
    let ended = host().runtime().block_on(async {
        let mut instance = procedure.instantiate(scope, budget).await.expect("there is room");
        instance.dispatch(Event::Read(b"news"), budget).await
    });
    (
        ended.map_err(|fault| fault.kind),
        told.load(Ordering::Relaxed),
        slices.load(Ordering::Relaxed),
    )
}

#[test]
fn long_broadcast_gives_way_and_ends_by_budget() {
    let mut rng = Rng::seeded(7);
    for _ in 0..8 {
        let count = 1 + rng.below(20_000) as usize;
        let (ended, told, slices) = broadcast_to(count, Duration::from_secs(50));
        assert_eq!((ended, told), (Ok(Action::Proceed), count));
        // The thread polls each woken receiver before it looks at its sockets again.
        assert!(slices >= count.saturating_sub(1) / 256, "{slices} slices for {count}");
    }
    // Five milliseconds of CPU time reach some hundreds of receivers, and not all.
    let (ended, told, _) = broadcast_to(20_000, Duration::from_millis(5));
    assert_eq!(ended, Err(FaultKind::CpuTime));
    assert!(told < 10_000, "{told}");
}
