//! A new process takes the place of this one: it gets the listening sockets, and then the sessions
//! that can move.
//!
//! The old process offers, the new one takes, and until it says that it serves nothing has changed.
//! Both are this program, in maybe two versions, so what they say to each other is JSON in which
//! what is unknown is left alone. Who starts whom, and by what name, is the command line's
//! business.

mod detached;
mod fd_store;
mod new_process;
mod old_process;
mod receive_sessions;
mod send_sessions;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Weak;

use serde::{Deserialize, Serialize};

use crate::net::{FdChannel, Listener};
use crate::session::SessionMeta;

pub use detached::DetachedSession;
pub use fd_store::{FdStore, leave};
pub use new_process::UpgradeClient;
pub use old_process::{ReadyPeer, SessionsSent, offer_sockets};
pub(super) use receive_sessions::resume_detached;

/// A socket that the process before this one listens with.
#[derive(Debug)]
pub struct InheritedListener {
    pub(super) socket: TcpListener,
    /// Whoever started the processes chose it, so that it counts whatever the description says.
    pub(super) given: bool,
    /// Sessions of the process before may have numbers up to this one.
    pub(super) ids_above: u64,
}

impl InheritedListener {
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
pub enum ControlEndpoint {
    /// A Unix socket at this path.
    Unix(PathBuf),
    /// A loopback address.
    Tcp(SocketAddr),
}

/// What the old process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
enum ToNew {
    /// A listening socket, with its descriptor.
    Listener { server: String, given: bool, ids_above: u64 },
    /// A socket of the control API, with its descriptor.
    #[serde(rename = "door")]
    Endpoint {
        #[serde(rename = "door")]
        endpoint: ControlEndpoint,
    },
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
enum ToOld {
    /// It accepts on every socket of its configuration. Which doors it has taken.
    Serves {
        #[serde(rename = "doors")]
        endpoints: Vec<ControlEndpoint>,
    },
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

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Messages as the process of version 0.1.0 writes them: those of the old process, then those of
    /// the new one.
    const RELEASED: &str = include_str!("messages-0.1.0.jsonl");

    #[test]
    fn released_messages_are_read_and_written() {
        let mut kinds = 0;
        for line in RELEASED.lines() {
            let released: Value = serde_json::from_str(line).expect("JSON");
            let to_new = serde_json::from_value::<ToNew>(released.clone());
            let to_old = serde_json::from_value::<ToOld>(released.clone());
            let written = match (to_new, to_old) {
                (Ok(message), Err(_)) => serde_json::to_value(message),
                (Err(_), Ok(message)) => serde_json::to_value(message),
                (new, old) => panic!("{line}: {new:?}, {old:?}"),
            };
            assert_eq!(written.expect("a message"), released);
            kinds += 1;
        }
        assert_eq!(kinds, 11);
    }
}
