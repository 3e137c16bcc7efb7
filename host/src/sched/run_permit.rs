//! One session's run permit: waiting for it, holding it and giving it back.

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

/// A session's run permit. The session runs freely, waits for the permit, or holds it.
pub struct RunPermit {
    placement: Arc<Placement>,
    tenant: Arc<str>,
    quota: Arc<Quota>,
    run_queue: Arc<RunQueue>,
    flow: Flow,
    ticket: Arc<Ticket>,
    state: State,
    /// Lets all other ready sessions join the queue first.
    courtesy: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Whether the session has let its thread look at its sockets before the next permit. Once is
    /// enough.
    has_looked: bool,
    /// Since when, and until when, the session waits for its tenant's CPU quota.
    debt: Option<(Instant, Pin<Box<Sleep>>)>,
    /// CPU time that is not charged yet.
    used: Duration,
    /// CPU time outside of events, which the next event is charged with.
    carried: Duration,
    /// The finished waits of the current event for permit and quota.
    waited: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing competes for the thread, or no competition was noticed.
    Free,
    /// Waits in the queue of this thread since then.
    Waiting(usize, Instant),
    /// Holds the permit of this thread.
    Holding(usize),
}

impl fmt::Debug for RunPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunPermit")
            .field("flow", &self.flow)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl RunPermit {
    /// Creates the permit of a session of this class and owner, on the lane of its placement.
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

    /// Starts an event in this class. `now` is the current time.
    pub fn begin(&mut self, class: Priority, now: Instant) {
        self.waited = Duration::ZERO;
        self.enter(class);
        if self.owes(now) {
            self.quota.cpu().waited();
        } else {
            self.start(now);
        }
    }

    /// Returns whether an event that starts now has to wait. Reads the clock only if the tenant's
    /// CPU time is limited, or if sessions of several owners or classes share the lane.
    #[must_use]
    pub fn would_wait(&self) -> bool {
        if self.quota.cpu().not_before_now().is_some() {
            return true;
        }
        self.run_queue.may_be_crowded()
            && here().is_some_and(|at| {
                at.lane == self.lane() && self.run_queue.is_crowded(at.thread, Instant::now())
            })
    }

    /// Waits for a permit to move mail. Mail is no event: it waits for the lane's permit, but not
    /// for the tenant's CPU quota.
    ///
    /// Ready when the mail may be moved. The caller then moves it and calls [`RunPermit::rest`].
    /// Wakes the task as [`RunPermit::poll`] does.
    pub fn poll_mail(&mut self, class: Priority, cx: &mut Context<'_>) -> Poll<()> {
        if self.state == State::Free {
            let now = Instant::now();
            self.enter(class);
            self.start(now);
            // Moving mail is short: others need not join first, unless they had no chance to.
            if let State::Waiting(thread, _) = self.state
                && !RunQueue::is_to_look(now)
            {
                self.courtesy = None;
                self.run_queue.dispatch(thread);
            }
        }
        self.poll(cx)
    }

    /// Runs work of the session that is no event. Each poll of the work takes a permit, as
    /// [`RunPermit::poll_mail`] does, and its CPU time is charged.
    ///
    /// Cancel safe if `work` is.
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

    /// Prepares the flow for something that needs a permit in this class.
    fn enter(&mut self, class: Priority) {
        self.used = std::mem::take(&mut self.carried);
        if class != self.flow.class || !Arc::ptr_eq(self.placement.run_queue(), &self.run_queue) {
            self.run_queue.dismiss(&self.flow, &self.tenant);
            self.run_queue = Arc::clone(self.placement.run_queue());
            self.flow = self.run_queue.enroll(class, &self.tenant);
        }
        self.flow.begins();
    }

    /// Joins the queue if the thread is crowded.
    fn start(&mut self, now: Instant) {
        let place = here().filter(|place| place.lane == self.lane());
        if place.is_some_and(|place| self.run_queue.is_crowded(place.thread, now)) {
            self.queue_up(now);
        }
    }

    /// Returns whether the tenant has used up its CPU quota, and sets the wait for more.
    fn owes(&mut self, now: Instant) -> bool {
        let until = self.quota.cpu().not_before(now);
        if let Some(until) = until {
            let until = Rate::ask_again(until, now);
            self.debt = Some((now, Box::pin(tokio::time::sleep_until(until.into()))));
        }
        until.is_some()
    }

    /// Waits until the session may run. Wakes the task when that changes, or moves the task to
    /// another thread.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some((since, until)) = &mut self.debt {
            ready!(until.as_mut().poll(cx));
            let now = Instant::now();
            self.waited += now.saturating_duration_since(*since);
            self.debt = None;
            // Other sessions of the tenant may have used up the quota meanwhile.
            if !self.owes(now) {
                self.start(now);
            }
        }
        let State::Waiting(thread, since) = self.state else { return Poll::Ready(()) };
        self.ticket.waker.register(cx.waker());
        if self.courtesy.as_mut().is_some_and(|others| others.as_mut().poll(cx).is_ready()) {
            self.courtesy = None;
            RunQueue::looked(Instant::now());
            // If the permit goes to this session, its task is awake already. A wake-up would poll
            // it once more before the thread has looked at its sockets.
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
            // One permit has followed another. Sessions that became ready meanwhile join the queue,
            // and the permit goes to the best of all.
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

    /// Returns whether the session holds a permit, because others want its thread as well.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self.state, State::Holding(_))
    }

    /// Charges the session's next event with CPU time that the session used outside of events.
    pub fn carry(&mut self, cpu: Duration) {
        self.carried += cpu;
    }

    /// Notes that the session's guest runs since `start`, or runs no longer (`None`).
    pub fn slice(&self, start: Option<Instant>) {
        match start {
            Some(_) => work::pause(&self.quota),
            None => work::go_on(),
        }
        if let Some(place) = here() {
            self.run_queue.slice(place.thread, start);
        }
    }

    /// Charges the session and its tenant with CPU time.
    pub fn used(&mut self, cpu: Duration) {
        self.used += cpu;
        self.quota.cpu().charge(nanoseconds(cpu));
    }

    /// Ends the session's slice: the session queues for another, or waits for its tenant's CPU
    /// quota.
    pub fn pause(&mut self) {
        let now = Instant::now();
        self.flow.outlasts();
        if self.owes(now) {
            self.quota.cpu().waited();
            self.give_back();
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

    /// Gives the permit back, as the event waits for something else or is over.
    pub fn rest(&mut self) {
        self.debt = None;
        self.give_back();
    }

    fn give_back(&mut self) {
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

    /// Returns how long the current event has waited for a permit or for its tenant's CPU quota.
    #[must_use]
    pub fn waited(&self) -> Duration {
        let since = match (self.state, &self.debt) {
            (State::Waiting(_, since), _) => Some(since),
            (_, debt) => debt.as_ref().map(|(since, _)| *since),
        };
        self.waited + since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn queue_up(&mut self, now: Instant) {
        // On a thread of no lane nothing competes.
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
