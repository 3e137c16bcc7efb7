//! Another holder of a process's listening sockets, and the harm that it can do to them.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::socket_acceptconn;
use rustix::net::{Shutdown, SocketAddrAny, connect, connect_unspec, getsockname, shutdown};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::servers::eventually;

/// What another holder does to a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// `shutdown(SHUT_RD)`.
    ShutRead,
    /// `shutdown(SHUT_WR)`, which harms only a socket that does not listen any more.
    ShutWrite,
    /// `shutdown(SHUT_RDWR)`.
    ShutBoth,
    /// `connect` to no address.
    Unconnect,
}

impl Harm {
    /// Each that breaks a socket which listens.
    pub const ALL: [Self; 3] = [Self::ShutRead, Self::ShutBoth, Self::Unconnect];
    /// Each kind of shutdown.
    pub const SHUTDOWNS: [Self; 3] = [Self::ShutRead, Self::ShutWrite, Self::ShutBoth];

    /// Does it.
    pub fn to(self, socket: &impl AsFd) {
        let done = match self {
            Self::ShutRead => shutdown(socket, Shutdown::Read),
            Self::ShutWrite => shutdown(socket, Shutdown::Write),
            Self::ShutBoth => shutdown(socket, Shutdown::Both),
            Self::Unconnect => connect_unspec(socket),
        };
        // A socket that is broken already takes no more harm.
        assert!(matches!(done, Ok(()) | Err(Errno::NOTCONN)), "{self:?}: {done:?}");
    }
}

/// Descriptors of all sockets that listen in a process.
///
/// # Panics
/// The process is not ours to look at.
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

/// The socket by which a process listens on this address.
///
/// # Panics
/// It does not listen there, for long.
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

/// Breaks a socket again and again, until the owner pauses long enough for another to listen there.
///
/// # Panics
/// The owner is always faster.
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

/// Breaks a socket again and again, until it can be connected elsewhere, so that it never listens
/// again.
///
/// # Panics
/// The owner is always faster.
pub fn lead_away(socket: &impl AsFd, elsewhere: SocketAddr) {
    eventually("the socket is led away", || {
        Harm::Unconnect.to(socket);
        matches!(connect(socket, &elsewhere), Ok(()) | Err(Errno::INPROGRESS))
    });
}
