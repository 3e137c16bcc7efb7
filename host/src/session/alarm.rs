//! The one timer that a session has of its runtime.

use std::pin::Pin;
use std::task::Context;
use std::time::Instant;

use tokio::time::Sleep;

/// One timer of the runtime for all deadlines of a session. It may go off early and find nothing to
/// do. That is cheaper than moving it with every byte.
pub(super) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    at: Option<Instant>,
}

impl Alarm {
    pub(super) fn new(now: Instant) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep_until(now.into())), at: None }
    }

    /// Wakes the task at `deadline` or before.
    pub(super) fn arm(&mut self, deadline: Instant, cx: &mut Context<'_>) {
        if self.at.is_some_and(|at| at <= deadline) && !self.sleep.is_elapsed() {
            // The timer may hold the waker of a task that is gone, because a thread that takes over
            // a session runs it as another task.
            if self.sleep.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
            return;
        }
        self.sleep.as_mut().reset(deadline.into());
        self.at = Some(deadline);
        if self.sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}
