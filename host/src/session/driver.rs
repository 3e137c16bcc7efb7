//! The driver: owns one session's clock, wire and instance, and does what the machine says.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::alarm::Alarm;
use super::buffers::Incoming;
use super::clock::{Clock, Verdict};
use super::line::Line;
use super::machine::{Ending, How, Machine, Occasion, Step};
use super::mailbox::Orders;
use super::pulse::Doing;
use super::turn;
use crate::event::{
    DisconnectReason, EndReason, Event, Fault, FaultKind, Instance, Port, Priority, Procedure, Scope, Usage,
};
use crate::net::Wire;
use crate::sched::{self, Lane, Stretch};

/// How long a closed connection is read to its end, so that the peer gets what was flushed and not a reset.
const LINGER_MAX: Duration = Duration::from_secs(2);
/// How much is read and thrown away meanwhile.
const LINGER_MAX_BYTES: usize = 1 << 20;

/// What became of a session.
#[derive(Debug)]
pub struct Ended {
    /// The true reason.
    pub reason: EndReason,
    /// The fault that ended it, or the one of its farewell.
    pub fault: Option<(&'static str, Fault)>,
    /// Events dispatched.
    pub events: u64,
    /// Bytes from the peer.
    pub bytes_in: u64,
    /// Bytes to the peer.
    pub bytes_out: u64,
    /// Fuel and memory.
    pub usage: Usage,
    /// CPU time of its events.
    pub cpu: Duration,
    /// Its class at its end.
    pub class: Priority,
    /// From the first event to the last.
    pub lasted: Duration,
}

/// One session at work. `I` is its instance, `M` its membership in the server, dropped as soon as the session is
/// known to end.
pub struct Session<I, M> {
    line: Arc<Line>,
    machine: Machine,
    instance: Option<I>,
    membership: Option<M>,
    fault: Option<(&'static str, Fault)>,
    alarm: Alarm,
    clock: Clock,
}

/// Something that happened between events.
enum Happening {
    Read(Incoming, usize),
    Write,
    Timeout(u64),
    Timer(u32),
    End,
    /// The session belongs in another lane.
    Astray,
    /// An ending was decided on.
    Ending,
}

impl<I: Instance, M> Session<I, M> {
    /// Runs a session from its instance's birth until the connection is closed. Dropping the future closes the
    /// connection and tells the plugin nothing; [`Line::cancel`] is the orderly way.
    pub async fn run<P>(line: Arc<Line>, procedure: &P, scope: Scope, membership: M) -> Ended
    where
        P: Procedure<Instance = I>,
    {
        let now = Instant::now();
        let mut session = Self {
            line,
            machine: Machine::default(),
            instance: None,
            membership: Some(membership),
            fault: None,
            alarm: Alarm::new(now),
            clock: Clock::new(now),
        };
        let budget = sched::budget(session.line.priority());
        let birth = match turn::enter(&session.line, Doing::START).await {
            Some(fault) => Err(fault),
            None => {
                // Boxed, because it is large and a session lives long.
                let birth = Box::pin(procedure.instantiate(scope, budget));
                let birth = tokio::time::timeout(budget.wall, birth).await;
                turn::leave(&session.line);
                let late = "the start took longer than its class allows";
                birth.unwrap_or_else(|_| Err(Fault::new(FaultKind::WallTime, late)))
            }
        };
        match birth {
            Ok(instance) => session.instance = Some(instance),
            Err(fault) => {
                session.machine.stillborn(fault.kind);
                session.fault = Some(("start", fault));
            }
        }
        let ending = session.play().await;
        session.finish(ending).await
    }

    async fn play(&mut self) -> Ending {
        loop {
            if self.machine.ending().is_some() {
                self.membership = None;
                self.line.mailbox.shut();
            }
            let step = self.machine.step();
            if matches!(step, Step::Connect | Step::Listen)
                && let Some(lane) = self.line.astray()
                && let Err(error) = self.change(lane).await
            {
                let detail = format!("the session could not change its lane: {error}");
                self.fault = Some(("move", Fault::new(FaultKind::Host, detail)));
                self.machine.lost(FaultKind::Host);
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
                    let outcome = poll_fn(|cx| self.poll_parting_flush(cx)).await;
                    self.machine.flushed(outcome);
                }
                Step::Disconnect(reason) => {
                    self.hang_up();
                    self.machine.parting();
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
            Happening::Astray | Happening::Ending => return,
        };
        if !self.machine.offer(occasion) {
            return;
        }
        match happening {
            Happening::Read(mut buffer, count) => self.dispatch(Event::Read(&buffer.bytes()[..count])).await,
            Happening::Write => self.dispatch(Event::Write).await,
            Happening::Timeout(idle_ms) => self.dispatch(Event::Timeout { idle_ms }).await,
            Happening::Timer(id) => self.dispatch(Event::Timer { id }).await,
            Happening::End => self.dispatch(Event::End).await,
            Happening::Astray | Happening::Ending => {}
        }
    }

    /// Goes to another lane between events. What the peer sent waits in the socket meanwhile.
    async fn change(&mut self, lane: Lane) -> io::Result<()> {
        let line = Arc::clone(&self.line);
        let with_wire = |act: fn(&mut Wire) -> io::Result<()>| line.state().wire.as_mut().map_or(Ok(()), act);
        with_wire(Wire::loosen)?;
        line.seat().change(lane).await;
        with_wire(Wire::bind)?;
        self.alarm = Alarm::new(Instant::now());
        Ok(())
    }

    /// Calls the plugin. While the call waits, the session goes on sending and hears of resets, orders and deadlines.
    async fn dispatch(&mut self, event: Event<'_>) {
        if let Some(fault) = turn::enter(&self.line, Doing::event(&event)).await {
            self.machine.returned(Err(fault.kind));
            self.fault = Some((event.name(), fault));
            return;
        }
        let Self { line, machine, instance, alarm, .. } = self;
        let Some(instance) = instance else { return };
        let class = line.priority();
        let budget = sched::budget(class);
        let (start, mut cpu) = (Instant::now(), Duration::ZERO);
        let mut deadline = None;
        let outcome = {
            let mut call = pin!(instance.dispatch(event, budget));
            poll_fn(|cx| {
                let stretch = Stretch::begin(if deadline.is_none() { start } else { Instant::now() });
                let polled = call.as_mut().poll(cx);
                cpu += stretch.end();
                if let Poll::Ready(outcome) = polled {
                    return Poll::Ready(outcome);
                }
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + budget.wall);
                match poll_beside(line, machine, alarm, deadline, cx) {
                    Poll::Ready(fault) => Poll::Ready(Err(fault)),
                    // A write that timed out just now is only seen by asking the call again.
                    Poll::Pending if line.state().timed_out => call.as_mut().poll(cx),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await
        };
        line.meter().event(class, start.elapsed());
        line.pulse.count(instance.usage(), cpu);
        turn::leave(&self.line);
        let verdict = match outcome {
            Ok(action) => Ok(action),
            Err(fault) => {
                let kind = fault.kind;
                self.fault = Some((event.name(), fault));
                Err(kind)
            }
        };
        self.machine.returned(verdict);
        if self.clock.expired(&self.line.config().deadlines) {
            self.machine.end(DisconnectReason::SessionTimeout, How::Flush);
        }
    }

    /// The next thing worth an event. Moves bytes both ways while it waits.
    fn poll_happening(&mut self, cx: &mut Context<'_>) -> Poll<Happening> {
        loop {
            if let Poll::Ready(happening) = self.poll_once(cx) {
                return Poll::Ready(happening);
            }
            if !self.line.mailbox.watch(cx.waker()) {
                return Poll::Pending;
            }
        }
    }

    fn poll_once(&mut self, cx: &mut Context<'_>) -> Poll<Happening> {
        let line = Arc::clone(&self.line);
        let marks = line.config().watermarks;
        let orders = line.mailbox.orders();
        if decide(&mut self.machine, orders) {
            return Poll::Ready(Happening::Ending);
        }
        if line.astray().is_some() {
            line.state().mail_waits |= orders.contains(Orders::MAIL);
            return Poll::Ready(Happening::Astray);
        }
        let mut state = line.state();
        if orders.contains(Orders::MAIL) || state.mail_waits {
            state.mail_waits = false;
            loop {
                // What is full takes no more, however often it is asked: the rest waits in the mailbox, which is bounded.
                if state.outbox.len() >= marks.high_bytes {
                    state.mail_waits = true;
                    state.filled = true;
                    break;
                }
                let Some(piece) = line.mailbox.next() else { break };
                state.outbox.push(&piece);
            }
        }
        if matches!(state.poll_flush(cx), Poll::Ready(Err(_))) || state.closed {
            self.machine.end(DisconnectReason::PeerReset, How::Reset);
            return Poll::Ready(Happening::Ending);
        }
        if state.filled && state.outbox.len() <= marks.low_bytes {
            state.filled = false;
            return Poll::Ready(Happening::Write);
        }
        if let Some(id) = state.timers.next().and_then(|_| state.timers.take_due(Instant::now())) {
            return Poll::Ready(Happening::Timer(id));
        }
        if self.machine.may_read()
            && state.outbox.len() < marks.high_bytes
            && let Some(wire) = &mut state.wire
        {
            let mut buffer = Incoming::take();
            match wire.poll_read(cx, buffer.bytes()) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Happening::End),
                Poll::Ready(Ok(count)) => {
                    state.bytes_in += count as u64;
                    return Poll::Ready(Happening::Read(buffer, count));
                }
                Poll::Ready(Err(error)) => {
                    let truncated = error.kind() == io::ErrorKind::UnexpectedEof;
                    match truncated {
                        true => self.machine.end(DisconnectReason::PeerTruncated, How::Flush),
                        false => self.machine.end(DisconnectReason::PeerReset, How::Reset),
                    }
                    return Poll::Ready(Happening::Ending);
                }
                Poll::Pending => {}
            }
        }
        let (flow, timer) = (state.flow(self.machine.half_closed()), state.timers.next());
        let (now, config) = (Instant::now(), line.config());
        let (verdict, moved) = self.clock.judge(now, config.timeout, &config.deadlines, &flow);
        if moved {
            state.last_exchange = now;
        }
        drop(state);
        match verdict {
            Verdict::End(reason) => {
                let stalled = reason == DisconnectReason::WriteTimeout;
                self.machine.end(reason, if stalled { How::Reset } else { How::Flush });
                Poll::Ready(Happening::Ending)
            }
            Verdict::Timeout(idle) => {
                Poll::Ready(Happening::Timeout(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)))
            }
            Verdict::WaitUntil(next) => {
                self.alarm.arm(timer.map_or(next, |timer| timer.min(next)), cx);
                Poll::Pending
            }
        }
    }

    /// Sends what is queued, then says that nothing follows. Only the peer's silence or an order to cancel stops it.
    fn poll_parting_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DisconnectReason>> {
        loop {
            let line = Arc::clone(&self.line);
            let orders = line.mailbox.orders();
            if orders.contains(Orders::NOW) {
                let aborted = orders.contains(Orders::ABORT);
                let reason = if aborted { DisconnectReason::Evicted } else { DisconnectReason::ServerStopped };
                return Poll::Ready(Err(reason));
            }
            let mut state = line.state();
            let sent = state.poll_flush(cx);
            if sent.is_ready() && state.stalled_since.is_none() {
                state.stalled_since = Some(Instant::now());
            }
            let done = match (sent, &mut state.wire) {
                // The peer has finished too, so closing says all there is to say.
                (Poll::Ready(Ok(())), Some(Wire::Plain(_))) if self.machine.half_closed() => Poll::Ready(Ok(())),
                (Poll::Ready(Ok(())), Some(wire)) => wire.poll_shutdown(cx),
                (sent, _) => sent,
            };
            match done {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(DisconnectReason::PeerReset)),
                Poll::Pending => {}
            }
            let deadline = state.stalled_since.unwrap_or_else(Instant::now) + line.config().deadlines.write;
            drop(state);
            if Instant::now() >= deadline {
                return Poll::Ready(Err(DisconnectReason::WriteTimeout));
            }
            self.alarm.arm(deadline, cx);
            if !line.mailbox.watch(cx.waker()) {
                return Poll::Pending;
            }
        }
    }

    /// No I/O is possible from here on. A connection that is not to be flushed is reset now.
    fn hang_up(&mut self) {
        let mut state = self.line.state();
        state.close();
        if self.machine.ending().is_some_and(|ending| ending.how == How::Reset)
            && let Some(wire) = state.wire.take()
        {
            wire.reset();
        }
    }

    async fn finish(mut self, ending: Ending) -> Ended {
        self.membership = None;
        self.line.mailbox.shut();
        self.hang_up();
        let usage = self.instance.take().map(|instance| instance.usage()).unwrap_or_default();
        let lasted = self.clock.age(Instant::now());
        if ending.how == How::Flush && !self.machine.half_closed() {
            self.linger().await;
        }
        let mut state = self.line.state();
        state.wire = None;
        Ended {
            reason: ending.reason,
            fault: self.fault,
            events: self.line.pulse.events(),
            bytes_in: state.bytes_in,
            bytes_out: state.bytes_out,
            usage,
            cpu: self.line.pulse.cpu(),
            class: self.line.priority(),
            lasted,
        }
    }

    /// Reads to the peer's end, within limits. Closing with bytes unread would make the system send a reset, which
    /// can overtake what was flushed.
    async fn linger(&mut self) {
        let deadline = Instant::now() + LINGER_MAX;
        let mut left = LINGER_MAX_BYTES;
        poll_fn(|cx| {
            loop {
                if self.line.mailbox.orders().contains(Orders::NOW) || Instant::now() >= deadline {
                    return Poll::Ready(());
                }
                let mut state = self.line.state();
                let Some(wire) = &mut state.wire else { return Poll::Ready(()) };
                match wire.poll_read(cx, Incoming::take().bytes()) {
                    Poll::Ready(Ok(count)) if count > 0 && count < left => left -= count,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => {
                        drop(state);
                        self.alarm.arm(deadline, cx);
                        if !self.line.mailbox.watch(cx.waker()) {
                            return Poll::Pending;
                        }
                    }
                }
            }
        })
        .await;
    }
}

/// What goes on beside a call that waits. Ready where the call has to be given up.
fn poll_beside(
    line: &Line,
    machine: &mut Machine,
    alarm: &mut Alarm,
    deadline: Instant,
    cx: &mut Context<'_>,
) -> Poll<Fault> {
    let orders = line.mailbox.orders();
    if let Some(fault) = turn::cut_off(orders) {
        return Poll::Ready(fault);
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
    if state.wire.is_some() {
        let broken = matches!(state.poll_flush(cx), Poll::Ready(Err(_))) || state.closed;
        if broken || state.wire.as_ref().is_some_and(Wire::is_broken) {
            state.close();
            // The socket is of no more use: it goes now, and not when the plugin is done.
            state.wire = None;
            machine.end(DisconnectReason::PeerReset, How::Reset);
        } else if let Some(since) = state.stalled_since {
            let stall = since + line.config().deadlines.write;
            state.timed_out |= now >= stall;
            next = next.min(stall.max(now));
        }
        if state.timed_out {
            machine.end(DisconnectReason::WriteTimeout, How::Reset);
            next = deadline;
        }
    }
    drop(state);
    alarm.arm(next, cx);
    if line.mailbox.watch(cx.waker()) {
        cx.waker().wake_by_ref();
    }
    Poll::Pending
}

/// Turns orders into an ending. True where there is one now.
fn decide(machine: &mut Machine, orders: Orders) -> bool {
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
