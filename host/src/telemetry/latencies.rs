//! Durations of events, as counts in buckets. The buckets resolve a microsecond at the low end and
//! reach a minute.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Buckets per doubling: each is at most a quarter wider than the one before.
const STEPS: u32 = 4;
/// Upper end of the first bucket, in nanoseconds.
const FIRST_NS: u64 = 256;
/// Doublings from there: up to 69 seconds. Longer durations are counted in the last bucket.
const DOUBLINGS: u32 = 28;
const BUCKETS: usize = (DOUBLINGS * STEPS + 1) as usize;

/// Threads that write without sharing a cache line. Any more threads share.
const STRIPES: usize = 16;

/// Counts by duration, written from many threads.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// A stripe is made when its thread first writes: most servers use one class, and few machines
    /// have this many threads.
    stripes: [OnceLock<Box<Stripe>>; STRIPES],
}

/// The counts of one thread's events.
#[derive(Debug)]
#[repr(align(128))]
struct Stripe {
    counts: [AtomicU64; BUCKETS],
    total_ns: AtomicU64,
}

thread_local! {
    /// The stripe of this thread.
    static STRIPE: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES
    };
}

/// A histogram at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Latencies {
    counts: Vec<u64>,
    /// The sum of all durations.
    pub total: Duration,
}

impl Default for Stripe {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; BUCKETS], total_ns: AtomicU64::new(0) }
    }
}

impl Histogram {
    pub(super) fn record(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let stripe = self.stripes[STRIPE.with(|stripe| *stripe)].get_or_init(Box::default);
        stripe.counts[bucket(ns)].fetch_add(1, Ordering::Relaxed);
        stripe.total_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Adds the counts of another histogram.
    pub(super) fn merge(&self, other: &Self) {
        let own = self.stripes[0].get_or_init(Box::default);
        for stripe in other.stripes.iter().filter_map(OnceLock::get) {
            for (sum, count) in own.counts.iter().zip(&stripe.counts) {
                sum.fetch_add(count.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            own.total_ns.fetch_add(stripe.total_ns.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    pub(super) fn snapshot(&self) -> Latencies {
        let (mut counts, mut total_ns) = (vec![0; BUCKETS], 0_u64);
        for stripe in self.stripes.iter().filter_map(OnceLock::get) {
            for (sum, count) in counts.iter_mut().zip(&stripe.counts) {
                *sum += count.load(Ordering::Relaxed);
            }
            total_ns += stripe.total_ns.load(Ordering::Relaxed);
        }
        Latencies { counts, total: Duration::from_nanos(total_ns) }
    }
}

fn bucket(ns: u64) -> usize {
    if ns < FIRST_NS {
        return 0;
    }
    let doubling = ns.ilog2() - FIRST_NS.ilog2();
    let step = (ns >> (ns.ilog2() - STEPS.ilog2())) as u32 - STEPS;
    ((doubling * STEPS + step + 1) as usize).min(BUCKETS - 1)
}

/// Returns the end of a bucket, in nanoseconds. A duration of exactly that length is in the next
/// bucket.
fn end_ns(bucket: usize) -> u64 {
    let (doubling, step) = (bucket as u32 / STEPS, bucket as u32 % STEPS);
    (FIRST_NS << doubling) / u64::from(STEPS) * u64::from(STEPS + step)
}

impl Latencies {
    /// Adds other counts to these.
    pub fn add(&mut self, others: &Self) {
        self.counts.resize(BUCKETS, 0);
        for (sum, more) in self.counts.iter_mut().zip(&others.counts) {
            *sum += more;
        }
        self.total += others.total;
    }

    /// Returns these counts without those of an earlier moment.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let earlier = before.counts.iter().copied().chain(std::iter::repeat(0));
        let counts = self
            .counts
            .iter()
            .zip(earlier)
            .map(|(now, before)| now.saturating_sub(before))
            .collect();
        Self { counts, total: self.total.saturating_sub(before.total) }
    }

    /// Returns the number of events.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the duration that this share (0 to 1) of events stayed below; `None` without events.
    /// The result is at most a quarter too long.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        let rank = ((count as f64 * share).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        let found = self.counts.iter().position(|&bucket| {
            seen += bucket;
            seen >= rank
        });
        found.filter(|_| count > 0).map(|bucket| Duration::from_nanos(end_ns(bucket)))
    }

    /// Returns the end of each doubling in seconds with the events below it, for a metrics format
    /// with cumulative buckets.
    pub fn doublings(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut below = 0;
        self.counts.iter().enumerate().filter_map(move |(at, count)| {
            below += count;
            let whole = (at as u32).is_multiple_of(STEPS) && at + 1 < BUCKETS;
            whole.then(|| (end_ns(at) as f64 / 1e9, below))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_in_the_bucket_above() {
        for ns in (0..20_000).chain((1..36).map(|shift| 1_u64 << shift)).chain([68_000_000_000]) {
            let at = bucket(ns);
            assert!(ns < end_ns(at), "{ns} in {at}, which ends at {}", end_ns(at));
            assert!(
                at == 0 || ns >= end_ns(at - 1),
                "{ns} in {at}, before which {} ends",
                end_ns(at - 1)
            );
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_at_most_a_quarter_too_long() {
        let histogram = Histogram::default();
        assert_eq!(histogram.snapshot().quantile(0.5), None);
        for us in 1..=1_000 {
            histogram.record(Duration::from_micros(us));
        }
        let seen = histogram.snapshot();
        for (share, us) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let found = seen.quantile(share).expect("events").as_secs_f64() * 1e6;
            assert!((us..=us * 1.26).contains(&found), "{share}: {found}");
        }
        assert_eq!(seen.doublings().last().map(|(_, below)| below), Some(1_000));
    }
}
