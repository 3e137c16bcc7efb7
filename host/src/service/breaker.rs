//! The breaker: holds off new sessions for a while when the plugin faults again and again.
//! The breaker has no clock; its callers pass the time.
//!
//! The breaker weighs endings by client address. An address is bad when most of its sessions end by
//! a fault of the plugin. The breaker trips when most addresses are bad. A single address trips it
//! only if the server sees no other, or if the address is a configured proxy.
//!
//! After a pause the breaker admits one new connection, the trial. If the trial faults, the next
//! pause is twice as long. If it ends well or lasts, the breaker closes.

#[cfg(test)]
mod simulation;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::admission::AddressGroup;
use crate::rollout::blame::{ClientSource, Crowd, EndKind, LiveAddresses};

/// Faults per session that ends well or goes on, and bad addresses per good one, from which the
/// breaker trips.
const FAULTS_PER_WELL: u64 = 9;
/// Endings of each kind that the breaker remembers of one address, for each fault of
/// [`BreakerLimits::faults`].
const REMEMBERED: usize = 10;
/// Most endings of each kind that the breaker remembers of one address.
const REMEMBERED_MAX: usize = 10_000;
/// Endings that the breaker remembers of all addresses. Beyond them it forgets the oldest.
const ENDINGS_MAX: usize = 2 * REMEMBERED_MAX;
/// Addresses up to which the breaker weighs every fault. With more, it weighs at most once in each
/// `WEIGHED_EVERY`, because weighing looks at all addresses.
const WEIGHED_AT_ONCE_MAX: usize = 256;
const WEIGHED_EVERY: Duration = Duration::from_millis(100);
/// Bad addresses that trip the breaker at least, if the server sees more than one address.
const BAD_ADDRESSES_MIN: u64 = 2;
/// Time that a trial has to last without a fault.
const TRIAL: Duration = Duration::from_secs(1);
/// Time after a recovery in which tripping again continues with longer pauses. Also the time for
/// which the breaker remembers an address after a session of it ended.
const MEMORY: Duration = Duration::from_secs(60);

/// When a breaker trips and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerLimits {
    /// Faults within the window that trip the breaker, up to 10,000; 0 is never. Default 10.
    pub faults: u32,
    /// Time for which a fault counts. Default 10 s.
    pub window: Duration,
    /// The first pause. Default 1 s.
    pub pause: Duration,
    /// The longest pause. Default 1 min.
    pub pause_max: Duration,
}

impl Default for BreakerLimits {
    fn default() -> Self {
        let (window, pause, pause_max) =
            (Duration::from_secs(10), Duration::from_secs(1), Duration::from_secs(60));
        Self { faults: 10, window, pause, pause_max }
    }
}

/// What a breaker does with new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Admits them.
    Closed,
    /// Leaves them in the backlog until then.
    Open(Instant),
    /// Admits one as a trial, at the given time; the others wait for its outcome.
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

/// A change of the breaker's state by a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BreakerChange {
    Tripped(Duration),
    Recovered,
}

/// The end of a session.
#[derive(Debug, Clone, Copy)]
struct Ending {
    at: Instant,
    group: AddressGroup,
    kind: EndKind,
}

/// Endings of one address within the window.
#[derive(Debug, Clone, Copy)]
struct Tally {
    crowd: Crowd,
    faults: u64,
    wells: u64,
}

#[derive(Debug)]
pub(crate) struct Breaker {
    limits: BreakerLimits,
    state: BreakerState,
    pause: Duration,
    recovered: Option<Instant>,
    /// Endings within the window, the oldest first, and the same by address.
    endings: VecDeque<Ending>,
    tallies: HashMap<AddressGroup, Tally>,
    faults: u64,
    /// Time of the last weighing of many addresses.
    weighed: Option<Instant>,
    /// The last two addresses of which a session ended, and when.
    seen: [Option<(AddressGroup, Instant)>; 2],
    /// Address of the last trial that faulted.
    failed_trial: Option<AddressGroup>,
}

impl Breaker {
    pub(crate) fn new(limits: BreakerLimits) -> Self {
        Self {
            limits,
            state: BreakerState::Closed,
            pause: limits.pause,
            recovered: None,
            endings: VecDeque::new(),
            tallies: HashMap::new(),
            faults: 0,
            weighed: None,
            seen: [None; 2],
            failed_trial: None,
        }
    }

    /// Takes other limits, forgets all counts and closes the breaker.
    pub(crate) fn reset(&mut self, limits: BreakerLimits) {
        *self = Self::new(limits);
    }

    pub(crate) fn limits(&self) -> BreakerLimits {
        self.limits
    }

    pub(crate) fn state(&self) -> BreakerState {
        self.state
    }

    /// Says whether a new connection may be admitted now, or when to ask again.
    pub(crate) fn ask(&mut self, now: Instant) -> (Result<(), Instant>, Option<BreakerChange>) {
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

    /// Notes that a new connection was admitted.
    pub(crate) fn admitted(&mut self, now: Instant) {
        if self.state == BreakerState::Trying(None) {
            self.state = BreakerState::Trying(Some(now));
        }
    }

    /// Counts the end of a session from `source`; the sessions in `live` go on.
    pub(crate) fn report(
        &mut self,
        source: ClientSource,
        kind: EndKind,
        live: &LiveAddresses,
        now: Instant,
    ) -> Option<BreakerChange> {
        if self.limits.faults == 0 {
            return None;
        }
        self.sees(source.group, now);
        match (self.state, kind) {
            (BreakerState::Trying(Some(_)), EndKind::Faulted) => {
                return self.failed(source, live, now);
            }
            (BreakerState::Trying(Some(_)), EndKind::Well) => return Some(self.close(now)),
            (BreakerState::Open(_) | BreakerState::Trying(None), _) => return None,
            (BreakerState::Closed, _) => {}
        }
        self.count(source, kind, now);
        let trips = kind == EndKind::Faulted && self.may_weigh(now) && self.is_enough(live, now);
        trips.then(|| {
            let again = self.recovered.is_some_and(|at| now.saturating_duration_since(at) < MEMORY);
            if !again {
                self.pause = self.limits.pause;
            }
            self.failed_trial = None;
            self.trip(now)
        })
    }

    /// Handles a trial that faulted. One address does not hold off others twice in a row: instead
    /// the breaker tries another connection at once.
    fn failed(
        &mut self,
        source: ClientSource,
        live: &LiveAddresses,
        now: Instant,
    ) -> Option<BreakerChange> {
        let again = self.failed_trial == Some(source.group) && source.crowd == Crowd::One;
        if again && self.has_others(source.group, live, now) {
            self.state = BreakerState::Trying(None);
            return None;
        }
        self.failed_trial = Some(source.group);
        Some(self.trip(now))
    }

    fn sees(&mut self, group: AddressGroup, now: Instant) {
        let [last, before] = self.seen;
        let other = if last.is_some_and(|(known, _)| known == group) { before } else { last };
        self.seen = [Some((group, now)), other];
    }

    /// Whether the server has sessions of other addresses, or had some within [`MEMORY`] or the
    /// window, the longer of the two.
    fn has_others(&self, group: AddressGroup, live: &LiveAddresses, now: Instant) -> bool {
        let memory = MEMORY.max(self.limits.window);
        let recent = |at: Instant| now.saturating_duration_since(at) <= memory;
        let ended = self.seen.iter().flatten().any(|(known, at)| *known != group && recent(*at));
        ended || live.count() > usize::from(live.at(group) > 0)
    }

    /// Remembers an ending, and forgets those before the window.
    fn count(&mut self, source: ClientSource, kind: EndKind, now: Instant) {
        let window = self.limits.window;
        let is_over = |first: &Ending| now.saturating_duration_since(first.at) > window;
        while let Some(first) = self.endings.front().filter(|first| is_over(first)).copied() {
            self.forget(first);
        }
        let cap = (self.limits.faults as usize * REMEMBERED).min(REMEMBERED_MAX) as u64;
        let fresh = Tally { crowd: source.crowd, faults: 0, wells: 0 };
        let tally = self.tallies.entry(source.group).or_insert(fresh);
        let counted = match kind {
            EndKind::Faulted => &mut tally.faults,
            EndKind::Well => &mut tally.wells,
        };
        // One address does not displace the endings of others.
        if *counted >= cap {
            return;
        }
        *counted += 1;
        self.faults += u64::from(kind == EndKind::Faulted);
        self.endings.push_back(Ending { at: now, group: source.group, kind });
        if self.endings.len() > ENDINGS_MAX
            && let Some(first) = self.endings.front().copied()
        {
            self.forget(first);
        }
    }

    /// Forgets the oldest ending, which `first` is.
    fn forget(&mut self, first: Ending) {
        self.endings.pop_front();
        let Some(tally) = self.tallies.get_mut(&first.group) else { return };
        match first.kind {
            EndKind::Faulted => (tally.faults, self.faults) = (tally.faults - 1, self.faults - 1),
            EndKind::Well => tally.wells -= 1,
        }
        if tally.faults + tally.wells == 0 {
            self.tallies.remove(&first.group);
        }
    }

    /// Whether the breaker may look at all addresses now. Clients with many addresses must not
    /// cause that long look with each fault.
    fn may_weigh(&mut self, now: Instant) -> bool {
        if self.faults < u64::from(self.limits.faults) {
            return false;
        }
        if self.tallies.len() <= WEIGHED_AT_ONCE_MAX {
            return true;
        }
        let is_soon =
            self.weighed.is_some_and(|at| now.saturating_duration_since(at) < WEIGHED_EVERY);
        if !is_soon {
            self.weighed = Some(now);
        }
        !is_soon
    }

    /// Whether the faults within the window trip the breaker.
    fn is_enough(&self, live: &LiveAddresses, now: Instant) -> bool {
        let enough = u64::from(self.limits.faults);
        if self.faults < enough {
            return false;
        }
        let (mut bad, mut good, mut weight) = (0, live.count() as u64, 0);
        let (mut crowded, mut wells) = (false, 0);
        // One address is not enough by itself.
        let most = (enough / 2).max(1);
        for (group, tally) in &self.tallies {
            let here = live.at(*group);
            wells += tally.wells;
            if tally.faults > 0 && tally.faults >= (tally.wells + here) * FAULTS_PER_WELL {
                (bad, weight) = (bad + 1, weight + tally.faults.min(most));
                good -= u64::from(here > 0);
                crowded |= tally.crowd == Crowd::Many;
            } else {
                good += u64::from(here == 0);
            }
        }
        let by_session = self.faults >= (wells + live.total()) * FAULTS_PER_WELL;
        let only = self.tallies.keys().next().filter(|_| self.tallies.len() == 1);
        if crowded || only.is_some_and(|group| !self.has_others(*group, live, now)) {
            return by_session;
        }
        bad >= BAD_ADDRESSES_MIN && weight >= enough && bad >= good * FAULTS_PER_WELL
    }

    fn trip(&mut self, now: Instant) -> BreakerChange {
        let pause = self.pause;
        self.state = BreakerState::Open(now + pause);
        self.pause = (pause * 2).min(self.limits.pause_max);
        (self.endings, self.tallies, self.faults) = Default::default();
        BreakerChange::Tripped(pause)
    }

    fn close(&mut self, now: Instant) -> BreakerChange {
        (self.state, self.recovered) = (BreakerState::Closed, Some(now));
        BreakerChange::Recovered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn source(number: u32) -> ClientSource {
        let group = AddressGroup::of(std::net::Ipv4Addr::from_bits(0x0A00_0000 + number).into());
        ClientSource { group, crowd: Crowd::One }
    }

    pub(crate) fn live(sessions: &[(u32, u32)]) -> LiveAddresses {
        let mut live = LiveAddresses::default();
        for (number, count) in sessions {
            (0..*count).for_each(|_| live.add(source(*number).group));
        }
        live
    }

    /// Reports the end of a session of the only address.
    fn report(
        breaker: &mut Breaker,
        kind: EndKind,
        others: u32,
        now: Instant,
    ) -> Option<BreakerChange> {
        breaker.report(source(1), kind, &live(&[(1, others)]), now)
    }

    fn second(at: f64, start: Instant) -> Instant {
        start + Duration::from_secs_f64(at)
    }

    fn tripped(start: Instant) -> Breaker {
        let mut breaker = Breaker::new(BreakerLimits::default());
        for fault in 0..9 {
            assert_eq!(
                report(&mut breaker, EndKind::Faulted, 0, second(f64::from(fault) / 10.0, start)),
                None
            );
        }
        assert_eq!(
            report(&mut breaker, EndKind::Faulted, 0, second(1.0, start)),
            Some(BreakerChange::Tripped(Duration::from_secs(1)))
        );
        breaker
    }

    #[test]
    fn ten_faults_trip_and_trial_decides() {
        let start = Instant::now();
        let mut breaker = tripped(start);
        assert_eq!(breaker.ask(second(1.9, start)).0, Err(second(2.0, start)));
        assert_eq!(breaker.ask(second(2.0, start)).0, Ok(()));
        breaker.admitted(second(2.0, start));
        assert!(breaker.ask(second(2.1, start)).0.is_err());
        // The trial faults as well: the pause is twice as long, and so on up to the longest.
        let mut at = 2.2;
        for pause in [2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(
                report(&mut breaker, EndKind::Faulted, 0, second(at, start)),
                Some(BreakerChange::Tripped(Duration::from_secs(pause)))
            );
            at += pause as f64;
            assert_eq!(breaker.ask(second(at, start)).0, Ok(()));
            breaker.admitted(second(at, start));
        }
        assert_eq!(
            report(&mut breaker, EndKind::Well, 0, second(at, start)),
            Some(BreakerChange::Recovered)
        );
        assert_eq!(breaker.ask(second(at, start)), (Ok(()), None));
    }

    #[test]
    fn lasting_trial_recovers_and_early_trip_pauses_longer() {
        let start = Instant::now();
        let mut breaker = tripped(start);
        assert_eq!(breaker.ask(second(2.0, start)).0, Ok(()));
        breaker.admitted(second(2.0, start));
        assert_eq!(breaker.ask(second(3.0, start)), (Ok(()), Some(BreakerChange::Recovered)));
        let again = (0..10)
            .filter_map(|_| report(&mut breaker, EndKind::Faulted, 0, second(4.0, start)))
            .next();
        assert_eq!(again, Some(BreakerChange::Tripped(Duration::from_secs(2))));
    }

    #[test]
    fn few_faulting_sessions_beside_many_do_not_trip() {
        let start = Instant::now();
        let mut breaker = Breaker::new(BreakerLimits::default());
        for step in 0..1_000 {
            let kind = if step % 5 != 0 { EndKind::Faulted } else { EndKind::Well };
            assert_eq!(
                report(&mut breaker, kind, 0, second(f64::from(step) / 1_000.0, start)),
                None
            );
        }
        // Old faults do not count.
        let mut rare = Breaker::new(BreakerLimits::default());
        assert!((0..100).all(|step| {
            report(&mut rare, EndKind::Faulted, 0, second(f64::from(step) * 2.0, start)).is_none()
        }));
        let mut busy = Breaker::new(BreakerLimits::default());
        assert!(
            (0..50).all(|_| report(&mut busy, EndKind::Faulted, 20, start).is_none()),
            "many are served beside those that fault"
        );
        let mut off = Breaker::new(BreakerLimits { faults: 0, ..BreakerLimits::default() });
        assert!((0..100).all(|_| report(&mut off, EndKind::Faulted, 0, start).is_none()));
    }

    #[test]
    fn configured_proxy_counts_as_many() {
        let (start, mut breaker) = (Instant::now(), Breaker::new(BreakerLimits::default()));
        let proxy = ClientSource { crowd: Crowd::Many, ..source(0) };
        let none = LiveAddresses::default();
        assert_eq!(breaker.report(source(1), EndKind::Well, &none, start), None);
        let reports = (0..10).filter_map(|_| breaker.report(proxy, EndKind::Faulted, &none, start));
        assert_eq!(reports.collect::<Vec<_>>(), [BreakerChange::Tripped(Duration::from_secs(1))]);
    }

    #[test]
    fn one_address_does_not_fail_every_trial() {
        let start = Instant::now();
        let (mut breaker, others) = (tripped(start), live(&[(2, 1)]));
        for trial in 0..20 {
            let now = second(100.0 + f64::from(trial), start);
            assert_eq!(breaker.ask(now).0, Ok(()), "trial {trial}");
            breaker.admitted(now);
            let change = breaker.report(source(1), EndKind::Faulted, &others, now);
            assert_eq!(change.is_some(), trial == 0, "trial {trial}: {change:?}");
            if trial == 0 {
                breaker.state = BreakerState::Open(now);
            }
        }
        breaker.admitted(second(200.0, start));
        let change = breaker.report(source(2), EndKind::Well, &others, second(200.0, start));
        assert_eq!(change, Some(BreakerChange::Recovered));
    }

    #[test]
    fn memory_of_endings_is_bounded() {
        let (start, mut breaker) = (Instant::now(), Breaker::new(BreakerLimits::default()));
        for number in 0..2 * ENDINGS_MAX as u32 {
            breaker.report(source(number), EndKind::Well, &LiveAddresses::default(), start);
            breaker.report(source(0), EndKind::Well, &LiveAddresses::default(), start);
        }
        assert!(breaker.endings.len() <= ENDINGS_MAX && breaker.tallies.len() <= ENDINGS_MAX);
        let later = second(11.0, start);
        breaker.report(source(1), EndKind::Well, &LiveAddresses::default(), later);
        assert_eq!((breaker.endings.len(), breaker.tallies.len(), breaker.faults), (1, 1, 0));
    }
}
