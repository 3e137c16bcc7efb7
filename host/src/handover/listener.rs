//! Listening sockets of this process and of the process before.

use std::net::{SocketAddr, TcpListener};
use std::sync::Weak;

use crate::net::Listener;

/// Listening socket of the process before this one.
#[derive(Debug)]
pub struct InheritedListener {
    pub(crate) socket: TcpListener,
    /// Whether another program, such as systemd, passed the socket. If so, the socket counts even
    /// if the specification names another address.
    pub(crate) given: bool,
    /// Sessions of the process before may have numbers up to this one.
    pub(crate) ids_above: u64,
}

impl InheritedListener {
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
pub(crate) struct OpenSocket {
    pub(crate) listener: Weak<Listener>,
    pub(crate) given: bool,
}
