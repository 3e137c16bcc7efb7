//! Probation: a version that was swapped in, and its faults against those of the version before.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::AbortHandle;

use super::blame::{Blamed, LiveAddresses, Source, Suspect, Tried, Verdict};
use crate::plugin::{EventProcedure, Grants};
use crate::telemetry::FaultFigures;

/// A version on probation, with the version before.
#[derive(Debug)]
pub(super) struct Probation {
    pub(super) new: Arc<EventProcedure>,
    pub(super) suspect: Suspect,
    pub(super) until: Instant,
    pub(super) judged: ProbationVerdict,
    /// What both versions may import.
    pub(super) grants: Grants,
    /// Task that ends the probation when its time is over.
    pub(super) expiry: AbortHandle,
}

/// State of the decision about a version.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum ProbationVerdict {
    /// The version has few faults, or the decision was to keep it.
    Kept,
    /// A task decides.
    UnderWay,
    /// The version is rolled back as soon as no other change is under way.
    Over(FaultFigures),
}

impl Drop for Probation {
    fn drop(&mut self) {
        self.expiry.abort();
    }
}

impl Probation {
    /// The version to roll back to.
    pub(super) fn before(&self) -> &Arc<EventProcedure> {
        self.suspect.before()
    }

    /// Counts the end of a session. Returns the fault to replay, and whether a task has to decide.
    pub(super) fn hears(
        &mut self,
        of: &Arc<EventProcedure>,
        source: Source,
        blamed: Option<&Blamed>,
        now: Instant,
    ) -> (Option<Tried>, bool) {
        // A session may be on the same version with the configuration before a reload.
        let is = |version: &Arc<EventProcedure>| {
            Arc::ptr_eq(of, version) || of.plugin().is_same_as(version.plugin())
        };
        if now > self.until {
            return (None, false);
        }
        match blamed {
            Some(blamed) if is(&self.new) => {
                let (tried, enough) = self.suspect.faulted(source, blamed, now);
                let begins = enough && self.judged == ProbationVerdict::Kept;
                if begins {
                    self.judged = ProbationVerdict::UnderWay;
                }
                (Some(tried), begins)
            }
            None if is(&self.new) => {
                self.suspect.went_well(source, now);
                (None, false)
            }
            blamed if is(self.before()) => {
                self.suspect.hears_of_before(source, blamed, now);
                (None, false)
            }
            _ => (None, false),
        }
    }

    /// Whether the version is to be rolled back.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.judged, ProbationVerdict::Over(_))
    }

    /// Decides. `live` has the live sessions of the version and of the one before.
    pub(super) fn judge(&mut self, live: [&LiveAddresses; 2], now: Instant) -> Verdict {
        let verdict = self.suspect.decide(live, now);
        self.judged = match verdict {
            Verdict::Keep => ProbationVerdict::Kept,
            Verdict::NotYet => ProbationVerdict::UnderWay,
            Verdict::TakeBack(figures) => ProbationVerdict::Over(figures),
        };
        verdict
    }
}
