//! When an event may run: the pause gate of all sessions, run permits, and orders to end now.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::handle::SessionHandle;
use super::live_stats::Doing;
use super::mailbox::Signals;
use crate::event::{Fault, FaultKind};
use crate::sched::{RunPermit, Stretch};

/// Marks the start of an event, as soon as the pause gate is open.
///
/// Returns a fault, and starts no event, if an order to end now arrives while the gate is closed.
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
            // Register the waker before reading the signals. Only an order to end now matters here;
            // other signals wait.
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

/// Marks the end of an event.
pub(super) fn leave(handle: &SessionHandle) {
    handle.live_stats.end();
    handle.config().pause_gate.event_ended();
}

/// Polls a guest call while the session holds a run permit, and counts its CPU time. `now` is the
/// current time, if the caller has read it already. Also returns when the call ended.
pub(super) fn poll<F: Future>(
    run_permit: &mut RunPermit,
    handle: &SessionHandle,
    mut call: Pin<&mut F>,
    mut now: Option<Instant>,
    cx: &mut Context<'_>,
) -> Poll<(F::Output, Instant)> {
    loop {
        ready!(run_permit.poll(cx));
        let start = now.take().unwrap_or_else(Instant::now);
        run_permit.slice(Some(start));
        let stretch = Stretch::begin(start);
        let polled = call.as_mut().poll(cx);
        let end = Instant::now();
        let used = stretch.end_at(end);
        run_permit.slice(None);
        handle.live_stats.spend(used);
        run_permit.used(used);
        if polled.is_ready() || !handle.slice_ended() {
            run_permit.rest();
            return polled.map(|output| (output, end));
        }
        run_permit.pause();
    }
}

/// The fault of an event whose session has to end now, or `None` without such an order.
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
