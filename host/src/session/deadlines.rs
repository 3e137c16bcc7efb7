//! The deadlines of a session, as a pure function of times and byte counts.

use std::time::{Duration, Instant};

use super::snapshot::{Times, ago, back};
use crate::event::DisconnectReason;
use crate::sched::Moment;

/// Shortest time over which the minimum sending rate is judged.
pub const MIN_RATE_WINDOW: Duration = Duration::from_secs(5);

/// The times that end a session. A zero is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// How long the peer may read nothing while data is queued for it. Never zero.
    pub write: Duration,
    /// Bytes per second that the peer has to read while data is queued for it. Judged over a window
    /// of `write`, at most 20 s. If zero, one byte in each `write` is enough.
    pub min_read_rate: u32,
    /// Longest time from the session's start to the peer's first byte.
    pub first_byte: Duration,
    /// Longest time without a byte in either direction. Not the period of `on-timeout`.
    pub idle: Duration,
    /// Longest time from the session's start to its end, even if it is active.
    pub lifetime: Duration,
    /// Bytes per second that a peer has to send on average, from its first unanswered byte until
    /// the plugin answers. Judged from [`MIN_RATE_WINDOW`] on. A silent peer counts as idle, not as
    /// slow.
    pub min_rate: u32,
}

impl Deadlines {
    /// Sets only the write deadline, and no minimum rates.
    #[must_use]
    pub fn with_write(write: Duration) -> Self {
        let none = Duration::ZERO;
        Self { write, min_read_rate: 0, first_byte: none, idle: none, lifetime: none, min_rate: 0 }
    }
}

/// The byte counts of a session, with the deadline of its peer as a reader.
#[derive(Debug, Clone, Copy)]
pub(super) struct ByteFlow {
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// When the session gives up its peer, unless the peer reads more of its queue.
    pub(super) must_read_by: Option<Instant>,
    pub(super) half_closed: bool,
}

/// What is due at one moment by the deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DueAction {
    /// The session ends.
    End(DisconnectReason),
    /// `on-timeout` is due, after this time without an exchange.
    Timeout(Duration),
    /// Nothing is due before this, unless bytes move or a timer is due.
    WaitUntil(Instant),
}

/// The times of a session that its deadlines count from.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeadlineClock {
    started: Instant,
    /// When the session began to wait for the first byte.
    heard_from: Instant,
    /// When bytes last moved, as far as the driver looked.
    last_exchange: Instant,
    /// When the idle period started: the last exchange, or the last `on-timeout`.
    idle_since: Instant,
    /// The byte counts at the driver's last look.
    seen_in: u64,
    seen_out: u64,
    /// When the first unanswered byte came, and how many bytes had come before it.
    unanswered: Option<(Instant, u64)>,
    /// Stalls of the process that the times above leave out. The session's age includes all stalls.
    stalls: Duration,
}

impl DeadlineClock {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            started: now,
            heard_from: now,
            last_exchange: now,
            idle_since: now,
            seen_in: 0,
            seen_out: 0,
            unanswered: None,
            stalls: Moment::at(now).stalls,
        }
    }

    /// The clock of a session from another process, which had seen these byte counts.
    pub(super) fn resumed(now: Instant, times: &Times, (seen_in, seen_out): (u64, u64)) -> Self {
        Self {
            started: back(now, times.started),
            heard_from: back(now, times.heard_from),
            last_exchange: back(now, times.exchanged),
            idle_since: back(now, times.idle),
            seen_in,
            seen_out,
            unanswered: times.unanswered.map(|(since, before)| (back(now, since), before)),
            stalls: Moment::at(now).stalls,
        }
    }

    /// The times in a form for another process.
    pub(super) fn times(&self, now: Instant) -> Times {
        Times {
            started: ago(self.started, now),
            heard_from: ago(self.heard_from, now),
            exchanged: ago(self.last_exchange, now),
            idle: ago(self.idle_since, now),
            unanswered: self.unanswered.map(|(since, before)| (ago(since, now), before)),
        }
    }

    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    /// Restarts the limits on the peer, because the host itself neither reads nor sends for now.
    /// The peer's silence says nothing about the peer then.
    pub(super) fn excuse(&mut self, now: Moment) {
        self.unanswered = None;
        (self.last_exchange, self.idle_since, self.heard_from) = (now.at, now.at, now.at);
        self.stalls = now.stalls;
    }

    /// Leaves out a stall of the process, in which the peer's silence says nothing about the peer.
    fn excuse_stalls(&mut self, now: Moment) {
        let stalled = now.stalls.saturating_sub(self.stalls);
        if stalled.is_zero() {
            return;
        }
        self.stalls = now.stalls;
        for since in [&mut self.last_exchange, &mut self.idle_since, &mut self.heard_from] {
            *since += stalled;
        }
        if let Some((since, _)) = &mut self.unanswered {
            *since += stalled;
        }
    }

    /// Whether the session has reached its lifetime. For sessions that never wait between events.
    pub(super) fn expired(&self, now: Instant, deadlines: &Deadlines) -> bool {
        self.ends(deadlines).is_some_and(|ends| now >= ends)
    }

    /// When the session reaches its lifetime, or `None` without such a limit.
    pub(super) fn ends(&self, deadlines: &Deadlines) -> Option<Instant> {
        (!deadlines.lifetime.is_zero()).then(|| self.started + deadlines.lifetime)
    }

    /// Records the bytes that moved since the last look. Returns whether any did.
    fn look(&mut self, now: Instant, flow: &ByteFlow) -> bool {
        let (came, went) = (flow.bytes_in != self.seen_in, flow.bytes_out != self.seen_out);
        if went {
            self.unanswered = None;
        } else if came && self.unanswered.is_none() {
            self.unanswered = Some((now, self.seen_in));
        }
        (self.seen_in, self.seen_out) = (flow.bytes_in, flow.bytes_out);
        if came || went {
            self.last_exchange = now;
            self.idle_since = now;
        }
        came || went
    }

    /// Says what is due. `period` is that of `on-timeout`. The second value says whether bytes
    /// moved since the last call.
    pub(super) fn judge(
        &mut self,
        now: Moment,
        period: Duration,
        deadlines: &Deadlines,
        flow: &ByteFlow,
    ) -> (DueAction, bool) {
        self.excuse_stalls(now);
        let now = now.at;
        let moved = self.look(now, flow);
        let mut next = self.idle_since + period;
        let reads_too_little = flow.must_read_by.is_some_and(|by| now >= by);
        if let Some(by) = flow.must_read_by.filter(|_| !reads_too_little) {
            next = next.min(by);
        }
        let mut overdue = |since: Instant, limit: Duration| {
            let due = since + limit;
            let limited = !limit.is_zero();
            if limited && now < due {
                next = next.min(due);
            }
            limited && now >= due
        };
        let end = if reads_too_little {
            Some(DisconnectReason::WriteTimeout)
        } else if overdue(self.started, deadlines.lifetime) {
            Some(DisconnectReason::SessionTimeout)
        } else if flow.bytes_in == 0 && overdue(self.heard_from, deadlines.first_byte) {
            Some(DisconnectReason::FirstByteTimeout)
        } else if overdue(self.last_exchange, deadlines.idle) {
            Some(DisconnectReason::IdleTimeout)
        } else if self.unanswered.is_some_and(|(since, before)| {
            deadlines.min_rate > 0
                && overdue(
                    since,
                    allowance(flow.bytes_in.saturating_sub(before), deadlines.min_rate),
                )
        }) {
            Some(DisconnectReason::MinRate)
        } else if flow.half_closed && now >= self.idle_since + period {
            Some(DisconnectReason::IdleTimeout)
        } else {
            None
        };
        let due = match end {
            Some(reason) => DueAction::End(reason),
            None if now >= self.idle_since + period => {
                self.idle_since = now;
                DueAction::Timeout(now - self.last_exchange)
            }
            None => DueAction::WaitUntil(next),
        };
        (due, moved)
    }
}

/// How long this many bytes may take.
fn allowance(bytes: u64, min_rate: u32) -> Duration {
    MIN_RATE_WINDOW.max(Duration::from_secs_f64(bytes as f64 / f64::from(min_rate)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use DisconnectReason as R;

    const PERIOD: Duration = Duration::from_secs(1_000);

    fn flow(bytes_in: u64, bytes_out: u64) -> ByteFlow {
        ByteFlow { bytes_in, bytes_out, must_read_by: None, half_closed: false }
    }

    /// A moment after the process stalled for this many seconds.
    fn moment(at: Instant, stalls: u64) -> Moment {
        Moment { at, stalls: Duration::from_secs(stalls) }
    }

    fn deadlines() -> Deadlines {
        Deadlines::with_write(Duration::from_secs(9))
    }

    /// Judges a session `at` seconds after its start. Returns the reason if it ends.
    fn end(
        deadline_clock: &mut DeadlineClock,
        at: f64,
        deadlines: &Deadlines,
        flow: &ByteFlow,
    ) -> Option<R> {
        match deadline_clock
            .judge(
                moment(deadline_clock.started + Duration::from_secs_f64(at), 0),
                PERIOD,
                deadlines,
                flow,
            )
            .0
        {
            DueAction::End(reason) => Some(reason),
            _ => None,
        }
    }

    #[test]
    fn silent_peer_ends_at_first_byte_deadline() {
        let deadlines = Deadlines { first_byte: Duration::from_secs(2), ..deadlines() };
        let mut deadline_clock = DeadlineClock::new(Instant::now());
        // The server's greeting is no first byte of the peer.
        assert_eq!(end(&mut deadline_clock, 1.9, &deadlines, &flow(0, 10)), None);
        assert_eq!(
            end(&mut deadline_clock, 2.0, &deadlines, &flow(0, 10)),
            Some(R::FirstByteTimeout)
        );
        assert_eq!(
            end(&mut DeadlineClock::new(deadline_clock.started), 2.0, &deadlines, &flow(1, 0)),
            None
        );
    }

    #[test]
    fn min_rate_ends_only_dripping_unanswered_peers() {
        let deadlines = Deadlines { min_rate: 100, ..deadlines() };
        let mut deadline_clock = DeadlineClock::new(Instant::now());
        for second in 0..5 {
            assert_eq!(
                end(
                    &mut deadline_clock,
                    f64::from(second),
                    &deadlines,
                    &flow(1 + second as u64, 0)
                ),
                None
            );
        }
        assert_eq!(end(&mut deadline_clock, 5.0, &deadlines, &flow(6, 0)), Some(R::MinRate));
        let mut answered = DeadlineClock::new(deadline_clock.started);
        for second in 0..50 {
            let moved = flow(second, second / 4);
            assert_eq!(end(&mut answered, second as f64, &deadlines, &moved), None, "at {second}");
        }
        let mut silent = DeadlineClock::new(deadline_clock.started);
        assert_eq!(end(&mut silent, 500.0, &deadlines, &flow(0, 0)), None);
    }

    #[test]
    fn peer_above_minimum_rate_keeps_its_session() {
        let deadlines = Deadlines { min_rate: 100, ..deadlines() };
        let mut deadline_clock = DeadlineClock::new(Instant::now());
        for second in 0..60 {
            assert_eq!(
                end(
                    &mut deadline_clock,
                    f64::from(second),
                    &deadlines,
                    &flow(101 * (1 + second as u64), 0)
                ),
                None
            );
        }
        assert_eq!(
            end(&mut deadline_clock, 120.0, &deadlines, &flow(101 * 60, 0)),
            Some(R::MinRate)
        );
    }

    #[test]
    fn byte_postpones_idle_but_not_lifetime() {
        let deadlines = Deadlines {
            idle: Duration::from_secs(3),
            lifetime: Duration::from_secs(5),
            ..deadlines()
        };
        let mut deadline_clock = DeadlineClock::new(Instant::now());
        assert_eq!(end(&mut deadline_clock, 2.9, &deadlines, &flow(1, 1)), None);
        assert_eq!(end(&mut deadline_clock, 4.9, &deadlines, &flow(1, 1)), None);
        assert_eq!(end(&mut deadline_clock, 5.0, &deadlines, &flow(2, 2)), Some(R::SessionTimeout));
        let mut idle = DeadlineClock::new(deadline_clock.started);
        assert_eq!(end(&mut idle, 3.0, &deadlines, &flow(0, 0)), Some(R::IdleTimeout));
    }

    #[test]
    fn stall_excuses_all_but_the_lifetime() {
        let two = Duration::from_secs(2);
        let cases = [
            (R::IdleTimeout, Deadlines { idle: two, ..deadlines() }, flow(0, 0), true),
            (R::FirstByteTimeout, Deadlines { first_byte: two, ..deadlines() }, flow(0, 0), true),
            (R::MinRate, Deadlines { min_rate: 100, ..deadlines() }, flow(1, 0), true),
            (R::SessionTimeout, Deadlines { lifetime: two, ..deadlines() }, flow(0, 0), false),
        ];
        for (reason, deadlines, flow, excused) in cases {
            let mut deadline_clock =
                DeadlineClock { stalls: Duration::ZERO, ..DeadlineClock::new(Instant::now()) };
            let mut ends = |at: u64, stalls: u64| {
                let now = moment(deadline_clock.started + Duration::from_secs(at), stalls);
                deadline_clock.judge(now, PERIOD, &deadlines, &flow).0 == DueAction::End(reason)
            };
            assert!(!ends(1, 0), "{reason:?}");
            assert_eq!(ends(21, 20), !excused, "{reason:?}");
            assert!(ends(27, 20), "{reason:?}");
        }
    }

    #[test]
    fn verdict_waits_until_nearest_deadline() {
        let deadlines = Deadlines {
            idle: Duration::from_secs(3),
            lifetime: Duration::from_secs(50),
            ..deadlines()
        };
        let mut deadline_clock = DeadlineClock::new(Instant::now());
        let start = deadline_clock.started;
        let stalled = ByteFlow { must_read_by: Some(start + Duration::from_secs(1)), ..flow(0, 0) };
        let start_now = moment(start, 0);
        let (due, _) = deadline_clock.judge(start_now, PERIOD, &deadlines, &stalled);
        assert_eq!(due, DueAction::WaitUntil(start + Duration::from_secs(1)));
        let (due, moved) = deadline_clock.judge(start_now, PERIOD, &deadlines, &flow(5, 0));
        assert_eq!((due, moved), (DueAction::WaitUntil(start + Duration::from_secs(3)), true));
    }
}
