//! The rollout of one server: its versions, and the lock of swaps. Only the holder of the lock may
//! change the versions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{RwLock, RwLockReadGuard};

use super::blame::Blame;
use super::exclusive::{Exclusive, Held, Rank, TooManyWaitingError, lock_all};
use super::live::LiveSessions;
use super::pending::PendingChanges;
use super::progress::{Progress, SwapProgress, UnderWay};
use super::publish::{History, Versions};
use super::report::SwapError;
use super::state_dir::StateDir;
use crate::locks::lock;
use crate::plugin::{EventProcedure, Plugin};

/// The versions of one server, and the changes of them that are under way.
pub(crate) struct Rollout {
    pub(super) versions: Versions,
    /// Counts of faults, which decide about new versions.
    pub(super) blame: Blame,
    /// The lock of swaps.
    exclusive: Arc<Exclusive>,
    /// Changes that are not staged yet.
    pub(super) pending: PendingChanges,
    /// Progress of the running swap.
    pub(super) progress: Progress,
    /// Held while a swap, a canary or an operator's roll-back publishes, and while the server
    /// begins to stop. Reloads and automatic roll-backs do not take it.
    publishing: Mutex<()>,
    /// New sessions hold it while they start. An atomic migration closes it for a moment.
    pub(super) entrance: RwLock<()>,
    /// Where the history is recorded.
    pub(super) records: Option<Arc<StateDir>>,
    /// Another process owns the server. This process changes no versions and no records.
    relinquished: AtomicBool,
}

/// The lock of swaps of one server, and with it the right to change the server's versions. Dropping
/// it frees the lock.
pub(crate) struct VersionChange {
    pub(super) server: Arc<dyn VersionedServer>,
    _held: Held,
}

/// A server with its rollout.
pub(crate) trait VersionedServer: LiveSessions {
    /// The rollout of the server's versions.
    fn rollout(&self) -> &Rollout;
}

impl Rollout {
    /// Creates the rollout of a server that starts with this version.
    pub(crate) fn new(
        current: Arc<EventProcedure>,
        history: History,
        records: Option<Arc<StateDir>>,
    ) -> Self {
        Self {
            versions: Versions::new(current, history),
            blame: Blame::default(),
            exclusive: Arc::default(),
            pending: PendingChanges::default(),
            progress: Progress::default(),
            publishing: Mutex::default(),
            entrance: RwLock::default(),
            records,
            relinquished: AtomicBool::new(false),
        }
    }

    /// Waits for the lock of swaps. Cancel-safe.
    ///
    /// # Errors
    /// [`TooManyWaitingError`] if too many callers of the rank wait.
    pub(crate) async fn exclusive(
        server: &Arc<dyn VersionedServer>,
        rank: Rank,
    ) -> Result<VersionChange, TooManyWaitingError> {
        let held = server.rollout().exclusive.lock(rank).await?;
        Ok(VersionChange { server: Arc::clone(server), _held: held })
    }

    /// Waits for the lock of swaps, for a task of the host's own. Comes before swaps and canaries
    /// that wait, and needs no place among them. Cancel-safe.
    pub(super) async fn exclusive_for_host(server: &Arc<dyn VersionedServer>) -> VersionChange {
        let held = server.rollout().exclusive.lock_for_host().await;
        VersionChange { server: Arc::clone(server), _held: held }
    }

    /// Takes the locks of swaps of all these servers. While this waits for one lock, it holds none,
    /// so that a slow swap of one server delays no roll-back of another. Cancel-safe.
    ///
    /// # Errors
    /// The name of a server that is swapped again and again, or for which too many callers wait. No
    /// lock is held.
    pub(crate) async fn exclusive_all(
        servers: &[Arc<dyn VersionedServer>],
    ) -> Result<Vec<VersionChange>, Arc<str>> {
        let locks: Vec<_> =
            servers.iter().map(|server| Arc::clone(&server.rollout().exclusive)).collect();
        let held = lock_all(&locks).await.map_err(|busy| Arc::clone(servers[busy].name()))?;
        let with = |(server, held): (&Arc<dyn VersionedServer>, Held)| VersionChange {
            server: Arc::clone(server),
            _held: held,
        };
        Ok(servers.iter().zip(held).map(with).collect())
    }

    /// Waits until a new session may start. Until the guard is dropped, no atomic migration begins.
    pub(crate) async fn entering(&self) -> RwLockReadGuard<'_, ()> {
        self.entrance.read().await
    }

    /// Calls `begin`, which makes the server stop. No swap, canary or operator's roll-back
    /// publishes meanwhile. Cancels pending changes.
    pub(crate) fn stop<T>(&self, begin: impl FnOnce() -> T) -> T {
        let begun = {
            let _nothing_comes = lock(&self.publishing);
            begin()
        };
        // This frees the work threads of those changes for other servers.
        self.pending.cancel();
        begun
    }

    /// Sets whether another process owns the server.
    pub(crate) fn relinquish(&self, is_relinquished: bool) {
        let _nothing_comes = lock(&self.publishing);
        self.relinquished.store(is_relinquished, Ordering::Relaxed);
    }

    pub(super) fn is_relinquished(&self) -> bool {
        self.relinquished.load(Ordering::Relaxed)
    }

    /// The progress of the swap that is under way, if any.
    pub(crate) fn swap_progress(&self) -> Option<SwapProgress> {
        self.progress.seen()
    }

    /// Number of changes of the version that were refused, because too many waited.
    pub(crate) fn changes_refused(&self) -> u64 {
        self.exclusive.refused()
    }

    /// Whether the server records its current version on disk.
    pub(crate) fn keeps_records(&self) -> bool {
        self.records.is_some()
    }

    /// Whether the next process starts with this plugin, if the configuration does not change.
    pub(crate) fn starts_again(&self, plugin: &Plugin) -> bool {
        match self.records {
            Some(_) => plugin.is_same_as(self.procedure().plugin()),
            // Without records, a swap is forgotten.
            None => plugin.digest() == self.configured(),
        }
    }

    /// Digest of the configured plugin, if another version is current and is not recorded.
    pub(crate) fn not_recorded(&self) -> Option<String> {
        let configured = self.configured();
        (self.records.is_none() && self.procedure().plugin().digest() != configured)
            .then_some(configured)
    }
}

impl VersionChange {
    /// Shows operators that a swap to this version is under way, until the value is dropped.
    pub(super) fn begins(&self, to: &Plugin) -> UnderWay<'_> {
        self.server.rollout().progress.begins(to)
    }

    /// Calls `publish`, unless the server stops or is relinquished. Neither can begin meanwhile.
    ///
    /// # Errors
    /// [`SwapError::Stopping`]; `publish` was not called.
    pub(super) fn unless_stopping<T>(&self, publish: impl FnOnce() -> T) -> Result<T, SwapError> {
        let rollout = self.server.rollout();
        let _not_stopping = lock(&rollout.publishing);
        if self.server.is_ending() || rollout.is_relinquished() {
            Err(SwapError::Stopping)
        } else {
            Ok(publish())
        }
    }
}
