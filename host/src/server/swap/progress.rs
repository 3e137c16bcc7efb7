//! Progress of a swap, for operators.

use std::sync::{Arc, MutexGuard};

use super::SwapReport;
use crate::locks::lock;
use crate::plugin::{EventProcedure, Plugin};
use crate::server::handle::ServerHandle;
use crate::server::service::Service;

/// Stage of a swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapStage {
    /// The host tries and keeps the new version.
    Trying,
    /// Live sessions are asked to move.
    Moving,
    /// The version failed, and the sessions that had moved are asked to move back.
    MovingBack,
}

impl SwapStage {
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
    /// Stage of the swap.
    pub stage: SwapStage,
    /// Number of sessions that are to move.
    pub of: usize,
    /// Number of sessions that have moved.
    pub moved: usize,
    /// Number of sessions that stay where they are.
    pub stayed: usize,
    /// Number of sessions that have ended.
    pub ended: usize,
}

/// Progress as the server keeps it.
#[derive(Debug)]
pub(in crate::server) struct Going {
    seen: SwapProgress,
    /// Digest of the version that the swap began for. Builds of one version have the same name.
    digest: String,
    /// Number of sessions that stay without having been asked.
    pinned: usize,
}

/// A swap that is under way until this value is dropped.
pub(in crate::server) struct UnderWay<'a>(&'a Service);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        *self.0.under_way() = None;
    }
}

impl Service {
    /// Records that a swap begins. The caller holds the lock of swaps.
    pub(in crate::server) fn begins(&self, to: &Plugin) -> UnderWay<'_> {
        let (stage, digest) = (SwapStage::Trying, to.digest().to_owned());
        let seen = SwapProgress { to: to.label(), stage, of: 0, moved: 0, stayed: 0, ended: 0 };
        *self.under_way() = Some(Going { seen, digest, pinned: 0 });
        UnderWay(self)
    }

    /// Records that this many sessions are asked to move to this version. `report` counts the
    /// sessions that stay without being asked.
    pub(in crate::server) fn asks(
        &self,
        sessions: usize,
        to: &Arc<EventProcedure>,
        report: &SwapReport,
    ) {
        if let Some(Going { seen, digest, pinned }) = &mut *self.under_way() {
            let forth = digest == to.plugin().digest() && seen.to == to.plugin().label();
            (seen.stage, seen.of) =
                (if forth { SwapStage::Moving } else { SwapStage::MovingBack }, sessions);
            (seen.moved, seen.stayed, seen.ended) = (0, 0, 0);
            *pinned = report.stayed.values().sum();
        }
    }

    /// Updates the counts of moved, stayed and ended sessions from the report.
    pub(super) fn answered(&self, report: &SwapReport) {
        if let Some(Going { seen, pinned, .. }) = &mut *self.under_way() {
            let all = |reasons: &std::collections::BTreeMap<String, usize>| {
                reasons.values().sum::<usize>()
            };
            (seen.moved, seen.stayed) = (report.moved, all(&report.stayed).saturating_sub(*pinned));
            seen.ended = report.ended + all(&report.lost);
        }
    }

    fn under_way(&self) -> MutexGuard<'_, Option<Going>> {
        lock(&self.under_way)
    }
}

impl ServerHandle {
    /// Returns the progress of the swap that is under way, if any.
    #[must_use]
    pub fn swap_seen(&self) -> Option<SwapProgress> {
        self.service.under_way().as_ref().map(|going| going.seen.clone())
    }
}
