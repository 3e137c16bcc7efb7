//! The timers of one session. They take no memory until the first is set.

use std::time::{Duration, Instant};

use super::snapshot::ago;

/// Longest delay of a timer. A longer delay is cut to this.
const DELAY_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

#[derive(Debug, Default)]
pub(super) struct Timers(Vec<(Instant, u32)>);

impl Timers {
    /// Sets or replaces a timer, or cancels it if `after_ms` is 0. Returns false and changes
    /// nothing if there would be more than `max`.
    pub(super) fn set(&mut self, id: u32, after_ms: u64, max: usize, now: Instant) -> bool {
        let known = self.0.iter().position(|&(_, other)| other == id);
        if after_ms == 0 {
            known.map(|at| self.0.swap_remove(at));
            return true;
        }
        let due = now + Duration::from_millis(after_ms).min(DELAY_MAX);
        match known {
            Some(at) => self.0[at].0 = due,
            None if self.0.len() < max => self.0.push((due, id)),
            None => return false,
        }
        true
    }

    /// All timers, with the milliseconds that are left.
    pub(super) fn left(&self, now: Instant) -> Vec<(u32, u64)> {
        self.0.iter().map(|&(due, id)| (id, ago(now, due))).collect()
    }

    /// When the next timer is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().map(|&(due, _)| due).min()
    }

    /// Takes the earliest due timer. Of two at the same moment, takes the lower id.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<u32> {
        let (at, &(due, id)) = self.0.iter().enumerate().min_by_key(|(_, timer)| **timer)?;
        (due <= now).then(|| {
            self.0.swap_remove(at);
            id
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_once_in_order() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        assert!(
            timers.set(7, 20, 64, start)
                && timers.set(8, 10, 64, start)
                && timers.set(9, 30, 64, start)
        );
        assert!(timers.set(9, 0, 64, start) && timers.set(7, 25, 64, start));
        let late = start + Duration::from_millis(100);
        assert_eq!(timers.take_due(start), None);
        assert_eq!(timers.next(), Some(start + Duration::from_millis(10)));
        assert_eq!(
            [timers.take_due(late), timers.take_due(late), timers.take_due(late)],
            [Some(8), Some(7), None]
        );
    }

    #[test]
    fn timer_over_limit_is_refused_replacement_is_not() {
        let (mut timers, now) = (Timers::default(), Instant::now());
        for id in 0..64 {
            assert!(timers.set(id, 1, 64, now));
        }
        assert!(!timers.set(64, 1, 64, now));
        assert!(timers.set(0, 5, 64, now));
        assert!(timers.set(1, 0, 64, now) && timers.set(64, 1, 64, now));
    }

    #[test]
    fn absurd_delay_is_cut() {
        let (mut timers, now) = (Timers::default(), Instant::now());
        assert!(timers.set(1, u64::MAX, 64, now));
        assert_eq!(timers.next(), Some(now + DELAY_MAX));
    }
}
