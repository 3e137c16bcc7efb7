//! The end of a session: the driver sends the queue, closes the connection and makes the result.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::session::{Ended, Session};
use crate::event::{DisconnectReason, EndReason, Port, Procedure};
use crate::net::Stream;
use crate::sched::Moment;
use crate::session::buffers::Incoming;
use crate::session::machine::{Ending, How};
use crate::session::mailbox::Signals;

/// How long a session reads a closed connection, so that the peer gets the flushed bytes and no
/// reset.
const LINGER_MAX: Duration = Duration::from_secs(2);
/// How many bytes a session reads and discards during that time.
const LINGER_MAX_BYTES: usize = 1 << 20;

/// How long the final flush may take if a deadline or the operator ended the session.
pub(super) const FLUSH_MAX: Duration = Duration::from_secs(5);

/// Whether a deadline or the operator ended the session, and not the plugin or the peer. A stop of
/// the server does not count, because it has a deadline of its own.
pub(super) fn is_deadline(reason: DisconnectReason) -> bool {
    use DisconnectReason as R;
    matches!(
        reason,
        R::SessionTimeout | R::IdleTimeout | R::FirstByteTimeout | R::MinRate | R::Evicted
    )
}

impl<P: Procedure, M> Session<P, M> {
    /// Sends the queue, then shuts the connection down for sending.
    ///
    /// # Errors
    /// The reason that cut the flush off: a broken connection, a peer that reads too little, an
    /// order to end now, or [`FLUSH_MAX`] after a deadline.
    pub(super) fn poll_closing_flush(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), DisconnectReason>> {
        loop {
            let handle = Arc::clone(&self.handle);
            let signals = handle.mailbox.signals();
            if signals.contains(Signals::NOW) {
                let aborted = signals.contains(Signals::ABORT);
                let reason = if aborted {
                    DisconnectReason::Evicted
                } else {
                    DisconnectReason::ServerStopped
                };
                return Poll::Ready(Err(reason));
            }
            let mut state = handle.state();
            let sent = state.poll_flush(cx);
            let now = Moment::now();
            if sent.is_ready() && !state.is_stalled() {
                state.stall(now);
            }
            let done = match (sent, &mut state.stream) {
                // The peer has finished too, so closing the socket is enough.
                (Poll::Ready(Ok(())), Some(Stream::Plain(_))) if self.machine.half_closed() => {
                    Poll::Ready(Ok(()))
                }
                (Poll::Ready(Ok(())), Some(stream)) => stream.poll_shutdown(cx),
                (sent, _) => sent,
            };
            match done {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(DisconnectReason::PeerReset)),
                Poll::Pending => {}
            }
            let deadlines = &handle.config().deadlines;
            let stalled = state.must_read_by(now, deadlines).unwrap_or(now.at + deadlines.write);
            let resumes = state.resumes_by(stalled);
            drop(state);
            // After a deadline or an eviction, the flush has a limit of its own. A peer that reads
            // a little now and then cannot extend it.
            let reason = self.machine.ending().map(|ending| ending.reason);
            let overdue = reason.and_then(|reason| match reason {
                EndReason::Disconnect(reason) if is_deadline(reason) => Some(reason),
                _ => None,
            });
            let cut_off = overdue
                .map(|reason| (self.flush_began.get_or_insert(now).due(FLUSH_MAX, now), reason));
            let (deadline, reason) = match cut_off {
                Some((cut_off, reason)) if cut_off < stalled => (cut_off, reason),
                _ => (stalled, DisconnectReason::WriteTimeout),
            };
            if now.at >= deadline {
                return Poll::Ready(Err(reason));
            }
            self.alarm.arm(deadline.min(resumes), now.at, cx);
            if !handle.mailbox.watch(cx.waker()) {
                return Poll::Pending;
            }
        }
    }

    /// Ends all I/O of the session. Resets the connection now if the ending is not a flush.
    pub(super) fn hang_up(&mut self) {
        let mut state = self.handle.state();
        state.close();
        if self.machine.ending().is_some_and(|ending| ending.how == How::Reset)
            && let Some(stream) = state.stream.take()
        {
            stream.reset();
        }
    }

    pub(super) async fn finish(mut self, ending: Ending) -> Ended {
        self.membership = None;
        self.handle.mailbox.shut();
        self.slot.close();
        self.hang_up();
        let usage = self.usage();
        let instance = self.instance.take();
        self.drop_instance(instance).await;
        let lasted = self.deadline_clock.age(Instant::now());
        if ending.how == How::Flush && !self.machine.half_closed() {
            self.linger().await;
        }
        let mut state = self.handle.state();
        state.stream = None;
        Ended {
            reason: ending.reason,
            fault: self.fault,
            evidence: self.evidence,
            events: self.handle.live_stats.events(),
            bytes_in: state.bytes_in,
            bytes_out: state.bytes_out,
            usage,
            cpu: self.handle.live_stats.cpu(),
            class: self.handle.priority(),
            lasted,
        }
    }

    /// Reads to the peer's end, within [`LINGER_MAX`] and [`LINGER_MAX_BYTES`]. If a socket is
    /// closed with unread bytes, the system sends a reset, which can overtake the flushed bytes.
    async fn linger(&mut self) {
        let since = Moment::now();
        let mut left = LINGER_MAX_BYTES;
        poll_fn(|cx| {
            loop {
                let now = Moment::now();
                let deadline = since.due(LINGER_MAX, now);
                if self.handle.mailbox.signals().contains(Signals::NOW) || now.at >= deadline {
                    return Poll::Ready(());
                }
                let mut state = self.handle.state();
                let Some(stream) = &mut state.stream else { return Poll::Ready(()) };
                match stream.poll_read(cx, Incoming::take().bytes()) {
                    Poll::Ready(Ok(count)) if count > 0 && count < left => {
                        self.handle.config().quota.bytes().charge(count as u64);
                        left -= count;
                    }
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => {
                        drop(state);
                        self.alarm.arm(deadline, now.at, cx);
                        if !self.handle.mailbox.watch(cx.waker()) {
                            return Poll::Pending;
                        }
                    }
                }
            }
        })
        .await;
    }
}
