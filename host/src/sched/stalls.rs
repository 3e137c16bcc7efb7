//! Stalls: time in which the whole process stood still, because it was stopped by a signal, frozen,
//! or without any CPU. Stalls count against no peer and no plugin.
//!
//! A thread beats ten times a second. If it is silent for longer than `TOLERANCE`, the rest of the
//! silence is a stall. After a stall the result is the same whether that thread or the thread that
//! asks runs first. Asking costs one load from memory, and no system call.

use std::io;
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::locks::lock;
use futures_util::FutureExt;

/// How often the thread says that the process runs.
const BEAT: Duration = Duration::from_millis(100);
/// A silence of at most this length is no stall: threads wait for a CPU now and then.
const TOLERANCE: Duration = Duration::from_millis(300);
/// Longer waits are cut to this, so that no sum of times overflows.
const WAIT_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The thread's start. If it is unset, stalls are not noticed.
static STARTED: OnceLock<Instant> = OnceLock::new();
static BEATS: AtomicU64 = AtomicU64::new(0);

/// The thread's last beat and the stalls before it, packed into one number, so that a reader never
/// sees half of a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Beats {
    /// In [`Beats::UNIT`] since the start: 34 years fit.
    last: u64,
    /// In the same unit: 49 days fit.
    stalls: u64,
}

impl Beats {
    const UNIT: Duration = Duration::from_millis(16);
    const STALLS_BITS: u32 = 28;
    const STALLS_MAX: u64 = (1 << Self::STALLS_BITS) - 1;

    fn load() -> Self {
        let packed = BEATS.load(Ordering::Relaxed);
        Self { last: packed >> Self::STALLS_BITS, stalls: packed & Self::STALLS_MAX }
    }

    fn store(self) {
        BEATS.store(
            self.last << Self::STALLS_BITS | self.stalls.min(Self::STALLS_MAX),
            Ordering::Relaxed,
        );
    }

    fn time(units: u64) -> Duration {
        Self::UNIT.saturating_mul(u32::try_from(units).unwrap_or(u32::MAX))
    }

    /// Returns all stalls up to `now` after the start, one that still lasts included.
    fn stalls(self, now: Duration) -> Duration {
        Self::time(self.stalls) + now.saturating_sub(Self::time(self.last) + TOLERANCE)
    }

    /// Returns the beats after a beat at `now` after the start.
    fn beat(self, now: Duration) -> Self {
        let units = |time: Duration| {
            u64::try_from(time.as_millis() / Self::UNIT.as_millis()).unwrap_or(u64::MAX)
        };
        Self { last: units(now), stalls: units(self.stalls(now)) }
    }
}

/// Starts the thread that notices stalls, once in a process. The thread lasts as long as the
/// process does.
///
/// # Errors
/// The system has no thread left. The next call tries again.
pub fn watch() -> io::Result<()> {
    static WATCHED: std::sync::Mutex<bool> = std::sync::Mutex::new(false);
    let mut watched = lock(&WATCHED);
    if *watched {
        return Ok(());
    }
    let (told, started) = std::sync::mpsc::sync_channel(1);
    thread::Builder::new().name("wharf-stalls".into()).spawn(move || {
        let started = *STARTED.get_or_init(Instant::now);
        // The channel has room for the message.
        let _ = told.send(());
        loop {
            Beats::load().beat(started.elapsed()).store();
            thread::sleep(BEAT);
        }
    })?;
    *watched = true;
    started.recv().map_err(io::Error::other)
}

/// A moment, and all stalls of the process before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// By the system's clock.
    pub at: Instant,
    /// All stalls until then.
    pub stalls: Duration,
}

impl Moment {
    /// Returns this moment.
    #[must_use]
    pub fn now() -> Self {
        Self::at(Instant::now())
    }

    /// Returns the moment of `at`, which is known already and must be recent.
    #[must_use]
    pub fn at(at: Instant) -> Self {
        let since_start = STARTED.get().map(|started| at.saturating_duration_since(*started));
        Self { at, stalls: since_start.map_or(Duration::ZERO, |since| Beats::load().stalls(since)) }
    }

    /// Returns when `limit` has passed since this moment, without stalls, as far as `now` knows.
    #[must_use]
    pub fn due(self, limit: Duration, now: Self) -> Instant {
        self.at + limit.min(WAIT_MAX) + now.stalls.saturating_sub(self.stalls)
    }

    /// Returns the time from this moment to `now`, without stalls.
    #[must_use]
    pub fn until(self, now: Self) -> Duration {
        let stalls = now.stalls.saturating_sub(self.stalls);
        now.at.saturating_duration_since(self.at).saturating_sub(stalls)
    }

    /// Returns this moment by a clock that stands still when the process does. Compare the result
    /// with times of that clock only.
    #[must_use]
    pub fn excused(self) -> Instant {
        self.at.checked_sub(self.stalls).unwrap_or(self.at)
    }
}

/// Waits for `waited` for at most `limit`, stalls excluded.
///
/// Returns `None` if `waited` is not ready, even after the thread's reactor has looked at its
/// sockets once more. Cancel safe if `waited` is.
pub async fn within<T>(limit: Duration, waited: impl Future<Output = T>) -> Option<T> {
    let since = Moment::now();
    wait(|now| since.due(limit, now), waited).await
}

/// Waits as [`within`] does, until a time of the clock of [`Moment::excused`].
pub async fn by<T>(deadline: Instant, waited: impl Future<Output = T>) -> Option<T> {
    wait(|now| deadline + now.stalls, waited).await
}

/// Sleeps for `time`, stalls excluded. Cancel safe.
pub async fn sleep(time: Duration) {
    within(time, std::future::pending::<()>()).await;
}

async fn wait<T>(due: impl Fn(Moment) -> Instant, waited: impl Future<Output = T>) -> Option<T> {
    let mut waited = pin!(waited);
    loop {
        let until = due(Moment::now());
        if let Ok(done) = tokio::time::timeout_at(until.into(), waited.as_mut()).await {
            return Some(done);
        }
        let now = Moment::now();
        if due(now) <= now.at {
            break;
        }
    }
    // If a stall interrupted the reactor's wait, due timers run before the reactor looks at its
    // sockets.
    tokio::task::yield_now().await;
    waited.now_or_never()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// The thread beats and others look, in an order that a seed decides.
    #[test]
    fn stalls_are_the_same_for_every_look() {
        for number in 0..2_000 {
            let mut rng = Rng(number);
            let (mut beats, mut now, mut silence) =
                (Beats::default(), Duration::ZERO, Duration::ZERO);
            let (mut seen, mut least) = (Duration::ZERO, Duration::ZERO);
            for _ in 0..rng.throw(60) {
                let step = Duration::from_millis(match rng.throw(5) {
                    0 => 300 + rng.throw(60_000),
                    _ => rng.throw(120),
                });
                (now, silence) = (now + step, silence + step);
                let stalls = beats.stalls(now);
                // One unit may be lost with each beat.
                assert!(stalls + Beats::UNIT * 2 >= seen, "{number}: {stalls:?} after {seen:?}");
                assert!(stalls <= now, "{number}: {stalls:?} of {now:?}");
                seen = seen.max(stalls);
                if rng.throw(10) < 6 {
                    beats = beats.beat(now);
                    least += silence.saturating_sub(TOLERANCE + Beats::UNIT * 3);
                    assert!(
                        beats.stalls(now) >= least,
                        "{number}: {:?} of {least:?}",
                        beats.stalls(now)
                    );
                    silence = Duration::ZERO;
                }
            }
        }
    }

    #[test]
    fn steady_beats_are_no_stall() {
        let mut beats = Beats::default();
        for beat in 0..10_000_u32 {
            let now = BEAT * beat;
            assert_eq!(beats.stalls(now + TOLERANCE - BEAT - Beats::UNIT), Duration::ZERO);
            beats = beats.beat(now);
        }
    }

    #[test]
    fn deadlines_move_by_later_stalls() {
        let start = Moment { at: Instant::now(), stalls: Duration::from_secs(5) };
        let after = |seconds: u64, stalls: u64| Moment {
            at: start.at + Duration::from_secs(seconds),
            stalls: Duration::from_secs(stalls),
        };
        let due = |now| start.due(Duration::from_secs(10), now) - start.at;
        assert_eq!([due(after(1, 5)), due(after(40, 35))].map(|due| due.as_secs()), [10, 40]);
        assert_eq!(start.until(after(40, 35)), Duration::from_secs(10));
    }

    #[tokio::test]
    async fn result_at_the_deadline_is_taken() {
        assert_eq!(within(Duration::ZERO, async { 1 }).await, Some(1));
        let late = async {
            thread::sleep(Duration::from_millis(20));
            2
        };
        assert_eq!(within(Duration::from_millis(5), late).await, Some(2));
        assert_eq!(within(Duration::from_millis(5), std::future::pending::<()>()).await, None);
    }
}
