//! Where descriptors outlive the process: what listens is kept there while it serves, and sessions
//! when it ends, so that the next process finds them. Whose place it is, and what it is called
//! there, is the command line's business.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::send_sessions::{self, PackedSession, SendSession};
use super::{SessionsSent, detached};
use crate::server::Servers;

/// Such a place.
pub trait FdStore: Send + Sync {
    /// From now on this is to be kept for the server, or nothing. Does not wait; [`FdStore::follow`]
    /// does it.
    fn want(&self, server: &str, socket: Option<OwnedFd>);

    /// Does what is wanted by now for this server. When it returns, what is kept no more is closed,
    /// unless whoever keeps it does not answer. Blocks for some seconds at most.
    fn follow(&self, server: &str);

    /// Keeps what belongs to one session. Blocks for some seconds at most.
    ///
    /// # Errors
    /// Why it is not kept, as a word for reports. It is then certain that it is not.
    fn keep_session(&self, descriptors: [BorrowedFd<'_>; 2]) -> Result<(), &'static str>;
}

/// Takes no more newcomers, who wait for the next process, and leaves the sessions for it that can
/// wait, too. It takes so long at most; what is left is to drain.
pub async fn leave(
    servers: &Arc<Servers>,
    fd_store: Arc<dyn FdStore>,
    patience: Duration,
) -> SessionsSent {
    if !servers.host().relinquish_store() {
        // Another process serves, and whoever keeps things listens to that one.
        return SessionsSent { moved: 0, stayed: BTreeMap::new() };
    }
    servers.close().await;
    let way: Arc<SendSession> = Arc::new(move |leaving| detach(&*fd_store, leaving));
    send_sessions::leave_by(servers, way, patience).await
}

fn detach(fd_store: &dyn FdStore, leaving: PackedSession) -> Result<(), String> {
    // Nobody is there to say that the next process cannot restore it.
    if !leaving.starts_again {
        return Err("other-version".into());
    }
    let (note, socket, verdict) = detached::write(leaving)?;
    if verdict.is_closed() {
        return Err("busy".into());
    }
    fd_store.keep_session([note.as_fd(), socket.as_fd()])?;
    if verdict.send(true).is_ok() {
        return Ok(());
    }
    // It has lost patience and goes on here, so that nobody else may.
    note.void().map_err(|error| error.to_string())?;
    Err("busy".into())
}
