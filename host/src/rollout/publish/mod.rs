//! The only code that changes which versions a server has: the current version, the canary, the
//! version on probation, and the history.
//!
//! Each change takes a [`VersionChange`], which is the lock of swaps. Two changes need no lock: a
//! probation whose time is over ends, and a server that stops ends what it tries.

mod history;

use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};

pub use history::{HISTORY_MAX, Revision, RevisionOrigin, RevisionState};

pub(crate) use self::history::History;
use super::canary::Canary;
use super::change::{Rollout, VersionChange};
use super::probation::Probation;
use crate::locks::lock;
use crate::plugin::EventProcedure;
use crate::telemetry::{FaultFigures, PluginSwapped, SwapRolledBack};

/// The current version. Sessions claim room for it as soon as it is stored.
struct Current(ArcSwap<EventProcedure>);

impl Current {
    fn new(procedure: Arc<EventProcedure>) -> Self {
        procedure.holding().serves(procedure.plugin().footprint());
        Self(ArcSwap::new(procedure))
    }

    fn store(&self, procedure: Arc<EventProcedure>) {
        procedure.holding().serves(procedure.plugin().footprint());
        self.0.store(procedure);
    }

    /// Replaces `current` by `next`. Returns false if `current` is not stored any more.
    fn replace(&self, current: &Arc<EventProcedure>, next: Arc<EventProcedure>) -> bool {
        let footprint = next.plugin().footprint();
        let holding = Arc::clone(next.holding());
        let was = Guard::into_inner(self.0.compare_and_swap(current, next));
        let replaced = Arc::ptr_eq(&was, current);
        if replaced {
            holding.serves(footprint);
        }
        replaced
    }
}

/// The versions of one server, as new sessions and operators see them.
pub(super) struct Versions {
    current: Current,
    /// A version that a share of the new sessions gets.
    canary: ArcSwapOption<Canary>,
    probation: Mutex<Option<Probation>>,
    history: Mutex<History>,
}

impl Versions {
    pub(super) fn new(current: Arc<EventProcedure>, history: History) -> Self {
        Self {
            current: Current::new(current),
            canary: ArcSwapOption::empty(),
            probation: Mutex::default(),
            history: Mutex::new(history),
        }
    }

    /// Ends the probation if `over` says so. The caller need not hold the lock of swaps.
    pub(super) fn end_probation_if(&self, over: impl FnOnce(&mut Probation) -> bool) {
        lock(&self.probation).take_if(over);
    }

    fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }
}

impl Rollout {
    /// The version that new sessions get.
    pub(crate) fn procedure(&self) -> Arc<EventProcedure> {
        self.versions.current.0.load_full()
    }

    /// The canary that runs.
    pub(crate) fn canary(&self) -> Option<Arc<Canary>> {
        self.versions.canary.load_full()
    }

    /// The procedure for the next new session, and whether that is a canary.
    pub(crate) fn procedure_for_new_session(&self) -> (Arc<EventProcedure>, bool) {
        match &*self.versions.canary.load() {
            Some(canary) if canary.takes() => (Arc::clone(&canary.procedure), true),
            _ => (self.procedure(), false),
        }
    }

    /// Whether this canary is the one that runs.
    pub(super) fn has_canary(&self, canary: &Arc<Canary>) -> bool {
        self.versions.canary.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, canary))
    }

    /// Whether this procedure is the canary that runs.
    pub(crate) fn tries(&self, procedure: &Arc<EventProcedure>) -> bool {
        self.versions
            .canary
            .load()
            .as_ref()
            .is_some_and(|canary| Arc::ptr_eq(&canary.procedure, procedure))
    }

    /// Whether new sessions may get this version, as the current one or as the canary.
    pub(crate) fn gets_new_sessions(&self, version: &Arc<EventProcedure>) -> bool {
        // Some sessions are on the same version with the configuration before a reload.
        let is = |other: &Arc<EventProcedure>| {
            Arc::ptr_eq(other, version) || other.plugin().is_same_as(version.plugin())
        };
        is(&self.versions.current.0.load())
            || self.versions.canary.load().as_ref().is_some_and(|canary| is(&canary.procedure))
    }

    /// The version on probation, to count and to decide. [`Versions::end_probation_if`] and
    /// [`VersionChange`] end the probation.
    pub(super) fn with_probation<T>(&self, look: impl FnOnce(&mut Probation) -> T) -> Option<T> {
        lock(&self.versions.probation).as_mut().map(look)
    }

    /// The version before the one on probation, which stays in memory.
    pub(crate) fn before_probation(&self) -> Option<Arc<EventProcedure>> {
        self.with_probation(|probation| Arc::clone(probation.before()))
    }

    /// All revisions, the oldest first.
    pub(crate) fn revisions(&self) -> Vec<Revision> {
        self.versions.history().seen()
    }

    /// Digest of the plugin that the configuration names.
    pub(crate) fn configured(&self) -> String {
        self.versions.history().configured().to_owned()
    }

    /// The configured digest and all revisions, of one moment.
    pub(super) fn recordable(&self) -> (String, Vec<Revision>) {
        let history = self.versions.history();
        (history.configured().to_owned(), history.seen())
    }

    /// Number of the current revision.
    pub(super) fn current_number(&self) -> u64 {
        self.versions.history().current()
    }

    /// The revision to roll back to, and its procedure if that is still in memory.
    pub(super) fn revision_before(&self) -> Option<(Revision, Option<Arc<EventProcedure>>)> {
        self.versions.history().before()
    }

    /// Ends the canary and the probation of a server that stops.
    pub(crate) fn end_trials(&self) {
        self.versions.end_probation_if(|_| true);
        self.versions.canary.store(None);
    }
}

impl VersionChange {
    fn versions(&self) -> &Versions {
        &self.server.rollout().versions
    }

    /// Publishes a version that is new to the server. Returns the number of its revision.
    pub(super) fn publish(&self, next: &Arc<EventProcedure>) -> u64 {
        self.versions().current.store(Arc::clone(next));
        self.published(next);
        self.versions().history().put(next, RevisionOrigin::Swap, RevisionState::Current)
    }

    /// Publishes the revision with this number again, because `bad` is rolled back by an operator.
    pub(super) fn publish_revision(
        &self,
        number: u64,
        next: &Arc<EventProcedure>,
        bad: &Arc<EventProcedure>,
    ) -> u64 {
        self.versions().current.store(Arc::clone(next));
        let mut history = self.versions().history();
        history.make_revision_current(number, next);
        history.mark_rolled_back(bad, "asked", None);
        drop(history);
        self.published(next);
        number
    }

    /// Publishes the version before again. Returns false if `bad` is no longer current.
    pub(super) fn publish_before(
        &self,
        before: &Arc<EventProcedure>,
        bad: &Arc<EventProcedure>,
        (why, figures): (&str, Option<&FaultFigures>),
    ) -> bool {
        if !self.versions().current.replace(bad, Arc::clone(before)) {
            return false;
        }
        let mut history = self.versions().history();
        history.make_current(before);
        history.mark_rolled_back(bad, why, figures);
        drop(history);
        // The faults were those of the bad version.
        self.server.forget_faults();
        let (plugin, digest) = (before.plugin().label(), before.plugin().digest());
        let (server, bad) = (&**self.server.name(), &*bad.plugin().label());
        SwapRolledBack { server, bad, plugin: &plugin, digest, reason: why, figures }
            .emit(self.server.counters());
        true
    }

    /// Gives a version to a share of the new sessions. `canary` gets the number of its revision.
    pub(super) fn begin_canary(
        &self,
        next: &Arc<EventProcedure>,
        canary: impl FnOnce(u64) -> Canary,
    ) -> Arc<Canary> {
        let number =
            self.versions().history().put(next, RevisionOrigin::Canary, RevisionState::Canary);
        let canary = Arc::new(canary(number));
        self.versions().canary.store(Some(Arc::clone(&canary)));
        canary
    }

    /// Publishes the canary. Returns the number of its revision.
    pub(super) fn publish_canary(&self, canary: &Canary) -> u64 {
        self.versions().current.store(Arc::clone(&canary.procedure));
        self.versions().canary.store(None);
        self.versions().history().make_current(&canary.procedure);
        canary.ended(&*self.server, "promoted");
        self.published(&canary.procedure);
        canary.number()
    }

    /// Ends a canary, for this reason.
    pub(super) fn end_canary(&self, canary: &Canary, why: &str) {
        self.versions().canary.store(None);
        self.versions().history().mark_rolled_back(&canary.procedure, why, canary.fault_figures());
        canary.ended(&*self.server, why);
    }

    /// Publishes the current version with another configuration, or the version that the
    /// configuration names now. `digest` is that of the configured plugin.
    ///
    /// Ends a canary, because the version it was compared with is not current any more. Returns its
    /// procedure then: [`VersionChange::migrate_canary_sessions`] migrates its sessions.
    pub(crate) fn reconfigure(
        &self,
        procedure: EventProcedure,
        digest: &str,
    ) -> Option<Arc<EventProcedure>> {
        let (before, mut ended_canary) = (self.server.rollout().procedure(), None);
        // If nothing changed about a shared instance, it lives on with all of its memory.
        if !before.is_like(&procedure) {
            let procedure = Arc::new(procedure);
            if let Some(canary) = self.versions().canary.load_full() {
                self.end_canary(&canary, "reload");
                ended_canary = Some(Arc::clone(&canary.procedure));
            }
            self.versions().current.store(Arc::clone(&procedure));
            if before.plugin().is_same_as(procedure.plugin()) {
                self.versions().history().make_current(&procedure);
                self.continue_probation(&procedure, &before);
            } else {
                let (how, state) = (RevisionOrigin::Reload, RevisionState::Current);
                self.versions().history().put(&procedure, how, state);
                // The version before can no longer be rolled back to.
                self.set_probation(None);
            }
        }
        self.versions().history().configure(digest);
        ended_canary
    }

    /// Puts the current version on probation, or ends its probation.
    pub(super) fn set_probation(&self, probation: Option<Probation>) {
        *lock(&self.versions().probation) = probation;
    }

    /// Continues a probation after a reload changed the current version's configuration. The
    /// version before gets that configuration too.
    fn continue_probation(&self, new: &Arc<EventProcedure>, was: &Arc<EventProcedure>) {
        let grants = self.server.grants();
        self.versions().end_probation_if(|probation| {
            if !Arc::ptr_eq(&probation.new, was) {
                return false;
            }
            if probation.grants != grants {
                // The version before is linked with other grants, so it must not come back.
                return true;
            }
            probation.new = Arc::clone(new);
            // With another number of shards, it has no places for them and keeps its configuration.
            if new.shards() == probation.before().shards() {
                probation.suspect.set_before(Arc::new(probation.before().with_config_of(new)));
            }
            false
        });
    }

    /// Takes the probation of a version that is to be rolled back.
    pub(super) fn take_failed_probation(&self) -> Option<Probation> {
        lock(&self.versions().probation).take_if(|probation| probation.has_failed())
    }

    fn published(&self, next: &EventProcedure) {
        self.set_probation(None);
        self.server.forget_faults();
        let (plugin, digest) = (next.plugin().label(), next.plugin().digest());
        PluginSwapped { server: self.server.name(), plugin: &plugin, digest }.emit();
    }
}
