//! The side of the new process: it takes what it is offered, and says when it serves.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::{ControlEndpoint, InheritedListener, ToNew, ToOld, receive_sessions, say};
use crate::net::FdChannel;
use crate::server::Servers;

/// How long the old process may take for its next message.
const PATIENCE: Duration = Duration::from_secs(60);
/// Sockets that are taken. A process has fewer servers.
const SOCKETS_MAX: usize = 4_096;

/// What the process before this one offers.
pub struct UpgradeClient {
    fd_channel: FdChannel,
    /// What it listens with, by names of servers.
    pub listeners: HashMap<String, InheritedListener>,
    /// Where its control API is reached.
    pub endpoints: Vec<(ControlEndpoint, OwnedFd)>,
}

impl UpgradeClient {
    /// Takes what is offered through this socket. Blocks.
    ///
    /// # Errors
    /// Nothing came, or what nobody understands.
    pub fn receive(end: OwnedFd) -> Result<Self, String> {
        let mut fd_channel = FdChannel::given(end);
        fd_channel.set_timeout(PATIENCE).map_err(|error| error.to_string())?;
        let (mut listeners, mut endpoints) = (HashMap::new(), Vec::new());
        for _ in 0..SOCKETS_MAX {
            let message = fd_channel.receive().map_err(|error| error.to_string())?;
            let offer = serde_json::from_slice(&message.head).map_err(|error| error.to_string())?;
            match (offer, message.descriptor) {
                (ToNew::Listener { server, given, ids_above }, Some(socket)) => {
                    listeners.insert(
                        server,
                        InheritedListener { socket: socket.into(), given, ids_above },
                    );
                }
                (ToNew::Endpoint { endpoint }, Some(socket)) => endpoints.push((endpoint, socket)),
                (ToNew::Start, _) => return Ok(Self { fd_channel, listeners, endpoints }),
                (offer, _) => return Err(format!("expected sockets, found {offer:?}")),
            }
        }
        Err(format!("expected at most {SOCKETS_MAX} sockets"))
    }

    /// Says that this process serves, and through which doors. From then on sessions arrive.
    /// `begins` is called once the old process has told everybody else that it is succeeded.
    ///
    /// # Errors
    /// The old process is gone or has lost patience: then it serves on by itself, and this one is
    /// to end.
    pub fn serves(
        mut self,
        servers: Arc<Servers>,
        endpoints: Vec<ControlEndpoint>,
        begins: impl FnOnce() + Send + 'static,
    ) -> Result<(), String> {
        say(&mut self.fd_channel, &ToOld::Serves { endpoints })?;
        let arrivals = move || receive_sessions::receive(&servers, self.fd_channel, begins);
        let thread = std::thread::Builder::new().name("wharf-arrivals".into()).spawn(arrivals);
        thread.map(drop).map_err(|error| error.to_string())
    }

    /// Says why this process does not serve. The old one goes on.
    pub fn fails(mut self, why: &str) {
        // Where nobody hears it, the log has it.
        let _ = say(&mut self.fd_channel, &ToOld::Fails { why: why.to_owned() });
    }
}
