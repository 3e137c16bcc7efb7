//! The two directions of a call: a session has an instance handle an event, and the instance acts
//! on its session.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Action, ClientInfo, Event, Fault, Priority};

/// Limits of what one event may spend. An event that exceeds one of them is a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Engine fuel: about one per Wasm operator and per byte of a bulk copy.
    pub fuel: u64,
    /// CPU time of the guest.
    pub cpu: Duration,
    /// Time from start to end, including all waits in host calls except those for the session's own
    /// peer.
    pub wall: Duration,
}

/// What an instance has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Fuel of all finished events. A fault is charged the whole grant of its event.
    pub fuel: u64,
    /// Linear memory at this moment, in bytes.
    pub memory_bytes: u64,
}

/// What an instance gets when it is made: its session and its server.
#[derive(Clone)]
pub struct Scope {
    /// The session that the instance serves.
    pub port: Arc<dyn Port>,
    /// The other sessions of the server.
    pub peers: Arc<dyn Peers>,
}

/// A plugin that is ready to make instances.
pub trait Procedure: Send + Sync + 'static {
    /// A living copy of the plugin.
    type Instance: Instance;

    /// Makes the instance for one session. Called once per session, after admission and handshake.
    /// Cancel safe.
    ///
    /// # Errors
    /// A [`Fault`]: the plugin's start trapped or ran out of budget, or the host has no slot left.
    fn instantiate(
        &self,
        scope: Scope,
        budget: Budget,
    ) -> impl Future<Output = Result<Self::Instance, Fault>> + Send;

    /// Makes the instance that takes over a live session from another version.
    ///
    /// `version` is that version, and `state` is what it saved. The instance's start may spend
    /// `start`, and the restore `event`. Cancel safe.
    ///
    /// # Errors
    /// A [`Fault`]: the session has to stay where it is.
    fn take_over(
        &self,
        scope: Scope,
        start: Budget,
        event: Budget,
        version: &str,
        state: Vec<u8>,
    ) -> impl Future<Output = Result<Self::Instance, Fault>> + Send;

    /// Returns whether idle sessions can drop their instances.
    fn can_sleep(&self) -> bool {
        false
    }

    /// Returns the version that the plugin's instances report to the next version.
    fn version(&self) -> &str;

    /// Returns whether sessions keep the input of failing events, to try it on another version.
    fn keeps_inputs(&self) -> bool {
        false
    }

    /// Returns the meter of the events of this plugin's instances.
    fn meter(&self) -> &dyn Meter;
}

/// A living copy of a plugin that serves one session.
pub trait Instance: Send + 'static {
    /// Waits until the instance is free for an event of this session, and keeps it free for that
    /// event. An instance that serves no other session is always ready.
    ///
    /// # Errors
    /// A [`Fault`]: the instance handles no more events.
    fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let _ = cx;
        Poll::Ready(Ok(()))
    }

    /// Returns whether the instance serves other sessions as well. If it does, killing it ends
    /// them, too.
    fn is_shared(&self) -> bool {
        false
    }

    /// Handles one event. The caller enforces `budget.wall`; the instance enforces fuel and CPU
    /// time.
    ///
    /// Not cancel safe: dropping the future before it is done kills the instance, and every later
    /// dispatch fails.
    ///
    /// # Errors
    /// A [`Fault`]. The instance must not be used again.
    fn dispatch(
        &mut self,
        event: Event<'_>,
        budget: Budget,
    ) -> impl Future<Output = Result<Action, Fault>> + Send;

    /// Saves what another version needs to go on with the session. Changes nothing.
    ///
    /// Not cancel safe: as with [`Instance::dispatch`], dropping the future before it is done kills
    /// the instance.
    ///
    /// # Errors
    /// A [`Fault`]. After [`FaultKind::StateLimit`](super::FaultKind::StateLimit) the instance is
    /// as it was. After any other the instance must not be used again.
    fn save(&mut self, budget: Budget) -> impl Future<Output = Result<Vec<u8>, Fault>> + Send;

    /// Returns what the instance has used so far.
    fn usage(&self) -> Usage;
}

/// A meter of how a version performs. Called on the thread of the session.
pub trait Meter: std::fmt::Debug + Send + Sync {
    /// Records the duration of an event of a session in this class, including all waits except
    /// those for its own peer. Called once per event.
    fn event(&self, class: Priority, took: Duration);

    /// Records that a sleeping session of this class could not wake on this version. The session
    /// goes on with the version on which it fell asleep.
    fn not_woken(&self, class: Priority, fault: &Fault);
}

/// Why the session did not take a write to its own peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteError {
    /// The session is ending.
    Closed,
    /// The data is larger than the high-water mark.
    TooLarge,
    /// The peer read nothing for the timeout.
    TimedOut,
}

/// Why another session took no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// There is no such session, or it is ending.
    Closed,
    /// The session has too much queued.
    Full,
    /// The data is larger than the session may have queued.
    TooLarge,
}

/// Why a session got no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// Another session has the name.
    Taken,
    /// The name is longer than 127 characters.
    TooLong,
    /// The name is empty.
    Empty,
}

/// What a plugin may do to its own session while it handles an event. No method blocks the thread.
pub trait Port: Send + Sync {
    /// Returns the facts about the client.
    fn info(&self) -> &ClientInfo;

    /// Queues all of `data` or nothing. Pending while the send buffer is at its high-water mark;
    /// wakes the task that polled. Cancel safe: a caller that stops polling has queued nothing.
    ///
    /// # Errors
    /// [`WriteError`].
    fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<(), WriteError>>;

    /// Returns how many bytes a write can queue now without waiting.
    fn write_capacity(&self) -> u32;

    /// Returns the class in force for the next event.
    fn priority(&self) -> Priority;

    /// Asks for a class from the next event on. Returns the class that the ceiling allows.
    fn set_priority(&self, priority: Priority) -> Priority;

    /// Waits until a guest that has run for a slice may go on. The same event polls until it is
    /// ready.
    fn poll_slice(&self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Ready(())
    }

    /// Records that the shared instance was lost by the doing of another session.
    fn instance_lost(&self) {}

    /// Sets or replaces a timer, or cancels it if `after_ms` is 0. Returns false at the limit of
    /// timers.
    fn set_timer(&self, id: u32, after_ms: u64) -> bool;
}

/// A message on its way to the sessions of a server.
///
/// Each step reaches some of the sessions, so that the caller does not hold up its thread. Sessions
/// that begin meanwhile do not get the message. Dropping the broadcast leaves out the sessions that
/// it has not reached.
pub trait Broadcast: Send {
    /// Queues the message for up to `max` more sessions. Returns whether any are left. Does not
    /// block.
    fn go_on(&mut self, max: usize) -> bool;

    /// Returns how many sessions took the message so far.
    fn taken(&self) -> u32;
}

/// What a plugin may do to the other sessions of its server. `own` is the caller's session number.
/// No method blocks.
pub trait Peers: Send + Sync {
    /// Returns how many established sessions are not ending.
    fn client_count(&self) -> u32;
    /// Begins a message to every session except `own`. The caller goes on until all were reached.
    fn broadcast(&self, own: u64, data: &[u8]) -> Box<dyn Broadcast>;
    /// Names the session `own`.
    ///
    /// # Errors
    /// [`NameError`].
    fn set_name(&self, own: u64, name: &str) -> Result<(), NameError>;
    /// Returns the session of that name, ignoring case.
    fn find(&self, name: &str) -> Option<u64>;
    /// Queues bytes for one session, which may be `own`.
    ///
    /// # Errors
    /// [`SendError`].
    fn send_to(&self, client: u64, data: &[u8]) -> Result<(), SendError>;
    /// Ends another session gracefully. Returns false if there is no such session, or it is `own`.
    fn disconnect(&self, own: u64, client: u64) -> bool;
}
