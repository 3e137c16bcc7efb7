//! Quota of replays, by server and address. Pure: callers pass the time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::ClientSource;
use crate::admission::AddressGroup;

/// Most replays of one server within [`REPLAYS_WINDOW`].
pub(crate) const REPLAYS_MAX: usize = 8;
/// Window of [`REPLAYS_MAX`].
pub(crate) const REPLAYS_WINDOW: Duration = Duration::from_secs(60);

/// The replays of the last window.
#[derive(Debug, Default)]
pub(crate) struct ReplayQuota(VecDeque<(Instant, AddressGroup)>);

impl ReplayQuota {
    /// Takes a replay for a fault of this address. Returns false if none is left for it. An address
    /// gets its first replay while any are left, and further ones up to half of the rest: three of
    /// eight.
    pub(crate) fn take(&mut self, source: ClientSource, now: Instant) -> bool {
        let is_over = |at: Instant| now.saturating_duration_since(at) >= REPLAYS_WINDOW;
        while self.0.front().is_some_and(|(at, _)| is_over(*at)) {
            self.0.pop_front();
        }
        let left = REPLAYS_MAX - self.0.len();
        let had = self.0.iter().filter(|(_, group)| *group == source.group).count();
        let may = left > 0 && had < (left / 2).max(1);
        if may {
            self.0.push_back((now, source.group));
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::blame::Crowd;

    fn source(number: u8) -> ClientSource {
        ClientSource { group: AddressGroup::of([192, 0, 2, number].into()), crowd: Crowd::One }
    }

    #[test]
    fn one_address_leaves_replays_to_others() {
        let (mut quota, start) = (ReplayQuota::default(), Instant::now());
        let taken = |quota: &mut ReplayQuota, number, now| {
            (0..100).filter(|_| quota.take(source(number), now)).count()
        };
        assert_eq!(taken(&mut quota, 1, start), 3);
        let others: usize = (2..50).map(|number| taken(&mut quota, number, start)).sum();
        assert_eq!(others, REPLAYS_MAX - 3);
        assert_eq!(taken(&mut quota, 1, start + REPLAYS_WINDOW - Duration::from_millis(1)), 0);
        assert_eq!(taken(&mut quota, 1, start + REPLAYS_WINDOW), 3);
    }
}
