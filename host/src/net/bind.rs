//! From a host name and a port to a listening socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::num::NonZeroU16;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// The backlog that 0 stands for. The system clamps it if the system's own maximum is lower.
const BACKLOG_DEFAULT: u32 = 4_096;

/// The port to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenPort {
    /// This port.
    Fixed(NonZeroU16),
    /// A free port that the system chooses; the server handle says which. For tests and embedders.
    AnyFree,
}

impl ListenPort {
    fn number(self) -> u16 {
        match self {
            Self::Fixed(port) => port.get(),
            Self::AnyFree => 0,
        }
    }
}

/// Options of a listening socket and of the clients it accepts. All off by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SocketOptions {
    /// Bind although connections of a stopped server linger on the address. Two live servers never
    /// share an address.
    pub reuse_address: bool,
    /// Send to directly connected networks only.
    pub dont_route: bool,
    /// Let the system probe silent clients.
    pub keep_alive: bool,
    /// Send small packets at once.
    pub no_delay: bool,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A host name or address of this system. Empty and `0.0.0.0`: all IPv4 interfaces. `::`: IPv4
    /// and IPv6 on one socket. Of a name's addresses the first IPv4 one is used, else the first.
    pub host: String,
    /// The port.
    pub port: ListenPort,
    /// Pending connections that the system may hold. 0: 4,096. Clamped to the system's own maximum.
    pub backlog: u32,
    /// Socket options.
    pub options: SocketOptions,
}

/// Why a server does not listen. The operator has to mend all of these.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The host name has no address.
    #[error("`{host}` is neither an address nor a name this system can resolve: {source}")]
    Unresolved {
        /// The host name that was asked for.
        host: String,
        /// The resolver's error.
        source: io::Error,
    },
    /// The address belongs to another system.
    #[error(
        "{address} is not an address of this system: use one of its own, or leave `host` empty for \
         all of them"
    )]
    NotLocal {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// The system has no IPv6.
    #[error("{address} needs IPv6, which this system does not have")]
    NoIpv6 {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// Another socket listens there, or old connections linger.
    #[error("{address} is in use: another server listens on it{}", if *.reuse { "" } else {
        ", or connections of a stopped one linger (the option `reuse-address` accepts those)" })]
    InUse {
        /// The address that was asked for.
        address: SocketAddr,
        /// Whether `reuse-address` was on.
        reuse: bool,
    },
    /// The port is privileged.
    #[error("{address} may not be used by this process: ports below 1024 usually need a privilege")]
    Denied {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// A socket of another process cannot be used.
    #[error("the socket that was handed over cannot be used: {0}")]
    Inherited(io::Error),
    /// Any other error of the system.
    #[error("cannot listen on {address}: {source}")]
    System {
        /// The address that was asked for.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
}

impl BindError {
    /// Sorts an error of the system from listening on this address.
    pub(super) fn of(address: SocketAddr, reuse: bool, source: io::Error) -> Self {
        match Errno::from_io_error(&source) {
            Some(Errno::ADDRNOTAVAIL) => Self::NotLocal { address },
            Some(Errno::AFNOSUPPORT) => Self::NoIpv6 { address },
            Some(Errno::ADDRINUSE) => Self::InUse { address, reuse },
            Some(Errno::ACCESS | Errno::PERM) => Self::Denied { address },
            _ => Self::System { address, source },
        }
    }
}

/// Returns the backlog for the system. 0 is the default.
pub(super) fn backlog_of(connections: u32) -> i32 {
    let connections = if connections == 0 { BACKLOG_DEFAULT } else { connections };
    i32::try_from(connections).unwrap_or(i32::MAX)
}

impl Endpoint {
    /// Returns the address to bind. Asks the resolver if `host` is a name, which may block.
    ///
    /// # Errors
    /// [`BindError::Unresolved`].
    pub fn resolve(&self) -> Result<SocketAddr, BindError> {
        let port = self.port.number();
        let ip = match self.host.trim_start_matches('[').trim_end_matches(']') {
            "" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            host => match host.parse() {
                Ok(ip) => ip,
                Err(_) => self.resolve_name(host)?,
            },
        };
        Ok(SocketAddr::new(ip, port))
    }

    fn resolve_name(&self, host: &str) -> Result<IpAddr, BindError> {
        let unresolved = |source| BindError::Unresolved { host: self.host.clone(), source };
        let found: Vec<_> = (host, 0).to_socket_addrs().map_err(unresolved)?.collect();
        let best = found.iter().find(|address| address.is_ipv4()).or(found.first());
        let best = best.ok_or_else(|| unresolved(io::Error::other("the name has no address")))?;
        Ok(best.ip())
    }

    /// Binds and listens. On an error nothing stays bound.
    ///
    /// # Errors
    /// [`BindError`].
    pub(super) fn listen(&self) -> Result<TcpListener, BindError> {
        let address = self.resolve()?;
        self.open(address)
            .map_err(|source| BindError::of(address, self.options.reuse_address, source))
    }

    fn open(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if let IpAddr::V6(ip) = address.ip() {
            socket.set_only_v6(ip != Ipv6Addr::UNSPECIFIED)?;
        }
        socket.set_reuse_address(self.options.reuse_address)?;
        socket.set_nonblocking(true)?;
        // Accepted sockets inherit these three options, so accepting a client costs no call for
        // them.
        socket.set_keepalive(self.options.keep_alive)?;
        socket.set_tcp_nodelay(self.options.no_delay)?;
        if self.options.dont_route {
            // The only option that we need and `socket2` does not have.
            setsockopt(&socket, sockopt::DontRoute, &true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(backlog_of(self.backlog))?;
        // Accepted sockets inherit this option, too. With it a later server with `reuse-address`
        // can start beside connections that linger. Otherwise that server would depend on the
        // options of this one.
        socket.set_reuse_address(true)?;
        Ok(socket.into())
    }
}
