//! The listening socket at work: it accepts one connection at a time, and sorts errors.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::SockRef;
use tokio::io::unix::AsyncFd;

use super::relisten::{Condition, SharedSocket, SocketOrigin};
use super::{BindError, Endpoint};
use crate::locks::lock;

/// The pause of accepting if the process or the system is out of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(25);
/// Longest wait of `accept`, should another holder of the socket take its non-blocking mode away.
/// The system rounds it up to its own tick, of at most 10 ms.
const BLOCKED_MAX: Duration = Duration::from_millis(1);
/// New connections that are turned away before each pause. A machine without descriptors refuses
/// this many per pause; the others wait in the backlog.
const TURNED_AWAY_MAX: usize = 16;

/// A socket that listens. Dropping it frees the address.
#[derive(Debug)]
pub struct Listener {
    /// The socket that other processes get a descriptor of.
    held: ArcSwap<SharedSocket>,
    /// The same socket in the reactor. `None` between a failed repair and the next.
    polled: ArcSwapOption<AsyncFd<Arc<SharedSocket>>>,
    origin: SocketOrigin,
    /// A spare descriptor to give up when there is no other. With it the listener refuses a new
    /// connection, which would otherwise hang.
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
    /// With a new socket at the same address. Other holders of the old socket need the new one.
    NewSocket,
}

/// A client that the system accepted and the gate has not judged yet. Dropping it closes the
/// connection.
///
/// The connection belongs to no reactor until its own task takes it up, on the thread of that task.
#[derive(Debug)]
pub struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

impl Accepted {
    /// Returns the client's address. An IPv4 client of a dual-stack socket has its IPv4 address.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Returns a client whose descriptor has no events, so that every reactor refuses it.
    #[cfg(test)]
    pub(super) fn without_events() -> Self {
        let file = File::open("/dev/null").expect("a file");
        let stream = TcpStream::from(std::os::fd::OwnedFd::from(file));
        stream.set_nonblocking(true).expect("a mode");
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        Self { stream, peer: address, local: address }
    }
}

/// What to do after accepting failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptError {
    /// One new connection was lost. Go on at once.
    Retry,
    /// The machine is out of some resource. Go on after the pause.
    Pause(Duration),
    /// The socket may no longer listen; see [`Listener::listen_again`].
    Broken,
}

impl AcceptError {
    /// Sorts an error of `accept`.
    ///
    /// Linux reports errors of the new connection here, too. They cost only that connection. An
    /// unknown error may come again at once, so it pauses.
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

    /// Takes over a socket that listens already, or that another holder stopped.
    ///
    /// `backlog` is the number of pending connections if the socket has to listen again; 0 is
    /// 4,096. Must run inside a tokio runtime.
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

    /// Returns whether the socket is there and listens, and its clients can talk. At most six
    /// system calls.
    #[must_use]
    pub fn listens(&self) -> bool {
        self.held.load().condition(self.origin.address) == Condition::Listens
    }

    /// Makes `accept` non-blocking again, because any holder of the socket can change that for all.
    pub fn keep_nonblocking(&self) {
        // A descriptor that is lost is found by `listens`.
        let _ = ioctl_fionbio(&self.held.load().socket, true);
    }

    /// Waits until the system reports that the socket listens no more. Cancel safe.
    ///
    /// The system does not report a closed descriptor: call [`Listener::listens`] from time to
    /// time.
    pub async fn hung_up(&self) {
        if let Some(polled) = self.polled.load_full() {
            // A socket that listens is never ready for writing.
            let _ = polled.writable().await;
        }
    }

    /// Listens again, on the same socket or else on a new one at the same address. Does not block.
    ///
    /// Only the accepting task may call this, and not inside [`Listener::accept`].
    ///
    /// # Errors
    /// [`BindError`]; nothing is accepted until a later call succeeds.
    pub fn listen_again(&self) -> Result<Repaired, BindError> {
        let system = |source| BindError::System { address: self.origin.address, source };
        // The socket leaves the reactor first: there, a socket that hung up stays ready for ever.
        let before = self.polled.swap(None);
        let held = self.held.load_full();
        let condition = held.condition(self.origin.address);
        if condition == Condition::Replaced {
            // The descriptor's number belongs to another file now. Closing it would close that
            // file.
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

    /// Refuses some new connections by means of the spare descriptor, because the process has none
    /// left: it closes them. Returns how many.
    pub fn turn_away(&self) -> usize {
        let mut held = lock(&self.reserve);
        let mut turned = 0;
        while turned < TURNED_AWAY_MAX {
            // Frees the spare descriptor for `accept`, which fails if another thread is faster.
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

    /// Returns another descriptor of the same socket, for another process.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn duplicate(&self) -> io::Result<TcpListener> {
        self.held.load().socket.try_clone()
    }

    /// Returns the address of the socket, with the port that the system chose if any was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.origin.address
    }

    /// Returns the next new connection. Cancel safe: no connection is lost.
    ///
    /// # Errors
    /// The system's error; [`AcceptError::of`] says what to do.
    pub async fn accept(&self) -> io::Result<Accepted> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let accept = |held: &Arc<SharedSocket>| {
            #[cfg(test)]
            if let Some(errno) = lock(&self.injected).pop_front() {
                return Err(errno.into());
            }
            Ok(acceptfrom_with(&held.socket, flags)?)
        };
        let polled = self.polled.load_full().ok_or(Errno::BADF)?;
        let (stream, peer) = loop {
            let mut guard = polled.readable().await?;
            // Asked before the attempt: an attempt that would block clears the guard.
            let hung_up = guard.ready().is_read_closed();
            match guard.try_io(|polled| accept(polled.get_ref())) {
                Ok(accepted) => break accepted?,
                // The reactor remembers a hang-up for ever, although another holder may have made
                // the socket listen again. Waiting here would neither end nor let other tasks run.
                Err(_) if hung_up => return Err(Errno::INVAL.into()),
                Err(_) => {}
            }
        };
        let (stream, peer) = (TcpStream::from(stream), peer.ok_or(Errno::CONNABORTED)?);
        let peer = SocketAddr::try_from(peer).map_err(|_| Errno::CONNABORTED)?;
        // A socket that is bound to one address needs no call for the address that the client
        // reached.
        let address = self.origin.address;
        let local = if address.ip().is_unspecified() { stream.local_addr()? } else { address };
        Ok(Accepted { stream, peer: plain(peer), local: plain(local) })
    }
}

/// Registers a listening socket with the reactor.
fn polled(held: &Arc<SharedSocket>) -> io::Result<AsyncFd<Arc<SharedSocket>>> {
    let socket = SockRef::from(&held.socket);
    // Urgent bytes are bytes like others. Accepted sockets inherit this option.
    socket.set_out_of_band_inline(true)?;
    // Accepted sockets inherit the limit too. It is without effect there, because they never block.
    socket.set_read_timeout(Some(BLOCKED_MAX))?;
    // Deprecated because of types that lend a descriptor that is not theirs. A `TcpListener` owns
    // its descriptor for as long as it lives. The replacement is an `unsafe fn` with that
    // condition.
    #[expect(deprecated)]
    AsyncFd::new(Arc::clone(held))
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Unwraps an IPv4 address from its IPv6 form.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
impl Listener {
    /// Makes the next calls of `accept` that have a client fail with these errors, one each.
    pub(crate) fn inject(&self, errnos: impl IntoIterator<Item = Errno>) {
        lock(&self.injected).extend(errnos);
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
    fn accept_error_costs_one_connection_only() {
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
    async fn accepted_sockets_inherit_options_and_never_block() {
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

    /// An `accept` that blocks would hold its thread for ever, so it runs on a thread that the test
    /// can leave behind.
    #[test]
    fn blocking_socket_holds_up_no_accept() {
        for clients in 1..=3 {
            let (tell, told) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(async {
                    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
                    let other = socket.try_clone().expect("a descriptor");
                    let listener = Listener::adopt(socket, 16).expect("it listens");
                    other.set_nonblocking(false).expect("a mode");
                    for _ in 0..clients {
                        let client = TcpStream::connect(listener.address());
                        listener.accept().await.expect("a client");
                        // Another task of the thread runs while no client comes.
                        tokio::select! {
                            biased;
                            _ = listener.accept() => panic!("there is no client"),
                            () = tokio::task::yield_now() => {}
                        }
                        drop(client.expect("it listens"));
                    }
                    listener.keep_nonblocking();
                    assert!(SockRef::from(&other).nonblocking().expect("a mode"));
                });
                tell.send(()).expect("the test waits");
            });
            told.recv_timeout(Duration::from_secs(20)).expect("an accept blocks");
        }
    }

    /// The reactor remembers the hang-up. An accept that waits on it would spin, and hold its
    /// thread for ever, so it runs on a thread that the test can leave behind.
    #[test]
    fn hang_up_mended_elsewhere_is_reported() {
        for listens_again in [1, 3, 10] {
            let (tell, told) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(async {
                    // A port that was asked for stays with the socket when it hangs up.
                    let free = TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr());
                    let port = free.expect("a port").port().try_into().expect("a port");
                    let endpoint = Endpoint {
                        host: "127.0.0.1".into(),
                        port: ListenPort::Fixed(port),
                        backlog: 16,
                        options: SocketOptions::default(),
                    };
                    let listener = Listener::open(&endpoint).expect("it listens");
                    for _ in 0..listens_again {
                        let other = listener.duplicate().expect("a descriptor");
                        rustix::net::shutdown(&other, rustix::net::Shutdown::Both).expect("shut");
                        listener.hung_up().await;
                        rustix::net::listen(&other, 16).expect("it listens again");
                        let error = listener.accept().await.expect_err("it hung up");
                        assert_eq!(AcceptError::of(&error), AcceptError::Broken, "{error}");
                        let repaired = listener.listen_again().expect("it is repaired");
                        assert_eq!(repaired, Repaired::SameSocket);
                        let client = TcpStream::connect(listener.address());
                        listener.accept().await.expect("a client");
                        drop(client.expect("it listens"));
                    }
                });
                tell.send(()).expect("the test waits");
            });
            told.recv_timeout(Duration::from_secs(20)).expect("an accept spins");
        }
    }
}
