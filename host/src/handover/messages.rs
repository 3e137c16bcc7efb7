//! Messages of an upgrade, between the old process and the new one. Both run this program, perhaps
//! in two versions, so messages are JSON and ignore unknown members.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::net::FdChannel;
use crate::session::SessionMeta;

/// Endpoint of the control API, whose socket an upgrade passes on as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlEndpoint {
    /// A Unix socket at this path.
    Unix(PathBuf),
    /// A loopback address.
    Tcp(SocketAddr),
}

/// Message of the old process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub(crate) enum ToNew {
    /// A listening socket, with its descriptor.
    Listener { server: String, given: bool, ids_above: u64 },
    /// A socket of the control API, with its descriptor.
    #[serde(rename = "door")]
    Endpoint {
        #[serde(rename = "door")]
        endpoint: ControlEndpoint,
    },
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
pub(crate) enum ToOld {
    /// The new process accepts on every socket of its configuration, and has taken these endpoints.
    Serves {
        #[serde(rename = "doors")]
        endpoints: Vec<ControlEndpoint>,
    },
    /// The new process does not serve, and ends.
    Fails { why: String },
    /// The new process can go on with the session once the verdict says so.
    Takes,
    /// The new process cannot go on with the session.
    Refuses { why: String },
}

/// Sends a message without a descriptor.
///
/// # Errors
/// The system's error.
pub(crate) fn send_message(fd_channel: &mut FdChannel, what: &impl Serialize) -> io::Result<()> {
    let head = serde_json::to_vec(what)?;
    fd_channel.send(&head, &[], None)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Messages as the process of version 0.1.0 writes them: those of the old process, then those
    /// of the new one.
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
