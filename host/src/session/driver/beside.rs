//! What goes on beside a call: sending, orders, deadlines; and the wait for an instance that serves others as well.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::event::{DisconnectReason, Fault, FaultKind, Instance, Priority};
use crate::net::Wire;
use crate::sched::Turn;
use crate::session::alarm::Alarm;
use crate::session::line::Line;
use crate::session::machine::{How, Machine};
use crate::session::mailbox::Orders;
use crate::session::turn;

/// How long a peer that reads nothing may hold up an instance that serves others as well.
const SHARED_STALL_MAX: Duration = Duration::from_secs(2);
/// How long an event may wait for an instance that serves others as well. Each of theirs has a budget, so that it takes many
/// sessions that use all of it.
const INSTANCE_WAIT_MAX: Duration = Duration::from_secs(60);

/// Whom a call that is given up takes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Its session.
    Session,
    /// Every session on the instance, so that only the end of all of them is reason enough.
    Instance,
}

impl Reach {
    /// How long a peer may read nothing in the middle of an event.
    fn stall_max(self, line: &Line) -> Duration {
        let write = line.config().deadlines.write;
        match self {
            Self::Session => write,
            Self::Instance => write.min(SHARED_STALL_MAX),
        }
    }

    pub(super) fn of(instance: &impl Instance) -> Self {
        if instance.is_shared() { Self::Instance } else { Self::Session }
    }
}

/// Waits until the instance is free for an event of this session, where it serves others as well.
pub(super) async fn free(
    line: &Line,
    machine: &mut Machine,
    alarm: &mut Alarm,
    instance: &mut impl Instance,
) -> Result<(), Fault> {
    if !instance.is_shared() {
        return Ok(());
    }
    let until = Instant::now() + INSTANCE_WAIT_MAX;
    poll_fn(|cx| {
        if let Poll::Ready(free) = instance.poll_free(cx) {
            return Poll::Ready(free);
        }
        // Nothing of the instance's is given up with this.
        let outcome = ready!(poll(line, machine, alarm, Reach::Session, until, cx));
        Poll::Ready(Err(match outcome.kind {
            FaultKind::WallTime => {
                let detail = format!("other sessions kept the instance for longer than {INSTANCE_WAIT_MAX:?}");
                Fault::new(FaultKind::InstanceBusy, detail)
            }
            _ => outcome,
        }))
    })
    .await
}

/// A call of a session's instance, with all that goes on beside it.
pub(super) struct Attending<'a> {
    pub(super) line: &'a Arc<Line>,
    pub(super) machine: &'a mut Machine,
    pub(super) alarm: &'a mut Alarm,
    pub(super) turn: &'a mut Turn,
    pub(super) class: Priority,
}

impl Attending<'_> {
    /// Polls the call in the session's turns until it is done, takes longer than `wall`, or has to be given up.
    pub(super) async fn call<T, F>(&mut self, mut call: Pin<&mut F>, wall: Duration, reach: Reach) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let Self { line, machine, alarm, turn, class } = self;
        let start = Instant::now();
        let mut began_to_wait = None;
        turn.begin(*class, start);
        let outcome = poll_fn(|cx| {
            let now = began_to_wait.is_none().then_some(start);
            let polled = turn::poll(turn, line, call.as_mut(), now, cx);
            if let Poll::Ready(outcome) = polled {
                return Poll::Ready(outcome);
            }
            // What others do with their turns, and the share of its tenant, are not held against this one.
            let (rationed, ended_before) = {
                let state = line.state();
                (state.rationed(), state.ended_writes())
            };
            let (end, before) = *began_to_wait.get_or_insert_with(|| (Instant::now() + wall, rationed));
            let deadline = end + turn.waited() + rationed.saturating_sub(before);
            match poll(line, machine, alarm, reach, deadline, cx) {
                Poll::Ready(fault) => Poll::Ready(Err(fault)),
                // A write that timed out or was given up just now is only seen by asking the call again.
                Poll::Pending if !ended_before && line.state().ended_writes() => {
                    turn::poll(turn, line, call.as_mut(), None, cx)
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        turn.rest();
        outcome
    }
}

/// Whether a call was given up because the session is to end, and not by anything the plugin did.
pub(super) fn is_order(fault: &Fault) -> bool {
    matches!(fault.kind, FaultKind::Cancelled | FaultKind::Aborted)
}

/// What goes on beside a call that waits. Ready where the call has to be given up.
pub(super) fn poll(
    line: &Line,
    machine: &mut Machine,
    alarm: &mut Alarm,
    reach: Reach,
    deadline: Instant,
    cx: &mut Context<'_>,
) -> Poll<Fault> {
    let orders = line.mailbox.orders();
    match turn::cut_off(orders) {
        // The event comes to its end, within its budget, for a peer that is gone.
        Some(fault) if fault.kind == FaultKind::Aborted && reach == Reach::Instance => {
            let mut state = line.state();
            state.close();
            if let Some(wire) = state.wire.take() {
                wire.reset();
            }
        }
        Some(fault) => return Poll::Ready(fault),
        None => {}
    }
    decide(machine, orders);
    let now = Instant::now();
    if now >= deadline {
        return Poll::Ready(Fault::new(FaultKind::WallTime, "the event took longer than its class allows"));
    }
    let mut next = deadline;
    let mut state = line.state();
    // Mail is not sent in the middle of an event.
    state.mail_waits |= orders.contains(Orders::MAIL);
    state.handover_waits |= orders.contains(Orders::HANDOVER);
    if state.wire.is_some() {
        let broken = matches!(state.poll_flush(cx), Poll::Ready(Err(_))) || state.closed;
        if broken || state.wire.as_ref().is_some_and(Wire::is_broken) {
            state.close();
            // The socket is of no more use: it goes now, and not when the plugin is done.
            state.wire = None;
            machine.end(DisconnectReason::PeerReset, How::Reset);
        } else if let Some(since) = state.stalled(now, reach.stall_max(line)) {
            let stall = since + reach.stall_max(line);
            state.timed_out |= now >= stall;
            next = next.min(stall.max(now));
        }
        if state.timed_out {
            machine.end(DisconnectReason::WriteTimeout, How::Reset);
            next = deadline;
        }
    }
    let next = state.resumes_by(next);
    drop(state);
    alarm.arm(next, cx);
    if line.mailbox.watch(cx.waker()) {
        cx.waker().wake_by_ref();
    }
    Poll::Pending
}

/// Turns orders into an ending. True where there is one now.
pub(super) fn decide(machine: &mut Machine, orders: Orders) -> bool {
    if orders.contains(Orders::CANCEL) {
        machine.end(DisconnectReason::ServerStopped, How::Reset);
    }
    if orders.contains(Orders::ABORT) {
        machine.end(DisconnectReason::Evicted, How::Reset);
    }
    if orders.contains(Orders::EVICT) {
        machine.end(DisconnectReason::Evicted, How::Flush);
    }
    if orders.contains(Orders::STOP) {
        machine.end(DisconnectReason::ServerStopped, How::Flush);
    }
    machine.ending().is_some()
}
