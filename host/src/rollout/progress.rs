//! Progress of a swap, for operators.

use std::sync::{Mutex, MutexGuard};

use crate::locks::lock;
use crate::plugin::Plugin;

/// Phase of a swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapPhase {
    /// The host tries and keeps the new version.
    Trying,
    /// Live sessions are asked to move.
    Moving,
    /// The version failed, and the sessions that had moved are asked to move back.
    MovingBack,
}

impl SwapPhase {
    /// Stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Trying => "trying",
            Self::Moving => "moving",
            Self::MovingBack => "moving-back",
        }
    }
}

/// Progress of a swap at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapProgress {
    /// Name and version that live sessions move to.
    pub to: String,
    /// Phase of the swap.
    pub phase: SwapPhase,
    /// Number of sessions that are to move.
    pub of: usize,
    /// Number of sessions that have moved.
    pub moved: usize,
    /// Number of sessions that stay where they are.
    pub stayed: usize,
    /// Number of sessions that have ended.
    pub ended: usize,
}

/// Progress of a server's swap, if one is under way.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<Option<Going>>);

/// Progress of a swap as the server keeps it.
#[derive(Debug)]
struct Going {
    seen: SwapProgress,
    /// Digest of the version that the swap began for. Builds of one version have the same name.
    digest: String,
    /// Number of sessions that stay without having been asked.
    pinned: usize,
}

/// A swap that is under way until this value is dropped.
pub(super) struct UnderWay<'a>(&'a Progress);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        *self.0.going() = None;
    }
}

impl Progress {
    /// Records that a swap begins. The caller holds the lock of swaps.
    pub(super) fn begins(&self, to: &Plugin) -> UnderWay<'_> {
        let (phase, digest) = (SwapPhase::Trying, to.digest().to_owned());
        let seen = SwapProgress { to: to.label(), phase, of: 0, moved: 0, stayed: 0, ended: 0 };
        *self.going() = Some(Going { seen, digest, pinned: 0 });
        UnderWay(self)
    }

    /// Records that this many sessions are asked to move to this version. `pinned` sessions stay
    /// without being asked.
    pub(super) fn asks(&self, sessions: usize, to: &Plugin, pinned: usize) {
        if let Some(going) = &mut *self.going() {
            let seen = &mut going.seen;
            let forth = going.digest == to.digest() && seen.to == to.label();
            (seen.phase, seen.of) =
                (if forth { SwapPhase::Moving } else { SwapPhase::MovingBack }, sessions);
            (seen.moved, seen.stayed, seen.ended) = (0, 0, 0);
            going.pinned = pinned;
        }
    }

    /// Updates the counts of sessions. `stayed` also counts the sessions that were not asked.
    pub(super) fn answered(&self, moved: usize, stayed: usize, ended: usize) {
        if let Some(Going { seen, pinned, .. }) = &mut *self.going() {
            (seen.moved, seen.stayed) = (moved, stayed.saturating_sub(*pinned));
            seen.ended = ended;
        }
    }

    /// The progress now, if a swap is under way.
    pub(super) fn seen(&self) -> Option<SwapProgress> {
        self.going().as_ref().map(|going| going.seen.clone())
    }

    fn going(&self) -> MutexGuard<'_, Option<Going>> {
        lock(&self.0)
    }
}
