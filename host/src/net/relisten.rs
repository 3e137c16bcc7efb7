//! Repair of a listening socket that stopped: the same socket listens again, or a new one is bound.
//!
//! Any holder of a socket can stop it for all of them, for instance with `shutdown`. Linux then
//! reports a hang-up, and `accept` fails with EINVAL. The connections of the backlog are lost.
//!
//! A shutdown of a socket that does not listen stays in force until the socket is disconnected.
//! Each client that the socket accepts later inherits the shutdown.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use rustix::io::Errno;
use rustix::net::connect_unspec;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::BindError;
use super::bind::backlog_of;
use super::diagnosis::is_shut;

/// Attempts in a row to listen again on a socket that another holder keeps shutting down.
const RESETS_MAX: u32 = 8;

/// A listening socket, and the number by which the kernel tells it from every other.
#[derive(Debug)]
pub(super) struct SharedSocket {
    pub(super) socket: TcpListener,
    /// `None` if this kernel numbers no sockets.
    cookie: Option<u64>,
}

/// What a descriptor refers to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// The socket, and it listens. Its clients can talk, as far as the kernel says.
    Listens,
    /// The socket, and it does not listen, or was shut down before it did.
    Stopped,
    /// Nothing, or another file. The descriptor may be neither used nor closed.
    Replaced,
}

/// The properties of a socket that its replacement needs.
#[derive(Debug)]
pub(super) struct SocketOrigin {
    pub(super) address: SocketAddr,
    backlog: i32,
    only_v6: bool,
    reuse_port: bool,
    dont_route: bool,
    keep_alive: bool,
    no_delay: bool,
    /// The network interface that the socket is bound to.
    device: Option<Vec<u8>>,
}

impl AsRawFd for SharedSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl SharedSocket {
    pub(super) fn new(socket: TcpListener) -> Self {
        let cookie = SockRef::from(&socket).cookie().ok();
        Self { socket, cookie }
    }

    /// Checks what the descriptor refers to now. At most six system calls.
    pub(super) fn condition(&self, address: SocketAddr) -> Condition {
        let socket = SockRef::from(&self.socket);
        let same = match self.cookie {
            Some(cookie) => socket.cookie().is_ok_and(|now| now == cookie),
            None => {
                self.socket.local_addr().is_ok_and(|now| now == address)
                    && socket.peer_addr().is_err()
            }
        };
        match (same, socket.is_listener()) {
            (false, _) => Condition::Replaced,
            (true, Ok(true)) if !self.is_shut(address) => Condition::Listens,
            (true, _) => Condition::Stopped,
        }
    }

    /// Returns whether the socket was shut down. If the kernel does not say, the socket counts as
    /// sound.
    fn is_shut(&self, address: SocketAddr) -> bool {
        self.cookie.is_some_and(|cookie| is_shut(address, cookie).unwrap_or(false))
    }
}

impl SocketOrigin {
    /// Reads the properties from a bound socket. `backlog` is 0 for the default.
    pub(super) fn of(listener: &TcpListener, backlog: u32) -> io::Result<Self> {
        let (socket, address) = (SockRef::from(listener), listener.local_addr()?);
        Ok(Self {
            address,
            backlog: backlog_of(backlog),
            only_v6: address.is_ipv6() && socket.only_v6()?,
            reuse_port: socket.reuse_port()?,
            dont_route: getsockopt(listener, sockopt::DontRoute)?,
            keep_alive: socket.keepalive()?,
            no_delay: socket.tcp_nodelay()?,
            device: socket.device()?,
        })
    }

    /// Makes the same socket listen again, for all of its holders.
    ///
    /// # Errors
    /// The system's error, or another holder shut the socket down each time. The socket does not
    /// listen then.
    pub(super) fn again(&self, held: &SharedSocket) -> io::Result<()> {
        for _ in 0..RESETS_MAX {
            self.try_again(&held.socket)?;
            if !held.is_shut(self.address) {
                return Ok(());
            }
        }
        connect_unspec(&held.socket)?;
        Err(io::Error::other("another holder shuts it down again and again"))
    }

    fn try_again(&self, listener: &TcpListener) -> io::Result<()> {
        // A socket without a port would get a port that clients do not know.
        if self.address.port() == 0 {
            return Err(Errno::DESTADDRREQ.into());
        }
        let socket = SockRef::from(listener);
        // Nothing else takes a shutdown back. A socket that was connected elsewhere stays as it is.
        if socket.peer_addr().is_err() {
            connect_unspec(listener)?;
        }
        // A socket whose port the system chose has lost the port; any other keeps it: EINVAL.
        match socket.bind(&self.address.into()) {
            Err(error) if Errno::from_io_error(&error) != Some(Errno::INVAL) => return Err(error),
            _ => socket.listen(self.backlog)?,
        }
        if listener.local_addr()? == self.address {
            Ok(())
        } else {
            Err(Errno::ADDRNOTAVAIL.into())
        }
    }

    /// Binds a new socket in place of the old one. `reuse-address` is always on, because the
    /// connections that linger on the address belong to this server. The option never lets two
    /// listening sockets share an address.
    ///
    /// # Errors
    /// [`BindError`]; nothing stays bound.
    pub(super) fn anew(&self) -> Result<TcpListener, BindError> {
        self.open().map_err(|source| BindError::of(self.address, true, source))
    }

    fn open(&self) -> io::Result<TcpListener> {
        let socket =
            Socket::new(Domain::for_address(self.address), Type::STREAM, Some(Protocol::TCP))?;
        if self.address.is_ipv6() {
            socket.set_only_v6(self.only_v6)?;
        }
        if let Some(device) = &self.device {
            socket.bind_device(Some(device))?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(self.reuse_port)?;
        socket.set_nonblocking(true)?;
        socket.set_keepalive(self.keep_alive)?;
        socket.set_tcp_nodelay(self.no_delay)?;
        if self.dont_route {
            setsockopt(&socket, sockopt::DontRoute, &true)?;
        }
        socket.bind(&self.address.into())?;
        socket.listen(self.backlog)?;
        Ok(socket.into())
    }
}
