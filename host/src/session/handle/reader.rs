//! How the peer reads its queue: since when it takes nothing, at what rate it reads, and how long
//! events have waited for it.
//!
//! Only bytes that the peer's system has confirmed count. Bytes in the buffers of this system say
//! nothing about the peer.

use std::time::{Duration, Instant};

use super::HandleState;
use crate::net::Stream;
use crate::sched::Moment;
use crate::session::deadlines::Deadlines;

/// Longest window over which the minimum reading rate is judged. If the write timeout is shorter,
/// it is the window. A system confirms in lumps of up to its largest segment, so a shorter window
/// would cut off steady readers.
const RATE_WINDOW_MAX: Duration = Duration::from_secs(20);

/// A moment, and the bytes that were on their way to the peer then.
#[derive(Debug, Clone, Copy)]
struct Mark {
    since: Moment,
    /// Bytes that the system had taken.
    taken: u64,
    /// The bytes of `taken` that the peer's system had not confirmed. `None` if the system does not
    /// say.
    unconfirmed: Option<usize>,
}

/// The peer as a reader of its queue.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Since when the peer has taken nothing of its queue.
    stalled: Option<Mark>,
    /// The start of the window over which the rate is judged. `None` if nothing is queued.
    window: Option<Mark>,
    /// Since when the event in flight waits for the peer.
    waits_since: Option<Moment>,
    /// How long earlier events have waited for the peer.
    waited: Duration,
    /// The event that waits for the peer has to stop waiting.
    given_up: bool,
}

impl Reader {
    /// Records that the system took bytes.
    pub(super) fn takes(&mut self) {
        self.stalled = None;
    }

    /// Records that the queue is empty.
    pub(super) fn drained(&mut self) {
        (self.stalled, self.window) = (None, None);
    }

    /// Leaves out a time in which the host itself sent nothing.
    pub(super) fn excuse(&mut self, time: Duration) {
        for mark in [&mut self.stalled, &mut self.window].into_iter().flatten() {
            mark.since.at += time;
        }
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.is_some()
    }
}

impl HandleState {
    /// Records that the peer takes nothing from now on.
    pub(in crate::session) fn stall(&mut self, now: Moment) {
        let mark = self.mark(now);
        self.reader.stalled = Some(mark);
        self.reader.window.get_or_insert(mark);
    }

    /// Whether the peer takes nothing of its queue.
    pub(in crate::session) fn is_stalled(&self) -> bool {
        self.reader.is_stalled()
    }

    /// When the session gives up its peer, unless the peer reads more of its queue. If the time is
    /// not later than `now`, the session gives up now. `None` if nothing is queued, or if the
    /// tenant's share holds up sending.
    ///
    /// The system asks for more bytes only once a good part of its own buffer is free. So when a
    /// limit has passed, the session asks the system what the peer has confirmed meanwhile.
    pub(in crate::session) fn must_read_by(
        &mut self,
        now: Moment,
        deadlines: &Deadlines,
    ) -> Option<Instant> {
        if self.rationed_until.is_some() {
            return None;
        }
        let (write, window) = (deadlines.write, deadlines.write.min(RATE_WINDOW_MAX));
        let least = u64::try_from(u128::from(deadlines.min_read_rate) * window.as_millis() / 1_000);
        self.reader.stalled = self.reader.stalled.map(|mark| self.renewed(mark, now, write, 1));
        self.reader.window = self
            .reader
            .window
            .map(|mark| self.renewed(mark, now, window, least.unwrap_or(u64::MAX)));
        let stalled = self.reader.stalled.map(|mark| mark.since.due(write, now));
        let slow = self
            .reader
            .window
            .filter(|_| deadlines.min_read_rate > 0)
            .map(|mark| mark.since.due(window, now));
        stalled.into_iter().chain(slow).min()
    }

    /// Returns a new mark at `now` if `limit` has passed and the peer has read `least` bytes since.
    /// Otherwise returns `mark`.
    fn renewed(&self, mark: Mark, now: Moment, limit: Duration, least: u64) -> Mark {
        if now.at < mark.since.due(limit, now) || self.confirmed_since(&mark) < least {
            mark
        } else {
            self.mark(now)
        }
    }

    fn mark(&self, now: Moment) -> Mark {
        Mark {
            since: now,
            taken: self.bytes_out,
            unconfirmed: self.stream.as_ref().and_then(Stream::unconfirmed),
        }
    }

    /// Bytes that the peer's system has confirmed since the mark.
    fn confirmed_since(&self, mark: &Mark) -> u64 {
        let (before, left) = (mark.unconfirmed, self.stream.as_ref().and_then(Stream::unconfirmed));
        let (before, left) =
            before.zip(left).map_or((0, 0), |(before, left)| (before as u64, left as u64));
        (self.bytes_out - mark.taken + before).saturating_sub(left)
    }

    /// Records that an event waits for the peer, unless the tenant's share holds up sending.
    pub(super) fn waits(&mut self) {
        if self.rationed_until.is_none() {
            self.reader.waits_since.get_or_insert_with(Moment::now);
        }
    }

    /// Records that no event waits for the peer any more.
    pub(in crate::session) fn goes_on(&mut self) {
        if let Some(since) = self.reader.waits_since.take() {
            self.reader.waited += since.until(Moment::now());
            self.reader.given_up = false;
        }
    }

    /// Tells an event that waits for the peer to stop waiting. Returns false if no event waits.
    pub(super) fn give_up(&mut self) -> bool {
        self.reader.given_up = self.waits_for_peer();
        self.reader.given_up
    }

    /// Whether the event that waits for the peer has to stop waiting.
    pub(in crate::session) fn is_given_up(&self) -> bool {
        self.reader.given_up
    }

    /// Whether an event waits for the peer.
    pub(in crate::session) fn waits_for_peer(&self) -> bool {
        self.reader.waits_since.is_some()
    }

    /// How long events have waited for the peer in all.
    pub(in crate::session) fn waited_for_peer(&self) -> Duration {
        self.reader.waited
            + self.reader.waits_since.map_or(Duration::ZERO, |since| since.until(Moment::now()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::sync::Arc;

    use super::*;
    use crate::event::{ClientInfo, Priority};
    use crate::sched::{Budgets, Lane, Placement, Quota, RunQueue};
    use crate::session::{PauseGate, SessionConfig, SessionHandle, Watermarks};

    fn handle() -> Arc<SessionHandle> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _inside = runtime.enter();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let local = listener.local_addr().expect("bound");
        let stream = TcpStream::connect(local).expect("it is there");
        stream.set_nonblocking(true).expect("an option");
        let stream = Stream::plain(stream).expect("a reactor");
        let config = SessionConfig {
            timeout: Duration::from_secs(60),
            deadlines: Deadlines::with_write(Duration::from_secs(60)),
            watermarks: Watermarks { high_bytes: 8 << 10, low_bytes: 2 << 10 },
            tenant: "one".into(),
            quota: Arc::new(Quota::default()),
            timers_max: 4,
            sleep_after: Duration::ZERO,
            priority: Priority::Normal,
            priority_max: Priority::Normal,
            budgets: Budgets::default(),
            pause_gate: Arc::new(PauseGate::default()),
        };
        let run_queues = Lane::ALL.map(|lane| Arc::new(RunQueue::new(lane, 1)));
        let placement = Arc::new(Placement::new(Lane::Standard, Arc::new(run_queues)));
        let info =
            ClientInfo { id: 1, server: "one".into(), peer: local, local, tls: None, parameter: 0 };
        let handle = SessionHandle::new(info, Arc::new(config), placement, stream);
        // Without a stream, the tests count only the bytes that the system took.
        handle.state().stream = None;
        handle
    }

    /// Whether a peer that takes `taken` bytes within two seconds is given up.
    fn judged(min_read_rate: u32, taken: u64) -> bool {
        let handle = handle();
        let deadlines =
            Deadlines { min_read_rate, ..Deadlines::with_write(Duration::from_secs(2)) };
        let (mut state, start) =
            (handle.state(), Moment { at: Instant::now(), stalls: Duration::ZERO });
        state.stall(start);
        state.bytes_out += taken;
        // The peer takes something now and then, so that only its rate counts.
        state.reader.takes();
        let window = Moment { at: start.at + Duration::from_secs(2), ..start };
        state.must_read_by(window, &deadlines).is_some_and(|by| by <= window.at)
    }

    #[test]
    fn rate_is_judged_below_at_and_above() {
        for rate in [1, 50, 1_024, u32::MAX] {
            let least = u64::from(rate) * 2;
            assert_eq!(
                [least - 1, least, least + 1].map(|taken| judged(rate, taken)),
                [true, false, false],
                "{rate}"
            );
        }
        assert!(!judged(0, 0), "there is no minimum");
    }

    #[test]
    fn share_and_stall_excuse_a_reader() {
        let handle = handle();
        let deadlines =
            Deadlines { min_read_rate: 1_024, ..Deadlines::with_write(Duration::from_secs(2)) };
        let (mut state, start) =
            (handle.state(), Moment { at: Instant::now(), stalls: Duration::ZERO });
        state.stall(start);
        let due = |state: &mut HandleState, at: u64| {
            let now =
                Moment { at: start.at + Duration::from_secs(at), stalls: Duration::from_secs(5) };
            state.must_read_by(now, &deadlines).is_some_and(|by| by <= now.at)
        };
        state.reader.excuse(Duration::from_secs(30));
        // Five more seconds are a stall of the process.
        assert!(!due(&mut state, 36) && due(&mut state, 37));
    }
}
