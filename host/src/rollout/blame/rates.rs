//! Rates at which one version's sessions fault, by address. Pure: callers pass the time.
//!
//! Each address counts once in the rate by address, with the share of its sessions that faulted.
//! Faults that the version before has on the same input do not count.
//!
//! If only some of an address's faults were replayed, its other faults count in the same
//! proportion. An address without a replay counts like the others, if at least half of the faulty
//! addresses had one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{ClientSource, Crowd, LiveAddresses};
use crate::admission::AddressGroup;
use crate::event::FaultKind;

/// Most addresses that a span tells apart. Sessions of further addresses count as of one address.
pub(crate) const ADDRESSES_MAX: usize = 1_024;
/// Most kinds of faults that are told apart. Replays say nothing about faults of further kinds.
pub(super) const KINDS_MAX: usize = 16;
/// The number that stands for all further kinds.
const FURTHER_KINDS: usize = KINDS_MAX;

/// Finding of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The version before has the same fault on the same input.
    Same,
    /// The version before has no fault, and the replay began with the state of the failed event.
    Differs,
    /// Neither is certain.
    Unsure,
}

impl Finding {
    /// Stable name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Differs => "differs",
            Self::Unsure => "unsure",
        }
    }
}

/// Assumption about replays that are not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UndoneReplays {
    /// The replays will find the same fault.
    Excused,
    /// The replays will not find the same fault.
    Against,
    /// The replays count as if they had not begun.
    Unknown,
}

/// Key of a counted fault, for the finding of its replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    span: u64,
    /// `None`: one of the further addresses.
    group: Option<AddressGroup>,
    kind: usize,
}

/// Faults of one kind at one address.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    kind: usize,
    faults: u64,
    pending: u64,
    same: u64,
    differs: u64,
    unsure: u64,
}

impl Faults {
    fn add(&mut self, other: &Self) {
        self.faults += other.faults;
        self.pending += other.pending;
        self.same += other.same;
        self.differs += other.differs;
        self.unsure += other.unsure;
    }

    /// Replayed faults that count against the version, and all replayed faults.
    fn replayed(&self, undone: UndoneReplays) -> (u64, u64) {
        let (more_against, more) = match undone {
            UndoneReplays::Excused => (0, self.pending),
            UndoneReplays::Against => (self.pending, self.pending),
            UndoneReplays::Unknown => (0, 0),
        };
        let against = self.differs + self.unsure + more_against;
        (against, self.differs + self.unsure + self.same + more)
    }

    /// Number of faults that count against the version. `elsewhere` is the share that counts if no
    /// fault was replayed here.
    fn counted(&self, undone: UndoneReplays, elsewhere: f64) -> f64 {
        let (against, replayed) = self.replayed(undone);
        let share = if replayed > 0 { against as f64 / replayed as f64 } else { elsewhere };
        against as f64 + self.faults.saturating_sub(replayed) as f64 * share
    }
}

/// Endings of one address, or of all further ones.
#[derive(Debug, Clone, Default)]
struct Seen {
    well: u64,
    crowded: bool,
    /// At most one entry for each kind.
    faults: Vec<Faults>,
}

impl Seen {
    fn of_kind(&mut self, kind: usize) -> &mut Faults {
        let at = self.faults.iter().position(|faults| faults.kind == kind).unwrap_or_else(|| {
            self.faults.push(Faults { kind, ..Faults::default() });
            self.faults.len() - 1
        });
        &mut self.faults[at]
    }

    fn add(&mut self, other: &Self) {
        self.well += other.well;
        self.crowded |= other.crowded;
        for faults in &other.faults {
            self.of_kind(faults.kind).add(faults);
        }
    }
}

/// Endings by address. Ordered, so that sums do not depend on a hash.
type Addresses = BTreeMap<Option<AddressGroup>, Seen>;

/// Endings of one version's sessions within the current span and the one before.
#[derive(Debug, Clone)]
pub(crate) struct FaultRates {
    length: Duration,
    began: Option<Instant>,
    /// Number of the current span.
    span: u64,
    /// The current span, then the one before.
    spans: [Addresses; 2],
    kinds: Vec<(&'static str, FaultKind)>,
}

/// Weighed endings of one version.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Weighed {
    /// Sessions that faulted.
    pub(super) faults: u64,
    /// Faults that count against the version.
    pub(super) counted: f64,
    /// Faults that were replayed.
    pub(super) replayed: u64,
    /// Faults that the version before does not have, as replays showed.
    pub(super) differ: u64,
    /// Addresses whose sessions say something about the version.
    pub(super) addresses: u64,
    /// Addresses with a fault that counts against the version.
    pub(super) faulty: u64,
    /// Whether one of the faulty addresses stands for many clients.
    pub(super) crowded: bool,
    /// Share of sessions that faulted.
    pub(super) by_session: f64,
    /// Mean over addresses of the share of sessions that faulted.
    pub(super) by_address: f64,
}

impl FaultRates {
    /// Makes the rates of a version without sessions. Endings count for one to two times `length`.
    pub(crate) fn new(length: Duration) -> Self {
        Self { length, began: None, span: 0, spans: Default::default(), kinds: Vec::new() }
    }

    /// Drops the endings that no longer count at this moment.
    pub(super) fn at(mut self, now: Instant) -> Self {
        self.begin_span(now);
        self
    }

    /// Sets for how long endings count from now on.
    pub(super) fn lasting(self, length: Duration) -> Self {
        Self { length, ..self }
    }

    /// Counts a session that ended well, or that goes on in another version.
    pub(crate) fn well(&mut self, source: ClientSource, now: Instant) {
        self.begin_span(now);
        self.seen(source).1.well += 1;
    }

    /// Counts a session that ended by a fault of this kind in an event of this name.
    pub(crate) fn faulted(
        &mut self,
        source: ClientSource,
        (event, kind): (&'static str, FaultKind),
        now: Instant,
    ) -> Mark {
        self.begin_span(now);
        let known = self.kinds.iter().position(|one| *one == (event, kind));
        let kind = known.unwrap_or_else(|| {
            let next = self.kinds.len().min(FURTHER_KINDS);
            if next < FURTHER_KINDS {
                self.kinds.push((event, kind));
            }
            next
        });
        let span = self.span;
        let (group, seen) = self.seen(source);
        seen.of_kind(kind).faults += 1;
        Mark { span, group, kind }
    }

    /// Notes that a replay of a fault began.
    pub(super) fn begins(&mut self, mark: Mark) {
        if let Some(faults) = self.find(mark) {
            faults.pending += 1;
        }
    }

    /// Notes the finding of a replay.
    pub(super) fn replayed(&mut self, mark: Mark, finding: Finding) {
        let Some(faults) = self.find(mark) else { return };
        faults.pending = faults.pending.saturating_sub(1);
        match finding {
            Finding::Same => faults.same += 1,
            Finding::Differs => faults.differs += 1,
            Finding::Unsure => faults.unsure += 1,
        }
    }

    /// Number of sessions that faulted.
    pub(super) fn faults(&self) -> u64 {
        let of = |seen: &Seen| seen.faults.iter().map(|faults| faults.faults).sum::<u64>();
        self.spans.iter().flat_map(BTreeMap::values).map(of).sum()
    }

    /// Weighs the endings, beside the live sessions.
    pub(super) fn weigh(&self, live: &LiveAddresses, undone: UndoneReplays) -> Weighed {
        let [mut all, before] = self.spans.clone();
        for (group, seen) in &before {
            all.entry(*group).or_default().add(seen);
        }
        let elsewhere = elsewhere(&all, undone);
        let (mut sum, mut sessions, mut weighed) = (0.0, 0.0, Weighed::default());
        for (group, seen) in &all {
            let (mut faults, mut counted) = (0, 0.0);
            for of_kind in &seen.faults {
                faults += of_kind.faults;
                weighed.replayed += of_kind.same + of_kind.differs + of_kind.unsure;
                weighed.differ += of_kind.differs;
                counted += match of_kind.kind {
                    FURTHER_KINDS => of_kind.faults.saturating_sub(of_kind.same) as f64,
                    kind => of_kind.counted(undone, elsewhere[kind]),
                };
            }
            // Sessions whose faults are excused say nothing.
            let here = group.map_or(0, |group| live.at(group));
            let of = (seen.well + here) as f64 + counted;
            weighed.faults += faults;
            if of > 0.0 {
                (sum, sessions) = (sum + counted / of, sessions + of);
                weighed.counted += counted;
                weighed.addresses += 1;
            }
            if counted > 0.0 {
                weighed.faulty += 1;
                weighed.crowded |= seen.crowded;
            }
        }
        let others = live.each().filter(|(group, _)| !all.contains_key(&Some(*group)));
        for (_, here) in others {
            sessions += here as f64;
            weighed.addresses += 1;
        }
        weighed.by_session = if sessions > 0.0 { weighed.counted / sessions } else { 0.0 };
        weighed.by_address = sum / weighed.addresses.max(1) as f64;
        weighed
    }

    /// Begins another span, if the current one is over.
    fn begin_span(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(*self.began.get_or_insert(now));
        if passed < self.length {
            return;
        }
        self.span += 1;
        self.spans.swap(0, 1);
        self.spans[0] = Addresses::new();
        if passed >= self.length * 2 {
            (self.span, self.spans[1]) = (self.span + 1, Addresses::new());
        }
        self.began = Some(now);
    }

    fn seen(&mut self, source: ClientSource) -> (Option<AddressGroup>, &mut Seen) {
        let addresses = &mut self.spans[0];
        let is_told_apart =
            addresses.len() < ADDRESSES_MAX || addresses.contains_key(&Some(source.group));
        let group = is_told_apart.then_some(source.group);
        let seen = addresses.entry(group).or_default();
        seen.crowded |= source.crowd == Crowd::Many;
        (group, seen)
    }

    /// Returns the faults of the mark's kind and address, if they still count.
    fn find(&mut self, mark: Mark) -> Option<&mut Faults> {
        let span =
            usize::try_from(self.span - mark.span).ok().filter(|age| *age < self.spans.len())?;
        let seen = self.spans[span].get_mut(&mark.group)?;
        seen.faults.iter_mut().find(|faults| faults.kind == mark.kind)
    }

    /// Number of addresses in memory.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.spans.iter().map(BTreeMap::len).sum()
    }
}

/// Returns, by kind, the share of faults that count against the version at an address without
/// replays. This is the mean over the addresses with replays, if at least half of all faulty
/// addresses had one. Otherwise it is 1: replays of a few clients say nothing about the others.
fn elsewhere(all: &Addresses, undone: UndoneReplays) -> [f64; KINDS_MAX] {
    let (mut sums, mut counts) = ([0.0; KINDS_MAX], [0_u32; KINDS_MAX]);
    let (mut faulty, mut heard) = (0_u32, 0_u32);
    for seen in all.values().filter(|seen| !seen.faults.is_empty()) {
        let mut has_replay = false;
        for faults in seen.faults.iter().filter(|faults| faults.kind < KINDS_MAX) {
            let (against, replayed) = faults.replayed(undone);
            if replayed > 0 {
                sums[faults.kind] += against as f64 / replayed as f64;
                counts[faults.kind] += 1;
                has_replay = true;
            }
        }
        faulty += 1;
        heard += u32::from(has_replay);
    }
    let tells = heard * 2 >= faulty;
    let mean = |kind: usize| {
        if tells && counts[kind] > 0 { sums[kind] / f64::from(counts[kind]) } else { 1.0 }
    };
    std::array::from_fn(mean)
}
