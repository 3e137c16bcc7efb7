//! The listening socket at work: one newcomer at a time, and what to make of an error.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::SockRef;
use tokio::io::unix::AsyncFd;

use super::relisten::{Condition, SharedSocket, SocketOrigin};
use super::{BindError, Endpoint};

/// How long accepting pauses when the process or the system is out of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(25);
/// Newcomers that are turned away before each pause. So many each pause are what a machine without
/// descriptors refuses; the others wait in the backlog.
const TURNED_AWAY_MAX: usize = 16;

/// A socket that listens. Dropping it frees the address.
#[derive(Debug)]
pub struct Listener {
    /// What others get a descriptor of.
    held: ArcSwap<SharedSocket>,
    /// The same in the reactor. `None` between a failed repair and the next.
    polled: ArcSwapOption<AsyncFd<Arc<SharedSocket>>>,
    origin: SocketOrigin,
    /// A descriptor to give up when there is no other, so that a newcomer can be refused and does
    /// not hang.
    reserve: Mutex<Option<File>>,
    /// Errors that the next calls of `accept` report instead of a client.
    #[cfg(test)]
    injected: Mutex<std::collections::VecDeque<Errno>>,
}

/// How a listener came to listen again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repaired {
    /// With the socket that it had, which other processes may have as well.
    SameSocket,
    /// With a new one at the same address. Other holders of the old one have to get it.
    NewSocket,
}

/// A client that the system accepted and nobody has judged yet. Dropping it closes the connection.
/// It belongs to no reactor until its own task takes it up, on whichever thread that runs.
#[derive(Debug)]
pub struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

impl Accepted {
    /// The client's address; an IPv4 client of a dual-stack socket has its IPv4 address.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }
}

/// What to do after accepting failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptError {
    /// One newcomer was lost; go on at once.
    Retry,
    /// The machine is out of something; go on after the pause.
    Pause(Duration),
    /// The socket may listen no more; see [`Listener::listen_again`].
    Broken,
}

impl AcceptError {
    /// Sorts an error of `accept`. Errors of the newcomer's own connection, which Linux reports
    /// here too, cost only that newcomer. What nobody foresaw may come again at once, so it pauses.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::FAULT) => Self::Broken,
            Some(
                Errno::INTR
                | Errno::AGAIN
                | Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::PERM
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::OPNOTSUPP
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::NONET
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::TIMEDOUT,
            ) => Self::Retry,
            _ => Self::Pause(EXHAUSTED_PAUSE),
        }
    }
}

impl Listener {
    /// Binds and listens. Must run inside a tokio runtime; may block on name resolution.
    ///
    /// # Errors
    /// [`BindError`]; nothing stays bound.
    pub fn open(endpoint: &Endpoint) -> Result<Self, BindError> {
        Self::adopt(endpoint.listen()?, endpoint.backlog)
    }

    /// Takes over a socket that listens already, or that another holder stopped. `backlog` counts
    /// where it has to listen again: pending connections, 0 for 4,096. Must run inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`BindError`]; the socket is closed.
    pub fn adopt(socket: TcpListener, backlog: u32) -> Result<Self, BindError> {
        let system = BindError::Inherited;
        socket.set_nonblocking(true).map_err(system)?;
        let origin = SocketOrigin::of(&socket, backlog).map_err(system)?;
        let held = Arc::new(SharedSocket::new(socket));
        if held.condition(origin.address) != Condition::Listens {
            let dead = |error| {
                system(io::Error::other(format!("it does not listen, and cannot: {error}")))
            };
            origin.again(&held).map_err(dead)?;
        }
        let polled = polled(&held).map_err(system)?;
        Ok(Self {
            held: ArcSwap::new(held),
            polled: ArcSwapOption::from_pointee(polled),
            origin,
            reserve: Mutex::new(reserve()),
            #[cfg(test)]
            injected: Mutex::default(),
        })
    }

    /// Whether the socket is there and listens, and its clients can talk. At most six system calls.
    #[must_use]
    pub fn listens(&self) -> bool {
        self.held.load().condition(self.origin.address) == Condition::Listens
    }

    /// Waits until the system reports that the socket listens no more. A closed descriptor is not
    /// reported: ask [`Listener::listens`] from time to time. Dropping the future is safe.
    pub async fn hung_up(&self) {
        if let Some(polled) = self.polled.load_full() {
            // A socket that listens is never ready for writing.
            let _ = polled.writable().await;
        }
    }

    /// Listens again, on the same socket or else on a new one at the same address. To be called by
    /// the task that accepts, which is not in [`Listener::accept`] meanwhile. Does not block.
    ///
    /// # Errors
    /// [`BindError`]; nothing is accepted until a later call succeeds.
    pub fn listen_again(&self) -> Result<Repaired, BindError> {
        let system = |source| BindError::System { address: self.origin.address, source };
        // Out of the reactor first: there, a socket that hung up stays ready for ever.
        let before = self.polled.swap(None);
        let held = self.held.load_full();
        let condition = held.condition(self.origin.address);
        if condition == Condition::Replaced {
            // The number is somebody else's by now. Closing it would be closing theirs.
            std::mem::forget((before, Arc::clone(&held)));
        } else {
            drop(before);
            if condition == Condition::Listens || self.origin.again(&held).is_ok() {
                self.polled.store(Some(Arc::new(polled(&held).map_err(system)?)));
                return Ok(Repaired::SameSocket);
            }
        }
        let held = Arc::new(SharedSocket::new(self.origin.anew()?));
        let polled = polled(&held).map_err(system)?;
        self.polled.store(Some(Arc::new(polled)));
        self.held.store(held);
        Ok(Repaired::NewSocket)
    }

    /// Without a descriptor for them, refuses some newcomers by means of the one in reserve: they
    /// are closed. How many.
    pub fn turn_away(&self) -> usize {
        let mut held = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        let mut turned = 0;
        while turned < TURNED_AWAY_MAX {
            // Nobody else may have taken what was given up.
            drop(held.take().or_else(reserve));
            match acceptfrom_with(
                &self.held.load().socket,
                SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            ) {
                Ok((stream, _)) => drop(stream),
                Err(_) => break,
            }
            turned += 1;
        }
        *held = reserve();
        turned
    }

    /// Another descriptor of the same socket, for another process.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn duplicate(&self) -> io::Result<TcpListener> {
        self.held.load().socket.try_clone()
    }

    /// Where it listens, with the port the system chose where any was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.origin.address
    }

    /// The next newcomer. Dropping the future is safe: no newcomer is lost.
    ///
    /// # Errors
    /// What the system said; [`AcceptError::of`] says what to do.
    pub async fn accept(&self) -> io::Result<Accepted> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let accept = |held: &Arc<SharedSocket>| {
            #[cfg(test)]
            if let Some(errno) =
                self.injected.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
            {
                return Err(errno.into());
            }
            Ok(acceptfrom_with(&held.socket, flags)?)
        };
        let polled = self.polled.load_full().ok_or(Errno::BADF)?;
        let (stream, peer) = loop {
            let mut guard = polled.readable().await?;
            match guard.try_io(|polled| accept(polled.get_ref())) {
                Ok(accepted) => break accepted?,
                // A hang-up is remembered here for ever, although another holder may have made the
                // socket listen again. Waiting for it would never end, nor let others run.
                Err(_) if guard.ready().is_read_closed() => return Err(Errno::INVAL.into()),
                Err(_) => {}
            }
        };
        let (stream, peer) = (TcpStream::from(stream), peer.ok_or(Errno::CONNABORTED)?);
        let peer = SocketAddr::try_from(peer).map_err(|_| Errno::CONNABORTED)?;
        // A socket that is bound to one address needs no question which one the client reached.
        let address = self.origin.address;
        let local = if address.ip().is_unspecified() { stream.local_addr()? } else { address };
        Ok(Accepted { stream, peer: plain(peer), local: plain(local) })
    }
}

/// Registers a socket with the reactor, as one that listens now.
fn polled(held: &Arc<SharedSocket>) -> io::Result<AsyncFd<Arc<SharedSocket>>> {
    // Urgent bytes are bytes like others, and accepted sockets inherit this.
    SockRef::from(&held.socket).set_out_of_band_inline(true)?;
    // Deprecated because of types that lend a descriptor which is not theirs; a `TcpListener` owns
    // its own for as long as it lives. What replaces it is an `unsafe fn` with that very condition.
    #[expect(deprecated)]
    AsyncFd::new(Arc::clone(held))
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Takes the IPv6 wrapping off an IPv4 address.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
impl Listener {
    /// The next calls of `accept` that have a client to report fail with these, one each.
    pub(crate) fn inject(&self, errnos: impl IntoIterator<Item = Errno>) {
        self.injected.lock().unwrap_or_else(PoisonError::into_inner).extend(errnos);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{ListenPort, SocketOptions};

    fn of(errno: Errno) -> AcceptError {
        AcceptError::of(&io::Error::from(errno))
    }

    #[test]
    fn an_error_of_one_newcomer_costs_only_that_newcomer() {
        for errno in [
            Errno::CONNABORTED,
            Errno::INTR,
            Errno::PROTO,
            Errno::PERM,
            Errno::NETDOWN,
            Errno::TIMEDOUT,
        ] {
            assert_eq!(of(errno), AcceptError::Retry, "{errno}");
        }
    }

    #[test]
    fn exhaustion_pauses_and_does_not_spin() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert_eq!(of(errno), AcceptError::Pause(EXHAUSTED_PAUSE), "{errno}");
        }
    }

    #[tokio::test]
    async fn accepted_sockets_inherit_the_options_and_do_not_block() {
        for on in [false, true] {
            let options =
                SocketOptions { reuse_address: on, dont_route: on, keep_alive: on, no_delay: on };
            let endpoint = Endpoint {
                host: "127.0.0.1".into(),
                port: ListenPort::AnyFree,
                backlog: 0,
                options,
            };
            let listener = Listener::open(&endpoint).expect("it listens");
            let _client = TcpStream::connect(listener.address()).expect("it accepts");
            let accepted = listener.accept().await.expect("a client");
            let socket = SockRef::from(&accepted.stream);
            assert_eq!(socket.tcp_nodelay().expect("an option"), on);
            assert_eq!(socket.keepalive().expect("an option"), on);
            let dont_route = nix::sys::socket::getsockopt(
                &accepted.stream,
                nix::sys::socket::sockopt::DontRoute,
            );
            assert_eq!(dont_route.expect("an option"), on);
            assert!(socket.nonblocking().expect("an option"));
        }
    }

    #[test]
    fn a_broken_socket_is_told_from_exhaustion() {
        for errno in [Errno::BADF, Errno::INVAL, Errno::NOTSOCK, Errno::FAULT] {
            assert_eq!(of(errno), AcceptError::Broken, "{errno}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:9".parse().expect("an address");
        assert_eq!(plain(mapped), "192.0.2.7:9".parse().expect("an address"));
    }
}
