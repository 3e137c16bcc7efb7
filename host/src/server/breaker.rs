//! A server whose plugin faults again and again takes no newcomers for a while: the breaker. Pure: it is told the time.
//!
//! It trips when most sessions that end do so by a fault of the plugin; a few clients that know how to provoke one, beside
//! others that are served well, do not trip it. After a pause one newcomer is let in, and what becomes of it decides: the breaker
//! closes, or the next pause is twice as long.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many sessions have to fault for each that ends well or goes on.
const FAULTS_PER_WELL: usize = 9;
/// Endings of each kind that are remembered, for each fault that trips it; and how many at most.
const REMEMBERED: usize = 10;
const REMEMBERED_MAX: usize = 10_000;
/// How long the one that is let in has to last without a fault.
const TRIAL: Duration = Duration::from_secs(1);
/// A breaker that trips again so soon goes on with longer pauses.
const MEMORY: Duration = Duration::from_secs(60);

/// When a breaker trips and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerLimits {
    /// Faults within the window that trip it, up to 10,000; 0 is never. Default 10.
    pub faults: u32,
    /// How long a fault counts. Default 10 s.
    pub window: Duration,
    /// The first pause. Default 1 s.
    pub pause: Duration,
    /// The longest pause. Default 1 min.
    pub pause_max: Duration,
}

impl Default for BreakerLimits {
    fn default() -> Self {
        let (window, pause, pause_max) = (Duration::from_secs(10), Duration::from_secs(1), Duration::from_secs(60));
        Self { faults: 10, window, pause, pause_max }
    }
}

/// What a breaker does with newcomers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Lets them in.
    Closed,
    /// They wait in the backlog until then.
    Open(Instant),
    /// One may come in, and the others wait for what becomes of it.
    Trying(Option<Instant>),
}

impl BreakerState {
    /// Stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open(_) => "open",
            Self::Trying(_) => "trying",
        }
    }
}

/// What a report changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Tripped(Duration),
    Recovered,
}

#[derive(Debug)]
pub(super) struct Breaker {
    limits: BreakerLimits,
    state: BreakerState,
    pause: Duration,
    recovered: Option<Instant>,
    faults: VecDeque<Instant>,
    wells: VecDeque<Instant>,
}

impl Breaker {
    pub(super) fn new(limits: BreakerLimits) -> Self {
        let (faults, wells) = (VecDeque::new(), VecDeque::new());
        Self { limits, state: BreakerState::Closed, pause: limits.pause, recovered: None, faults, wells }
    }

    /// Other limits; what was counted is forgotten, and newcomers are let in.
    pub(super) fn reset(&mut self, limits: BreakerLimits) {
        *self = Self::new(limits);
    }

    pub(super) fn limits(&self) -> BreakerLimits {
        self.limits
    }

    pub(super) fn state(&self) -> BreakerState {
        self.state
    }

    /// Whether a newcomer may be let in now, or when to ask again.
    pub(super) fn ask(&mut self, now: Instant) -> (Result<(), Instant>, Option<Turn>) {
        match self.state {
            BreakerState::Closed => (Ok(()), None),
            BreakerState::Open(until) if now < until => (Err(until), None),
            BreakerState::Open(_) | BreakerState::Trying(None) => {
                self.state = BreakerState::Trying(None);
                (Ok(()), None)
            }
            BreakerState::Trying(Some(since)) if now < since + TRIAL => (Err(since + TRIAL), None),
            BreakerState::Trying(Some(_)) => (Ok(()), Some(self.close(now))),
        }
    }

    /// A newcomer was let in.
    pub(super) fn admitted(&mut self, now: Instant) {
        if self.state == BreakerState::Trying(None) {
            self.state = BreakerState::Trying(Some(now));
        }
    }

    /// A session ended, by a fault of the plugin's or well, and so many others go on.
    pub(super) fn report(&mut self, faulted: bool, others: usize, now: Instant) -> Option<Turn> {
        if self.limits.faults == 0 {
            return None;
        }
        match (self.state, faulted) {
            (BreakerState::Trying(Some(_)), true) => return Some(self.trip(now)),
            (BreakerState::Trying(Some(_)), false) => return Some(self.close(now)),
            (BreakerState::Open(_) | BreakerState::Trying(None), _) => return None,
            (BreakerState::Closed, _) => {}
        }
        let (enough, window) = (self.limits.faults as usize, self.limits.window);
        let seen = if faulted { &mut self.faults } else { &mut self.wells };
        seen.push_back(now);
        if seen.len() > (enough * REMEMBERED).min(REMEMBERED_MAX) {
            seen.pop_front();
        }
        for seen in [&mut self.faults, &mut self.wells] {
            while seen.front().is_some_and(|at| now.saturating_duration_since(*at) > window) {
                seen.pop_front();
            }
        }
        let trips = self.faults.len() >= enough && self.faults.len() >= (self.wells.len() + others) * FAULTS_PER_WELL;
        trips.then(|| {
            let again = self.recovered.is_some_and(|at| now.saturating_duration_since(at) < MEMORY);
            if !again {
                self.pause = self.limits.pause;
            }
            self.trip(now)
        })
    }

    fn trip(&mut self, now: Instant) -> Turn {
        let pause = self.pause;
        self.state = BreakerState::Open(now + pause);
        self.pause = (pause * 2).min(self.limits.pause_max);
        (self.faults, self.wells) = Default::default();
        Turn::Tripped(pause)
    }

    fn close(&mut self, now: Instant) -> Turn {
        (self.state, self.recovered) = (BreakerState::Closed, Some(now));
        Turn::Recovered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(at: f64, start: Instant) -> Instant {
        start + Duration::from_secs_f64(at)
    }

    fn tripped(start: Instant) -> Breaker {
        let mut breaker = Breaker::new(BreakerLimits::default());
        for fault in 0..9 {
            assert_eq!(breaker.report(true, 0, second(f64::from(fault) / 10.0, start)), None);
        }
        assert_eq!(breaker.report(true, 0, second(1.0, start)), Some(Turn::Tripped(Duration::from_secs(1))));
        breaker
    }

    #[test]
    fn ten_faults_in_a_row_trip_it_and_what_became_of_the_next_decides() {
        let start = Instant::now();
        let mut breaker = tripped(start);
        assert_eq!(breaker.ask(second(1.9, start)).0, Err(second(2.0, start)));
        assert_eq!(breaker.ask(second(2.0, start)).0, Ok(()));
        breaker.admitted(second(2.0, start));
        assert!(breaker.ask(second(2.1, start)).0.is_err());
        // It faults as well: the pause is twice as long, and so on up to the longest.
        let mut at = 2.2;
        for pause in [2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(breaker.report(true, 0, second(at, start)), Some(Turn::Tripped(Duration::from_secs(pause))));
            at += pause as f64;
            assert_eq!(breaker.ask(second(at, start)).0, Ok(()));
            breaker.admitted(second(at, start));
        }
        assert_eq!(breaker.report(false, 0, second(at, start)), Some(Turn::Recovered));
        assert_eq!(breaker.ask(second(at, start)), (Ok(()), None));
    }

    #[test]
    fn one_that_lasts_recovers_it_and_tripping_again_soon_pauses_longer() {
        let start = Instant::now();
        let mut breaker = tripped(start);
        assert_eq!(breaker.ask(second(2.0, start)).0, Ok(()));
        breaker.admitted(second(2.0, start));
        assert_eq!(breaker.ask(second(3.0, start)), (Ok(()), Some(Turn::Recovered)));
        let again = (0..10).filter_map(|_| breaker.report(true, 0, second(4.0, start))).next();
        assert_eq!(again, Some(Turn::Tripped(Duration::from_secs(2))));
    }

    #[test]
    fn a_few_who_provoke_faults_beside_many_who_are_served_well_do_not_trip_it() {
        let start = Instant::now();
        let mut breaker = Breaker::new(BreakerLimits::default());
        for step in 0..1_000 {
            let faulted = step % 5 != 0;
            assert_eq!(breaker.report(faulted, 0, second(f64::from(step) / 1_000.0, start)), None);
        }
        // Faults that are long past do not count.
        let mut rare = Breaker::new(BreakerLimits::default());
        assert!((0..100).all(|step| rare.report(true, 0, second(f64::from(step) * 2.0, start)).is_none()));
        let mut busy = Breaker::new(BreakerLimits::default());
        assert!((0..50).all(|_| busy.report(true, 20, start).is_none()), "many are served beside those that fault");
        let mut off = Breaker::new(BreakerLimits { faults: 0, ..BreakerLimits::default() });
        assert!((0..100).all(|_| off.report(true, 0, start).is_none()));
    }
}
