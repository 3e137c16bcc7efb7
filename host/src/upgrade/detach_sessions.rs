//! The end of a process that detaches its sessions into the descriptor store, for the next process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::send_sessions;
use crate::handover::{FdStore, SendSession, SessionsSent, detach};
use crate::servers::Servers;

/// Closes all servers and detaches the sessions that can wait for the next process. New connections
/// wait for that process as well. Takes `patience` at most; the remaining sessions must drain.
pub async fn detach_sessions(
    servers: &Arc<Servers>,
    fd_store: Arc<dyn FdStore>,
    patience: Duration,
) -> SessionsSent {
    if !servers.host().relinquish_store() {
        // Another process serves, and the store belongs to that one.
        return SessionsSent { moved: 0, stayed: BTreeMap::new() };
    }
    servers.close().await;
    let send: Arc<SendSession> = Arc::new(move |packed| detach(&*fd_store, packed));
    send_sessions::send_all(servers, send, patience).await
}
