//! The one timer that a session has of its runtime.

use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Instant;

use tokio::time::Sleep;

/// One timer of the runtime for all deadlines of a session. It may go off early and find nothing to
/// do. That is cheaper than moving it with every byte.
pub(super) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    at: Option<Instant>,
    /// The waker of the task that the timer wakes.
    waker: Option<Waker>,
}

impl Alarm {
    pub(super) fn new(now: Instant) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep_until(now.into())), at: None, waker: None }
    }

    /// Wakes the task at `deadline` or before. `now` is the current time, or a time since the task
    /// was last woken.
    pub(super) fn arm(&mut self, deadline: Instant, now: Instant, cx: &mut Context<'_>) {
        // A timer whose time was still ahead when the task was woken has not gone off since without
        // waking the task again.
        let is_set = self.at.is_some_and(|at| now < at && at <= deadline);
        // A thread that takes over a session runs it as another task.
        let is_known = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if is_set && is_known {
            return;
        }
        if !is_set {
            self.sleep.as_mut().reset(deadline.into());
            self.at = Some(deadline);
        }
        if !is_known {
            self.waker = Some(cx.waker().clone());
        }
        if self.sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}
