//! Methods of a server handle about the versions of its plugin.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::handle::ServerHandle;
use crate::plugin::{EventProcedure, Plugin};
use crate::rollout::{
    self, CanaryOptions, CanaryStatus, FetchError, LiveSessions, Revision, SwapError, SwapPolicy,
    SwapProgress, SwapReport,
};
use crate::work::Stop;

impl ServerHandle {
    /// Loads a plugin for [`ServerHandle::swap`], from a file or from its registry, under the
    /// grants of this server. Blocks for milliseconds to minutes, so do not call it on a runtime's
    /// thread.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn load_for_swap(&self, place: &Path) -> Result<Arc<Plugin>, FetchError> {
        rollout::load_for_swap(&*self.service, place, &Stop::default())
    }

    /// Loads a plugin as [`ServerHandle::load_for_swap`] does, and swaps it in with
    /// [`ServerHandle::swap`]. Without a policy, the server's own policy counts.
    ///
    /// # Errors
    /// [`SwapError`].
    pub async fn swap_to(
        self: &Arc<Self>,
        file: PathBuf,
        policy: Option<SwapPolicy>,
    ) -> Result<SwapReport, SwapError> {
        let policy = policy.unwrap_or_else(|| self.swap_policy());
        rollout::swap_file(&self.service.versioned(), file, policy).await
    }

    /// Loads a plugin as [`ServerHandle::load_for_swap`] does, and starts it as a canary with
    /// [`ServerHandle::canary`].
    ///
    /// # Errors
    /// [`SwapError`].
    pub async fn canary_file(
        self: &Arc<Self>,
        file: PathBuf,
        options: CanaryOptions,
    ) -> Result<SwapReport, SwapError> {
        rollout::canary_file(&self.service.versioned(), file, options).await
    }

    /// Returns the policy of swaps that name none.
    #[must_use]
    pub fn swap_policy(&self) -> SwapPolicy {
        self.service.rules().policy
    }

    /// Gives the server another plugin, loaded by a loader of the same host. New sessions get the
    /// plugin as soon as the host publishes it, and live sessions as the policy says.
    ///
    /// Returns when all sessions have answered, or after ten seconds. Sessions that were busy all
    /// that time stay where they are. Swaps of one server happen one at a time, and others wait.
    ///
    /// If the plugin is current already, the host does not publish it again, and asks the sessions
    /// on other versions again.
    ///
    /// Dropping the future may leave some sessions on the old version and some on the new one.
    ///
    /// # Errors
    /// [`SwapError`], which says what changed.
    pub async fn swap(
        &self,
        plugin: Arc<Plugin>,
        policy: SwapPolicy,
    ) -> Result<SwapReport, SwapError> {
        rollout::swap(&self.service.versioned(), plugin, policy).await
    }

    /// Gives a version to a share of the new sessions and, if `options` say so, to a share of the
    /// live sessions. After a while, all sessions get the version, unless it is worse than the
    /// current one. Returns once the canary has begun.
    ///
    /// # Errors
    /// [`SwapError`]; nothing was changed.
    pub async fn canary(
        &self,
        plugin: Arc<Plugin>,
        options: CanaryOptions,
    ) -> Result<SwapReport, SwapError> {
        rollout::start_canary(&self.service.versioned(), plugin, options).await
    }

    /// Promotes the canary. New sessions get it, and live sessions follow the server's policy.
    ///
    /// # Errors
    /// [`SwapError`], which says what changed.
    pub async fn promote(&self) -> Result<SwapReport, SwapError> {
        rollout::promote(&self.service.versioned()).await
    }

    /// Rolls back the canary or, if none runs, the current version. New and live sessions get the
    /// version before.
    ///
    /// Cancels every change that is not staged yet:
    /// - swaps and canaries that were requested before,
    /// - another roll-back that is under way.
    ///
    /// Waits for the step that is under way at most, and for no queue of swaps.
    ///
    /// # Errors
    /// [`SwapError`], which says what changed.
    pub async fn roll_back(&self) -> Result<SwapReport, SwapError> {
        rollout::roll_back(&self.service.versioned()).await
    }

    /// Returns the revisions of this server, the oldest first, each with its number of live
    /// sessions.
    #[must_use]
    pub fn revisions(&self) -> Vec<(Revision, usize)> {
        let live: Vec<_> =
            self.service.registry.handled().iter().map(|(_, slot)| slot.current()).collect();
        let on = |revision: &Revision| {
            let is = |procedure: &&Arc<EventProcedure>| {
                (procedure.plugin().digest(), procedure.plugin().label())
                    == (&*revision.digest, revision.label())
            };
            live.iter().filter(is).count()
        };
        let seen = self.service.rollout.revisions();
        // If a version has several revisions, only the last of them shows its sessions.
        let last = |at: usize| {
            !seen[at + 1..]
                .iter()
                .any(|later| later.digest == seen[at].digest && later.label() == seen[at].label())
        };
        let count = |(at, revision): (usize, &Revision)| {
            (revision.clone(), if last(at) { on(revision) } else { 0 })
        };
        seen.iter().enumerate().map(count).collect()
    }

    /// Returns the status of the canary, if one runs.
    #[must_use]
    pub fn canary_seen(&self) -> Option<CanaryStatus> {
        self.service.rollout.canary().map(|canary| canary.seen())
    }

    /// Returns the progress of the swap that is under way, if any.
    #[must_use]
    pub fn swap_seen(&self) -> Option<SwapProgress> {
        self.service.rollout.swap_progress()
    }

    /// Returns the number of swaps and other changes of the version that were refused as
    /// [`SwapError::TooManyWaiting`], or because a reload found so many.
    #[must_use]
    pub fn changes_refused(&self) -> u64 {
        self.service.rollout.changes_refused()
    }

    /// Returns whether the server records its current version on disk.
    #[must_use]
    pub fn keeps_records(&self) -> bool {
        self.service.rollout.keeps_records()
    }
}
