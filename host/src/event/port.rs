//! The two directions of a call: the session asks an instance to handle an event, the instance acts
//! on its session.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Action, ClientInfo, Event, Fault, Priority};

/// What one event may spend. Past any of the three the event is a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Engine fuel: about one per Wasm operator and per byte of a bulk copy.
    pub fuel: u64,
    /// CPU time of the guest.
    pub cpu: Duration,
    /// Time from start to end, waits in host calls included, but for those for the session's own
    /// peer.
    pub wall: Duration,
}

/// What an instance has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Fuel of all finished events. A fault is charged the whole grant of its event.
    pub fuel: u64,
    /// Linear memory now, in bytes.
    pub memory_bytes: u64,
}

/// What an instance is given at birth: its session and its server.
#[derive(Clone)]
pub struct Scope {
    /// The session it serves.
    pub port: Arc<dyn Port>,
    /// The sessions beside it.
    pub peers: Arc<dyn Peers>,
}

/// A plugin, ready to make instances.
pub trait Procedure: Send + Sync + 'static {
    /// One living copy.
    type Instance: Instance;

    /// Makes the instance for one session. Called once per session, after admission and handshake.
    /// Dropping the future is safe.
    ///
    /// # Errors
    /// A [`Fault`]: the plugin's start-up trapped or ran out of budget, or the host is out of
    /// slots.
    fn instantiate(
        &self,
        scope: Scope,
        budget: Budget,
    ) -> impl Future<Output = Result<Self::Instance, Fault>> + Send;

    /// Makes the instance that takes a live session over, from what another version (`version`)
    /// saved. Its start may spend `start` and the taking over `event`. Dropping the future is safe.
    ///
    /// # Errors
    /// A [`Fault`]: the session is to stay where it is.
    fn take_over(
        &self,
        scope: Scope,
        start: Budget,
        event: Budget,
        version: &str,
        state: Vec<u8>,
    ) -> impl Future<Output = Result<Self::Instance, Fault>> + Send;

    /// Whether sessions on it can let their instances go while they are idle.
    fn can_sleep(&self) -> bool {
        false
    }

    /// What an instance of it says to the next as its version.
    fn version(&self) -> &str;

    /// Whether somebody asks for what makes its events fail, to try that on another version.
    fn keeps_inputs(&self) -> bool {
        false
    }

    /// What hears how long events of its instances take.
    fn meter(&self) -> &dyn Meter;
}

/// A living copy of a plugin that serves one session.
pub trait Instance: Send + 'static {
    /// Ready where the instance is free for an event of this session, for which it then stays free.
    /// One that serves no other session always is.
    ///
    /// # Errors
    /// A [`Fault`]: there will be no event any more.
    fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let _ = cx;
        Poll::Ready(Ok(()))
    }

    /// Whether it serves other sessions as well, so that killing it ends them, too.
    fn is_shared(&self) -> bool {
        false
    }

    /// Handles one event. Dropping the future before it is done kills the instance: every later
    /// dispatch fails. The caller keeps `budget.wall`; fuel and CPU time are kept inside.
    ///
    /// # Errors
    /// A [`Fault`]. The instance must not be used again.
    fn dispatch(
        &mut self,
        event: Event<'_>,
        budget: Budget,
    ) -> impl Future<Output = Result<Action, Fault>> + Send;

    /// What another version needs to carry on with the session. Changes nothing. As with
    /// [`Instance::dispatch`], dropping the future before it is done kills the instance.
    ///
    /// # Errors
    /// A [`Fault`]. [`FaultKind::StateLimit`](super::FaultKind::StateLimit) leaves the instance as
    /// it was; after any other it must not be used again.
    fn save(&mut self, budget: Budget) -> impl Future<Output = Result<Vec<u8>, Fault>> + Send;

    /// What it has used so far.
    fn usage(&self) -> Usage;
}

/// What hears how a version does, on the thread of the session.
pub trait Meter: std::fmt::Debug + Send + Sync {
    /// An event of a session in this class took so long, waits included, but for those for its own
    /// peer. Called once per event.
    fn event(&self, class: Priority, took: Duration);

    /// A session in this class that slept could not wake on this version, and carries on with the
    /// one it fell asleep on.
    fn not_woken(&self, class: Priority, fault: &Fault);
}

/// Why a write to the own peer was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteError {
    /// The session is ending.
    Closed,
    /// Larger than the high-water mark.
    TooLarge,
    /// The peer read nothing for the timeout.
    TimedOut,
}

/// Why another session took nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// No such session, or it is ending.
    Closed,
    /// It has too much queued.
    Full,
    /// Larger than it may have queued.
    TooLarge,
}

/// Why a name was not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// Another session carries it.
    Taken,
    /// Longer than 127 characters.
    TooLong,
    /// No characters.
    Empty,
}

/// What a plugin may do to its own session while it handles an event. No method blocks the thread.
pub trait Port: Send + Sync {
    /// Who the client is.
    fn info(&self) -> &ClientInfo;

    /// Queues all of `data` or nothing. Pending while the send buffer is at its high-water mark;
    /// wakes the task that polled. Taking no longer part in it is safe: nothing was queued.
    ///
    /// # Errors
    /// [`WriteError`].
    fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<(), WriteError>>;

    /// Bytes that would be taken now without waiting.
    fn write_capacity(&self) -> u32;

    /// The class in force for the next event.
    fn priority(&self) -> Priority;

    /// Asks for a class from the next event on; returns what the ceiling allows.
    fn set_priority(&self, priority: Priority) -> Priority;

    /// The guest has run for a slice: pending until it may go on. Asked again by the same event
    /// until it is ready.
    fn poll_slice(&self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Ready(())
    }

    /// The instance, which served other sessions as well, is gone by the doing of one of them.
    fn instance_lost(&self) {}

    /// Sets, replaces or (0) cancels a timer. False at the limit of timers.
    fn set_timer(&self, id: u32, after_ms: u64) -> bool;
}

/// A message on its way to the sessions of a server. It goes to some of them at a time, so that a
/// caller does not hold up its thread. Sessions that begin meanwhile do not get it. Dropping it
/// leaves out the sessions that it has not reached.
pub trait Broadcast: Send {
    /// Queues it for up to `max` more of them. Whether there are any left. Does not block.
    fn go_on(&mut self, max: usize) -> bool;

    /// How many took it so far.
    fn taken(&self) -> u32;
}

/// What a plugin may do to the other sessions of its server. `own` is the caller's id. No method
/// blocks.
pub trait Peers: Send + Sync {
    /// Established sessions that are not ending.
    fn client_count(&self) -> u32;
    /// Begins to queue for every session but `own`: the caller goes on until all of them were
    /// asked.
    fn broadcast(&self, own: u64, data: &[u8]) -> Box<dyn Broadcast>;
    /// Names the session `own`.
    ///
    /// # Errors
    /// [`NameError`].
    fn set_name(&self, own: u64, name: &str) -> Result<(), NameError>;
    /// The session of that name, ignoring case.
    fn find(&self, name: &str) -> Option<u64>;
    /// Queues for one session, which may be `own`.
    ///
    /// # Errors
    /// [`SendError`].
    fn send_to(&self, client: u64, data: &[u8]) -> Result<(), SendError>;
    /// Ends another session gracefully. False where there is none, or it is `own`.
    fn disconnect(&self, own: u64, client: u64) -> bool;
}
