//! The part of a session that host calls reach: the stream, the send buffer and the timers.
//!
//! One task owns a session, and everything here happens on it, so the lock is never contended. The
//! lock exists because host calls come through the engine and cannot borrow from the driver. It is
//! never held across an `await`.

mod reader;
mod stats;
mod transfer;

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use self::reader::Reader;
pub use self::stats::SessionStats;
use super::deadlines::{ByteFlow, Deadlines};
use super::held::HeldMemory;
use super::live_stats::LiveStats;
use super::mailbox::{Mailbox, Signals};
use super::pause_gate::PauseGate;
use super::send_buffer::SendBuffer;
use super::timers::Timers;
use crate::event::{ClientInfo, Port, Priority, SendError, WriteError};
use crate::locks::lock;
use crate::net::Stream;
use crate::sched::{Budgets, Lane, Moment, Placement, Quota};

/// From this size on, a write to an empty send buffer goes to the stream straight from the plugin's
/// memory. Smaller writes are gathered, so that an event with many writes costs one packet.
const DIRECT_WRITE_MIN_BYTES: usize = 16 << 10;

/// When the send buffer counts as full, and when as drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// With this many bytes queued, writes wait and the peer is not read. Also the largest single
    /// write. So the buffer never holds more than twice this.
    pub high_bytes: usize,
    /// `on-write` fires when a full buffer has drained to this many bytes.
    pub low_bytes: usize,
}

/// The values that all sessions of a server share.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// The period of `on-timeout`.
    pub timeout: Duration,
    /// The times that end a session.
    pub deadlines: Deadlines,
    /// The watermarks of the send buffer.
    pub watermarks: Watermarks,
    /// The owner of the server, for the fair queue.
    pub tenant: Arc<str>,
    /// The quota of that tenant's servers together.
    pub quota: Arc<Quota>,
    /// The class that every session starts with.
    pub priority: Priority,
    /// The best class that a plugin may ask for.
    pub priority_max: Priority,
    /// What events may spend, by class.
    pub budgets: Budgets,
    /// How many timers a session may have at a time.
    pub timers_max: usize,
    /// How long a session is idle before it drops its instance. Zero: never.
    pub sleep_after: Duration,
    /// The gate that pauses all sessions of the server.
    pub pause_gate: Arc<PauseGate>,
}

impl SessionConfig {
    /// The class in force at a session's start.
    #[must_use]
    pub fn class(&self) -> Priority {
        self.priority.min(self.priority_max)
    }
}

/// The guest runs within a slice, or does not run at all.
const RUNNING: u8 = 0;
/// The guest's slice is over.
const ENDED: u8 = 1;
/// The guest may begin its next slice.
const NEXT: u8 = 2;

/// One session, as its plugin, other sessions and its server reach it.
#[derive(Debug)]
pub struct SessionHandle {
    info: ClientInfo,
    config: Arc<SessionConfig>,
    placement: Arc<Placement>,
    priority: AtomicU8,
    slice: AtomicU8,
    started: Instant,
    pub(super) live_stats: LiveStats,
    pub(super) mailbox: Mailbox,
    state: Mutex<HandleState>,
}

#[derive(Debug)]
pub(super) struct HandleState {
    /// `None` once the connection is given up.
    pub(super) stream: Option<Stream>,
    pub(super) send_buffer: SendBuffer,
    pub(super) timers: Timers,
    /// The send buffer reached its high watermark and has not drained since.
    pub(super) filled: bool,
    /// TLS holds bytes that the system has not taken.
    unflushed: bool,
    /// Every further write fails as closed.
    pub(super) closed: bool,
    /// The session has given up its peer as a reader. Every further write fails as timed out.
    pub(super) timed_out: bool,
    /// The share of the tenant's memory that the send buffer holds.
    pub(super) held: HeldMemory,
    /// The mailbox holds bytes that did not fit into the send buffer yet.
    pub(super) mail_waits: bool,
    /// A migration was requested while the session was busy.
    pub(super) migration_waits: bool,
    reader: Reader,
    /// When the driver last saw bytes move.
    pub(super) last_exchange: Instant,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    quota: Arc<Quota>,
    /// Nothing is sent before this, because the tenant has used up its share of bytes.
    rationed_until: Option<Instant>,
    /// Since when the tenant's share has held up sending, and for how long it did so before.
    rationed_since: Option<Instant>,
    rationed_before: Duration,
    /// Nothing is read, for the same reason.
    reads_rationed: bool,
}

impl SessionHandle {
    /// Makes the handle of a new session. `placement` is that of the task that runs the session.
    #[must_use]
    pub fn new(
        info: ClientInfo,
        config: Arc<SessionConfig>,
        placement: Arc<Placement>,
        stream: Stream,
    ) -> Arc<Self> {
        let started = Instant::now();
        let state = HandleState {
            stream: Some(stream),
            send_buffer: SendBuffer::default(),
            timers: Timers::default(),
            filled: false,
            unflushed: false,
            closed: false,
            timed_out: false,
            held: HeldMemory::new(Arc::clone(&config.quota)),
            mail_waits: false,
            migration_waits: false,
            reader: Reader::default(),
            last_exchange: started,
            bytes_in: 0,
            bytes_out: 0,
            quota: Arc::clone(&config.quota),
            rationed_until: None,
            rationed_since: None,
            rationed_before: Duration::ZERO,
            reads_rationed: false,
        };
        let priority = AtomicU8::new(config.class() as u8);
        let (live_stats, mailbox) = (LiveStats::default(), Mailbox::new(Arc::clone(&config.quota)));
        Arc::new(Self {
            info,
            config,
            placement,
            priority,
            slice: AtomicU8::new(RUNNING),
            started,
            live_stats,
            mailbox,
            state: Mutex::new(state),
        })
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
        self.mailbox.signal(Signals::EVICT);
    }

    /// Ends the session gracefully because its server stops. Idempotent; returns at once.
    pub fn stop(&self) {
        self.mailbox.signal(Signals::STOP);
    }

    /// Ends the session now: an event in flight is cancelled, and nothing is flushed. Idempotent;
    /// returns at once.
    pub fn cancel(&self) {
        self.mailbox.signal(Signals::CANCEL);
    }

    /// Ends the session now for the operator: an event in flight is cancelled, and the connection
    /// is reset. Idempotent; returns at once.
    pub fn abort(&self) {
        self.mailbox.signal(Signals::ABORT);
    }

    /// Tells the session to look at its procedure slot. See
    /// [`ProcedureSlot::ask`](super::ProcedureSlot::ask).
    pub fn look_at_slot(&self) {
        self.mailbox.signal(Signals::MIGRATE);
    }

    /// Gives the session another class from its next event on, even above the plugin's ceiling.
    /// Returns the class before.
    pub fn assign(&self, priority: Priority) -> Priority {
        let before =
            Priority::ALL[usize::from(self.priority.swap(priority as u8, Ordering::Relaxed))];
        self.mailbox.signal(Signals::LOOK);
        before
    }

    /// How long events of the session have waited for its peer in all, and whether one waits now.
    #[must_use]
    pub fn waited_for_peer(&self) -> (Duration, bool) {
        let state = self.state();
        (state.waited_for_peer(), state.waits_for_peer())
    }

    /// Ends the session as `write-timeout` if one of its events waits for its peer now. Otherwise
    /// returns false and changes nothing. Returns at once.
    pub fn give_up_peer(&self) -> bool {
        let waits = self.state().give_up();
        if waits {
            self.mailbox.signal(Signals::LOOK);
        }
        waits
    }

    /// Whether an event runs or the instance starts. In one total order with [`PauseGate::close`].
    pub fn in_event(&self) -> bool {
        self.live_stats.doing().is_some()
    }

    pub(super) fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// The lane of the session's class, if the session is in another lane.
    pub(super) fn astray(&self) -> Option<Lane> {
        let lane = Lane::of(self.priority());
        (lane != self.placement.lane()).then_some(lane)
    }

    pub(super) fn placement(&self) -> &Arc<Placement> {
        &self.placement
    }

    /// Whether the event in flight stopped because its slice is over. Then the next poll resumes
    /// the event.
    pub(super) fn slice_ended(&self) -> bool {
        self.slice.compare_exchange(ENDED, NEXT, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, HandleState> {
        lock(&self.state)
    }
}

impl Port for SessionHandle {
    fn info(&self) -> &ClientInfo {
        &self.info
    }

    fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<(), WriteError>> {
        let high = self.config.watermarks.high_bytes;
        let mut state = self.state();
        if state.closed || state.timed_out {
            state.goes_on();
            return Poll::Ready(Err(if state.timed_out {
                WriteError::TimedOut
            } else {
                WriteError::Closed
            }));
        }
        if data.len() > high {
            return Poll::Ready(Err(WriteError::TooLarge));
        }
        if state.send_buffer.len() >= high {
            let flushed = state.poll_flush(cx);
            if matches!(flushed, Poll::Ready(Err(_))) {
                return Poll::Ready(Err(WriteError::Closed));
            }
            if state.send_buffer.len() >= high {
                state.waits();
                return Poll::Pending;
            }
        }
        state.goes_on();
        if state.queue(cx, data).is_err() {
            return Poll::Ready(Err(WriteError::Closed));
        }
        state.filled |= state.send_buffer.len() >= high;
        Poll::Ready(Ok(()))
    }

    fn write_capacity(&self) -> u32 {
        let state = self.state();
        if state.closed || state.timed_out {
            return 0;
        }
        let room = self.config.watermarks.high_bytes.saturating_sub(state.send_buffer.len());
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

    fn poll_slice(&self, _: &mut Context<'_>) -> Poll<()> {
        // The driver sees that the slice has ended, and polls again when the session may go on.
        let may_go_on = self.slice.load(Ordering::Relaxed) == NEXT;
        self.slice.store(if may_go_on { RUNNING } else { ENDED }, Ordering::Relaxed);
        if may_go_on { Poll::Ready(()) } else { Poll::Pending }
    }

    fn instance_lost(&self) {
        self.mailbox.signal(Signals::LOST);
    }

    fn set_timer(&self, id: u32, after_ms: u64) -> bool {
        self.state().timers.set(id, after_ms, self.config.timers_max, Instant::now())
    }
}

impl HandleState {
    fn queue(&mut self, cx: &mut Context<'_>, mut data: &[u8]) -> io::Result<()> {
        if data.len() >= DIRECT_WRITE_MIN_BYTES && self.send_buffer.is_empty() {
            while let Poll::Ready(count) = self.poll_wire(cx, data)? {
                data = &data[count..];
                if data.is_empty() {
                    return Ok(());
                }
            }
        }
        if !data.is_empty() {
            self.send_buffer.push(data);
        }
        Ok(())
    }

    fn poll_wire(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let share = self.quota.bytes();
        let rationed = share.not_before_now();
        if rationed.is_some() {
            if self.rationed_until.is_none() {
                share.waited();
            }
            // The session wakes at that time. Until then the peer's readiness is unknown, so the
            // wait for the peer ends here.
            self.goes_on();
            self.rationed_until = rationed;
            self.rationed_since.get_or_insert_with(Instant::now);
            return Poll::Pending;
        }
        self.rationed_until = None;
        if let Some(time) = self.rationed_since.take().map(|since| since.elapsed()) {
            self.rationed_before += time;
            self.reader.excuse(time);
        }
        let outcome = stream.poll_write(cx, &data[..data.len().min(share.grain())]);
        match &outcome {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) => {
                share.charge(*count as u64);
                self.bytes_out += *count as u64;
                self.unflushed = matches!(stream, Stream::Tls(_));
                self.reader.takes();
            }
            // The connection is broken. The flag tells later readers of this state.
            Poll::Ready(Err(_)) => self.closed = true,
            Poll::Pending => {}
        }
        outcome
    }

    /// Sends what it can. Ready when nothing is queued any more; pending if the peer, or the
    /// tenant's share, holds it up.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.send_buffer.is_empty() && !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        let outcome = self.poll_send(cx);
        self.held.settle(self.send_buffer.len());
        match &outcome {
            Poll::Pending if !self.is_stalled() && self.rationed_until.is_none() => {
                self.stall(Moment::now());
            }
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.reader.drained(),
            Poll::Ready(Err(_)) => self.closed = true,
        }
        outcome
    }

    /// Moves mail to the send buffer, up to its high watermark.
    pub(super) fn move_mail(&mut self, mailbox: &Mailbox, high: usize) {
        self.mail_waits = false;
        loop {
            // A full buffer takes no more, even if this is called again.
            if self.send_buffer.len() >= high {
                (self.mail_waits, self.filled) = (true, true);
                return;
            }
            let Some(piece) = mailbox.next() else { return };
            self.send_buffer.push(&piece);
            self.held.mail(piece.len());
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.send_buffer.is_empty() {
            let send_buffer = std::mem::take(&mut self.send_buffer);
            let outcome = self.poll_wire(cx, send_buffer.front());
            self.send_buffer = send_buffer;
            self.send_buffer.advance(ready!(outcome)?);
        }
        if let (true, Some(stream)) = (self.unflushed, &mut self.stream) {
            ready!(stream.poll_flush(cx))?;
        }
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// When to ask again, if the tenant has used up its share of bytes so that nothing is read now.
    pub(super) fn ration_reads(&mut self) -> Option<Instant> {
        let rationed = self.quota.bytes().not_before_now();
        if rationed.is_some() && !std::mem::replace(&mut self.reads_rationed, rationed.is_some()) {
            self.quota.bytes().waited();
        }
        self.reads_rationed = rationed.is_some();
        rationed
    }

    /// How long in all the tenant's share has held up sending.
    pub(super) fn rationed(&self) -> Duration {
        self.rationed_before + self.rationed_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether every further write is refused.
    pub(super) fn ended_writes(&self) -> bool {
        self.timed_out || self.closed
    }

    /// The earlier of `next` and the time at which sending resumes, if the tenant's share of bytes
    /// holds it up.
    pub(super) fn resumes_by(&self, next: Instant) -> Instant {
        self.rationed_until
            .filter(|_| !self.send_buffer.is_empty())
            .map_or(next, |until| until.min(next))
    }

    pub(super) fn flow(
        &mut self,
        now: Moment,
        deadlines: &Deadlines,
        half_closed: bool,
    ) -> ByteFlow {
        let must_read_by = self.must_read_by(now, deadlines);
        ByteFlow { bytes_in: self.bytes_in, bytes_out: self.bytes_out, must_read_by, half_closed }
    }

    /// Gives up sending and discards the queue.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.rationed_until = None;
        self.send_buffer.clear();
        self.held.settle(0);
    }
}
