//! The time, the tasks, the threads and the disk of what goes on with a server's versions: those of
//! the process, or, in the simulation, those that a number decides. Nothing is decided here.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use futures_util::future::{AbortHandle, abortable};

#[cfg(test)]
use super::simulation::SimEnv;
use crate::sched::{Moment, stalls};
use crate::work::{WorkError, WorkQueue};

/// A change on the disk, of which each may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// A folder or a file is made.
    Make,
    /// Bytes are written.
    Write,
    /// What was written is brought to the disk.
    Sync,
    /// A file is moved into place.
    Move,
    /// A file is removed.
    Remove,
}

/// The time, by a clock that stands still when the process does.
pub(super) fn now() -> Instant {
    #[cfg(test)]
    if let Some(sim_env) = SimEnv::here() {
        return sim_env.now();
    }
    Moment::now().excused()
}

/// Waits. Dropping the future is safe.
pub(super) async fn sleep(time: Duration) {
    #[cfg(test)]
    if let Some(sim_env) = SimEnv::here() {
        return sim_env.sleep_until(sim_env.now() + time).await;
    }
    stalls::sleep(time).await;
}

/// Waits for something until then. `None`: it did not come. Dropping the future is safe where it is
/// for what is waited for.
pub(super) async fn by<T>(deadline: Instant, waited: impl Future<Output = T>) -> Option<T> {
    #[cfg(test)]
    if let Some(sim_env) = SimEnv::here() {
        return sim_env.by(deadline, waited).await;
    }
    stalls::by(deadline, waited).await
}

/// The same for so long.
pub(super) async fn within<T>(time: Duration, waited: impl Future<Output = T>) -> Option<T> {
    #[cfg(test)]
    if let Some(sim_env) = SimEnv::here() {
        return sim_env.by(sim_env.now() + time, waited).await;
    }
    stalls::within(time, waited).await
}

/// Runs a task beside the others, on this runtime. It ends when the handle says so.
pub(super) fn beside(
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

/// Does work that blocks, on one of the host's threads for such, once it is its tenant's turn.
/// Dropping the future takes work that waits out of the queue; what runs goes on.
///
/// # Errors
/// [`WorkError`].
pub(super) async fn apart<T: Send + 'static>(
    queue: WorkQueue,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WorkError> {
    #[cfg(test)]
    if let Some(sim_env) = SimEnv::here() {
        return Ok(sim_env.apart(work).await);
    }
    queue.run(work).await
}

/// Asked before each change on the disk.
///
/// # Errors
/// In the simulation, what the disk of this number says.
pub(super) fn may(change: Change) -> io::Result<()> {
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
pub(super) fn sync(file: &File) -> io::Result<()> {
    may(Change::Sync)?;
    #[cfg(test)]
    if SimEnv::here().is_some() {
        // Nobody pulls the plug there.
        return Ok(());
    }
    file.sync_all()
}
