//! Environment of rollouts and of ending sessions: time, tasks, threads and disk. The process
//! provides them, or the simulation does by its seed. This module decides nothing.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use futures_util::future::{AbortHandle, abortable};

#[cfg(test)]
use super::sim_env::SimEnv;
use crate::sched::{Moment, stalls};
use crate::work::{WorkError, WorkQueue};

/// A change on the disk. Each may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskChange {
    /// A folder or a file is made.
    Make,
    /// Bytes are written.
    Write,
    /// Written bytes are brought to the disk.
    Sync,
    /// A file is moved into place.
    Move,
    /// A file is removed.
    Remove,
}

/// Returns the time of a clock that stands still when the process does.
pub(crate) fn now() -> Instant {
    #[cfg(test)]
    if let Some(sim_env) = SimEnv::here() {
        return sim_env.now();
    }
    Moment::now().excused()
}

/// Waits for a time. Cancel-safe.
pub(crate) async fn sleep(time: Duration) {
    #[cfg(test)]
    if let Some(sim_env) = SimEnv::here() {
        return sim_env.sleep_until(sim_env.now() + time).await;
    }
    stalls::sleep(time).await;
}

/// Waits for `waited` until the deadline, or returns `None`. Cancel-safe if `waited` is.
pub(crate) async fn by<T>(deadline: Instant, waited: impl Future<Output = T>) -> Option<T> {
    #[cfg(test)]
    if let Some(sim_env) = SimEnv::here() {
        return sim_env.by(deadline, waited).await;
    }
    stalls::by(deadline, waited).await
}

/// Waits for `waited` for at most `time`, or returns `None`. Cancel-safe if `waited` is.
pub(crate) async fn within<T>(time: Duration, waited: impl Future<Output = T>) -> Option<T> {
    #[cfg(test)]
    if let Some(sim_env) = SimEnv::here() {
        return sim_env.by(sim_env.now() + time, waited).await;
    }
    stalls::within(time, waited).await
}

/// Spawns a task on this runtime. The handle aborts it.
pub(crate) fn spawn(
    runtime: &tokio::runtime::Handle,
    task: impl Future<Output = ()> + Send + 'static,
) -> AbortHandle {
    let (task, handle) = abortable(task);
    let task = async {
        let _ = task.await;
    };
    #[cfg(test)]
    if let Some(sim_env) = SimEnv::here() {
        sim_env.spawn(Box::pin(task));
        return handle;
    }
    runtime.spawn(task);
    handle
}

/// Runs blocking work on a work thread, once the queue reaches its tenant. Dropping the future
/// takes waiting work out of the queue; running work goes on.
///
/// # Errors
/// [`WorkError`].
pub(crate) async fn run_blocking<T: Send + 'static>(
    queue: WorkQueue,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WorkError> {
    #[cfg(test)]
    if let Some(sim_env) = SimEnv::here() {
        return Ok(sim_env.run_blocking(work).await);
    }
    queue.run(work).await
}

/// Says whether a change on the disk may happen. Called before each.
///
/// # Errors
/// In the simulation, the failures that the seed decides.
pub(crate) fn may(change: DiskChange) -> io::Result<()> {
    #[cfg(test)]
    if let Some(sim_env) = SimEnv::here() {
        return sim_env.may(change);
    }
    let _ = change;
    Ok(())
}

/// Brings a file or a folder to the disk.
///
/// # Errors
/// The system's.
pub(crate) fn sync(file: &File) -> io::Result<()> {
    may(DiskChange::Sync)?;
    #[cfg(test)]
    if SimEnv::here().is_some() {
        // The simulation has no loss of power.
        return Ok(());
    }
    file.sync_all()
}
