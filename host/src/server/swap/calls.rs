//! Methods of a server handle: swap, canary, promotion and roll-back.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::live::{bounded, bounded_beside, give, published, put_in_force};
use super::pending::Pending;
use super::{Outcome, SwapError, SwapPolicy, SwapReport, introduce, migrate, on, outlasts, same};
use crate::oci::Reference;
use crate::plugin::{Amounts, EventProcedure, Plugin, try_out};
use crate::server::env;
use crate::server::exclusive::{Held, Rank};
use crate::server::fetch::{FetchError, again, believed, bytes_of, fetch, is_pulled};
use crate::server::handle::ServerHandle;
use crate::server::versions::{
    Canary, CanaryOptions, CanaryStatus, KeepError, Revision, RevisionOrigin, RevisionState, judge,
    promote, take_back,
};
use crate::telemetry::{CanaryBegan, SwapRefused};
use crate::work::{Stop, WorkKind};

impl ServerHandle {
    /// Loads a plugin for [`ServerHandle::swap`], from a file or from its registry, under the
    /// grants of this server. Blocks for milliseconds to minutes, so do not call it on a runtime's
    /// thread.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn load_for_swap(&self, place: &Path) -> Result<Arc<Plugin>, FetchError> {
        self.load_until(place, &Stop::default())
    }

    fn load_until(&self, place: &Path, stop: &Stop) -> Result<Arc<Plugin>, FetchError> {
        let server_config = self.service.server_config();
        let pull = server_config.registries.config().pull.just_named();
        let loader = self.host().loader().on_behalf_of(self.service.quota());
        fetch(place, (&server_config.registries, pull), &loader, &server_config.grants, stop)
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
        let pending = self.service.pending.add();
        let swapped =
            async { self.swap_pending(self.loaded(file, &pending).await?, policy, &pending).await };
        swapped.await.inspect_err(|error| self.kept(error))
    }

    /// Loads a plugin as [`ServerHandle::load_for_swap`] does, and starts it as a canary with
    /// [`ServerHandle::canary`].
    ///
    /// # Errors
    /// [`SwapError`].
    pub async fn try_file(
        self: &Arc<Self>,
        file: PathBuf,
        wish: CanaryOptions,
    ) -> Result<SwapReport, SwapError> {
        let pending = self.service.pending.add();
        let tried =
            async { self.canary_pending(self.loaded(file, &pending).await?, wish, &pending).await };
        tried.await.inspect_err(|error| self.kept(error))
    }

    /// Logs that the swap was refused and nothing changed. A failed record is logged elsewhere,
    /// because the version is current then.
    fn kept(&self, error: &SwapError) {
        if !matches!(error, SwapError::NotRecorded(..)) {
            SwapRefused { server: &self.service.name, why: &error.to_string() }
                .emit(&self.service.counters);
        }
    }

    fn called_off(&self, report: &SwapReport) {
        let why =
            format!("not all of its sessions could move to {}, and all or none were to", report.to);
        SwapRefused { server: &self.service.name, why: &why }.emit(&self.service.counters);
    }

    async fn loaded(
        self: &Arc<Self>,
        file: PathBuf,
        pending: &Pending<'_>,
    ) -> Result<Arc<Plugin>, SwapError> {
        let (server, stop) = (Arc::clone(self), pending.stop());
        let loading =
            env::apart(self.service.work(WorkKind::Long), move || server.load_until(&file, &stop));
        let loaded = pending.unless_called_off(&self.service, loading).await?;
        Ok(loaded??)
    }

    /// Returns the policy of swaps that name none.
    #[must_use]
    pub fn swap_policy(&self) -> SwapPolicy {
        self.service.server_config().rules.policy
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
    /// [`SwapError`]. Nothing was changed, except if the current version could not be recorded.
    pub async fn swap(
        &self,
        plugin: Arc<Plugin>,
        policy: SwapPolicy,
    ) -> Result<SwapReport, SwapError> {
        self.swap_pending(plugin, policy, &self.service.pending.add()).await
    }

    async fn swap_pending(
        &self,
        plugin: Arc<Plugin>,
        policy: SwapPolicy,
        pending: &Pending<'_>,
    ) -> Result<SwapReport, SwapError> {
        let service = &self.service;
        let _alone = pending.unless_called_off(service, self.alone_and_without_canary()).await??;
        let before = service.procedure();
        let _under_way = service.begins(&plugin);
        // If the version is current already, sessions on other versions are only asked again.
        let next = match same(before.plugin(), &plugin) {
            true => Arc::clone(&before),
            false => {
                let ready = self.ready(&before, plugin, pending.stop());
                pending.unless_called_off(service, ready).await??
            }
        };
        let (from, to) = (before.plugin().label(), next.plugin().label());
        let mut report = SwapReport { from, to, ..SwapReport::default() };
        let publish = || match Arc::ptr_eq(&before, &next) {
            true => service.history().in_force(),
            false => put_in_force(service, &next, RevisionOrigin::Swap),
        };
        if introduce(service, &next, policy, &mut report, publish).await? == Outcome::CalledOff {
            self.called_off(&report);
            return Ok(report);
        }
        outlasts(service, &before, &next)?;
        self.written(report).await
    }

    /// Gives a version to a share of the new sessions and, if `wish` says so, to a share of the
    /// live sessions. After a while, all sessions get the version, unless it is worse than the
    /// current one. Returns once the canary has begun.
    ///
    /// # Errors
    /// [`SwapError`]; nothing was changed.
    pub async fn canary(
        &self,
        plugin: Arc<Plugin>,
        wish: CanaryOptions,
    ) -> Result<SwapReport, SwapError> {
        self.canary_pending(plugin, wish, &self.service.pending.add()).await
    }

    async fn canary_pending(
        &self,
        plugin: Arc<Plugin>,
        wish: CanaryOptions,
        pending: &Pending<'_>,
    ) -> Result<SwapReport, SwapError> {
        let service = &self.service;
        let _alone = pending.unless_called_off(service, self.alone_and_without_canary()).await??;
        let rules = wish.over(service.server_config().rules.canary);
        if let Some((key, problem)) = rules.problems().into_iter().next() {
            return Err(SwapError::Canary(key, problem));
        }
        let before = service.procedure();
        if same(before.plugin(), &plugin) {
            return Err(SwapError::Canary("file", "it is what is in force".into()));
        }
        // The current version may be on probation still, which keeps the version before it in
        // memory.
        let kept = service.probation().as_ref().map(|probation| Arc::clone(probation.before()));
        bounded_beside(service, &before, &plugin, kept.as_ref())?;
        let _under_way = service.begins(&plugin);
        let ready = self.ready(&before, plugin, pending.stop());
        let next = pending.unless_called_off(service, ready).await??;
        let past = service.blame.past_of(before.metrics(), env::now());
        let canary = service.unless_stopping(|| {
            let number =
                service.history().put(&next, RevisionOrigin::Canary, RevisionState::Canary);
            let canary = Arc::new(Canary::new(Arc::clone(&next), (&before, past), number, rules));
            service.canary.store(Some(Arc::clone(&canary)));
            canary
        })?;
        let (from, to) = (before.plugin().label(), next.plugin().label());
        let mut report =
            SwapReport { from, to, generation: canary.number(), ..SwapReport::default() };
        // The judge starts at once, so that the canary ends even if the caller drops this future.
        env::beside(&service.runtime, judge(Arc::downgrade(service), Arc::clone(&canary)));
        CanaryBegan {
            server: &service.name,
            plugin: &report.to,
            share: rules.share,
            lasts: rules.duration,
        }
        .emit();
        if rules.live && next.hands_over() && before.hands_over() {
            let live = on(service, &before);
            let share = (live.len() as f64 * rules.share).round() as usize;
            let goes_on =
                migrate(service, &next, live.into_iter().take(share).collect(), &mut report).await;
            canary.has(report.moved as u64);
            if !goes_on {
                take_back(service, &canary, "failed-hand-offs").await;
                report.rolled_back = true;
            }
        }
        Ok(report)
    }

    /// Gives the canary to all sessions at once.
    ///
    /// # Errors
    /// [`SwapError`]. Nothing was changed, except if the current version could not be recorded.
    pub async fn promote(&self) -> Result<SwapReport, SwapError> {
        let service = &self.service;
        let _alone = self.alone(Rank::Next).await?;
        let canary = service.canary.load_full().ok_or(SwapError::NoCanary)?;
        let _under_way = service.begins(canary.procedure.plugin());
        self.written(promote(service, &canary).await?).await
    }

    /// Rolls back the canary or, if none runs, the current version. New and live sessions get the
    /// version before.
    ///
    /// Calls off every change that is not published yet:
    /// - swaps and canaries that were requested before,
    /// - another roll-back that is under way.
    ///
    /// Waits for the step that is under way at most, and for no queue of swaps.
    ///
    /// # Errors
    /// [`SwapError`]. Nothing was changed, except if the current version could not be recorded.
    pub async fn roll_back(&self) -> Result<SwapReport, SwapError> {
        let service = &self.service;
        service.pending.call_off();
        let _alone = self.alone(Rank::Next).await?;
        if let Some(canary) = service.canary.load_full() {
            let _under_way = service.begins(service.procedure().plugin());
            return Ok(take_back(service, &canary, "asked").await);
        }
        let (generation, known) = service.history().before().ok_or(SwapError::NothingBefore)?;
        let number = generation.number;
        // Until something is published, another roll-back or a stop calls this roll-back off as
        // well.
        let pending = service.pending.add();
        pending
            .unless_called_off(service, self.still_believed(&generation, pending.stop()))
            .await??;
        let plugin = match known {
            Some(known) => Arc::clone(known.plugin()),
            None => {
                pending
                    .unless_called_off(service, self.load_again(generation, pending.stop()))
                    .await??
            }
        };
        let bad = service.procedure();
        let _under_way = service.begins(&plugin);
        let ready = self.ready(&bad, plugin, pending.stop());
        let next = pending.unless_called_off(service, ready).await??;
        drop(pending);
        let policy = service.server_config().rules.policy;
        let mut report = SwapReport {
            from: bad.plugin().label(),
            to: next.plugin().label(),
            ..SwapReport::default()
        };
        let publish = || {
            service.procedure.store(Arc::clone(&next));
            service.history().go_back_to(number, &next);
            service.history().take_back(&bad, "asked", None);
            published(service, &next);
            number
        };
        // The operator's request overrides the count of failures, so `give` and not `introduce`.
        if give(service, &next, policy, &mut report, publish).await? == Outcome::CalledOff {
            self.called_off(&report);
            return Ok(report);
        }
        outlasts(service, &bad, &next)?;
        self.written(report).await
    }

    /// Returns the revisions of this server, the oldest first, each with its number of live
    /// sessions.
    #[must_use]
    pub fn generations(&self) -> Vec<(Revision, usize)> {
        let live: Vec<_> =
            self.service.registry.handled().iter().map(|(_, slot)| slot.current()).collect();
        let on = |generation: &Revision| {
            let is = |procedure: &&Arc<EventProcedure>| {
                (procedure.plugin().digest(), procedure.plugin().label())
                    == (&*generation.digest, generation.label())
            };
            live.iter().filter(is).count()
        };
        let seen = self.service.history().seen();
        // If a version has several revisions, only the last of them shows its sessions.
        let last = |at: usize| {
            !seen[at + 1..]
                .iter()
                .any(|later| later.digest == seen[at].digest && later.label() == seen[at].label())
        };
        let count = |(at, generation): (usize, &Revision)| {
            (generation.clone(), if last(at) { on(generation) } else { 0 })
        };
        seen.iter().enumerate().map(count).collect()
    }

    /// Returns the status of the canary, if one runs.
    #[must_use]
    pub fn canary_seen(&self) -> Option<CanaryStatus> {
        self.service.canary.load().as_ref().map(|canary| canary.seen())
    }

    /// Returns whether the server records its current version on disk.
    #[must_use]
    pub fn keeps_records(&self) -> bool {
        self.service.records.is_some()
    }

    async fn written(&self, mut report: SwapReport) -> Result<SwapReport, SwapError> {
        let recorded = self.service.record().await;
        report.recorded = recorded.map_err(|error| {
            let in_force = self.plugin().label();
            let what = format!(
                "{in_force} is in force, and could not be recorded, so that a \
                restart may start another version: {error}"
            );
            SwapError::NotRecorded(what, error.refusal)
        })?;
        Ok(report)
    }

    /// Checks that a version from a registry may still run, whether it is in memory or in a kept
    /// file. A version from a file passes.
    async fn still_believed(&self, generation: &Revision, stop: Stop) -> Result<(), SwapError> {
        if Reference::in_place_of(&generation.file).is_none() {
            return Ok(());
        }
        let (registries, file) =
            (Arc::clone(&self.service.server_config().registries), generation.file.clone());
        let ask = move || believed(&file, &registries, &stop);
        let asked = env::apart(self.service.work(WorkKind::Restore), ask).await?;
        asked.map_err(|error| SwapError::Distrusted {
            label: generation.label(),
            why: error.to_string(),
        })
    }

    async fn load_again(&self, generation: Revision, stop: Stop) -> Result<Arc<Plugin>, SwapError> {
        let service = Arc::clone(&self.service);
        let loader = self.host().loader().on_behalf_of(self.service.quota());
        let load = move || {
            let kept = service
                .records
                .as_ref()
                .and_then(|records| records.kept(&service.name, &generation));
            let file = kept.unwrap_or_else(|| generation.file.clone());
            let gone =
                || SwapError::Gone { label: generation.label(), file: file.display().to_string() };
            let server_config = service.server_config();
            let plugin = again(
                &file,
                generation.known(),
                &server_config.registries,
                &loader,
                &server_config.grants,
                &stop,
            )?;
            if plugin.digest() == generation.digest { Ok(plugin) } else { Err(gone()) }
        };
        env::apart(self.service.work(WorkKind::Restore), load).await?
    }

    /// Checks that the pools have room for the server's promised instances of this version.
    fn keeps_promise(&self, plugin: &Plugin) -> Result<(), SwapError> {
        let (holding, ledger) = (&self.service.holding, self.host().engine().ledger());
        let others = ledger.promised().less(holding.reserved());
        let all = others.plus(holding.would_reserve(plugin.footprint()));
        let fits = all.less(ledger.offered()) == Amounts::default();
        if fits { Ok(()) } else { Err(SwapError::NoRoom(holding.instances_min())) }
    }

    /// Claims room for the instances that sessions of another version share.
    fn room_for(
        &self,
        shards: usize,
        plugin: &Plugin,
    ) -> Result<Option<Arc<dyn Any + Send + Sync>>, SwapError> {
        if shards == 0 {
            return Ok(None);
        }
        let claimed = self.service.holding.claim_many(shards, plugin.footprint());
        Ok(Some(Arc::new(claimed.map_err(|_| SwapError::NoRoom(shards))?)))
    }

    /// Takes the lock of swaps, unless the server has stopped.
    async fn alone(&self, rank: Rank) -> Result<Held, SwapError> {
        let alone = self.service.swapping.lock(rank).await;
        if self.status().is_final() || self.service.is_relinquished() {
            Err(SwapError::Stopping)
        } else {
            Ok(alone)
        }
    }

    /// Takes the lock of swaps, unless a canary runs.
    async fn alone_and_without_canary(&self) -> Result<Held, SwapError> {
        let alone = self.alone(Rank::InTurn).await?;
        match &*self.service.canary.load() {
            Some(canary) => Err(SwapError::CanaryRuns(canary.procedure.plugin().label())),
            None => Ok(alone),
        }
    }

    /// Keeps the components of the current and the next version in the state directory, if there is
    /// one.
    async fn keep(&self, old: Arc<Plugin>, next: Arc<Plugin>, stop: Stop) -> Result<(), SwapError> {
        let service = &self.service;
        let Some(records) = service.records.clone() else { return Ok(()) };
        let (registries, name) =
            (Arc::clone(&service.server_config().registries), Arc::clone(&service.name));
        // A registry may be slow, and the work threads for urgent steps must not wait for it.
        let pulls = is_pulled(old.file()) || is_pulled(next.file());
        let kind = if pulls { WorkKind::Restore } else { WorkKind::Urgent };
        let kept = env::apart(service.work(kind), move || {
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

    /// Tries a version, keeps its component for later roll-backs, and returns its procedure.
    async fn ready(
        &self,
        before: &Arc<EventProcedure>,
        plugin: Arc<Plugin>,
        stop: Stop,
    ) -> Result<Arc<EventProcedure>, SwapError> {
        let service = &self.service;
        bounded(service, before, &plugin)?;
        self.keeps_promise(&plugin)?;
        let budget = service.server_config().session_config.budgets.start(self.priority());
        let (limits, trial, quota) = (before.limits(), Arc::clone(&plugin), service.quota());
        // The lock of swaps is held meanwhile, so the trial must not wait for loads of other
        // servers.
        let try_it = move || quota.owing(|| try_out(&trial, limits, budget));
        env::apart(service.work(WorkKind::Urgent), try_it).await??;
        self.keep(Arc::clone(before.plugin()), Arc::clone(&plugin), stop).await?;
        if service.status().is_final() {
            return Err(SwapError::Stopping);
        }
        let kept = self.room_for(before.shards(), &plugin)?;
        // The configuration may have changed meanwhile.
        Ok(Arc::new(service.procedure().with_plugin(plugin, kept)))
    }
}
