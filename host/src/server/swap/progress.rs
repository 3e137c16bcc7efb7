//! RevisionOrigin far a swap is, for whoever watches it.

use std::sync::{Arc, MutexGuard, PoisonError};

use super::SwapReport;
use crate::plugin::{EventProcedure, Plugin};
use crate::server::handle::ServerHandle;
use crate::server::service::Service;

/// What a swap is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapStage {
    /// The new version is tried out and kept.
    Trying,
    /// Live sessions are asked.
    Moving,
    /// The version is no good, and those that had moved are asked to go back.
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

/// A swap that is under way, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapProgress {
    /// Name and version of what live sessions move to.
    pub to: String,
    /// What it is doing.
    pub stage: SwapStage,
    /// Sessions that are to move.
    pub of: usize,
    /// Those that have.
    pub moved: usize,
    /// Those that stay where they are.
    pub stayed: usize,
    /// Those that are over.
    pub ended: usize,
}

/// The same as the server keeps it.
#[derive(Debug)]
pub(in crate::server) struct Going {
    seen: SwapProgress,
    /// What it began for. Builds of one version have the same name.
    digest: String,
    /// Sessions that were not asked and stay.
    pinned: usize,
}

/// A swap that goes on until this is dropped.
pub(in crate::server) struct UnderWay<'a>(&'a Service);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        *self.0.under_way() = None;
    }
}

impl Service {
    /// A swap begins. Whoever calls holds the lock of swaps.
    pub(in crate::server) fn begins(&self, to: &Plugin) -> UnderWay<'_> {
        let (stage, digest) = (SwapStage::Trying, to.digest().to_owned());
        let seen = SwapProgress { to: to.label(), stage, of: 0, moved: 0, stayed: 0, ended: 0 };
        *self.under_way() = Some(Going { seen, digest, pinned: 0 });
        UnderWay(self)
    }

    /// So many sessions are asked to come to this version. The report has those that need not be.
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

    /// That has become of them so far.
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
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServerHandle {
    /// RevisionOrigin far the swap is that is under way, if one is.
    #[must_use]
    pub fn swap_seen(&self) -> Option<SwapProgress> {
        self.service.under_way().as_ref().map(|going| going.seen.clone())
    }
}
