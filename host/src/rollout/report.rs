//! Report and errors of a swap.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::exclusive::TooManyWaitingError;
use super::fetch::{FetchError, refused_load, refused_pull};
use super::rules::{SwapRules, VERSIONS_MAX};
use super::state_dir::RecordError;
use crate::oci::RegistryError;
use crate::plugin::{EventProcedure, LoadError};
use crate::session::MigrateOutcome;
use crate::work::{RefusedResource, WorkError};

/// Reasons to stay that say nothing against the version. For example, the session was busy, was
/// about to end, or had no room for two instances.
const NOT_ITS_FAULT: [&str; 10] = [
    "held-up",
    "called-off",
    "busy",
    "aborted",
    "drain-deadline",
    "overload",
    "limit-tenant-mem",
    "no-handoff",
    "not-asked",
    "rolled-back",
];

/// Report of a swap: what became of the sessions that were live.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SwapReport {
    /// Name and version of the version that was current before.
    pub from: String,
    /// Name and version of the requested version.
    pub to: String,
    /// Number of the revision of the requested version. 0 if the version got none.
    pub revision: u64,
    /// Number of sessions that moved to the new version.
    pub moved: usize,
    /// Number of sessions that stayed on the old version, by reason.
    pub stayed: BTreeMap<String, usize>,
    /// Number of sessions that ended by a fault in `save`, or that had to end meanwhile, by reason.
    pub lost: BTreeMap<String, usize>,
    /// Whether the version that was tried is not kept: it was rolled back, a canary included, or an
    /// atomic swap to it was called off. New sessions get the version before.
    pub rolled_back: bool,
    /// Number of sessions that ended meanwhile, by themselves or because the policy says so.
    pub ended: usize,
    /// Time in which neither version handled a session, for each session that moved. In the order
    /// of the moves.
    pub pauses: Vec<Duration>,
    /// Whether this change recorded the current version on disk, so that a start after a crash uses
    /// it. False for the start and the roll-back of a canary.
    pub recorded: bool,
}

/// Reason why a swap failed. Nothing changed, unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwapError {
    /// The new version cannot be loaded or does not work.
    #[error(transparent)]
    Plugin(#[from] LoadError),
    /// The new version could not be fetched from its registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The instances of another version have no room. Sessions that share instances need them, and
    /// so does an atomic migration.
    #[error(
        "no room for {0} more instances, which the sessions of another version need \
         (`sessions_max`)"
    )]
    NoRoom(usize),
    /// A canary runs.
    #[error("a canary runs ({0}): promote it or roll it back first")]
    CanaryRuns(String),
    /// No canary runs.
    #[error("no canary runs")]
    NoCanary,
    /// A value of a canary is invalid: its key and the problem.
    #[error("`{0}`: {1}")]
    Canary(&'static str, String),
    /// Too many versions are in memory.
    #[error(
        "{0} are in use, by live sessions or until the last swap is not watched any more, and at \
         most {VERSIONS_MAX} versions may be in memory: wait until one is not, or swap in what is \
         in force once more with the policy `disconnect`, which ends the sessions on the others"
    )]
    TooManyVersions(String),
    /// The server has no version before this one.
    #[error("there is no version before this one to go back to")]
    NothingBefore,
    /// The version before is gone.
    #[error(
        "{file}: it was {label} and is another file now; it was not kept (`host.state_dir`), so \
         that nothing can go back to it"
    )]
    Gone {
        /// Name and version.
        label: String,
        /// File that the version was loaded from.
        file: String,
    },
    /// The version before came from a registry, and its signature is not trusted any more.
    #[error(
        "cannot go back to {label}, which may not run by what `[registry]` says now: {why}. Swap \
         in another version, or believe a key that has signed it (`[[registry.trust]]`)"
    )]
    Distrusted {
        /// Name and version.
        label: String,
        /// The reference, and the error that a pull of it would give.
        why: String,
    },
    /// The new version could not be kept, so that it could not start again. Nothing changed.
    #[error(transparent)]
    NotKept(RecordError),
    /// The file of the new version was replaced while it was loaded. Nothing changed.
    #[error("{}: it changed while it was loaded; try again", .0.display())]
    FileChanged(PathBuf),
    /// The current version could not be recorded, perhaps because the system refused something. The
    /// version is current nevertheless.
    #[error("{0}")]
    NotRecorded(String, Option<RefusedResource>),
    /// A step of the swap was not done, by no fault of the version.
    #[error(transparent)]
    Work(#[from] WorkError),
    /// Too many changes of the server's version wait. Nothing changed.
    #[error(transparent)]
    TooManyWaiting(#[from] TooManyWaitingError),
    /// A roll-back that was requested meanwhile cancelled the swap.
    #[error("it was called off by a roll-back of this server that was asked for meanwhile")]
    Overtaken,
    /// The server stops or has stopped. If the new version was published, the version before was
    /// published again.
    #[error("the server is stopping or stopped")]
    Stopping,
}

impl SwapError {
    /// Returns what the system refused, if that is the cause.
    #[must_use]
    pub fn refusal(&self) -> Option<RefusedResource> {
        match self {
            Self::Plugin(error) => refused_load(error),
            Self::Registry(error) => refused_pull(error),
            Self::NotKept(error) => error.refusal,
            Self::NotRecorded(_, refusal) => *refusal,
            _ => None,
        }
    }
}

impl From<FetchError> for SwapError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Registry(error) => Self::Registry(error),
            FetchError::Load(error) => Self::Plugin(error),
        }
    }
}

impl SwapReport {
    /// Creates the report of a change of versions, with nothing counted yet.
    pub(super) fn between(from: &EventProcedure, to: &EventProcedure) -> Self {
        let (from, to) = (from.plugin().label(), to.plugin().label());
        Self { from, to, ..Self::default() }
    }

    /// Returns the pause that this share (0 to 1) of the moved sessions did not exceed. Zero if no
    /// session moved.
    #[must_use]
    pub fn pause(&self, share: f64) -> Duration {
        let mut pauses = self.pauses.clone();
        pauses.sort_unstable();
        let last = pauses.len().saturating_sub(1);
        pauses
            .get((last as f64 * share.clamp(0.0, 1.0)).ceil() as usize)
            .copied()
            .unwrap_or_default()
    }

    /// Adds the answer of a session that was asked to move. `None`: it has ended.
    pub(super) fn add(&mut self, answer: Option<MigrateOutcome>) {
        match answer {
            None => self.ended += 1,
            Some(MigrateOutcome::Moved(pause)) => {
                self.moved += 1;
                self.pauses.push(pause);
            }
            Some(MigrateOutcome::Stayed(fault)) => self.stay(&fault.kind.name()),
            // The fault of a lost session is logged and counted elsewhere.
            Some(MigrateOutcome::Lost(fault)) => {
                *self.lost.entry(fault.kind.name().into_owned()).or_default() += 1;
            }
        }
    }

    /// Number of sessions that could not move because of the version.
    pub(super) fn failed(&self) -> usize {
        let of_version = |(why, _): &(&String, &usize)| !NOT_ITS_FAULT.contains(&why.as_str());
        self.stayed.iter().chain(&self.lost).filter(of_version).map(|(_, count)| count).sum()
    }

    pub(super) fn is_hopeless(&self, rules: &SwapRules) -> bool {
        let (failed, asked) = (self.failed(), (self.failed() + self.moved) as f64);
        failed >= rules.failures_min as usize && failed as f64 > rules.failures_share * asked
    }

    pub(super) fn stay(&mut self, why: &str) {
        *self.stayed.entry(why.to_owned()).or_default() += 1;
    }
}
