//! First step of a swap: the version is fetched, tried and kept. Nothing has changed yet.

use std::any::Any;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::change::{VersionChange, VersionedServer};
use super::env;
use super::fetch::{FetchError, bytes_of, fetch, fetch_again, is_pulled, reverify};
use super::live::LiveSessions;
use super::pending::PendingChange;
use super::publish::Revision;
use super::report::SwapError;
use super::rules::VERSIONS_MAX;
use super::state_dir::KeepError;
use crate::oci::Reference;
use crate::plugin::{EventProcedure, Plugin, try_out};
use crate::work::{Stop, WorkKind};

/// Checks that another version does not exceed the [`VERSIONS_MAX`] versions in memory.
///
/// # Errors
/// [`SwapError::TooManyVersions`].
pub(crate) fn has_room_for(
    server: &dyn LiveSessions,
    before: &Arc<EventProcedure>,
    next: &Arc<Plugin>,
) -> Result<(), SwapError> {
    has_room_beside(server, before, next, None)
}

/// Does the check of [`has_room_for`] while another version is kept for the probation of the
/// current one.
pub(super) fn has_room_beside(
    server: &dyn LiveSessions,
    before: &Arc<EventProcedure>,
    next: &Arc<Plugin>,
    kept: Option<&Arc<EventProcedure>>,
) -> Result<(), SwapError> {
    let of = |plugin: &Plugin| (plugin.digest().to_owned(), plugin.label());
    let live = server.live();
    let mut versions: BTreeSet<_> =
        live.iter().map(|(_, slot)| of(slot.current().plugin())).collect();
    versions
        .extend([Some(before), kept].into_iter().flatten().map(|procedure| of(procedure.plugin())));
    if versions.contains(&of(next)) || versions.len() < VERSIONS_MAX {
        return Ok(());
    }
    let names: Vec<_> = versions.into_iter().map(|(_, label)| label).collect();
    Err(SwapError::TooManyVersions(names.join(", ")))
}

/// Loads a plugin for a swap, from a file or from its registry, under the grants of this server.
/// Blocks for milliseconds to minutes, and stops early if `stop` is set.
///
/// # Errors
/// [`FetchError`].
pub(crate) fn load_for_swap(
    server: &dyn LiveSessions,
    place: &Path,
    stop: &Stop,
) -> Result<Arc<Plugin>, FetchError> {
    let registries = server.registries();
    let pull = registries.config().pull.just_named();
    fetch(place, (&registries, pull), &server.loader(), &server.grants(), stop)
}

impl PendingChange<'_> {
    /// Loads a plugin from a file or from its registry, under the grants of this server.
    pub(super) async fn load(
        &self,
        server: &Arc<dyn VersionedServer>,
        file: PathBuf,
    ) -> Result<Arc<Plugin>, SwapError> {
        let (loads, stop) = (Arc::clone(server), self.stop());
        let load = move || load_for_swap(&*loads, &file, &stop);
        let loading = env::run_blocking(server.work(WorkKind::Long), load);
        let loaded = self.unless_cancelled(&**server, loading).await?;
        Ok(loaded??)
    }
}

impl VersionChange {
    /// Tries a version, keeps its component for later roll-backs, and returns its procedure.
    ///
    /// # Errors
    /// [`SwapError`]; nothing was changed.
    pub(super) async fn stage(
        &self,
        before: &Arc<EventProcedure>,
        plugin: Arc<Plugin>,
        pending: &PendingChange<'_>,
    ) -> Result<Arc<EventProcedure>, SwapError> {
        let staged = self.staged(before, plugin, pending.stop());
        pending.unless_cancelled(&*self.server, staged).await?
    }

    async fn staged(
        &self,
        before: &Arc<EventProcedure>,
        plugin: Arc<Plugin>,
        stop: Stop,
    ) -> Result<Arc<EventProcedure>, SwapError> {
        let server = &self.server;
        has_room_for(&**server, before, &plugin)?;
        if !server.holding().can_keep_promise(plugin.footprint()) {
            return Err(SwapError::NoRoom(server.holding().instances_min()));
        }
        let config = server.session_config();
        let budget = config.budgets.start(config.priority);
        let (limits, trial, quota) = (before.limits(), Arc::clone(&plugin), server.quota());
        // The lock of swaps is held meanwhile, so the trial must not wait for loads of other
        // servers.
        let try_it = move || quota.owing(|| try_out(&trial, limits, budget));
        env::run_blocking(server.work(WorkKind::Urgent), try_it).await??;
        self.keep(Arc::clone(before.plugin()), Arc::clone(&plugin), stop).await?;
        if server.is_ending() {
            return Err(SwapError::Stopping);
        }
        let kept = self.claim_shared(before.shards(), &plugin)?;
        // The configuration may have changed meanwhile.
        Ok(Arc::new(server.rollout().procedure().with_plugin(plugin, kept)))
    }

    /// Claims room for the instances that sessions of another version share.
    fn claim_shared(
        &self,
        shards: usize,
        plugin: &Plugin,
    ) -> Result<Option<Arc<dyn Any + Send + Sync>>, SwapError> {
        if shards == 0 {
            return Ok(None);
        }
        let claimed = self.server.holding().claim_many(shards, plugin.footprint());
        Ok(Some(Arc::new(claimed.map_err(|_| SwapError::NoRoom(shards))?)))
    }

    /// Keeps the components of the current and the next version in the state directory, if there is
    /// one.
    async fn keep(&self, old: Arc<Plugin>, next: Arc<Plugin>, stop: Stop) -> Result<(), SwapError> {
        let server = &self.server;
        let Some(records) = server.rollout().records.clone() else { return Ok(()) };
        let (registries, name) = (server.registries(), Arc::clone(server.name()));
        // A registry may be slow, and the work threads for urgent steps must not wait for it.
        let pulls = is_pulled(old.file()) || is_pulled(next.file());
        let kind = if pulls { WorkKind::Restore } else { WorkKind::Urgent };
        let kept = env::run_blocking(server.work(kind), move || {
            if let Err(error) =
                records.keep(&name, &old, || bytes_of(old.file(), &registries, &stop))
            {
                // Without a kept component, the current version can start again from its own file
                // only.
                tracing::debug!(server = &*name, "what is in force is not kept: {error}");
            }
            records.keep(&name, &next, || bytes_of(next.file(), &registries, &stop))
        });
        kept.await?.map_err(|error| match error {
            KeepError::Changed(file) => SwapError::FileChanged(file),
            KeepError::Failed(error) => SwapError::NotKept(error),
        })
    }

    /// Checks that a version from a registry may still run, whether it is in memory or in a kept
    /// file. A version from a file passes.
    pub(super) async fn reverify_revision(
        &self,
        revision: &Revision,
        stop: Stop,
    ) -> Result<(), SwapError> {
        if Reference::in_place_of(&revision.file).is_none() {
            return Ok(());
        }
        let (registries, file) = (self.server.registries(), revision.file.clone());
        let ask = move || reverify(&file, &registries, &stop);
        let asked = env::run_blocking(self.server.work(WorkKind::Restore), ask).await?;
        asked.map_err(|error| SwapError::Distrusted {
            label: revision.label(),
            why: error.to_string(),
        })
    }

    /// Loads a version of the history again, from its kept component or from its own file.
    pub(super) async fn load_again(
        &self,
        revision: Revision,
        stop: Stop,
    ) -> Result<Arc<Plugin>, SwapError> {
        let server = Arc::clone(&self.server);
        let load = move || {
            let records = server.rollout().records.as_ref();
            let kept = records.and_then(|records| records.kept(server.name(), &revision));
            let file = kept.unwrap_or_else(|| revision.file.clone());
            let (registries, loader, grants) =
                (server.registries(), server.loader(), server.grants());
            let plugin =
                fetch_again(&file, revision.known(), &registries, &loader, &grants, &stop)?;
            if plugin.digest() == revision.digest {
                Ok(plugin)
            } else {
                let file = file.display().to_string();
                Err(SwapError::Gone { label: revision.label(), file })
            }
        };
        env::run_blocking(self.server.work(WorkKind::Restore), load).await?
    }
}
