//! When an event may run: the passage through the latch of all sessions, its turns in the lane, and
//! what an order to end now makes of it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::handle::SessionHandle;
use super::live_stats::Doing;
use super::mailbox::Signals;
use crate::event::{Fault, FaultKind};
use crate::sched::{RunPermit, Stretch};

/// Says that an event starts, as soon as the latch of all sessions lets it. An order to end now
/// comes through a closed latch; then no event starts, and this is why.
pub(super) async fn enter(handle: &SessionHandle, doing: Doing) -> Option<Fault> {
    let pause_gate = &handle.config().pause_gate;
    loop {
        handle.live_stats.begin(doing);
        if !pause_gate.is_closed() {
            return None;
        }
        handle.live_stats.end();
        pause_gate.event_ended();
        let mut opened = pin!(pause_gate.opened());
        let cut = poll_fn(|cx| {
            // Looked at after the waker is there; only an order to end now is of interest, the
            // others wait.
            handle.mailbox.watch(cx.waker());
            match cut_off(handle.mailbox.pending()) {
                Some(fault) => Poll::Ready(Some(fault)),
                None => opened.as_mut().poll(cx).map(|()| None),
            }
        });
        if let Some(fault) = cut.await {
            return Some(fault);
        }
    }
}

/// Says that it is over.
pub(super) fn leave(handle: &SessionHandle) {
    handle.live_stats.end();
    handle.config().pause_gate.event_ended();
}

/// Polls a guest's call while it is the session's turn, and counts the CPU time it takes. `now` is
/// now where the caller knows it.
pub(super) fn poll<F: Future>(
    run_permit: &mut RunPermit,
    handle: &SessionHandle,
    mut call: Pin<&mut F>,
    mut now: Option<Instant>,
    cx: &mut Context<'_>,
) -> Poll<F::Output> {
    loop {
        ready!(run_permit.poll(cx));
        let start = now.take().unwrap_or_else(Instant::now);
        run_permit.slice(Some(start));
        let stretch = Stretch::begin(start);
        let polled = call.as_mut().poll(cx);
        let used = stretch.end();
        run_permit.slice(None);
        handle.live_stats.spend(used);
        run_permit.used(used);
        if polled.is_ready() || !handle.slice_ended() {
            run_permit.rest();
            return polled;
        }
        run_permit.pause();
    }
}

/// What becomes of an event when the session is to end now.
pub(super) fn cut_off(signals: Signals) -> Option<Fault> {
    if signals.contains(Signals::CANCEL) {
        let detail = "the server's deadline for its sessions to end passed";
        return Some(Fault::new(FaultKind::Cancelled, detail));
    }
    let aborted = signals.contains(Signals::ABORT);
    aborted.then(|| {
        Fault::new(FaultKind::Aborted, "the operator aborted the session in the middle of an event")
    })
}
