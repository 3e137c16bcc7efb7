//! Descriptor store, which outlives the process. It keeps the listening sockets while the process
//! serves, and the sessions when the process ends, so that the next process finds them. The command
//! line chooses the store and its names.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::detached;
use super::error::{FdStoreError, LeaveError};
use super::packed::PackedSession;

/// A descriptor store.
pub trait FdStore: Send + Sync {
    /// Sets the socket to keep for the server, or none. Does not wait; [`FdStore::follow`] does the
    /// work.
    fn want(&self, server: &str, socket: Option<OwnedFd>);

    /// Applies the latest setting for this server. When this returns, a socket that is not kept any
    /// more is closed, unless the store does not answer. Blocks for some seconds at most.
    fn follow(&self, server: &str);

    /// Keeps the descriptors of one session. Blocks for some seconds at most.
    ///
    /// # Errors
    /// [`FdStoreError`]. It is then certain that the session is not kept.
    fn keep_session(&self, descriptors: [BorrowedFd<'_>; 2]) -> Result<(), FdStoreError>;
}

/// Leaves a packed session in the store.
///
/// # Errors
/// [`LeaveError`]; the session stays.
pub(crate) fn detach(fd_store: &dyn FdStore, packed: PackedSession) -> Result<(), LeaveError> {
    // No new process can confirm the restore, so the next process must start with the same version.
    if !packed.starts_again {
        return Err(LeaveError::OtherVersion);
    }
    let (file, socket, verdict) = detached::write(packed)?;
    if verdict.is_closed() {
        return Err(LeaveError::Busy);
    }
    fd_store.keep_session([file.as_fd(), socket.as_fd()])?;
    if verdict.send(true).is_ok() {
        return Ok(());
    }
    // The session has given up waiting and goes on here, so no other process may continue it.
    file.void()?;
    Err(LeaveError::Busy)
}
