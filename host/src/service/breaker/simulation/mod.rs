//! Simulation of the breaker. A seed decides the endings.

use super::tests::{live, source};
use super::*;
use crate::rng::{Rng, for_each_seed};

/// Plays endings of several addresses. `shares` has the percentage of faults of each address.
fn play(rng: &mut Rng, shares: &[u64], live: &LiveAddresses, endings: u64) -> (Breaker, u64) {
    let (start, mut breaker) = (Instant::now(), Breaker::new(BreakerLimits::default()));
    let mut tripped = 0;
    for step in 0..endings {
        let number = rng.throw(shares.len() as u64) as u32;
        let faults = rng.percent(shares[number as usize]);
        let kind = if faults { EndKind::Faulted } else { EndKind::Well };
        let now = start + Duration::from_millis(step * 10);
        tripped += u64::from(breaker.report(source(number), kind, live, now).is_some());
    }
    (breaker, tripped)
}

#[test]
fn one_address_never_closes_a_server_with_others() {
    for_each_seed(300, |seed| {
        let mut rng = Rng(seed);
        // The others have live sessions, or end well, or both. Address 0 comes very often.
        let others = 1 + rng.throw(4) as u32;
        let is_live = rng.percent(50);
        let live = if is_live { live(&[(1, 1)]) } else { LiveAddresses::default() };
        let mut breaker = Breaker::new(BreakerLimits::default());
        let start = Instant::now();
        for other in 1..=others {
            assert_eq!(breaker.report(source(other), EndKind::Well, &live, start), None);
        }
        for step in 0..2_000 {
            // Within a minute of the last ending of another address.
            let now = start + Duration::from_millis(step * rng.throw(29));
            assert_eq!(breaker.report(source(0), EndKind::Faulted, &live, now), None, "{step}");
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
    });
}

#[test]
fn plugin_faulting_at_all_addresses_trips() {
    for_each_seed(300, |seed| {
        let mut rng = Rng(seed);
        let addresses = 1 + rng.throw(40) as usize;
        let (breaker, tripped) =
            play(&mut rng, &vec![100; addresses], &LiveAddresses::default(), 200);
        assert!(
            tripped == 1 && matches!(breaker.state(), BreakerState::Open(_)),
            "{addresses} addresses"
        );
    });
}

#[test]
fn few_bad_addresses_beside_good_do_not_trip() {
    for_each_seed(300, |seed| {
        let mut rng = Rng(seed);
        let bad = 1 + rng.throw(10);
        let good = bad.div_ceil(FAULTS_PER_WELL) + 1 + rng.throw(10);
        let shares: Vec<u64> =
            (0..bad + good).map(|number| if number < bad { 100 } else { rng.throw(50) }).collect();
        let goes_on: Vec<_> = (bad..bad + good).map(|number| (number as u32, 1)).collect();
        let (_, tripped) = play(&mut rng, &shares, &live(&goes_on), 2_000);
        assert_eq!(tripped, 0, "{bad} bad addresses, {good} good ones");
    });
}

#[test]
fn order_of_endings_does_not_matter() {
    for_each_seed(200, |seed| {
        let mut rng = Rng(seed);
        let count = 10 + rng.throw(30);
        let addresses = 1 + rng.throw(6);
        let mut endings: Vec<_> = (0..count)
            .map(|_| {
                (
                    source(rng.throw(addresses) as u32),
                    if rng.percent(90) { EndKind::Faulted } else { EndKind::Well },
                )
            })
            .collect();
        let (now, none) = (Instant::now(), LiveAddresses::default());
        let verdict = |endings: &[(ClientSource, EndKind)]| {
            let mut breaker = Breaker::new(BreakerLimits::default());
            endings.iter().for_each(|(source, kind)| breaker.count(*source, *kind, now));
            breaker.sees(endings[0].0.group, now);
            breaker.is_enough(&none, now)
        };
        let before = verdict(&endings);
        for at in (1..endings.len()).rev() {
            endings.swap(at, rng.throw(at as u64 + 1) as usize);
        }
        assert_eq!(verdict(&endings), before);
    });
}

#[test]
fn many_addresses_are_weighed_rarely() {
    for_each_seed(20, |seed| {
        let mut rng = Rng(seed);
        let strangers = 2 * WEIGHED_AT_ONCE_MAX as u64 + rng.throw(1_000);
        // Enough other sessions are live, so that the strangers do not trip the breaker.
        let others: Vec<_> = (0..strangers as u32).map(|other| (100_000 + other, 1)).collect();
        let (others, none) = (live(&others), LiveAddresses::default());
        let (start, mut breaker) = (Instant::now(), Breaker::new(BreakerLimits::default()));
        let (mut weighed, mut last) = (0, None);
        let at = |step: u64| start + Duration::from_micros(step * 250);
        let faults = 8_000;
        for step in 0..faults {
            let stranger = source((step % strangers) as u32);
            assert_eq!(
                breaker.report(stranger, EndKind::Faulted, &others, at(step)),
                None,
                "{step}"
            );
            weighed += u32::from(breaker.weighed != last);
            last = breaker.weighed;
        }
        let most = 1 + at(faults).duration_since(start).div_duration_f64(WEIGHED_EVERY) as u32;
        assert!((1..=most).contains(&weighed), "{strangers} strangers: weighed {weighed} times");
        // The breaker still trips soon, once the others are gone.
        let soon = (faults..).take_while(|step| at(*step) <= at(faults) + 2 * WEIGHED_EVERY);
        let trips = |step: u64| {
            breaker.report(source((step % strangers) as u32), EndKind::Faulted, &none, at(step))
        };
        assert!(soon.filter_map(trips).next().is_some(), "{strangers} strangers");
    });
}
