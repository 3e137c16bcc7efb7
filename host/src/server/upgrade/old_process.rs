//! The side of the old process: it offers its sockets, waits until the new one serves, and only
//! then takes no more newcomers.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::{ControlEndpoint, ToNew, ToOld, send_sessions};
use crate::net::FdChannel;
use crate::server::{ServerHandle, Servers};
use crate::work::WorkKind;

/// A new process that serves.
pub struct ReadyPeer {
    relinquishing: Relinquishing,
    fd_channel: FdChannel,
    endpoints: Vec<ControlEndpoint>,
}

/// The servers are another process's business, until this is dropped where nothing comes of it.
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

/// What became of the sessions of the old process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionsSent {
    /// Sessions that go on in the new process.
    pub moved: usize,
    /// Sessions that finish in the old one, by why.
    pub stayed: BTreeMap<String, usize>,
}

/// Offers everything to a new process and waits until it serves. Meanwhile no reload and no swap
/// changes what it reads. Dropping the future leaves the old process as it was.
///
/// # Errors
/// Why there is no new process that serves. Nothing has changed.
pub async fn offer_sockets(
    servers: Arc<Servers>,
    mut fd_channel: FdChannel,
    endpoints: Vec<(ControlEndpoint, OwnedFd)>,
    patience: Duration,
) -> Result<ReadyPeer, String> {
    let _no_reload = servers.reloading.lock().await;
    let locked = ServerHandle::versions_of_all_stay(&servers.all()).await;
    let _no_swaps = locked.map_err(|error| error.to_string())?;
    if servers.is_draining() {
        return Err("the process is stopping".into());
    }
    let offering = Arc::clone(&servers);
    let offered = servers.host().work(WorkKind::Urgent, move || {
        fd_channel.set_timeout(patience).map_err(|error| error.to_string())?;
        let endpoints = offer(&offering, &mut fd_channel, endpoints)?;
        Ok::<_, String>((fd_channel, endpoints))
    });
    let (fd_channel, endpoints) = offered.await.map_err(|error| error.to_string())??;
    // Whoever said so meanwhile wants no process at all.
    if servers.is_draining() {
        return Err("the process is stopping".into());
    }
    // Before anybody who waits for one of the locks gets it.
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
) -> Result<Vec<ControlEndpoint>, String> {
    for server in servers.all() {
        let socket = server.socket();
        // One that stops meanwhile has no socket any more.
        let Some(listener) = socket.listener.upgrade() else { continue };
        // The new process binds the address of one that cannot listen by itself.
        if !socket.given && !listener.listens() {
            continue;
        }
        let duplicate = listener.duplicate().map_err(|error| error.to_string())?;
        drop(listener);
        let ids_above = send_sessions::ids_above(server.service.registry.last_id());
        let offer =
            ToNew::Listener { server: server.name().to_owned(), given: socket.given, ids_above };
        give(fd_channel, &offer, &duplicate)?;
    }
    for (endpoint, socket) in endpoints {
        give(fd_channel, &ToNew::Endpoint { endpoint }, &socket)?;
    }
    let head = serde_json::to_vec(&ToNew::Start).map_err(|error| error.to_string())?;
    fd_channel.send(&head, &[], None).map_err(|error| broken(&error))?;
    let answer = fd_channel.receive().map_err(|error| broken(&error))?;
    match serde_json::from_slice(&answer.head) {
        Ok(ToOld::Serves { endpoints }) => Ok(endpoints),
        Ok(ToOld::Fails { why }) => Err(why),
        _ => Err("it does not speak as this program does".into()),
    }
}

fn give(fd_channel: &mut FdChannel, offer: &ToNew, descriptor: &impl AsFd) -> Result<(), String> {
    let head = serde_json::to_vec(offer).map_err(|error| error.to_string())?;
    fd_channel.send(&head, &[], Some(descriptor.as_fd())).map_err(|error| broken(&error))
}

/// What an error of the passage says of the new process.
fn broken(error: &io::Error) -> String {
    use io::ErrorKind as K;
    match error.kind() {
        K::UnexpectedEof | K::BrokenPipe | K::ConnectionReset => {
            "it ended before it served".to_owned()
        }
        K::WouldBlock | K::TimedOut => "it did not serve in time".to_owned(),
        _ => error.to_string(),
    }
}

impl ReadyPeer {
    /// Whether it has taken over the socket of the control API, which is then not this process's to
    /// remove any more.
    #[must_use]
    pub fn has_socket(&self) -> bool {
        self.endpoints.iter().any(|endpoint| matches!(endpoint, ControlEndpoint::Unix(_)))
    }

    /// What is kept outside is the new process's business from now on. To be called before whoever
    /// keeps it is told of that.
    pub fn leave_store_alone(&self) {
        self.relinquishing.servers.host().relinquish_store();
    }

    /// Takes no more newcomers, and moves the sessions that can move. What is left is to drain.
    pub async fn send_sessions(mut self) -> SessionsSent {
        self.leave_store_alone();
        self.relinquishing.is_done = true;
        self.relinquishing.servers.close().await;
        send_sessions::move_all(&self.relinquishing.servers, self.fd_channel).await
    }
}
