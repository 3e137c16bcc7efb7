//! Simulated sessions: a seed decides when they migrate, sleep, are called off and end.
//!
//! Failures are injected. Every call of the guests checks what has to hold, and so does the end. A
//! seed that fails is printed and can be tried again:
//!
//!     WHARF_SEED=17 cargo test -p wharf simulated
//!
//! Everything runs on one thread. The sockets are real, so that the system's buffers take part.

mod guest;
mod mailbox;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use self::guest::{FaultProfile, Seen, Version, byte};
use super::{
    Deadlines, Ended, MigrateOutcome, PauseGate, ProcedureSlot, Session, SessionConfig,
    SessionHandle, Watermarks,
};
use crate::event::{ClientInfo, DisconnectReason, EndReason, FaultKind, NoPeers, Priority};
use crate::locks::lock;
use crate::net::Stream;
use crate::rng::{Rng, for_each_seed};
use crate::sched::{Budgets, Lane, Placement, Quota, RunQueue};

/// How many seeds are tried, unless `WHARF_SEEDS` gives another number.
const SEEDS: u64 = 600;
/// Largest number of steps of one session.
const STEPS: u64 = 40;
/// After this time a session counts as stuck.
const PATIENCE: Duration = Duration::from_secs(20);

fn profile(rng: &mut Rng, bad: FaultProfile) -> FaultProfile {
    match rng.throw(8) {
        0 => bad,
        1 if bad == FaultProfile::Refuses => FaultProfile::Traps,
        1..4 => FaultProfile::Slow(rng.throw(6) as u32),
        _ => FaultProfile::Good,
    }
}

/// One session, its client, and what was requested of it.
struct World {
    rng: Rng,
    client: Option<TcpStream>,
    sent: usize,
    /// How many bytes the client has received.
    got: usize,
    handle: Arc<SessionHandle>,
    pause_gate: Arc<PauseGate>,
    slot: Arc<ProcedureSlot<Version>>,
    seen: Arc<Mutex<Seen>>,
    versions: u64,
    asked: Vec<(u64, oneshot::Receiver<MigrateOutcome>)>,
    verdicts: Vec<watch::Sender<Option<bool>>>,
    /// Whether the session was ended by something other than its client.
    ended: bool,
    /// Whether the client left before the end.
    broke_off: bool,
}

impl World {
    fn version(&mut self) -> Arc<Version> {
        self.versions += 1;
        // A trap in a read is rare, because it ends the session.
        let read = if self.rng.throw(40) == 0 {
            FaultProfile::Traps
        } else {
            FaultProfile::Slow(self.rng.throw(3) as u32)
        };
        let profiles = [
            profile(&mut self.rng, FaultProfile::Refuses),
            profile(&mut self.rng, FaultProfile::Refuses),
            read,
        ];
        Version::new(self.versions, profiles, &self.seen)
    }

    async fn step(&mut self) {
        match self.rng.throw(14) {
            0..3 => self.send(),
            3 | 4 => self.receive(),
            5 | 6 => {
                let next = self.version();
                self.asked.push((next.number, self.slot.ask(next)));
                self.handle.look_at_slot();
            }
            7 => {
                let (decide, verdict) = watch::channel(None);
                let next = self.version();
                let call_deadlines =
                    Duration::from_millis(if self.rng.throw(4) == 0 { 1 } else { 60_000 });
                let (_ready, reported) =
                    self.slot.ask_together(Arc::clone(&next), verdict, call_deadlines);
                self.asked.push((next.number, reported));
                self.handle.look_at_slot();
                self.verdicts.push(decide);
            }
            8 => {
                let Some(decide) = self.verdicts.pop() else { return };
                match self.rng.throw(3) {
                    0 => drop(decide),
                    yes => drop(decide.send(Some(yes == 1))),
                }
            }
            9 => drop(self.slot.withdraw()),
            10 => {
                self.pause_gate.close();
                self.rest(3).await;
                self.pause_gate.open();
            }
            11 => drop(self.handle.assign(if self.rng.throw(2) == 0 {
                Priority::High
            } else {
                Priority::Low
            })),
            // Long enough for the session to fall asleep.
            12 => tokio::time::sleep(Duration::from_millis(3)).await,
            _ => self.rest(10).await,
        }
    }

    async fn rest(&mut self, most: u64) {
        for _ in 0..self.rng.throw(most) + 1 {
            tokio::task::yield_now().await;
        }
    }

    fn send(&mut self) {
        let count = self.rng.throw(3_000) as usize + 1;
        let data: Vec<u8> = (self.sent..self.sent + count).map(byte).collect();
        if let Some(client) = &mut self.client {
            // Bytes that do not fit are not sent.
            self.sent += client.write(&data).unwrap_or(0);
        }
    }

    fn receive(&mut self) {
        let mut buffer = [0; 4_096];
        let Some(client) = &mut self.client else { return };
        match client.read(&mut buffer) {
            // The client has received all there is, and leaves.
            Ok(0) => self.client = None,
            Ok(count) => {
                for (at, got) in buffer[..count].iter().enumerate() {
                    assert_eq!(*got, byte(self.got + at), "another answer than was due");
                }
                self.got += count;
            }
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset),
                    "{error}"
                );
            }
        }
    }

    /// Ends the session in one of several ways.
    fn end(&mut self) {
        match self.rng.throw(6) {
            0 => self.handle.stop(),
            1 => self.handle.evict(),
            2 => self.handle.cancel(),
            3 => self.handle.abort(),
            4 => {
                (self.client, self.broke_off) = (None, true);
                return;
            }
            _ => {
                if let Some(client) = &self.client {
                    let _ = client.shutdown(Shutdown::Write);
                }
                return;
            }
        }
        self.ended = true;
    }

    fn judge(mut self, ended: &Ended) {
        let seen = lock(&self.seen);
        let fault = ended.fault.as_ref().map(|(_, fault)| fault.kind);
        // There is one connect and one disconnect at most. A dead instance gets no disconnect.
        let told = matches!(ended.reason, EndReason::Disconnect(_)) && fault.is_none();
        assert!(seen.connects <= 1 && seen.disconnects <= 1, "{seen:?}");
        assert_eq!(seen.disconnects == 1, told, "{ended:?} {seen:?}");
        let cut = matches!(fault, Some(FaultKind::Cancelled | FaultKind::Aborted));
        let injected =
            matches!(fault, Some(FaultKind::Trap("injected") | FaultKind::HandoffRefused));
        assert!(fault.is_none() || injected || (cut && self.ended), "{ended:?}");
        // If neither side broke off, no byte is lost in either direction.
        let finished = ended.reason == EndReason::Disconnect(DisconnectReason::ClosedByPlugin);
        if finished && !self.broke_off && !self.ended {
            assert_eq!(seen.bytes.len(), self.sent, "{ended:?}");
            assert_eq!(self.got, self.sent, "{ended:?}");
        }
        assert!(seen.bytes.len() <= self.sent && self.got <= seen.bytes.len(), "{seen:?}");
        // Versions come in the order of their requests. Only a wake may fall back to the version
        // before.
        let back = seen.trail.windows(2).filter(|pair| pair[1] < pair[0]).count() as u32;
        assert!(back <= seen.wakes, "{:?}", seen.trail);
        for (number, reported) in &mut self.asked {
            if let Ok(MigrateOutcome::Stayed(fault)) = reported.try_recv() {
                let known =
                    [FaultKind::HandoffRefused, FaultKind::StateLimit, FaultKind::HandoffCalledOff];
                assert!(
                    known.contains(&fault.kind) || fault.kind == FaultKind::Trap("injected"),
                    "{number}: {fault}"
                );
            }
        }
    }
}

/// The two ends of one connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it is there");
    let (server, _) = listener.accept().expect("it came");
    for end in [&client, &server] {
        end.set_nonblocking(true).expect("a socket");
        end.set_nodelay(true).expect("a socket");
    }
    (client, server)
}

async fn simulate(seed: u64) {
    let mut rng = Rng(seed);
    let (client, server) = pair();
    let (peer, local) = (client.local_addr().expect("bound"), server.local_addr().expect("bound"));
    let pause_gate = Arc::new(PauseGate::default());
    let sleepy = rng.throw(2) == 0;
    let config = SessionConfig {
        timeout: Duration::from_secs(60),
        deadlines: Deadlines::with_write(Duration::from_secs(60)),
        watermarks: Watermarks { high_bytes: 8 << 10, low_bytes: 2 << 10 },
        tenant: "one".into(),
        quota: Arc::new(Quota::default()),
        timers_max: 4,
        sleep_after: if sleepy { Duration::from_millis(1) } else { Duration::ZERO },
        priority: Priority::Normal,
        priority_max: Priority::High,
        budgets: Budgets::default(),
        pause_gate: Arc::clone(&pause_gate),
    };
    let run_queues = Lane::ALL.map(|lane| Arc::new(RunQueue::new(lane, 1)));
    let placement = Arc::new(Placement::new(Lane::Standard, Arc::new(run_queues)));
    let info =
        ClientInfo { id: 1, server: "simulated".into(), peer, local, tls: None, parameter: 0 };
    let handle = SessionHandle::new(
        info,
        Arc::new(config),
        placement,
        Stream::plain(server).expect("a reactor"),
    );
    let seen = Arc::<Mutex<Seen>>::default();
    let first = Version::new(1, [FaultProfile::Good; 3], &seen);
    let slot = Arc::new(ProcedureSlot::new(first));
    let session = Session::run(Arc::clone(&handle), Arc::clone(&slot), Arc::new(NoPeers), (), None);
    let running = tokio::spawn(session);
    let (asked, verdicts) = (Vec::new(), Vec::new());
    let (client, versions) = (Some(client), 1);
    let mut world = World {
        rng,
        client,
        sent: 0,
        got: 0,
        handle,
        pause_gate,
        slot,
        seen,
        versions,
        asked,
        verdicts,
        ended: false,
        broke_off: false,
    };
    for _ in 0..world.rng.throw(STEPS) {
        world.step().await;
    }
    world.end();
    // The senders of the verdicts are gone from here on.
    world.verdicts.clear();
    let over = async {
        while !running.is_finished() {
            world.receive();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, over).await.expect("the session is stuck");
    for _ in 0..64 {
        world.receive();
    }
    let (ended, _) = running.await.expect("no panic");
    world.judge(&ended);
}

#[test]
fn simulated_sessions_lose_and_repeat_nothing() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for_each_seed(SEEDS, |seed| runtime.block_on(simulate(seed)));
}
