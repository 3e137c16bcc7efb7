//! The side of the old process: it offers its sockets, waits until the new one serves, and only
//! then takes no more newcomers.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::{Answer, Door, Offer, departures};
use crate::net::FdChannel;
use crate::server::{ServerHandle, Servers};
use crate::work::WorkKind;

/// A new process that serves.
pub struct Heir {
    passing: PassingOn,
    fd_channel: FdChannel,
    doors: Vec<Door>,
}

/// The servers are another process's business, until this is dropped where nothing comes of it.
struct PassingOn {
    servers: Arc<Servers>,
    is_done: bool,
}

impl Drop for PassingOn {
    fn drop(&mut self) {
        if !self.is_done {
            self.servers.pass_on(false);
        }
    }
}

/// What became of the sessions of the old process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Succeeded {
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
pub async fn hand_over(
    servers: Arc<Servers>,
    mut fd_channel: FdChannel,
    doors: Vec<(Door, OwnedFd)>,
    patience: Duration,
) -> Result<Heir, String> {
    let _no_reload = servers.reloading.lock().await;
    let locked = ServerHandle::versions_of_all_stay(&servers.all()).await;
    let _no_swaps = locked.map_err(|error| error.to_string())?;
    if servers.is_draining() {
        return Err("the process is stopping".into());
    }
    let offering = Arc::clone(&servers);
    let offered = servers.host().work(WorkKind::Urgent, move || {
        fd_channel.set_patience(patience).map_err(|error| error.to_string())?;
        let doors = offer(&offering, &mut fd_channel, doors)?;
        Ok::<_, String>((fd_channel, doors))
    });
    let (fd_channel, doors) = offered.await.map_err(|error| error.to_string())??;
    // Whoever said so meanwhile wants no process at all.
    if servers.is_draining() {
        return Err("the process is stopping".into());
    }
    // Before anybody who waits for one of the locks gets it.
    servers.pass_on(true);
    Ok(Heir {
        passing: PassingOn { servers: Arc::clone(&servers), is_done: false },
        fd_channel,
        doors,
    })
}

fn offer(
    servers: &Servers,
    fd_channel: &mut FdChannel,
    doors: Vec<(Door, OwnedFd)>,
) -> Result<Vec<Door>, String> {
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
        let ids_above = departures::ids_above(server.service.registry.last_id());
        let offer =
            Offer::Listener { server: server.name().to_owned(), given: socket.given, ids_above };
        give(fd_channel, &offer, &duplicate)?;
    }
    for (door, socket) in doors {
        give(fd_channel, &Offer::Door { door }, &socket)?;
    }
    let head = serde_json::to_vec(&Offer::Start).map_err(|error| error.to_string())?;
    fd_channel.send(&head, &[], None).map_err(|error| broken(&error))?;
    let answer = fd_channel.receive().map_err(|error| broken(&error))?;
    match serde_json::from_slice(&answer.head) {
        Ok(Answer::Serves { doors }) => Ok(doors),
        Ok(Answer::Fails { why }) => Err(why),
        _ => Err("it does not speak as this program does".into()),
    }
}

fn give(fd_channel: &mut FdChannel, offer: &Offer, descriptor: &impl AsFd) -> Result<(), String> {
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

impl Heir {
    /// Whether it has taken over the socket of the control API, which is then not this process's to
    /// remove any more.
    #[must_use]
    pub fn has_socket(&self) -> bool {
        self.doors.iter().any(|door| matches!(door, Door::Unix(_)))
    }

    /// What is kept outside is the new process's business from now on. To be called before whoever
    /// keeps it is told of that.
    pub fn stands_back(&self) {
        self.passing.servers.host().leaves_shelf_alone();
    }

    /// Takes no more newcomers, and moves the sessions that can move. What is left is to drain.
    pub async fn succeed(mut self) -> Succeeded {
        self.stands_back();
        self.passing.is_done = true;
        self.passing.servers.close().await;
        departures::move_all(&self.passing.servers, self.fd_channel).await
    }
}
