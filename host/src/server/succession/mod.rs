//! A new process takes the place of this one: it gets the listening sockets, and then the sessions
//! that can move.
//!
//! The old process offers, the new one takes, and until it says that it serves nothing has changed.
//! Both are this program, in maybe two versions, so what they say to each other is JSON in which
//! what is unknown is left alone. Who starts whom, and by what name, is the command line's
//! business.

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

/// A socket that the process before this one listens with.
#[derive(Debug)]
pub struct LeftSocket {
    pub(super) socket: TcpListener,
    /// Whoever started the processes chose it, so that it counts whatever the description says.
    pub(super) given: bool,
    /// Sessions of the process before may have numbers up to this one.
    pub(super) ids_above: u64,
}

impl LeftSocket {
    /// One that was kept while no process was there.
    #[must_use]
    pub fn kept(socket: TcpListener) -> Self {
        Self { socket, given: false, ids_above: 0 }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }
}

/// The socket of a server that runs.
pub(super) struct OpenSocket {
    pub(super) listener: Weak<Listener>,
    pub(super) given: bool,
}

/// Where the control API is reached; its sockets pass over as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Door {
    /// A Unix socket at this path.
    Unix(PathBuf),
    /// A loopback address.
    Tcp(SocketAddr),
}

/// What the old process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
enum Offer {
    /// A listening socket, with its descriptor.
    Listener { server: String, given: bool, ids_above: u64 },
    /// A socket of the control API, with its descriptor.
    Door { door: Door },
    /// That was all there is to start with.
    Start,
    /// A session, with its connection; what its plugin saved and then what is queued for its peer
    /// are the body.
    Session {
        server: String,
        name: Option<String>,
        /// Digest of a plugin on which it does not go on.
        #[serde(default)]
        not_on: Option<String>,
        state_bytes: usize,
        #[serde(rename = "baggage")]
        meta: Box<SessionMeta>,
    },
    /// The session of the message before is the new process's, or is not after all.
    Verdict { go: bool },
    /// Nothing follows.
    Done,
}

/// What the new one says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
enum Answer {
    /// It accepts on every socket of its configuration. Which doors it has taken.
    Serves { doors: Vec<Door> },
    /// It does not, and ends.
    Fails { why: String },
    /// It can go on with the session, once it is told to.
    Takes,
    /// It cannot.
    Refuses { why: String },
}

fn say(fd_channel: &mut FdChannel, what: &impl Serialize) -> Result<(), String> {
    let head = serde_json::to_vec(what).map_err(|error| error.to_string())?;
    fd_channel.send(&head, &[], None).map_err(|error| error.to_string())
}
