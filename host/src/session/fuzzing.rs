//! The check of sessions that come from another process: see `crate::fuzzing`.

use std::time::{Duration, Instant};

use super::deadlines::{ByteFlow, DeadlineClock, Deadlines};
use super::live_stats::LiveStats;
use super::snapshot::SessionMeta;
use super::timers::Timers;
use crate::event::Usage;
use crate::sched::Moment;

/// What a session may still do after it was restored, in bytes and in fuel.
const LATER_MAX: u64 = 1 << 50;

/// The description of a session is read again from its own text, and the session can go on.
pub fn session_snapshot(bytes: &[u8]) -> bool {
    let Ok(snapshot) = serde_json::from_slice::<SessionMeta>(bytes) else { return false };
    let written = serde_json::to_vec(&snapshot).expect("JSON");
    let again: SessionMeta = serde_json::from_slice(&written).expect("its own text");
    assert_eq!(serde_json::to_vec(&again).expect("JSON"), written);
    goes_on(&snapshot);
    true
}

/// Restores the numbers of a session, and lets them grow as they would in a long life.
///
/// # Panics
/// A number overflows.
pub(crate) fn goes_on(snapshot: &SessionMeta) {
    for on_its_way in [Duration::ZERO, Duration::from_secs(1), Duration::MAX] {
        let aged = snapshot.clone().aged(on_its_way);
        assert_eq!(aged.timers.len(), snapshot.timers.len());
        let now = Instant::now();
        let moved = (aged.bytes_in, aged.bytes_out);
        let mut timers = Timers::default();
        for &(id, left) in &aged.timers {
            timers.set(id, left.max(1), 64, now);
        }
        assert!(timers.left(now).len() <= 64);
        let (short, long) = (Duration::from_millis(10), Duration::from_secs(30 * 24 * 3_600));
        for (limit, rate) in [(short, 1), (long, u32::MAX), (Duration::ZERO, 0)] {
            let deadlines = Deadlines {
                write: long,
                min_read_rate: rate,
                first_byte: limit,
                idle: limit,
                lifetime: limit,
                min_rate: rate,
            };
            let mut deadline_clock = DeadlineClock::resumed(now, &aged.times, moved);
            for more in [0, 1, LATER_MAX] {
                let flow = ByteFlow {
                    bytes_in: moved.0 + more,
                    bytes_out: moved.1,
                    must_read_by: None,
                    half_closed: aged.half_closed,
                };
                deadline_clock.judge(Moment::at(now), long, &deadlines, &flow);
            }
            let _ = (
                deadline_clock.age(now),
                deadline_clock.ends(&deadlines),
                deadline_clock.times(now),
            );
        }
        let live_stats = LiveStats::default();
        let usage = Usage { fuel: aged.fuel, memory_bytes: 0 };
        live_stats.resume(aged.events, usage, Duration::from_nanos(aged.cpu_ns));
        live_stats.count(Usage { fuel: aged.fuel + LATER_MAX, memory_bytes: 0 });
        assert_eq!(live_stats.events(), aged.events + 1);
        assert!(moved.1.checked_add(LATER_MAX).is_some() && aged.id.checked_add(1).is_some());
    }
}
