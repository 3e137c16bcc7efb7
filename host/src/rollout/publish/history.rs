//! Revisions: the versions that a server has had, and which of them is current.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::plugin::{EventProcedure, Known, Plugin};
use crate::telemetry::FaultFigures;

/// Number of revisions that a history keeps; older ones are forgotten.
pub const HISTORY_MAX: usize = 32;

/// How a version came to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RevisionOrigin {
    /// The server started with the version.
    Start,
    /// A swap.
    Swap,
    /// A canary.
    Canary,
    /// A reload, after which the configuration names the version.
    Reload,
}

/// State of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "reason")]
pub enum RevisionState {
    /// New sessions get the version.
    #[serde(rename = "in-force")]
    Current,
    /// A share of the new sessions gets the version.
    Canary,
    /// Another version came after it.
    Superseded,
    /// The version was rolled back, for this reason.
    #[serde(rename = "taken-back")]
    RolledBack(String),
}

/// Record of one version that a server has had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// Number of the revision. Counts from 1 and is never used again.
    pub number: u64,
    /// Name of the plugin.
    pub name: String,
    /// Version of the plugin, from its manifest.
    pub version: String,
    /// Whether the manifest says that the plugin is stateless.
    #[serde(default)]
    pub stateless: bool,
    /// SHA-256 of the component, in hexadecimal.
    pub digest: String,
    /// File or reference that the plugin was loaded from.
    pub file: PathBuf,
    /// How the version came to the server.
    pub how: RevisionOrigin,
    /// Time when the version came, in seconds since 1970.
    pub since: u64,
    /// State of the revision.
    #[serde(flatten)]
    pub state: RevisionState,
    /// Faults that the version was rolled back for, if faults were the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults: Option<FaultFigures>,
}

impl Revision {
    fn new(number: u64, plugin: &Plugin, how: RevisionOrigin, state: RevisionState) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (name, version) = (plugin.name().to_owned(), plugin.version().to_owned());
        let (digest, file) = (plugin.digest().to_owned(), plugin.file().to_owned());
        Self {
            number,
            name,
            version,
            stateless: plugin.is_stateless(),
            digest,
            file,
            how,
            since,
            state,
            faults: None,
        }
    }

    /// Name and version, as in logs.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// Data of the version's manifest.
    pub(crate) fn known(&self) -> Known<'_> {
        Known { name: &self.name, version: &self.version, stateless: self.stateless }
    }

    fn is(&self, plugin: &Plugin) -> bool {
        (self.digest.as_str(), self.label()) == (plugin.digest(), plugin.label())
    }
}

/// History of a server's versions.
#[derive(Debug)]
pub(crate) struct History {
    /// Digest of the plugin that the configuration names.
    configured: String,
    revisions: VecDeque<(Revision, Weak<EventProcedure>)>,
    last: u64,
}

impl History {
    /// Creates the history of a server that starts with this procedure.
    pub(crate) fn new(configured: String, procedure: &Arc<EventProcedure>) -> Self {
        let mut history = Self { configured, revisions: VecDeque::new(), last: 0 };
        history.put(procedure, RevisionOrigin::Start, RevisionState::Current);
        history
    }

    /// Restores the history of a server from its record. If the server starts with another version
    /// than the recorded current one, that version becomes a new revision.
    pub(crate) fn resumed(
        configured: String,
        revisions: Vec<Revision>,
        procedure: &Arc<EventProcedure>,
    ) -> Self {
        let last = revisions.iter().map(|revision| revision.number).max().unwrap_or(0);
        let with = |mut revision: Revision| {
            if revision.state == RevisionState::Canary {
                // The canary ran when the process ended, and does not run any more.
                revision.state = RevisionState::RolledBack("restart".into());
            }
            let known = revision.state == RevisionState::Current && revision.is(procedure.plugin());
            (revision, if known { Arc::downgrade(procedure) } else { Weak::new() })
        };
        let mut history =
            Self { configured, revisions: revisions.into_iter().map(with).collect(), last };
        if !history.revisions.iter().any(|(_, known)| known.as_ptr() == Arc::as_ptr(procedure)) {
            history.put(procedure, RevisionOrigin::Start, RevisionState::Current);
        }
        history
    }

    pub(super) fn configured(&self) -> &str {
        &self.configured
    }

    /// Notes that the configuration names another plugin now.
    pub(super) fn configure(&mut self, digest: &str) {
        digest.clone_into(&mut self.configured);
    }

    /// Adds a revision for a version that came, and returns its number.
    pub(super) fn put(
        &mut self,
        procedure: &Arc<EventProcedure>,
        how: RevisionOrigin,
        state: RevisionState,
    ) -> u64 {
        if state == RevisionState::Current {
            self.supersede();
        }
        self.last += 1;
        let revision = Revision::new(self.last, procedure.plugin(), how, state);
        self.revisions.push_back((revision, Arc::downgrade(procedure)));
        if self.revisions.len() > HISTORY_MAX {
            self.forget_one();
        }
        self.last
    }

    /// Forgets the oldest revision of the more frequent kind: rolled back, or superseded. So bad
    /// versions do not push out the versions to roll back to, however many come.
    fn forget_one(&mut self) {
        let is_bad =
            |(revision, _): &(Revision, _)| matches!(revision.state, RevisionState::RolledBack(_));
        let bad = self.revisions.iter().filter(|one| is_bad(one)).count();
        let forgets_bad = bad * 2 > self.revisions.len();
        let oldest = self.revisions.iter().position(|one| match forgets_bad {
            true => is_bad(one),
            false => one.0.state == RevisionState::Superseded,
        });
        oldest.map(|at| self.revisions.remove(at));
    }

    fn supersede(&mut self) {
        for (revision, _) in &mut self.revisions {
            if revision.state == RevisionState::Current {
                revision.state = RevisionState::Superseded;
            }
        }
    }

    /// Makes a version the current one. A version that the history has forgotten gets a new
    /// revision.
    pub(super) fn make_current(&mut self, procedure: &Arc<EventProcedure>) {
        // One component may have several revisions. Preferred are, in this order: the revision of
        // this very procedure, the current revision, the last revision.
        let rank = |(revision, known): &(Revision, Weak<EventProcedure>)| match () {
            () if known.as_ptr() == Arc::as_ptr(procedure) => Some(2),
            () if revision.is(procedure.plugin()) => {
                Some(u8::from(revision.state == RevisionState::Current))
            }
            () => None,
        };
        let ranked = self.revisions.iter().filter_map(|one| Some((rank(one)?, one.0.number)));
        match ranked.max() {
            Some((_, number)) => self.make_revision_current(number, procedure),
            None => _ = self.put(procedure, RevisionOrigin::Reload, RevisionState::Current),
        }
    }

    /// Makes the revision with this number, which has this procedure, the current one. The history
    /// has the revision, because only a holder of the lock of swaps adds others.
    pub(super) fn make_revision_current(&mut self, number: u64, procedure: &Arc<EventProcedure>) {
        self.supersede();
        let found = self.revisions.iter_mut().find(|(one, _)| one.number == number);
        if let Some((revision, known)) = found {
            (revision.state, *known) = (RevisionState::Current, Arc::downgrade(procedure));
        }
    }

    /// Marks a version as rolled back, for these faults or another reason.
    pub(super) fn mark_rolled_back(
        &mut self,
        procedure: &Arc<EventProcedure>,
        why: &str,
        faults: Option<&FaultFigures>,
    ) {
        for (revision, known) in &mut self.revisions {
            if known.as_ptr() == Arc::as_ptr(procedure) {
                (revision.state, revision.faults) =
                    (RevisionState::RolledBack(why.to_owned()), faults.copied());
            }
        }
    }

    /// Number of the current revision. 0 if there is none.
    pub(super) fn current(&self) -> u64 {
        let current =
            self.revisions.iter().find(|(revision, _)| revision.state == RevisionState::Current);
        current.map_or(0, |(revision, _)| revision.number)
    }

    /// Returns the last revision before the current one that was not rolled back, and its procedure
    /// if that is still in memory.
    pub(super) fn before(&self) -> Option<(Revision, Option<Arc<EventProcedure>>)> {
        let current = self.current();
        let mut earlier = self.revisions.iter().rev().filter(|(one, _)| one.number < current);
        let (revision, known) = earlier.find(|(one, _)| one.state == RevisionState::Superseded)?;
        Some((revision.clone(), known.upgrade()))
    }

    /// Returns all revisions, the oldest first.
    pub(super) fn seen(&self) -> Vec<Revision> {
        self.revisions.iter().map(|(revision, _)| revision.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_keep_their_serialised_names() {
        let states = [
            RevisionState::Current,
            RevisionState::Canary,
            RevisionState::Superseded,
            RevisionState::RolledBack("asked".into()),
        ];
        let names = states.map(|state| serde_json::to_value(state).expect("JSON")["state"].clone());
        assert_eq!(names, ["in-force", "canary", "superseded", "taken-back"]);
    }

    #[test]
    fn records_without_figures_are_read() {
        let old = r#"{"number":2,"name":"echo","version":"1.0","digest":"d","file":"f","how":"swap","since":7,
            "state":"taken-back","reason":"faults"}"#;
        let mut revision: Revision = serde_json::from_str(old).expect("an older record");
        assert_eq!(revision.faults, None);
        let written = serde_json::to_string(&revision).expect("it is written");
        assert!(!written.contains("\"faults\":"), "{written}");
        revision.faults = Some(FaultFigures {
            faults: 12,
            excused: 2,
            replayed: 8,
            addresses: 3,
            faulty_addresses: 2,
            rate: 0.5,
            rate_before: 0.25,
        });
        let written = serde_json::to_string(&revision).expect("it is written");
        assert_eq!(serde_json::from_str::<Revision>(&written).expect("its own record"), revision);
    }
}
