//! CPU time of a thread's work, without a system call for each measurement.
//!
//! The system's clock of a thread costs a system call, which is more than many events cost.
//! Therefore a stretch that was short by wall time is charged its wall time: no interruption can
//! have been longer than that. Only a long stretch may hide time off the CPU, so it is measured.
//!
//! The charge is never less than the CPU time that was used. It exceeds that by at most `SHORT` for
//! a short stretch, and by the thread's work in the `SYNC` before it for a long one.

use std::cell::Cell;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Stretches shorter than this are charged by wall time. The system's own slices are ten times as
/// long.
const SHORT: Duration = Duration::from_micros(100);
/// The maximum age of a reading of the thread's clock when a stretch begins.
const SYNC: Duration = Duration::from_millis(1);

/// A reading of the thread's clock, and the CPU time charged since then.
#[derive(Debug, Clone, Copy)]
struct Reading {
    wall: Instant,
    cpu: Duration,
    charged: Duration,
}

thread_local! {
    static READING: Cell<Option<Reading>> = const { Cell::new(None) };
}

/// A stretch of work on the thread that began it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch(Instant);

impl Stretch {
    /// Begins a stretch. `now` is the current time.
    pub(crate) fn begin(now: Instant) -> Self {
        count_read();
        let known =
            READING.get().filter(|reading| now.saturating_duration_since(reading.wall) < SYNC);
        if known.is_none() {
            READING.set(Some(Reading { wall: now, cpu: thread_time(), charged: Duration::ZERO }));
        }
        Self(now)
    }

    /// Returns the CPU time since the stretch began. Call this on the thread that began the
    /// stretch.
    pub(crate) fn end(self) -> Duration {
        self.end_at(Instant::now())
    }

    /// As [`Stretch::end`]. `now` is the current time.
    pub(crate) fn end_at(self, now: Instant) -> Duration {
        let wall = now.saturating_duration_since(self.0);
        let Some(mut reading) = READING.get() else { return wall };
        if wall < SHORT {
            reading.charged += wall;
            READING.set(Some(reading));
            return wall;
        }
        let cpu = thread_time();
        READING.set(Some(Reading { wall: now, cpu, charged: Duration::ZERO }));
        cpu.saturating_sub(reading.cpu).saturating_sub(reading.charged).min(wall)
    }
}

/// Counts the reads of a clock in tests. Work without a limit reads none.
#[cfg(test)]
fn count_read() {
    READS.set(READS.get() + 1);
}

#[cfg(not(test))]
const fn count_read() {}

#[cfg(test)]
thread_local! {
    static READS: Cell<usize> = const { Cell::new(0) };
}

/// Returns how often the calling thread has read a clock here.
#[cfg(test)]
pub(crate) fn clock_reads() -> usize {
    READS.get()
}

/// Converts a time to nanoseconds. 64 bits hold more than five hundred years.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the CPU time that this thread has used since its start.
pub(crate) fn thread_time() -> Duration {
    count_read();
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    fn work(for_cpu: Duration) {
        let until = thread_time() + for_cpu;
        while thread_time() < until {
            (0..100).for_each(|step| _ = black_box(step));
        }
    }

    #[test]
    fn time_off_the_cpu_is_not_charged() {
        let stretch = Stretch::begin(Instant::now());
        work(Duration::from_millis(3));
        std::thread::sleep(Duration::from_millis(30));
        let charged = stretch.end();
        assert!(
            charged >= Duration::from_millis(3) && charged < Duration::from_millis(15),
            "{charged:?}"
        );
    }

    #[test]
    fn short_stretches_are_charged_in_full() {
        let (start, mut charged) = (thread_time(), Duration::ZERO);
        for _ in 0..200 {
            let stretch = Stretch::begin(Instant::now());
            work(Duration::from_micros(20));
            charged += stretch.end();
        }
        let used = thread_time() - start;
        assert!(charged > used / 2 && charged < used * 2, "charged {charged:?} of {used:?}");
    }

    #[test]
    fn work_before_long_stretch_is_charged_once() {
        let first = Stretch::begin(Instant::now());
        work(Duration::from_millis(2));
        let one = first.end();
        let second = Stretch::begin(Instant::now());
        work(Duration::from_millis(2));
        let two = second.end();
        assert!(one + two < Duration::from_millis(7), "{one:?} {two:?}");
    }
}
