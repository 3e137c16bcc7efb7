//! A guest call that waits, with the I/O beside it: sending, signals and deadlines.
//!
//! Also the wait for a shared instance.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::close::{FLUSH_MAX, is_deadline};
use crate::event::{DisconnectReason, EndReason, Fault, FaultKind, Instance, Priority};
use crate::net::Stream;
use crate::sched::{Moment, RunPermit};
use crate::session::alarm::Alarm;
use crate::session::deadlines::Deadlines;
use crate::session::handle::{HandleState, SessionHandle};
use crate::session::machine::{Ending, How, Machine};
use crate::session::mailbox::Signals;
use crate::session::run;

/// How long a peer may hold up a shared instance in all of one event, even if the peer reads.
const SHARED_STALL_MAX: Duration = Duration::from_secs(2);
/// How long an event may wait for a shared instance. Each event on it has a budget, so only many
/// sessions that use their whole budget reach this limit.
const INSTANCE_WAIT_MAX: Duration = Duration::from_secs(60);

/// What a cancelled call takes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CancelScope {
    /// The call's own session.
    Session,
    /// Every session on the instance, so only the end of all of them justifies a cancellation.
    Instance,
}

impl CancelScope {
    pub(super) fn of(instance: &impl Instance) -> Self {
        if instance.is_shared() { Self::Instance } else { Self::Session }
    }
}

/// How long a call may run, and how long it may wait for its session's peer. Waits for the peer do
/// not count as time of the call.
#[derive(Debug)]
pub(super) struct CallDeadlines {
    scope: CancelScope,
    /// When the call is cancelled, unless it waits for the peer.
    deadline: Instant,
    /// How long events had waited for the peer before this call.
    waited_before: Duration,
    /// When the session reaches its lifetime.
    lifetime_ends: Option<Instant>,
    /// When the session was told to end by a deadline or the operator. Limits the wait for the
    /// peer.
    flush_began: Option<Moment>,
}

impl CallDeadlines {
    /// When the session gives up its peer, unless the peer reads more before. `None` if no limit
    /// applies.
    fn peer_until(
        &mut self,
        state: &mut HandleState,
        machine: &mut Machine,
        deadlines: &Deadlines,
        now: Moment,
    ) -> Option<Instant> {
        let must_read_by = state.must_read_by(now, deadlines);
        if !state.waits_for_peer() {
            return must_read_by;
        }
        if self.lifetime_ends.is_some_and(|at| now.at >= at) {
            machine.end(DisconnectReason::SessionTimeout, How::Flush);
        }
        let waited = state.waited_for_peer().saturating_sub(self.waited_before);
        let shared = (self.scope == CancelScope::Instance)
            .then(|| now.at + shared_stall_left(waited, deadlines.write));
        let lifetime = self.lifetime_ends.filter(|at| now.at < *at);
        // The same limit as for the final flush of a session.
        let is_overdue = matches!(machine.ending(),
            Some(Ending { reason: EndReason::Disconnect(reason), .. })
            if is_deadline(reason));
        let flush = is_overdue.then(|| self.flush_began.get_or_insert(now).due(FLUSH_MAX, now));
        let given_up = state.is_given_up().then_some(now.at);
        [must_read_by, shared, lifetime, flush, given_up].into_iter().flatten().min()
    }
}

/// How long a peer may still hold up a shared instance whose event has waited for the peer for
/// `waited`. `write` is the session's write timeout.
fn shared_stall_left(waited: Duration, write: Duration) -> Duration {
    SHARED_STALL_MAX.min(write).saturating_sub(waited)
}

/// Waits until a shared instance is free for an event of this session. Returns at once for an
/// instance of its own.
pub(super) async fn free(
    handle: &SessionHandle,
    machine: &mut Machine,
    alarm: &mut Alarm,
    instance: &mut impl Instance,
) -> Result<(), Fault> {
    if !instance.is_shared() {
        return Ok(());
    }
    let since = Moment::now();
    // Cancelling the wait takes nothing of the instance with it.
    let (scope, waited_before) = (CancelScope::Session, Duration::ZERO);
    let deadline = since.at;
    let mut call_deadlines =
        CallDeadlines { scope, deadline, waited_before, lifetime_ends: None, flush_began: None };
    poll_fn(|cx| {
        if let Poll::Ready(free) = instance.poll_free(cx) {
            return Poll::Ready(free);
        }
        let now = Moment::now();
        call_deadlines.deadline = since.due(INSTANCE_WAIT_MAX, now);
        let outcome = ready!(poll(handle, machine, alarm, &mut call_deadlines, now, cx));
        Poll::Ready(Err(match outcome.kind {
            FaultKind::WallTime => {
                let detail = format!(
                    "other sessions kept the instance for longer than {INSTANCE_WAIT_MAX:?}"
                );
                Fault::new(FaultKind::InstanceBusy, detail)
            }
            _ => outcome,
        }))
    })
    .await
}

/// A call that ended.
pub(super) struct Called<T> {
    pub(super) outcome: Result<T, Fault>,
    /// How long the call waited for the session's own peer.
    pub(super) waited: Duration,
    /// When the call ended.
    pub(super) at: Instant,
}

/// One call of a session's instance, with all that goes on beside it.
pub(super) struct PendingCall<'a> {
    pub(super) handle: &'a Arc<SessionHandle>,
    pub(super) machine: &'a mut Machine,
    pub(super) alarm: &'a mut Alarm,
    pub(super) run_permit: &'a mut RunPermit,
    pub(super) class: Priority,
    /// When the session reaches its lifetime, if that matters in the middle of the call.
    pub(super) lifetime_ends: Option<Instant>,
}

impl PendingCall<'_> {
    /// As [`PendingCall::call_from`], from now on. Returns the outcome alone.
    pub(super) async fn call<T, F>(
        &mut self,
        call: Pin<&mut F>,
        wall: Duration,
        scope: CancelScope,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.call_from(Instant::now(), call, wall, scope).await.outcome
    }

    /// Polls the call under the session's run permit until one of these:
    ///
    /// - the call is done;
    /// - it takes longer than `wall`;
    /// - it has to be cancelled.
    ///
    /// `start` is the current time.
    pub(super) async fn call_from<T, F>(
        &mut self,
        start: Instant,
        mut call: Pin<&mut F>,
        wall: Duration,
        scope: CancelScope,
    ) -> Called<T>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let Self { handle, machine, alarm, run_permit, class, lifetime_ends } = self;
        let mut began_to_wait: Option<(CallDeadlines, Moment, Duration)> = None;
        run_permit.begin(*class, start);
        let (outcome, at) = poll_fn(|cx| {
            let now = began_to_wait.is_none().then_some(start);
            let polled = run::poll(run_permit, handle, call.as_mut(), now, cx);
            if polled.is_ready() {
                return polled;
            }
            let (rationed, waited, ended_before) = {
                let state = handle.state();
                (state.rationed(), state.waited_for_peer(), state.ended_writes())
            };
            let now = Moment::now();
            let (call_deadlines, since, before) = began_to_wait.get_or_insert_with(|| {
                let (deadline, lifetime_ends) = (now.at, *lifetime_ends);
                let call_deadlines = CallDeadlines {
                    scope,
                    deadline,
                    waited_before: waited,
                    lifetime_ends,
                    flush_began: None,
                };
                (call_deadlines, now, rationed)
            });
            // The limit grows by the waits that are not the call's own: for the peer, for a run
            // permit, for the tenant's share, and stalls of the process.
            let waited = waited.saturating_sub(call_deadlines.waited_before);
            call_deadlines.deadline = since.due(wall, now)
                + run_permit.waited()
                + rationed.saturating_sub(*before)
                + waited;
            match poll(handle, machine, alarm, call_deadlines, now, cx) {
                Poll::Ready(fault) => Poll::Ready((Err(fault), now.at)),
                // Only another poll lets the call see that its write timed out or was given up just
                // now.
                Poll::Pending if !ended_before && handle.state().ended_writes() => {
                    run::poll(run_permit, handle, call.as_mut(), None, cx)
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        run_permit.rest();
        let waited = began_to_wait.map_or(Duration::ZERO, |(call_deadlines, ..)| {
            let mut state = handle.state();
            // The call may have been cancelled in the middle of a wait.
            state.goes_on();
            state.waited_for_peer().saturating_sub(call_deadlines.waited_before)
        });
        Called { outcome, waited, at }
    }
}

/// Whether a call was cancelled because the session is to end, and not for anything the plugin did.
pub(super) fn is_order(fault: &Fault) -> bool {
    matches!(fault.kind, FaultKind::Cancelled | FaultKind::Aborted)
}

/// Does the I/O beside a call that waits. Ready, with the fault, if the call has to be cancelled.
pub(super) fn poll(
    handle: &SessionHandle,
    machine: &mut Machine,
    alarm: &mut Alarm,
    call_deadlines: &mut CallDeadlines,
    now: Moment,
    cx: &mut Context<'_>,
) -> Poll<Fault> {
    let signals = handle.mailbox.signals();
    match run::cut_off(signals) {
        // On a shared instance, an aborted event runs on within its budget. Its connection is
        // reset.
        Some(fault)
            if fault.kind == FaultKind::Aborted
                && call_deadlines.scope == CancelScope::Instance =>
        {
            let mut state = handle.state();
            state.close();
            if let Some(stream) = state.stream.take() {
                stream.reset();
            }
        }
        Some(fault) => return Poll::Ready(fault),
        None => {}
    }
    decide(machine, signals);
    let config = handle.config();
    let mut state = handle.state();
    if now.at >= call_deadlines.deadline && !state.waits_for_peer() {
        return Poll::Ready(Fault::new(
            FaultKind::WallTime,
            "the event took longer than its class allows",
        ));
    }
    let mut next = call_deadlines.deadline;
    // Mail is not sent in the middle of an event.
    state.mail_waits |= signals.contains(Signals::MAIL);
    state.migration_waits |= signals.contains(Signals::MIGRATE);
    if state.stream.is_some() {
        let broken = matches!(state.poll_flush(cx), Poll::Ready(Err(_))) || state.closed;
        if broken || state.stream.as_ref().is_some_and(Stream::is_broken) {
            state.close();
            // The broken socket is closed now, and not when the plugin is done.
            state.stream = None;
            machine.end(DisconnectReason::PeerReset, How::Reset);
        } else {
            if state.send_buffer.len() < config.watermarks.high_bytes {
                state.goes_on();
            }
            if let Some(until) =
                call_deadlines.peer_until(&mut state, machine, &config.deadlines, now)
            {
                state.timed_out |= now.at >= until;
                // During a wait for the peer, only the peer's limit counts.
                next = if state.waits_for_peer() { until } else { next.min(until) }.max(now.at);
            }
        }
        if state.timed_out {
            machine.end(DisconnectReason::WriteTimeout, How::Reset);
            next = call_deadlines.deadline;
        }
    }
    let next = state.resumes_by(next);
    drop(state);
    alarm.arm(next, now.at, cx);
    if handle.mailbox.watch(cx.waker()) {
        cx.waker().wake_by_ref();
    }
    Poll::Pending
}

/// Turns signals into an ending. Returns true if there is an ending now.
pub(super) fn decide(machine: &mut Machine, signals: Signals) -> bool {
    if signals.contains(Signals::CANCEL) {
        machine.end(DisconnectReason::ServerStopped, How::Reset);
    }
    if signals.contains(Signals::ABORT) {
        machine.end(DisconnectReason::Evicted, How::Reset);
    }
    if signals.contains(Signals::EVICT) {
        machine.end(DisconnectReason::Evicted, How::Flush);
    }
    if signals.contains(Signals::STOP) {
        machine.end(DisconnectReason::ServerStopped, How::Flush);
    }
    machine.ending().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_instance_waits_at_most_two_seconds() {
        let ms = Duration::from_millis;
        // Each write timeout, with the time that a peer may hold up the instance.
        let limits = [(1, 1), (500, 500), (1_999, 1_999), (2_000, 2_000), (2_001, 2_000)];
        for (write, most) in limits.into_iter().chain([(7_000, 2_000), (u64::MAX, 2_000)]) {
            for (waited, left) in [(0, most), (most - 1, 1), (most, 0), (most + 1, 0)] {
                let found = shared_stall_left(ms(waited), ms(write));
                assert_eq!(found, ms(left), "{write} ms, {waited} ms waited");
            }
        }
    }
}
