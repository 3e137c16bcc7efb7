//! The part of a session that its plugin's host calls reach: the wire, what waits to be sent, and the timers.
//!
//! One task owns a session and everything here happens on it, so the lock is never contended; it is there because
//! the host calls come through the engine and cannot borrow from the driver. It is never held across an `await`.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::mailbox::{Mailbox, Orders};
use super::outbox::Outbox;
use super::timers::Timers;
use crate::event::{ClientInfo, Port, Priority, SendError, WriteError};
use crate::net::Wire;

/// From this size on a write to an empty send buffer goes to the wire straight out of the plugin's memory. Smaller
/// ones are gathered, so that an event with many writes costs one packet.
const DIRECT_WRITE_MIN_BYTES: usize = 16 << 10;

/// When the peer is asked to slow down, and when it may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// With so many bytes queued, writes wait and the peer is not read. Also the largest single write. So at most
    /// twice this is ever queued.
    pub high_bytes: usize,
    /// `on-write` fires when a buffer that was full has drained to this.
    pub low_bytes: usize,
}

/// What a server's sessions have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineConfig {
    /// How long the peer may take to read, and the idle period.
    pub timeout: Duration,
    /// The send buffer.
    pub watermarks: Watermarks,
    /// The class every session starts with.
    pub priority: Priority,
    /// The best class a plugin may ask for.
    pub priority_max: Priority,
}

/// One session, as its plugin, its peers and its server reach it.
#[derive(Debug)]
pub struct Line {
    info: ClientInfo,
    config: LineConfig,
    priority: AtomicU8,
    pub(super) mailbox: Mailbox,
    state: Mutex<LineState>,
}

#[derive(Debug)]
pub(super) struct LineState {
    /// `None` once the connection is given up.
    pub(super) wire: Option<Wire>,
    pub(super) outbox: Outbox,
    pub(super) timers: Timers,
    /// The outbox reached its high-water mark and has not drained since.
    pub(super) filled: bool,
    /// TLS holds bytes that the system has not taken.
    unflushed: bool,
    /// Nothing more may be written.
    pub(super) closed: bool,
    /// The peer read nothing for the timeout.
    pub(super) timed_out: bool,
    /// The mailbox holds bytes that did not fit yet.
    pub(super) mail_waits: bool,
    /// Since when the peer has taken nothing of what is queued.
    pub(super) stalled_since: Option<Instant>,
    /// Bytes moved since the driver last looked.
    pub(super) exchanged: bool,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

impl Line {
    /// A session at its start.
    #[must_use]
    pub fn new(info: ClientInfo, config: LineConfig, wire: Wire) -> Arc<Self> {
        let state = LineState {
            wire: Some(wire),
            outbox: Outbox::default(),
            timers: Timers::default(),
            filled: false,
            unflushed: false,
            closed: false,
            timed_out: false,
            mail_waits: false,
            stalled_since: None,
            exchanged: false,
            bytes_in: 0,
            bytes_out: 0,
        };
        let priority = AtomicU8::new(config.priority.min(config.priority_max) as u8);
        Arc::new(Self { info, config, priority, mailbox: Mailbox::default(), state: Mutex::new(state) })
    }

    /// Queues `data` from another session or the server. Never waits.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn deliver(&self, data: &Arc<[u8]>) -> Result<(), SendError> {
        self.mailbox.deliver(data, self.config.watermarks.high_bytes)
    }

    /// Ends the session gracefully as evicted. Idempotent; returns at once.
    pub fn evict(&self) {
        self.mailbox.order(Orders::EVICT);
    }

    /// Ends the session gracefully because its server stops. Idempotent; returns at once.
    pub fn stop(&self) {
        self.mailbox.order(Orders::STOP);
    }

    /// Ends the session now: an event in flight is cancelled, nothing is flushed. Idempotent; returns at once.
    pub fn cancel(&self) {
        self.mailbox.order(Orders::CANCEL);
    }

    pub(super) fn config(&self) -> &LineConfig {
        &self.config
    }

    pub(super) fn state(&self) -> MutexGuard<'_, LineState> {
        // A panic while the lock was held would be a bug of ours; the session then ends by what it finds.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Port for Line {
    fn info(&self) -> &ClientInfo {
        &self.info
    }

    fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<(), WriteError>> {
        let high = self.config.watermarks.high_bytes;
        let mut state = self.state();
        if state.closed || state.timed_out {
            return Poll::Ready(Err(if state.timed_out { WriteError::TimedOut } else { WriteError::Closed }));
        }
        if data.len() > high {
            return Poll::Ready(Err(WriteError::TooLarge));
        }
        if state.outbox.len() >= high {
            let flushed = state.poll_flush(cx);
            if matches!(flushed, Poll::Ready(Err(_))) {
                return Poll::Ready(Err(WriteError::Closed));
            }
            if state.outbox.len() >= high {
                return Poll::Pending;
            }
        }
        if state.queue(cx, data).is_err() {
            return Poll::Ready(Err(WriteError::Closed));
        }
        state.filled |= state.outbox.len() >= high;
        Poll::Ready(Ok(()))
    }

    fn write_capacity(&self) -> u32 {
        let state = self.state();
        if state.closed || state.timed_out {
            return 0;
        }
        let room = self.config.watermarks.high_bytes.saturating_sub(state.outbox.len());
        u32::try_from(room).unwrap_or(u32::MAX)
    }

    fn priority(&self) -> Priority {
        Priority::ALL[usize::from(self.priority.load(Ordering::Relaxed))]
    }

    fn set_priority(&self, priority: Priority) -> Priority {
        let granted = priority.min(self.config.priority_max);
        self.priority.store(granted as u8, Ordering::Relaxed);
        granted
    }

    fn set_timer(&self, id: u32, after_ms: u64) -> bool {
        self.state().timers.set(id, after_ms, Instant::now())
    }
}

impl LineState {
    fn queue(&mut self, cx: &mut Context<'_>, mut data: &[u8]) -> io::Result<()> {
        if data.len() >= DIRECT_WRITE_MIN_BYTES && self.outbox.is_empty() {
            while let Poll::Ready(count) = self.poll_wire(cx, data)? {
                data = &data[count..];
                if data.is_empty() {
                    return Ok(());
                }
            }
        }
        if !data.is_empty() {
            self.outbox.push(data);
        }
        Ok(())
    }

    fn poll_wire(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let Some(wire) = &mut self.wire else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        let outcome = wire.poll_write(cx, data);
        match &outcome {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) => {
                self.bytes_out += *count as u64;
                self.unflushed = matches!(wire, Wire::Tls(_));
                self.exchanged = true;
                self.stalled_since = None;
            }
            // The connection is of no more use, and the next reader of this state has to know.
            Poll::Ready(Err(_)) => self.closed = true,
            Poll::Pending => {}
        }
        outcome
    }

    /// Sends what it can. Ready when nothing is queued any more; pending when the peer does not take it, since
    /// [`LineState::stalled_since`].
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outbox.is_empty() && !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        let outcome = self.poll_send(cx);
        match &outcome {
            Poll::Pending if self.stalled_since.is_none() => self.stalled_since = Some(Instant::now()),
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.stalled_since = None,
            Poll::Ready(Err(_)) => self.closed = true,
        }
        outcome
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbox.is_empty() {
            let outbox = std::mem::take(&mut self.outbox);
            let outcome = self.poll_wire(cx, outbox.front());
            self.outbox = outbox;
            self.outbox.advance(ready!(outcome)?);
        }
        if let (true, Some(wire)) = (self.unflushed, &mut self.wire) {
            ready!(wire.poll_flush(cx))?;
        }
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Gives up sending and forgets what is queued.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.outbox.clear();
    }
}
