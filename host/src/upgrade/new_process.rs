//! New process of an upgrade: takes the offered sockets, and reports when it serves.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::error::TakeOverError;
use super::receive_sessions;
use crate::handover::{ControlEndpoint, InheritedListener, ToNew, ToOld, send_message};
use crate::net::FdChannel;
use crate::servers::Servers;

/// Time that the old process may take for its next message.
const PATIENCE: Duration = Duration::from_secs(60);
/// Number of sockets that the new process accepts. A process has fewer servers.
const SOCKETS_MAX: usize = 4_096;

/// Sockets that the old process offers, and the channel to it.
pub struct UpgradeClient {
    fd_channel: FdChannel,
    /// Listening sockets, by name of the server.
    pub listeners: HashMap<String, InheritedListener>,
    /// Endpoints of the control API, with their sockets.
    pub endpoints: Vec<(ControlEndpoint, OwnedFd)>,
}

impl UpgradeClient {
    /// Takes the offered sockets through `end`, the new process's end of the channel. Blocks.
    ///
    /// # Errors
    /// Nothing came, or the messages are not understood.
    pub fn receive(end: OwnedFd) -> Result<Self, TakeOverError> {
        let mut fd_channel = FdChannel::given(end);
        fd_channel.set_timeout(PATIENCE)?;
        let (mut listeners, mut endpoints) = (HashMap::new(), Vec::new());
        for _ in 0..SOCKETS_MAX {
            let message = fd_channel.receive()?;
            let offer = serde_json::from_slice(&message.head)?;
            match (offer, message.descriptor) {
                (ToNew::Listener { server, given, ids_above }, Some(socket)) => {
                    listeners.insert(
                        server,
                        InheritedListener { socket: socket.into(), given, ids_above },
                    );
                }
                (ToNew::Endpoint { endpoint }, Some(socket)) => endpoints.push((endpoint, socket)),
                (ToNew::Start, _) => return Ok(Self { fd_channel, listeners, endpoints }),
                (offer, _) => return Err(TakeOverError::NoSocket(format!("{offer:?}"))),
            }
        }
        Err(TakeOverError::TooMany(SOCKETS_MAX))
    }

    /// Reports that this process serves, and which endpoints of the control API it has taken.
    /// Sessions arrive from then on. Calls `begins` once the old process has told systemd of this
    /// one, or is gone.
    ///
    /// # Errors
    /// The old process is gone or has given up waiting. Then it serves on by itself, and this
    /// process must end.
    pub fn serves(
        mut self,
        servers: Arc<Servers>,
        endpoints: Vec<ControlEndpoint>,
        begins: impl FnOnce() + Send + 'static,
    ) -> Result<(), TakeOverError> {
        send_message(&mut self.fd_channel, &ToOld::Serves { endpoints })?;
        let receive = move || receive_sessions::receive(&servers, self.fd_channel, begins);
        let receiving = std::thread::Builder::new().name("wharf-receive".into()).spawn(receive);
        receiving?;
        Ok(())
    }

    /// Reports why this process does not serve. The old process goes on.
    pub fn fails(mut self, why: &str) {
        // If the old process does not get the message, the log has the reason.
        let _ = send_message(&mut self.fd_channel, &ToOld::Fails { why: why.to_owned() });
    }
}
