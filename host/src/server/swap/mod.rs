//! Another version of a server's plugin: newcomers get it at once, live sessions as the policy
//! says.

mod calls;
mod live;
mod migrate;
mod pending;
mod progress;

use std::collections::BTreeMap;
use std::time::Duration;

pub(super) use live::{
    Live, Outcome, bounded, introduce, on, on_build, others, outlasts, published, put_back,
};
pub use migrate::SWAP_DEADLINE;
pub(super) use migrate::{begun, migrate};
pub(super) use pending::PendingChanges;
pub(super) use progress::Going;
pub use progress::{SwapProgress, SwapStage};

use super::fetch::{refused_load, refused_pull};
use super::service::Service;
use super::versions::{RecordError, SwapRules, VERSIONS_MAX};
use crate::event::Fault;
use crate::oci::RegistryError;
use crate::plugin::{LoadError, Plugin};
use crate::session::MigrateOutcome;
use crate::telemetry::HandoverFailed;
use crate::work::{Refusal, WorkError};

/// Why sessions stay that says nothing about the version: they were busy, were to end, or there was
/// no room for two instances.
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

/// What becomes of live sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SwapPolicy {
    /// Each moves to the new version at its next event boundary, with its state. One that cannot
    /// stays where it is.
    #[default]
    HandOff,
    /// All of them move at one moment, or none does: each prepares, and newcomers wait meanwhile.
    AllOrNothing,
    /// They end on the version they have.
    Pin,
    /// They are ended gracefully, as `server-stopped`.
    Disconnect,
}

impl SwapPolicy {
    /// Every policy.
    pub const ALL: [Self; 4] = [Self::HandOff, Self::AllOrNothing, Self::Pin, Self::Disconnect];

    /// Its name in requests and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HandOff => "hand-off",
            Self::AllOrNothing => "all-or-nothing",
            Self::Pin => "pin",
            Self::Disconnect => "disconnect",
        }
    }
}

impl std::str::FromStr for SwapPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|policy| policy.name() == text);
        found.ok_or_else(|| format!("expected one of {names}, found `{}`", text.escape_debug()))
    }
}

/// What became of the sessions that were there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SwapReport {
    /// Name and version of what was there before.
    pub from: String,
    /// Name and version of what was asked for.
    pub to: String,
    /// The number of that version among those that this server has had. 0: it was never in force.
    pub generation: u64,
    /// Moved to the new version.
    pub moved: usize,
    /// On the old one, by the reason why they did not move.
    pub stayed: BTreeMap<String, usize>,
    /// Over, because the old version could not save them, by reason.
    pub lost: BTreeMap<String, usize>,
    /// Whether so many could not move that the version was taken back: newcomers get the one
    /// before, and who had moved is on that again.
    pub rolled_back: bool,
    /// Ended meanwhile, by themselves or because the policy says so.
    pub ended: usize,
    /// For how long each of those that moved was handled by neither, in the order in which they
    /// did.
    pub pauses: Vec<Duration>,
    /// Whether what is in force is written down, so that it is what starts after a crash.
    pub recorded: bool,
}

/// Why nothing was swapped. Nothing changed, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwapError {
    /// The new version is not good.
    #[error(transparent)]
    Plugin(#[from] LoadError),
    /// The new version did not come from its registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Its sessions share instances, or are to move together, and there is no room for those of
    /// another version.
    #[error(
        "no room for {0} more instances, which the sessions of another version need \
         (`sessions_max`)"
    )]
    NoRoom(usize),
    /// A version is being tried.
    #[error("a canary runs ({0}): promote it or roll it back first")]
    CanaryRuns(String),
    /// None is being tried.
    #[error("no canary runs")]
    NoCanary,
    /// A value of a canary that cannot be.
    #[error("`{0}`: {1}")]
    Canary(&'static str, String),
    /// There are too many versions in memory.
    #[error(
        "{0} are in use, by live sessions or until the last swap is not watched any more, and at \
         most {VERSIONS_MAX} versions may be in memory: wait until one is not, or swap in what is \
         in force once more with the policy `disconnect`, which ends the sessions on the others"
    )]
    TooManyVersions(String),
    /// There is nothing to go back to.
    #[error("there is no version before this one to go back to")]
    NothingBefore,
    /// What was there before is gone.
    #[error(
        "{file}: it was {label} and is another file now; it was not kept (`host.state_dir`), so \
         that nothing can go back to it"
    )]
    Gone {
        /// Name and version.
        label: String,
        /// Where it was loaded from.
        file: String,
    },
    /// What was there before came from a registry, and whoever has signed it is not believed any
    /// more.
    #[error(
        "cannot go back to {label}, which may not run by what `[registry]` says now: {why}. Swap \
         in another version, or believe a key that has signed it (`[[registry.trust]]`)"
    )]
    Distrusted {
        /// Name and version.
        label: String,
        /// The reference, and what a pull of it would say.
        why: String,
    },
    /// The new version could not be kept, without which it cannot start again; nothing was changed.
    #[error(transparent)]
    NotKept(RecordError),
    /// What is in force now could not be written down, perhaps as the system refused something.
    #[error("{0}")]
    NotRecorded(String, Option<Refusal>),
    /// A step of it was not done, by no fault of the version.
    #[error(transparent)]
    Work(#[from] WorkError),
    /// A roll-back that came meanwhile has called it off.
    #[error("it was called off by a roll-back of this server that was asked for meanwhile")]
    Overtaken,
    /// The server is on its way out.
    #[error("the server is stopping or stopped")]
    Stopping,
}

impl SwapError {
    /// What the system refused, where that is the cause.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Plugin(error) => refused_load(error),
            Self::Registry(error) => refused_pull(error),
            Self::NotKept(error) => error.refusal,
            Self::NotRecorded(_, refusal) => *refusal,
            _ => None,
        }
    }
}

/// Whether both are the same component under the same name and version.
pub(super) fn same(one: &Plugin, other: &Plugin) -> bool {
    let of = |plugin: &Plugin| (plugin.digest().to_owned(), plugin.label(), plugin.is_stateless());
    of(one) == of(other)
}

impl SwapReport {
    /// The pause that this share of the sessions that moved did not exceed, 0 to 1; zero where none
    /// moved.
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

    pub(super) fn add(&mut self, service: &Service, session: u64, handed: Option<MigrateOutcome>) {
        let failed = |fault: &Fault| {
            HandoverFailed { server: &service.name, session, fault }.emit(&service.fault_lines);
        };
        match handed {
            None => self.ended += 1,
            Some(MigrateOutcome::Moved(pause)) => {
                self.moved += 1;
                self.pauses.push(pause);
            }
            Some(MigrateOutcome::Stayed(fault)) => {
                failed(&fault);
                self.stay(&fault.kind.name());
            }
            // Logged and counted as the fault that it is.
            Some(MigrateOutcome::Lost(fault)) => {
                *self.lost.entry(fault.kind.name().into_owned()).or_default() += 1;
            }
        }
        service.answered(self);
    }

    /// Sessions that could not move, by the version's doing.
    fn failed(&self) -> usize {
        let of_version = |(why, _): &(&String, &usize)| !NOT_ITS_FAULT.contains(&why.as_str());
        self.stayed.iter().chain(&self.lost).filter(of_version).map(|(_, count)| count).sum()
    }

    fn is_hopeless(&self, rules: &SwapRules) -> bool {
        let (failed, asked) = (self.failed(), (self.failed() + self.moved) as f64);
        failed >= rules.failures_min as usize && failed as f64 > rules.failures_share * asked
    }

    pub(super) fn stay(&mut self, why: &str) {
        *self.stayed.entry(why.to_owned()).or_default() += 1;
    }
}
