//! Probation: a version that was swapped in, and its faults against those of the version before.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::AbortHandle;

use super::blame::{Blamed, ClientSource, Decision, LiveAddresses, PendingReplay, Suspect};
use crate::plugin::{EventProcedure, Grants};
use crate::telemetry::FaultFigures;

/// A version on probation, with the version before.
#[derive(Debug)]
pub(super) struct Probation {
    pub(super) new: Arc<EventProcedure>,
    pub(super) suspect: Suspect,
    pub(super) until: Instant,
    pub(super) state: ProbationState,
    /// What both versions may import.
    pub(super) grants: Grants,
    /// Task that ends the probation when its time is over.
    pub(super) expiry: AbortHandle,
}

/// State of the decision about a version.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum ProbationState {
    /// The version has few faults, or the decision was to keep it.
    Kept,
    /// A task decides.
    UnderWay,
    /// The version failed, and is rolled back as soon as no other change is under way.
    Failed(FaultFigures),
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
    pub(super) fn count_session_end(
        &mut self,
        of: &Arc<EventProcedure>,
        source: ClientSource,
        blamed: Option<&Blamed>,
        now: Instant,
    ) -> (Option<PendingReplay>, bool) {
        // A session may be on the same version with the configuration before a reload.
        let is = |version: &Arc<EventProcedure>| {
            Arc::ptr_eq(of, version) || of.plugin().is_same_as(version.plugin())
        };
        if now > self.until {
            return (None, false);
        }
        match blamed {
            Some(blamed) if is(&self.new) => {
                let (pending, enough) = self.suspect.faulted(source, blamed, now);
                let begins = enough && self.state == ProbationState::Kept;
                if begins {
                    self.state = ProbationState::UnderWay;
                }
                (Some(pending), begins)
            }
            None if is(&self.new) => {
                self.suspect.went_well(source, now);
                (None, false)
            }
            blamed if is(self.before()) => {
                self.suspect.count_before(source, blamed, now);
                (None, false)
            }
            _ => (None, false),
        }
    }

    /// Whether the version is to be rolled back.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.state, ProbationState::Failed(_))
    }

    /// Decides. `live` has the live sessions of the version and of the one before.
    pub(super) fn decide(&mut self, live: [&LiveAddresses; 2], now: Instant) -> Decision {
        let decision = self.suspect.decide(live, now);
        self.state = match decision {
            Decision::Keep => ProbationState::Kept,
            Decision::NotYet => ProbationState::UnderWay,
            Decision::RollBack(figures) => ProbationState::Failed(figures),
        };
        decision
    }
}
