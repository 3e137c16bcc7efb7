//! Other holders of a process's listening sockets, and the harm that they can do to them.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::socket_acceptconn;
use rustix::net::{Shutdown, SocketAddrAny, connect, connect_unspec, getsockname, shutdown};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::servers::eventually;

/// A call by which another holder breaks a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// `shutdown(SHUT_RD)`.
    ShutRead,
    /// `shutdown(SHUT_WR)`, which harms only a socket that no longer listens.
    ShutWrite,
    /// `shutdown(SHUT_RDWR)`.
    ShutBoth,
    /// `connect` with no address (`AF_UNSPEC`).
    Unconnect,
}

impl Harm {
    /// Each harm that breaks a listening socket.
    pub const ALL: [Self; 3] = [Self::ShutRead, Self::ShutBoth, Self::Unconnect];
    /// Each kind of shutdown.
    pub const SHUTDOWNS: [Self; 3] = [Self::ShutRead, Self::ShutWrite, Self::ShutBoth];

    /// Does the harm to a socket.
    pub fn to(self, socket: &impl AsFd) {
        let done = match self {
            Self::ShutRead => shutdown(socket, Shutdown::Read),
            Self::ShutWrite => shutdown(socket, Shutdown::Write),
            Self::ShutBoth => shutdown(socket, Shutdown::Both),
            Self::Unconnect => connect_unspec(socket),
        };
        // A broken socket refuses further calls.
        assert!(matches!(done, Ok(()) | Err(Errno::NOTCONN)), "{self:?}: {done:?}");
    }
}

/// Copies of the descriptors of all listening sockets of a process.
///
/// # Panics
/// If this process may not inspect the other.
#[must_use]
pub fn listening(process: Pid) -> Vec<OwnedFd> {
    let process_fd = pidfd_open(process, PidfdFlags::empty()).expect("the process");
    let folder =
        fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero())).expect("its descriptors");
    let numbers = folder.flatten().filter_map(|entry| {
        let socket = fs::read_link(entry.path())
            .is_ok_and(|what| what.to_string_lossy().starts_with("socket:"));
        entry.file_name().to_str()?.parse().ok().filter(|_| socket)
    });
    let copies = numbers
        .filter_map(|number| pidfd_getfd(&process_fd, number, PidfdGetfdFlags::empty()).ok());
    copies.filter(|copy| socket_acceptconn(copy).is_ok_and(|listens| listens)).collect()
}

/// The socket by which a process listens on this address. Waits for it.
///
/// # Panics
/// If the process does not listen there in time.
#[must_use]
pub fn listener(process: Pid, address: SocketAddr) -> OwnedFd {
    let mut found = None;
    eventually("the process listens", || {
        let is = |socket: &OwnedFd| {
            getsockname(socket).is_ok_and(|at| SocketAddr::try_from(at) == Ok(address))
        };
        found = listening(process).into_iter().find(is);
        found.is_some()
    });
    found.expect("it was found")
}

/// The Unix sockets by which a process listens.
#[must_use]
pub fn unix_listeners(process: Pid) -> Vec<OwnedFd> {
    let is = |socket: &OwnedFd| {
        getsockname(socket)
            .is_ok_and(|at| SocketAddrAny::address_family(&at) == rustix::net::AddressFamily::UNIX)
    };
    listening(process).into_iter().filter(is).collect()
}

/// Breaks a socket again and again, until this process can listen on its address.
///
/// # Panics
/// If the owner is always faster.
#[must_use]
pub fn take_over(socket: &impl AsFd, address: SocketAddr) -> TcpListener {
    let mut taken = None;
    eventually("the address is taken", || {
        Harm::ShutBoth.to(socket);
        taken = TcpListener::bind(address).ok();
        taken.is_some()
    });
    taken.expect("it was taken")
}

/// Breaks a socket again and again, until it can be connected elsewhere. The socket then never
/// listens again.
///
/// # Panics
/// If the owner is always faster.
pub fn lead_away(socket: &impl AsFd, elsewhere: SocketAddr) {
    eventually("the socket is led away", || {
        Harm::Unconnect.to(socket);
        matches!(connect(socket, &elsewhere), Ok(()) | Err(Errno::INPROGRESS))
    });
}
