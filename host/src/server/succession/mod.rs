//! Upgrade: a new process takes the place of this one. It gets the listening sockets first, and
//! then the sessions that can move.
//!
//! The old process offers and the new process takes. Until the new process reports that it serves,
//! nothing has changed. Both run this program, perhaps in two versions, so their messages are JSON
//! and ignore unknown members. The command line starts the new process and names the channel.

mod arrivals;
mod departures;
mod elder;
mod heir;
mod left;
mod shelf;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Weak;

use serde::{Deserialize, Serialize};

use crate::net::{FdChannel, Listener};
use crate::session::SessionMeta;

pub(super) use arrivals::take_up;
pub use elder::{Heir, Succeeded, hand_over};
pub use heir::Inheritance;
pub use left::LeftSession;
pub use shelf::{Shelf, leave};

/// Listening socket of the process before this one.
#[derive(Debug)]
pub struct LeftSocket {
    pub(super) socket: TcpListener,
    /// Whether the starter of the processes chose the socket. Then it counts even if the
    /// specification names another address.
    pub(super) given: bool,
    /// Sessions of the process before may have numbers up to this one.
    pub(super) ids_above: u64,
}

impl LeftSocket {
    /// Takes a socket that was kept while no process ran.
    #[must_use]
    pub fn kept(socket: TcpListener) -> Self {
        Self { socket, given: false, ids_above: 0 }
    }

    /// Address that the socket listens on.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }
}

/// Socket of a running server.
pub(super) struct OpenSocket {
    pub(super) listener: Weak<Listener>,
    pub(super) given: bool,
}

/// Endpoint of the control API, whose socket an upgrade passes on as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Door {
    /// A Unix socket at this path.
    Unix(PathBuf),
    /// A loopback address.
    Tcp(SocketAddr),
}

/// Message of the old process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
enum Offer {
    /// A listening socket, with its descriptor.
    Listener { server: String, given: bool, ids_above: u64 },
    /// A socket of the control API, with its descriptor.
    Door { door: Door },
    /// End of the sockets; the new process starts now.
    Start,
    /// A session, with the descriptor of its connection. The body has the state that its plugin
    /// saved, then the bytes queued for its peer.
    Session {
        server: String,
        name: Option<String>,
        /// Digest of a plugin on which the session must not go on.
        #[serde(default)]
        not_on: Option<String>,
        state_bytes: usize,
        #[serde(rename = "baggage")]
        meta: Box<SessionMeta>,
    },
    /// Whether the session of the message before belongs to the new process after all.
    Verdict { go: bool },
    /// End of all messages.
    Done,
}

/// Message of the new process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
enum Answer {
    /// The new process accepts on every socket of its configuration, and has taken these endpoints.
    Serves { doors: Vec<Door> },
    /// The new process does not serve, and ends.
    Fails { why: String },
    /// The new process can go on with the session once the verdict says so.
    Takes,
    /// The new process cannot go on with the session.
    Refuses { why: String },
}

fn say(fd_channel: &mut FdChannel, what: &impl Serialize) -> Result<(), String> {
    let head = serde_json::to_vec(what).map_err(|error| error.to_string())?;
    fd_channel.send(&head, &[], None).map_err(|error| error.to_string())
}
