//! The parts of a running session, and its result.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::event::{EndReason, Fault, Instance, Peers, Port, Priority, Procedure, Usage};
use crate::sched::{Moment, Quota, RunPermit, WorkerId, here};
use crate::session::alarm::Alarm;
use crate::session::deadlines::DeadlineClock;
use crate::session::evidence::{FaultEvidence, Saved};
use crate::session::handle::SessionHandle;
use crate::session::machine::Machine;
use crate::session::procedure_slot::ProcedureSlot;

/// The result of a session.
#[derive(Debug)]
pub struct Ended {
    /// The true reason of the end.
    pub reason: EndReason,
    /// The fault that ended the session, or else the fault of its `on-disconnect`, with the event's
    /// name.
    pub fault: Option<(&'static str, Fault)>,
    /// The failed event with its input, to try it on another version. `None` unless the version
    /// keeps inputs.
    pub evidence: Option<Box<FaultEvidence>>,
    /// Events dispatched.
    pub events: u64,
    /// Bytes from the peer.
    pub bytes_in: u64,
    /// Bytes to the peer.
    pub bytes_out: u64,
    /// Fuel and memory that its instances used.
    pub usage: Usage,
    /// CPU time of its events.
    pub cpu: Duration,
    /// The session's class at its end.
    pub class: Priority,
    /// Time from the first event to the last.
    pub lasted: Duration,
}

/// One running session. `P` handles its events. `M` is its membership in the server, which is
/// dropped as soon as an ending is decided.
pub struct Session<P: Procedure, M> {
    pub(super) handle: Arc<SessionHandle>,
    pub(super) peers: Arc<dyn Peers>,
    pub(super) machine: Machine,
    pub(super) procedure: Arc<P>,
    pub(super) slot: Arc<ProcedureSlot<P>>,
    pub(super) instance: Option<P::Instance>,
    /// The saved state of the instance, while the session sleeps.
    pub(super) asleep: Option<Box<Asleep<P>>>,
    /// When the last event other than `on-timeout` started.
    pub(super) stirred: Instant,
    /// Keeps the session awake until its next event other than `on-timeout`.
    pub(super) sleepless: bool,
    /// Fuel that the instances before this one used.
    pub(super) spent_before: u64,
    pub(super) membership: Option<M>,
    pub(super) fault: Option<(&'static str, Fault)>,
    pub(super) evidence: Option<Box<FaultEvidence>>,
    /// A copy of the last saved state, if the version keeps inputs.
    pub(super) saved: Option<Box<Saved>>,
    pub(super) alarm: Alarm,
    pub(super) deadline_clock: DeadlineClock,
    pub(super) run_permit: RunPermit,
    /// The thread whose reactor the socket is bound to.
    pub(super) home: Option<WorkerId>,
    /// When the event of this poll ended, if nothing has looked at the clock since.
    pub(super) event_ended: Option<Instant>,
    /// When the flush began, if a deadline or the operator ended the session.
    pub(super) flush_began: Option<Moment>,
}

/// The saved state of an instance. Its memory counts against its tenant.
pub(super) struct Asleep<P> {
    pub(super) state: Vec<u8>,
    pub(super) version: String,
    /// The procedure that saved it.
    pub(super) on: Weak<P>,
    pub(super) quota: Arc<Quota>,
}

impl<P> Asleep<P> {
    /// Copies the state, with the version that saved it.
    pub(super) fn kept(&self) -> (Vec<u8>, String) {
        (self.state.clone(), self.version.clone())
    }
}

impl<P> Drop for Asleep<P> {
    fn drop(&mut self) {
        // The capacity is zero if the state was taken out.
        self.quota.give_memory(self.state.capacity());
    }
}

impl<P: Procedure, M> Session<P, M> {
    pub(super) fn new(
        handle: Arc<SessionHandle>,
        slot: Arc<ProcedureSlot<P>>,
        peers: Arc<dyn Peers>,
        membership: M,
    ) -> Self {
        let procedure = slot.current();
        let now = Instant::now();
        let (tenant, quota) =
            (Arc::clone(&handle.config().tenant), Arc::clone(&handle.config().quota));
        let run_permit =
            RunPermit::new(Arc::clone(handle.placement()), handle.priority(), tenant, quota);
        Self {
            handle,
            peers,
            machine: Machine::default(),
            procedure,
            slot,
            instance: None,
            asleep: None,
            stirred: now,
            sleepless: false,
            spent_before: 0,
            membership: Some(membership),
            fault: None,
            evidence: None,
            saved: None,
            alarm: Alarm::new(now),
            deadline_clock: DeadlineClock::new(now),
            run_permit,
            home: here(),
            event_ended: None,
            flush_began: None,
        }
    }

    /// Fuel and memory that the session's instances used.
    pub(super) fn usage(&self) -> Usage {
        let usage = self.instance.as_ref().map(Instance::usage).unwrap_or_default();
        Usage { fuel: usage.fuel + self.spent_before, ..usage }
    }
}
