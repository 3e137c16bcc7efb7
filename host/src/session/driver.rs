//! The driver: owns one session's clock, stream and instance, and does what the machine says.

mod close;
mod evidence;
mod mail;
mod migrate;
mod pending_call;
mod placement;
mod session;
mod sleep;
mod transfer;

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use self::mail::{Sent, carry, flushed};
use self::pending_call::{Called, CancelScope, PendingCall};
use self::placement::not_settled;
pub use self::session::{Ended, Session};
use super::buffers::Incoming;
use super::deadlines::DueAction;
use super::handle::{HandleState, SessionConfig, SessionHandle};
use super::live_stats::Doing;
use super::machine::{Ending, How, Machine, Occasion, Step};
use super::mailbox::Signals;
use super::procedure_slot::ProcedureSlot;
use super::run;
use crate::event::{
    DisconnectReason, Event, Fault, FaultKind, Instance, Peers, Port, Procedure, READ_MAX_BYTES,
    Scope,
};
use crate::net::Stream;
use crate::sched::{Moment, WorkerId};

/// An occurrence between two events.
enum Happening {
    Read(Incoming, usize),
    Write,
    Timeout(u64),
    Timer(u32),
    End,
    /// The session belongs in another lane.
    Astray,
    /// The session is to migrate to another procedure, or to be transferred.
    Migration,
    /// The session was idle for its `sleep_after`.
    Sleep,
    /// An ending was decided.
    Ending,
}

impl<P: Procedure, M> Session<P, M> {
    /// Runs a session from the start of its instance until its connection is closed. `home` is the
    /// thread whose reactor the socket is bound to.
    ///
    /// Dropping the future closes the connection without telling the plugin. Use
    /// [`SessionHandle::cancel`] to end a session in order.
    pub async fn run(
        handle: Arc<SessionHandle>,
        slot: Arc<ProcedureSlot<P>>,
        peers: Arc<dyn Peers>,
        membership: M,
        home: Option<WorkerId>,
    ) -> (Ended, Arc<P>) {
        let mut session = Self::new(handle, slot, peers, membership);
        session.home = home;
        let class = session.handle.priority();
        let budget = session.handle.config().budgets.start(class);
        let birth = match run::enter(&session.handle, Doing::START).await {
            Some(fault) => Err(fault),
            None => {
                let scope = Scope { port: session.handle.clone(), peers: session.peers.clone() };
                let procedure = Arc::clone(&session.procedure);
                let birth = {
                    let Self { handle, machine, alarm, run_permit, .. } = &mut session;
                    let mut pending = PendingCall {
                        handle,
                        machine,
                        alarm,
                        run_permit,
                        class,
                        lifetime_ends: None,
                    };
                    // The future is boxed, because it is large and a session lives long.
                    let mut birth = Box::pin(procedure.instantiate(scope, budget));
                    pending.call(birth.as_mut(), budget.wall, CancelScope::Session).await
                };
                run::leave(&session.handle);
                birth
            }
        };
        match birth {
            Ok(instance) => {
                session.handle.live_stats.born(instance.usage());
                session.instance = Some(instance);
            }
            Err(fault) => {
                session.machine.stillborn(fault.kind);
                session.keep_evidence(None, fault.kind);
                session.fault = Some(("start", fault));
            }
        }
        let ending = session.play().await;
        let procedure = Arc::clone(&session.procedure);
        (session.finish(ending).await, procedure)
    }

    async fn play(&mut self) -> Ending {
        loop {
            if self.machine.ending().is_some() {
                self.membership = None;
                self.handle.mailbox.shut();
                self.slot.close();
            }
            let step = self.machine.step();
            if matches!(step, Step::Connect | Step::Listen)
                && let Err(error) = self.settle().await
            {
                let fault = not_settled(&error);
                self.machine.lost(fault.kind);
                self.fault = Some(("move", fault));
                continue;
            }
            match step {
                Step::Connect => {
                    self.machine.connecting();
                    self.dispatch(Event::Connect).await;
                }
                Step::Listen => {
                    let happening = poll_fn(|cx| self.poll_happening(cx)).await;
                    self.handle(happening).await;
                }
                Step::Flush => {
                    let outcome = poll_fn(|cx| self.poll_closing_flush(cx)).await;
                    self.machine.flushed(outcome);
                }
                Step::Disconnect(reason) => {
                    self.hang_up();
                    self.machine.closing();
                    self.dispatch(Event::Disconnect(reason)).await;
                }
                Step::Over(ending) => return ending,
                Step::Await => unreachable!("an event is awaited where it is dispatched"),
            }
        }
    }

    async fn handle(&mut self, happening: Happening) {
        let occasion = match &happening {
            Happening::Read(..) => Occasion::Read,
            Happening::Write => Occasion::Write,
            Happening::Timeout(_) => Occasion::Timeout,
            Happening::Timer(_) => Occasion::Timer,
            Happening::End => Occasion::End,
            Happening::Migration => return self.migrate().await,
            Happening::Sleep => return self.fall_asleep().await,
            Happening::Astray | Happening::Ending => return,
        };
        if !self.machine.offer(occasion) {
            return;
        }
        match happening {
            Happening::Read(mut buffer, count) => {
                if self.handle.config().pause_gate.is_closed() || self.run_permit.would_wait() {
                    buffer.shrink(count);
                }
                self.dispatch(Event::Read(&buffer.bytes()[..count])).await;
            }
            Happening::Write => self.dispatch(Event::Write).await,
            Happening::Timeout(idle_ms) => self.dispatch(Event::Timeout { idle_ms }).await,
            Happening::Timer(id) => self.dispatch(Event::Timer { id }).await,
            Happening::End => self.dispatch(Event::End).await,
            Happening::Astray | Happening::Migration | Happening::Sleep | Happening::Ending => {}
        }
    }

    /// Calls the plugin with an event. While the call waits, the session keeps sending and reacts
    /// to resets, signals and deadlines.
    async fn dispatch(&mut self, event: Event<'_>) {
        if let Some(fault) = run::enter(&self.handle, Doing::event(&event)).await {
            self.machine.returned(Err(fault.kind));
            self.fault = Some((event.name(), fault));
            return;
        }
        if self.asleep.is_some()
            && let Err(fault) = self.wake().await
        {
            run::leave(&self.handle);
            self.machine.returned(Err(fault.kind));
            self.fault = Some(("wake", fault));
            return;
        }
        self.drop_saved();
        let stirs = !matches!(event, Event::Timeout { .. });
        let Self { handle, machine, instance, alarm, run_permit, deadline_clock, .. } = self;
        let Some(instance) = instance else { return };
        if let Err(fault) = pending_call::free(handle, machine, alarm, instance).await {
            run::leave(&self.handle);
            self.machine.returned(Err(fault.kind));
            self.fault = Some((event.name(), fault));
            return;
        }
        let class = handle.priority();
        let budget = handle.config().budgets.event(class);
        let (cancel_scope, start) = (CancelScope::of(instance), Instant::now());
        let lifetime_ends = deadline_clock.ends(&handle.config().deadlines);
        let mut pending = PendingCall { handle, machine, alarm, run_permit, class, lifetime_ends };
        let Called { outcome, waited, at: end } = pending
            .call_from(start, pin!(instance.dispatch(event, budget)), budget.wall, cancel_scope)
            .await;
        // The time of waits for the peer is left out, because it says nothing about the version.
        let took = end.saturating_duration_since(start).saturating_sub(waited);
        self.procedure.meter().event(class, took);
        self.event_ended = Some(end);
        if stirs {
            (self.stirred, self.sleepless) = (start, false);
        }
        self.handle.live_stats.count(self.usage());
        run::leave(&self.handle);
        let verdict = match outcome {
            Ok(action) => Ok(action),
            Err(fault) => {
                let kind = fault.kind;
                self.keep_evidence(Some(event), kind);
                self.fault = Some((event.name(), fault));
                Err(kind)
            }
        };
        self.machine.returned(verdict);
        if self.deadline_clock.expired(end, &self.handle.config().deadlines) {
            self.machine.end(DisconnectReason::SessionTimeout, How::Flush);
        }
    }

    /// Waits for the next occurrence that is worth an event. Meanwhile moves bytes both ways.
    fn poll_happening(&mut self, cx: &mut Context<'_>) -> Poll<Happening> {
        loop {
            if let Poll::Ready(happening) = self.poll_once(cx) {
                // Gives up the place in the run queue; mail that waits there asks for a permit
                // again.
                self.run_permit.rest();
                return Poll::Ready(happening);
            }
            if !self.handle.mailbox.watch(cx.waker()) {
                return Poll::Pending;
            }
        }
    }

    fn poll_once(&mut self, cx: &mut Context<'_>) -> Poll<Happening> {
        // An event that has just ended has read the clock.
        let event_ended = self.event_ended.take();
        let handle = &self.handle;
        let marks = handle.config().watermarks;
        let signals = handle.mailbox.signals();
        if signals.contains(Signals::LOST) {
            let fault = Fault::new(
                FaultKind::InstanceLost,
                "it shared its instance with the session whose event failed",
            );
            self.machine.lost(fault.kind);
            self.fault = Some(("wait", fault));
            return Poll::Ready(Happening::Ending);
        }
        if pending_call::decide(&mut self.machine, signals) {
            return Poll::Ready(Happening::Ending);
        }
        if handle.astray().is_some() {
            handle.state().mail_waits |= signals.contains(Signals::MAIL);
            handle.state().migration_waits |= signals.contains(Signals::MIGRATE);
            return Poll::Ready(Happening::Astray);
        }
        let mut state = handle.state();
        if signals.contains(Signals::MIGRATE) || state.migration_waits {
            state.migration_waits = false;
            state.mail_waits |= signals.contains(Signals::MAIL);
            return Poll::Ready(Happening::Migration);
        }
        let has_mail = signals.contains(Signals::MAIL) || state.mail_waits;
        let sent = if has_mail && state.send_buffer.len() < marks.high_bytes {
            drop(state);
            let sent = self.send_mail(cx);
            state = self.handle.state();
            sent
        } else {
            // A full send buffer takes no more mail. The rest waits in the mailbox, which is
            // bounded.
            state.mail_waits = has_mail;
            state.filled |= has_mail;
            let before = state.bytes_out;
            let sent = flushed(state.poll_flush(cx)).map(|()| Sent::All);
            carry(&mut self.run_permit, state.bytes_out - before);
            sent
        };
        if sent.is_err() || state.closed {
            self.machine.end(DisconnectReason::PeerReset, How::Reset);
            return Poll::Ready(Happening::Ending);
        }
        // Nothing else begins while mail waits for a run permit.
        let is_queued = matches!(sent, Ok(Sent::Queued));
        if matches!(sent, Ok(Sent::Away)) {
            return Poll::Ready(Happening::Astray);
        }
        if state.filled && !is_queued && state.send_buffer.len() <= marks.low_bytes {
            state.filled = false;
            return Poll::Ready(Happening::Write);
        }
        let timer = state.timers.next().filter(|_| !is_queued);
        if let Some(id) = timer.and_then(|_| state.timers.take_due(Instant::now())) {
            return Poll::Ready(Happening::Timer(id));
        }
        let rationed = state.ration_reads();
        let (machine, config) = (&mut self.machine, self.handle.config());
        if rationed.is_some() {
            self.deadline_clock.excuse(Moment::now());
        } else if !is_queued
            && let Poll::Ready(happening) =
                poll_read(cx, machine, config, &mut state, Stream::poll_read)
        {
            return Poll::Ready(happening);
        }
        let now = event_ended.map_or_else(Moment::now, Moment::at);
        let flow = state.flow(now, &config.deadlines, machine.half_closed());
        let resumes = state.resumes_by(rationed.unwrap_or(now.at + config.timeout));

        let (due, moved) = self.deadline_clock.judge(now, config.timeout, &config.deadlines, &flow);
        if moved {
            state.last_exchange = now.at;
        }
        let exchanged = state.last_exchange;
        // The session delivers bytes that arrived in time before it acts on a deadline.
        if !matches!(due, DueAction::WaitUntil(_) | DueAction::End(DisconnectReason::WriteTimeout))
            && rationed.is_none()
            && let Poll::Ready(happening) =
                poll_read(cx, machine, config, &mut state, Stream::poll_read_late)
        {
            return Poll::Ready(happening);
        }
        drop(state);
        match due {
            DueAction::End(reason) => {
                let stalled = reason == DisconnectReason::WriteTimeout;
                self.machine.end(reason, if stalled { How::Reset } else { How::Flush });
                Poll::Ready(Happening::Ending)
            }
            DueAction::Timeout(idle) => {
                Poll::Ready(Happening::Timeout(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)))
            }
            DueAction::WaitUntil(next) => {
                let sleeps = self.sleeps_at(exchanged);
                if sleeps.is_some_and(|at| now.at >= at) {
                    return Poll::Ready(Happening::Sleep);
                }
                let next = sleeps.map_or(next, |at| at.min(next));
                let next = timer.map_or(next, |timer| timer.min(next)).min(resumes);
                self.alarm.arm(next, now.at, cx);
                Poll::Pending
            }
        }
    }
}

/// Reads from the peer with `read`, if the machine lets the peer send and the send buffer is
/// not full.
fn poll_read(
    cx: &mut Context<'_>,
    machine: &mut Machine,
    config: &SessionConfig,
    state: &mut HandleState,
    read: impl FnOnce(&mut Stream, &mut Context<'_>, &mut [u8]) -> Poll<io::Result<usize>>,
) -> Poll<Happening> {
    let share = config.quota.bytes();
    let is_full = state.send_buffer.len() >= config.watermarks.high_bytes;
    let Some(stream) = state.stream.as_mut().filter(|_| machine.may_read() && !is_full) else {
        return Poll::Pending;
    };
    let mut buffer = Incoming::take();
    let room = share.grain().min(READ_MAX_BYTES);
    match ready!(read(stream, cx, &mut buffer.bytes()[..room])) {
        Ok(0) => Poll::Ready(Happening::End),
        Ok(count) => {
            share.charge(count as u64);
            state.bytes_in += count as u64;
            Poll::Ready(Happening::Read(buffer, count))
        }
        Err(error) => {
            match error.kind() == io::ErrorKind::UnexpectedEof {
                true => machine.end(DisconnectReason::PeerTruncated, How::Flush),
                false => machine.end(DisconnectReason::PeerReset, How::Reset),
            }
            Poll::Ready(Happening::Ending)
        }
    }
}
