//! Old process of an upgrade: offers its sockets, waits until the new process serves, then stops
//! accepting.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::error::OfferError;
use super::send_sessions;
use crate::handover::{ControlEndpoint, SessionsSent, ToNew, ToOld, send_message};
use crate::net::FdChannel;
use crate::server::ServerHandle;
use crate::servers::Servers;
use crate::work::WorkKind;

/// A new process that reported that it serves.
pub struct ReadyPeer {
    relinquishing: Relinquishing,
    fd_channel: FdChannel,
    endpoints: Vec<ControlEndpoint>,
}

/// Mark that another process owns the servers. Dropping it without a finished upgrade takes the
/// mark back.
struct Relinquishing {
    servers: Arc<Servers>,
    is_done: bool,
}

impl Drop for Relinquishing {
    fn drop(&mut self) {
        if !self.is_done {
            self.servers.relinquish(false);
        }
    }
}

/// Offers all sockets to a new process and waits until that serves. Meanwhile no reload and no swap
/// can change the files that the new process reads. Cancel safe: dropping the future leaves the old
/// process as it was.
///
/// # Errors
/// [`OfferError`]; nothing has changed.
pub async fn offer_sockets(
    servers: Arc<Servers>,
    mut fd_channel: FdChannel,
    endpoints: Vec<(ControlEndpoint, OwnedFd)>,
    patience: Duration,
) -> Result<ReadyPeer, OfferError> {
    let _no_reload = servers.reloading.lock().await;
    let _no_swaps = ServerHandle::versions_of_all_stay(&servers.all()).await?;
    if servers.is_draining() {
        return Err(OfferError::Stopping);
    }
    let offering = Arc::clone(&servers);
    let offered = servers.host().work(WorkKind::Urgent, move || {
        fd_channel.set_timeout(patience).map_err(OfferError::System)?;
        let endpoints = offer(&offering, &mut fd_channel, endpoints)?;
        Ok::<_, OfferError>((fd_channel, endpoints))
    });
    let (fd_channel, endpoints) = offered.await??;
    // A stop that was requested meanwhile wants no process at all.
    if servers.is_draining() {
        return Err(OfferError::Stopping);
    }
    // The mark is set before the locks are released, so that no waiting reload or swap begins.
    servers.relinquish(true);
    Ok(ReadyPeer {
        relinquishing: Relinquishing { servers: Arc::clone(&servers), is_done: false },
        fd_channel,
        endpoints,
    })
}

fn offer(
    servers: &Servers,
    fd_channel: &mut FdChannel,
    endpoints: Vec<(ControlEndpoint, OwnedFd)>,
) -> Result<Vec<ControlEndpoint>, OfferError> {
    for server in servers.all() {
        let socket = server.socket();
        // A server that stops meanwhile has no socket any more.
        let Some(listener) = socket.listener.upgrade() else { continue };
        // If a socket does not listen, the new process binds its address itself.
        if !socket.given && !listener.listens() {
            continue;
        }
        let duplicate = listener.duplicate().map_err(OfferError::System)?;
        drop(listener);
        let ids_above = send_sessions::ids_above(server.service.registry.last_id());
        let offer =
            ToNew::Listener { server: server.name().to_owned(), given: socket.given, ids_above };
        give(fd_channel, &offer, &duplicate)?;
    }
    for (endpoint, socket) in endpoints {
        give(fd_channel, &ToNew::Endpoint { endpoint }, &socket)?;
    }
    send_message(fd_channel, &ToNew::Start)?;
    let answer = fd_channel.receive()?;
    match serde_json::from_slice(&answer.head) {
        Ok(ToOld::Serves { endpoints }) => Ok(endpoints),
        Ok(ToOld::Fails { why }) => Err(OfferError::PeerFailed(why)),
        _ => Err(OfferError::PeerForeign),
    }
}

fn give(fd_channel: &mut FdChannel, offer: &ToNew, descriptor: &impl AsFd) -> io::Result<()> {
    let head = serde_json::to_vec(offer)?;
    fd_channel.send(&head, &[], Some(descriptor.as_fd()))
}

impl ReadyPeer {
    /// Returns whether the new process has taken the Unix socket of the control API. Then this
    /// process must not remove that socket.
    #[must_use]
    pub fn has_socket(&self) -> bool {
        self.endpoints.iter().any(|endpoint| matches!(endpoint, ControlEndpoint::Unix(_)))
    }

    /// Leaves the descriptor store to the new process. Call this before systemd hears of the new
    /// process.
    pub fn leave_store_alone(&self) {
        self.relinquishing.servers.host().relinquish_store();
    }

    /// Closes all servers and transfers the sessions that can move. The remaining sessions must
    /// drain.
    pub async fn send_sessions(mut self) -> SessionsSent {
        self.leave_store_alone();
        self.relinquishing.is_done = true;
        self.relinquishing.servers.close().await;
        send_sessions::transfer_all(&self.relinquishing.servers, self.fd_channel).await
    }
}
