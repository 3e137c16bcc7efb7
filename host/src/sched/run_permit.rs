//! One session's part in the turns of its lane.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::Lane;
use super::cpu::{Stretch, nanoseconds};
use super::fair_queue::Flow;
use super::lane::Placement;
use super::quota::{Quota, Rate};
use super::run_queue::{RunQueue, Ticket, here};
use super::work;
use crate::event::Priority;

/// A session's turn: free to run, in line, or at it.
pub struct RunPermit {
    placement: Arc<Placement>,
    tenant: Arc<str>,
    quota: Arc<Quota>,
    run_queue: Arc<RunQueue>,
    flow: Flow,
    ticket: Arc<Ticket>,
    state: State,
    /// Lets everybody else who is ready get in line first.
    courtesy: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// It has let its thread look at its sockets before the turn that it waits for: once is enough.
    has_looked: bool,
    /// Its tenant has used up its share of CPU time: since when it waits for more, and until when.
    debt: Option<(Instant, Pin<Box<Sleep>>)>,
    /// CPU time that was not charged yet.
    used: Duration,
    /// CPU time outside of events that the next turn is charged with.
    carried: Duration,
    /// What the event in flight has spent in line, but for now.
    waited: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nobody competes, or nobody has noticed.
    Free,
    /// In line on this thread since then.
    Waiting(usize, Instant),
    /// At it on this thread.
    Holding(usize),
}

impl fmt::Debug for RunPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn")
            .field("flow", &self.flow)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl RunPermit {
    /// Of a session of this class and owner, on the lane of its seat.
    #[must_use]
    pub fn new(
        placement: Arc<Placement>,
        class: Priority,
        tenant: Arc<str>,
        quota: Arc<Quota>,
    ) -> Self {
        let run_queue = Arc::clone(placement.run_queue());
        let flow = run_queue.enroll(class, &tenant);
        let (ticket, state) = (Arc::default(), State::Free);
        let (used, carried, waited) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let (courtesy, debt) = (None, None);
        Self {
            placement,
            tenant,
            quota,
            run_queue,
            flow,
            ticket,
            state,
            courtesy,
            has_looked: false,
            debt,
            used,
            carried,
            waited,
        }
    }

    /// An event starts in this class, at `now`, which is now.
    pub fn begin(&mut self, class: Priority, now: Instant) {
        self.waited = Duration::ZERO;
        self.enter(class);
        if self.owes(now) {
            self.quota.cpu().waited();
        } else {
            self.start(now);
        }
    }

    /// Mail is to be moved, which is no event and so waits for its turn in the lane, but not for
    /// its tenant's share. Ready when it may be; [`RunPermit::rest`] is to follow. Wakes as
    /// [`RunPermit::poll`] does.
    pub fn poll_mail(&mut self, class: Priority, cx: &mut Context<'_>) -> Poll<()> {
        if self.state == State::Free {
            let now = Instant::now();
            self.enter(class);
            self.start(now);
            // It is short, so that others need not get in line first, unless they had no chance to.
            if let State::Waiting(thread, _) = self.state
                && !RunQueue::is_to_look(now)
            {
                self.courtesy = None;
                self.run_queue.dispatch(thread);
            }
        }
        self.poll(cx)
    }

    /// Does work of the session that is no event, as [`RunPermit::poll_mail`] has mail moved: each poll
    /// of it takes a turn, and what it uses is charged. Safe to cancel where the work is.
    pub async fn perform<F: Future>(&mut self, class: Priority, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|cx| {
            ready!(self.poll_mail(class, cx));
            let start = Instant::now();
            self.slice(Some(start));
            let stretch = Stretch::begin(start);
            let polled = work.as_mut().poll(cx);
            self.used(stretch.end());
            self.slice(None);
            self.rest();
            polled
        })
        .await
    }

    /// Something that takes a turn starts in this class.
    fn enter(&mut self, class: Priority) {
        self.used = std::mem::take(&mut self.carried);
        if class != self.flow.class || !Arc::ptr_eq(self.placement.run_queue(), &self.run_queue) {
            self.run_queue.dismiss(&self.flow, &self.tenant);
            self.run_queue = Arc::clone(self.placement.run_queue());
            self.flow = self.run_queue.enroll(class, &self.tenant);
        }
        self.flow.begins();
    }

    /// Gets in line where others want the thread as well.
    fn start(&mut self, now: Instant) {
        let place = here().filter(|place| place.lane == self.lane());
        if place.is_some_and(|place| self.run_queue.is_crowded(place.thread, now)) {
            self.queue_up(now);
        }
    }

    /// Whether its tenant has used up its share of CPU time, so that it has to wait for more.
    fn owes(&mut self, now: Instant) -> bool {
        let until = self.quota.cpu().not_before(now);
        if let Some(until) = until {
            let until = Rate::ask_again(until, now);
            self.debt = Some((now, Box::pin(tokio::time::sleep_until(until.into()))));
        }
        until.is_some()
    }

    /// Ready where the session may run. Wakes the task when that changes, or has it taken to
    /// another thread.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some((since, until)) = &mut self.debt {
            ready!(until.as_mut().poll(cx));
            let now = Instant::now();
            self.waited += now.saturating_duration_since(*since);
            self.debt = None;
            // Others of its tenant may have been faster.
            if !self.owes(now) {
                self.start(now);
            }
        }
        let State::Waiting(thread, since) = self.state else { return Poll::Ready(()) };
        self.ticket.waker.register(cx.waker());
        if self.courtesy.as_mut().is_some_and(|others| others.as_mut().poll(cx).is_ready()) {
            self.courtesy = None;
            RunQueue::looked(Instant::now());
            // Where the turn is its own it is awake already; woken as well, it would be polled once
            // more before the thread has looked at its sockets.
            self.ticket.waker.take();
            self.run_queue.dispatch(thread);
            if self.ticket.granted().is_none() {
                self.ticket.waker.register(cx.waker());
            }
        }
        let Some(granted) = self.ticket.granted() else { return Poll::Pending };
        if here().is_some_and(|place| place.thread != granted) {
            self.placement.ask(self.lane(), Some(granted));
            return Poll::Pending;
        }
        let now = Instant::now();
        if !std::mem::replace(&mut self.has_looked, true) && RunQueue::is_to_look(now) {
            // One turn has followed the other. Sessions that have become ready meanwhile get in
            // line, and the turn goes to the best of all.
            self.run_queue.again(
                granted,
                granted,
                &mut self.flow,
                &self.ticket,
                std::mem::take(&mut self.used),
            );
            self.state = State::Waiting(granted, since);
            self.courtesy = Some(Box::pin(tokio::task::yield_now()));
            return self.poll(cx);
        }
        self.waited += now.saturating_duration_since(since);
        (self.courtesy, self.has_looked) = (None, false);
        self.state = State::Holding(granted);
        Poll::Ready(())
    }

    /// Whether others want the thread as well, so that what happens now is in its turn.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self.state, State::Holding(_))
    }

    /// The session has used so much outside of its turns: its next one is charged with it.
    pub fn carry(&mut self, cpu: Duration) {
        self.carried += cpu;
    }

    /// The session's guest runs from `start` on, or does no longer.
    pub fn slice(&self, start: Option<Instant>) {
        match start {
            Some(_) => work::pause(&self.quota),
            None => work::go_on(),
        }
        if let Some(place) = here() {
            self.run_queue.slice(place.thread, start);
        }
    }

    /// The session has used so much.
    pub fn used(&mut self, cpu: Duration) {
        self.used += cpu;
        self.quota.cpu().charge(nanoseconds(cpu));
    }

    /// Its slice is over: gets in line for another, or waits for its tenant to have CPU time again.
    pub fn pause(&mut self) {
        let now = Instant::now();
        self.flow.outlasts();
        if self.owes(now) {
            self.quota.cpu().waited();
            self.yield_turn();
            return;
        }
        let State::Holding(thread) = self.state else {
            self.queue_up(now);
            return;
        };
        let next = self.run_queue.post(thread, now);
        self.run_queue.again(
            thread,
            next,
            &mut self.flow,
            &self.ticket,
            std::mem::take(&mut self.used),
        );
        if next != thread {
            self.run_queue.dispatch(thread);
        }
        self.stand(next, now);
    }

    /// The event waits for something else, or is over: its turn is free.
    pub fn rest(&mut self) {
        self.debt = None;
        self.yield_turn();
    }

    fn yield_turn(&mut self) {
        let thread = match self.state {
            State::Free => return,
            State::Waiting(thread, since) => {
                self.waited += since.elapsed();
                thread
            }
            State::Holding(thread) => thread,
        };
        self.run_queue.leave(thread, &mut self.flow, &self.ticket, std::mem::take(&mut self.used));
        (self.state, self.courtesy, self.has_looked) = (State::Free, None, false);
    }

    /// How long the event in flight has been in line, or waited for its tenant's share.
    #[must_use]
    pub fn waited(&self) -> Duration {
        let since = match (self.state, &self.debt) {
            (State::Waiting(_, since), _) => Some(since),
            (_, debt) => debt.as_ref().map(|(since, _)| *since),
        };
        self.waited + since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn queue_up(&mut self, now: Instant) {
        // On a thread of no lane nobody competes.
        let Some(place) = here().filter(|place| place.lane == self.lane()) else { return };
        let thread = self.run_queue.post(place.thread, now);
        self.run_queue.join(thread, &mut self.flow, &self.ticket, std::mem::take(&mut self.used));
        self.stand(thread, now);
    }

    fn stand(&mut self, thread: usize, now: Instant) {
        self.state = State::Waiting(thread, now);
        self.courtesy = Some(Box::pin(tokio::task::yield_now()));
    }

    fn lane(&self) -> Lane {
        self.run_queue.lane()
    }
}

impl Drop for RunPermit {
    fn drop(&mut self) {
        self.rest();
        self.run_queue.dismiss(&self.flow, &self.tenant);
    }
}

#[cfg(test)]
mod tests;
