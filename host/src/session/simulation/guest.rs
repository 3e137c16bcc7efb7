//! Guests of the simulation, with fault profiles and with checks in each of their calls.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use crate::event::{
    Action, Budget, Event, Fault, FaultKind, Instance, Meter, Priority, Procedure, Scope, Usage,
};
use crate::locks::lock;

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultProfile {
    Good,
    /// Yields this many times before it is done.
    Slow(u32),
    Refuses,
    Traps,
}

impl FaultProfile {
    async fn go(self, refusal: FaultKind) -> Result<(), Fault> {
        match self {
            Self::Good => Ok(()),
            Self::Slow(times) => {
                for _ in 0..times {
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
            Self::Refuses => Err(Fault::new(refusal, "injected")),
            Self::Traps => Err(Fault::new(FaultKind::Trap("injected"), "injected")),
        }
    }
}

/// What the guests of one session have seen, in all their versions.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) connects: u32,
    pub(super) disconnects: u32,
    pub(super) bytes: Vec<u8>,
    pub(super) timers: u32,
    /// Numbers of the versions that handled events, without repetitions in a row.
    pub(super) trail: Vec<u64>,
    pub(super) wakes: u32,
    /// Whether a call runs.
    running: bool,
}

/// The byte that a client sends at this position of its stream.
pub(super) fn byte(at: usize) -> u8 {
    (at.wrapping_mul(31) >> 3) as u8 ^ at as u8
}

#[derive(Debug)]
pub(super) struct Version {
    pub(super) number: u64,
    pub(super) save: FaultProfile,
    pub(super) restore: FaultProfile,
    pub(super) read: FaultProfile,
    pub(super) seen: Arc<Mutex<Seen>>,
    name: String,
}

impl Version {
    pub(super) fn new(
        number: u64,
        [save, restore, read]: [FaultProfile; 3],
        seen: &Arc<Mutex<Seen>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            number,
            save,
            restore,
            read,
            seen: Arc::clone(seen),
            name: number.to_string(),
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut lock(&self.seen))
    }

    /// Begins a call, and checks that no other runs.
    fn call(&self) -> Running<'_> {
        self.with(|seen| {
            assert!(!seen.running, "two calls of one session at a time");
            seen.running = true;
        });
        Running(self)
    }
}

/// A running call of a session. The call is over when this is dropped, done or cancelled.
struct Running<'a>(&'a Version);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.with(|seen| seen.running = false);
    }
}

impl Meter for Version {
    fn event(&self, _: Priority, _: Duration) {}
    fn not_woken(&self, _: Priority, _: &Fault) {}
}

impl Procedure for Version {
    type Instance = Guest;

    async fn instantiate(&self, scope: Scope, _: Budget) -> Result<Guest, Fault> {
        Ok(Guest { version: self.copy(), scope, count: 0 })
    }

    async fn take_over(
        &self,
        scope: Scope,
        _: Budget,
        _: Budget,
        version: &str,
        state: Vec<u8>,
    ) -> Result<Guest, Fault> {
        let _running = self.call();
        version.parse::<u64>().expect("the number of a version");
        self.restore.go(FaultKind::HandoffRefused).await?;
        let count = u64::from_le_bytes(state.try_into().expect("eight bytes"));
        self.with(|seen| {
            assert_eq!(count, seen.bytes.len() as u64, "a state of another moment");
            seen.wakes += 1;
        });
        Ok(Guest { version: self.copy(), scope, count })
    }

    fn can_sleep(&self) -> bool {
        true
    }

    fn version(&self) -> &str {
        &self.name
    }

    fn meter(&self) -> &dyn Meter {
        self
    }
}

impl Version {
    fn copy(&self) -> Arc<Self> {
        Self::new(self.number, [self.save, self.restore, self.read], &self.seen)
    }
}

pub(super) struct Guest {
    version: Arc<Version>,
    scope: Scope,
    /// Bytes so far, as the guest's own memory holds them.
    count: u64,
}

impl Instance for Guest {
    async fn dispatch(&mut self, event: Event<'_>, _: Budget) -> Result<Action, Fault> {
        let version = Arc::clone(&self.version);
        let _running = version.call();
        version.with(|seen| {
            assert_eq!(seen.disconnects, 0, "an event after the last");
            if seen.trail.last() != Some(&version.number) {
                seen.trail.push(version.number);
            }
        });
        match event {
            Event::Connect => version.with(|seen| seen.connects += 1),
            Event::Disconnect(_) => version.with(|seen| seen.disconnects += 1),
            Event::Timer { .. } => version.with(|seen| seen.timers += 1),
            Event::Read(data) => {
                version.with(|seen| {
                    assert_eq!(
                        self.count,
                        seen.bytes.len() as u64,
                        "it has not seen all that came before"
                    );
                    for (at, got) in data.iter().enumerate() {
                        assert_eq!(*got, byte(seen.bytes.len() + at), "another byte than was sent");
                    }
                    seen.bytes.extend_from_slice(data);
                });
                self.count += data.len() as u64;
                version.read.go(FaultKind::Fuel).await?;
                // No piece is larger than the send buffer.
                for piece in data.chunks(4_096) {
                    if poll_fn(|cx| self.scope.port.poll_write(cx, piece)).await.is_err() {
                        return Ok(Action::Close);
                    }
                }
                self.scope.port.set_timer(1, 1);
            }
            Event::End => return Ok(Action::Close),
            Event::Write | Event::Timeout { .. } => {}
        }
        Ok(Action::Proceed)
    }

    async fn save(&mut self, _: Budget) -> Result<Vec<u8>, Fault> {
        let version = Arc::clone(&self.version);
        let _running = version.call();
        version.save.go(FaultKind::StateLimit).await?;
        // Saving changes nothing: the count is in the state and still here.
        poll_fn(|_| Poll::Ready(())).await;
        Ok(self.count.to_le_bytes().to_vec())
    }

    fn usage(&self) -> Usage {
        Usage { fuel: self.count, memory_bytes: 1 }
    }
}
