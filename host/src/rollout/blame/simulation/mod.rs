//! Simulation of comparisons. A seed decides the sessions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::comparison::{LOOKED_EVERY, REPLAYS_WAIT_MAX};
use super::quota::ReplayQuota;
use super::rates::{ADDRESSES_MAX, KINDS_MAX, UndoneReplays};
use super::{
    ClientSource, Comparison, Crowd, Decision, FaultRates, Finding, LiveAddresses, PAST, Rule,
};
use crate::admission::AddressGroup;
use crate::event::FaultKind;
use crate::rng::{Rng, for_each_seed};

const SWAP: Rule = Rule::Swap { faults_min: 10, share: 0.1 };
const CANARY: Rule = Rule::Canary { faults_min: 3, share: 0.01, ratio: 2.0 };
const FAULT: (&str, FaultKind) = ("on-read", FaultKind::Fuel);

/// Makes a source. Half of the sources are IPv6 networks, with another address for each session.
fn source(rng: &mut Rng, number: u64) -> ClientSource {
    let address: IpAddr = match number % 2 {
        0 => Ipv4Addr::from_bits(0xC000_0200 + number as u32).into(),
        _ => Ipv6Addr::from_bits(
            (0x2001_0db8_u128 << 96) | (u128::from(number) << 64) | u128::from(rng.throw(1 << 40)),
        )
        .into(),
    };
    ClientSource { group: AddressGroup::of(address), crowd: Crowd::One }
}

/// A comparison, with the replays that a server allows.
struct Played {
    comparison: Comparison,
    quota: ReplayQuota,
    now: Instant,
    live: LiveAddresses,
}

impl Played {
    fn new(rule: Rule) -> Self {
        let comparison = Comparison::new(rule, FaultRates::new(PAST), PAST);
        let (quota, live) = (ReplayQuota::default(), LiveAddresses::default());
        Self { comparison, quota, now: Instant::now(), live }
    }

    /// Counts a fault in a session of the new version, and replays it with this finding.
    fn faults(&mut self, source: ClientSource, finding: Finding) {
        let (mark, _) = self.comparison.faulted(source, FAULT, self.now);
        if self.quota.take(source, self.now) {
            self.comparison.begins(mark);
            self.comparison.replayed(mark, finding);
        }
        self.now += Duration::from_millis(20);
    }

    fn well(&mut self, source: ClientSource) {
        self.comparison.new_version().well(source, self.now);
    }

    fn decide(&mut self) -> Decision {
        self.comparison.decide([&self.live, &LiveAddresses::default()], self.now)
    }
}

fn is_back(decision: Decision) -> bool {
    matches!(decision, Decision::RollBack(_))
}

#[test]
fn strangers_with_old_faults_do_not_take_back() {
    for_each_seed(300, |seed| {
        let mut rng = Rng(seed);
        let rule = if rng.percent(50) { SWAP } else { CANARY };
        let (strangers, others) = (1 + rng.throw(12), rng.throw(12));
        let mut played = Played::new(rule);
        for step in 0..20 + rng.throw(200) {
            let stranger = source(&mut rng, step % strangers);
            played.faults(stranger, Finding::Same);
            if others > 0 && rng.percent(30) {
                let number = strangers + rng.throw(others);
                let other = source(&mut rng, number);
                played.well(other);
            }
            assert_eq!(
                played.decide(),
                Decision::Keep,
                "{strangers} strangers, {others} others, step {step}"
            );
        }
    });
}

#[test]
fn worse_version_is_rolled_back_from_any_addresses() {
    for_each_seed(300, |seed| {
        let mut rng = Rng(seed);
        let rule = if rng.percent(50) { SWAP } else { CANARY };
        let addresses = 1 + rng.throw(40);
        // This percentage of sessions fault, and the replays have this finding.
        let (share, finding) =
            (40 + rng.throw(61), if rng.percent(50) { Finding::Differs } else { Finding::Unsure });
        let mut played = Played::new(rule);
        for _ in 0..400 {
            let number = rng.throw(addresses);
            let from = source(&mut rng, number);
            if rng.percent(share) { played.faults(from, finding) } else { played.well(from) }
        }
        let decision = played.decide();
        assert!(
            is_back(decision),
            "{addresses} addresses, {share} of a hundred, {finding:?}: {decision:?}"
        );
        let Decision::RollBack(figures) = decision else { return };
        assert_eq!((figures.addresses, figures.excused), (addresses, 0), "{figures:?}");
    });
}

#[test]
fn worse_version_is_rolled_back_beside_strangers() {
    for_each_seed(300, |seed| {
        let mut rng = Rng(seed);
        let (strangers, others) = (1 + rng.throw(3), 3 + rng.throw(10));
        let mut played = Played::new(SWAP);
        for _ in 0..400 {
            let is_stranger = rng.percent(50);
            let number =
                if is_stranger { rng.throw(strangers) } else { strangers + rng.throw(others) };
            let from = source(&mut rng, number);
            played.faults(from, if is_stranger { Finding::Same } else { Finding::Differs });
        }
        assert!(is_back(played.decide()), "{strangers} strangers, {others} others");
    });
}

#[test]
fn one_address_beside_others_needs_proof() {
    for_each_seed(200, |seed| {
        let mut rng = Rng(seed);
        let others = 2 + rng.throw(5);
        for (finding, expected) in [(Finding::Unsure, false), (Finding::Differs, true)] {
            let mut played = Played::new(SWAP);
            for number in 1..=others {
                let other = source(&mut rng, number);
                played.live.add(other.group);
            }
            for _ in 0..20 + rng.throw(100) {
                let one = source(&mut rng, 0);
                played.faults(one, finding);
            }
            assert_eq!(is_back(played.decide()), expected, "{others} others, {finding:?}");
        }
    });
}

#[test]
fn version_that_is_no_worse_is_kept() {
    for_each_seed(200, |seed| {
        let mut rng = Rng(seed);
        let (addresses, share) = (1 + rng.throw(10), rng.throw(100));
        let mut played = Played::new(SWAP);
        for _ in 0..4_000 {
            let number = rng.throw(addresses);
            let from = source(&mut rng, number);
            let before = played.comparison.version_before();
            let now = played.now;
            match rng.percent(share) {
                true => _ = before.faulted(from, FAULT, now),
                false => before.well(from, now),
            }
            match rng.percent(share) {
                true => _ = played.comparison.faulted(from, FAULT, now),
                false => played.well(from),
            }
        }
        let decision = played.decide();
        assert!(!is_back(decision), "{addresses} addresses, {share} of a hundred: {decision:?}");
    });
}

#[test]
fn rate_before_does_not_expire_and_past_does() {
    let mut rng = Rng(5);
    let (from, start) = (source(&mut rng, 0), Instant::now());
    let faulty = || {
        let mut past = FaultRates::new(PAST);
        (0..20).for_each(|_| _ = past.faulted(from, FAULT, start));
        past
    };
    for (past, later, expected) in [
        (faulty(), start + PAST * 600, false),
        (faulty().at(start + PAST * 3), start + PAST * 3, true),
    ] {
        let mut played = Played::new(SWAP);
        played.comparison = Comparison::new(SWAP, past, PAST);
        played.now = later;
        (0..20).for_each(|_| _ = played.comparison.faulted(from, FAULT, later));
        assert_eq!(is_back(played.decide()), expected);
    }
}

#[test]
fn order_of_endings_does_not_matter() {
    for_each_seed(200, |seed| {
        let mut rng = Rng(seed);
        let addresses = 1 + rng.throw(8);
        let mut endings: Vec<_> = (0..10 + rng.throw(60))
            .map(|_| {
                let number = rng.throw(addresses);
                let finding =
                    [None, Some(Finding::Same), Some(Finding::Differs), Some(Finding::Unsure)];
                (source(&mut rng, number), finding[rng.throw(4) as usize])
            })
            .collect();
        let weigh = |endings: &[(ClientSource, Option<Finding>)]| {
            let (mut rates, now) = (FaultRates::new(PAST), Instant::now());
            for (from, finding) in endings {
                match finding {
                    None => rates.well(*from, now),
                    Some(finding) => {
                        let mark = rates.faulted(*from, FAULT, now);
                        rates.begins(mark);
                        rates.replayed(mark, *finding);
                    }
                }
            }
            rates.weigh(&LiveAddresses::default(), UndoneReplays::Unknown)
        };
        let before = weigh(&endings);
        for at in (1..endings.len()).rev() {
            endings.swap(at, rng.throw(at as u64 + 1) as usize);
        }
        assert_eq!(weigh(&endings), before);
    });
}

#[test]
fn decision_waits_for_replays_and_not_for_ever() {
    let mut rng = Rng(7);
    for finding in [None, Some(Finding::Same), Some(Finding::Differs)] {
        let mut played = Played::new(SWAP);
        let from = source(&mut rng, 0);
        let marks: Vec<_> =
            (0..12).map(|_| played.comparison.faulted(from, FAULT, played.now).0).collect();
        marks[..3].iter().for_each(|mark| played.comparison.begins(*mark));
        assert_eq!(played.decide(), Decision::NotYet);
        played.now += REPLAYS_WAIT_MAX - Duration::from_millis(1);
        assert_eq!(played.decide(), Decision::NotYet);
        if let Some(finding) = finding {
            marks[..3].iter().for_each(|mark| played.comparison.replayed(*mark, finding));
        } else {
            played.now += Duration::from_millis(1);
        }
        assert_eq!(is_back(played.decide()), finding != Some(Finding::Same), "{finding:?}");
    }
}

#[test]
fn each_decision_waits_for_its_replays() {
    const NAMES: [&str; 4] = ["on-connect", "on-read", "on-timer", "on-write"];
    for_each_seed(200, |seed| {
        let mut rng = Rng(seed);
        let rule = if rng.percent(50) { SWAP } else { CANARY };
        let mut played = Played::new(rule);
        // Each pass has faults of its own kind and address, which every version has.
        for (epoch, name) in NAMES.into_iter().enumerate() {
            let (from, fault) = (source(&mut rng, epoch as u64), (name, FaultKind::Fuel));
            let faults = 25 + rng.throw(40);
            let marks: Vec<_> =
                (0..faults).map(|_| played.comparison.faulted(from, fault, played.now).0).collect();
            let replays = 2 + rng.throw(4) as usize;
            marks[..replays].iter().for_each(|mark| played.comparison.begins(*mark));
            assert_eq!(played.decide(), Decision::NotYet, "round {epoch}, {replays} replays");
            played.now += Duration::from_millis(rng.throw(REPLAYS_WAIT_MAX.as_millis() as u64));
            assert_eq!(played.decide(), Decision::NotYet, "round {epoch}, {replays} replays");
            // Some of the replays may never be done.
            let done = if rng.percent(50) { 1 } else { replays };
            let comparison = &mut played.comparison;
            marks[..done].iter().for_each(|mark| comparison.replayed(*mark, Finding::Same));
            let mut decision = played.decide();
            while decision == Decision::NotYet {
                played.now += Duration::from_secs(1);
                decision = played.decide();
            }
            assert_eq!(decision, Decision::Keep, "round {epoch}, {done} of {replays} replays done");
            played.now += Duration::from_millis(rng.throw(2_000));
        }
    });
}

#[test]
fn replays_of_strangers_excuse_no_majority() {
    for_each_seed(100, |seed| {
        let mut rng = Rng(seed);
        let strangers = 1 + rng.throw(8);
        let others = strangers + 10 + rng.throw(20);
        let mut played = Played::new(SWAP);
        for number in 0..strangers + others {
            let mark = played.comparison.faulted(source(&mut rng, number), FAULT, played.now).0;
            if number < strangers {
                played.comparison.begins(mark);
                played.comparison.replayed(mark, Finding::Same);
            }
        }
        let Decision::RollBack(figures) = played.decide() else {
            panic!("{strangers} of {others}: it is kept")
        };
        assert_eq!((figures.faulty_addresses, figures.excused), (others, strangers), "{figures:?}");
    });
}

#[test]
fn waiting_decision_looks_at_sessions_rarely() {
    for_each_seed(100, |seed| {
        let mut rng = Rng(seed);
        let mut played = Played::new(if rng.percent(50) { SWAP } else { CANARY });
        let from = source(&mut rng, 0);
        let count = 25 + rng.throw(40) as usize;
        let mut marks: Vec<_> =
            (0..count).map(|_| played.comparison.faulted(from, FAULT, played.now).0).collect();
        marks.iter().for_each(|mark| played.comparison.begins(*mark));
        let start = played.now;
        let (mut looks, mut changes) = (0, 0);
        while played.now < start + REPLAYS_WAIT_MAX - Duration::from_millis(50) {
            // Replays run one at a time, and few of them are done.
            let changed = rng.percent(3) && marks.len() > count - 5;
            if changed && let Some(mark) = marks.pop() {
                played.comparison.replayed(mark, Finding::Same);
                changes += 1;
            }
            let is_due = played.comparison.is_due(played.now);
            assert!(is_due || !changed, "what changed is looked at");
            if is_due {
                looks += 1;
                assert_eq!(played.decide(), Decision::NotYet);
            }
            played.now += Duration::from_millis(50);
        }
        let seconds = REPLAYS_WAIT_MAX.div_duration_f64(LOOKED_EVERY) as u32;
        assert!(looks <= 1 + seconds + changes, "{looks} looks, {changes} changes");
    });
}

#[test]
fn figures_leave_replays_out_that_are_not_done() {
    for_each_seed(100, |seed| {
        let mut rng = Rng(seed);
        let addresses = 2 + rng.throw(8);
        let mut played = Played::new(SWAP);
        let mut marks = Vec::new();
        for step in 0..10 * addresses {
            let from = source(&mut rng, step % addresses);
            marks.push(played.comparison.faulted(from, FAULT, played.now).0);
        }
        // One replay for each address, of which some are done.
        let (replays, done) = (addresses as usize, 1 + rng.throw(addresses) as usize);
        marks[..replays].iter().for_each(|mark| played.comparison.begins(*mark));
        marks[..done].iter().for_each(|mark| played.comparison.replayed(*mark, Finding::Differs));
        let Decision::RollBack(figures) = played.decide() else { return };
        assert_eq!(
            (figures.addresses, figures.excused),
            (addresses, 0),
            "{done} done: {figures:?}"
        );
        assert!(figures.rate > 0.99, "{figures:?}");
    });
}

#[test]
fn memory_of_addresses_and_kinds_is_bounded() {
    let (mut rng, mut rates, mut now) = (Rng(1), FaultRates::new(PAST), Instant::now());
    const NAMES: [&str; 3] = ["on-read", "on-write", "on-timer"];
    for number in 0..10 * ADDRESSES_MAX as u64 {
        let from = source(&mut rng, number);
        let kind = FaultKind::NAMED[number as usize % FaultKind::NAMED.len()];
        let mark = rates.faulted(from, (NAMES[number as usize % 3], kind), now);
        rates.begins(mark);
        rates.replayed(mark, Finding::Unsure);
        now += Duration::from_millis(20);
    }
    assert!(rates.held() <= 2 * (ADDRESSES_MAX + 1), "{} addresses", rates.held());
    let weighed = rates.weigh(&LiveAddresses::default(), UndoneReplays::Unknown);
    assert!(
        weighed.faults > ADDRESSES_MAX as u64 && weighed.counted == weighed.faults as f64,
        "{weighed:?}"
    );
    assert!(KINDS_MAX < NAMES.len() * FaultKind::NAMED.len());
    // Old endings do not count.
    rates.well(source(&mut rng, 0), now + PAST * 2);
    assert_eq!(rates.faults(), 0);
}
