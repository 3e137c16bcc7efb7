//! A session's socket, which can leave its reactor and enter another.

use std::io::{self, Read};
use std::net;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::ioctl::{Getter, ioctl};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection, with a reactor or without. Without a reactor it neither reads nor writes.
#[derive(Debug)]
pub struct Socket {
    tie: Binding,
    look: SocketEvents,
}

/// The source that says whether there is something to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SocketEvents {
    /// The reactor, by the events that it has seen.
    Reactor,
    /// The system, if the reactor has seen no event.
    System,
}

#[derive(Debug)]
enum Binding {
    Bound(TcpStream),
    Loose(net::TcpStream),
    /// Lost between two reactors. The connection is closed.
    Lost,
}

impl Socket {
    /// Binds a connection to the reactor of the calling thread.
    ///
    /// # Errors
    /// The reactor takes no more; the connection is closed.
    pub(super) fn bound(stream: net::TcpStream) -> io::Result<Self> {
        Ok(Self { tie: Binding::Bound(TcpStream::from_std(stream)?), look: SocketEvents::Reactor })
    }

    /// Takes the socket out of its reactor.
    ///
    /// # Errors
    /// The connection is closed.
    pub(super) fn loosen(&mut self) -> io::Result<()> {
        if let Binding::Bound(stream) = std::mem::replace(&mut self.tie, Binding::Lost) {
            self.tie = Binding::Loose(stream.into_std()?);
        }
        Ok(())
    }

    /// Binds the socket to the reactor of the calling thread, if the socket has none.
    ///
    /// # Errors
    /// The reactor takes no more; the connection is closed.
    pub(super) fn bind(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.tie, Binding::Lost) {
            Binding::Loose(stream) => self.tie = Binding::Bound(TcpStream::from_std(stream)?),
            tie => self.tie = tie,
        }
        Ok(())
    }

    /// Returns the socket's options.
    pub(super) fn options(&self) -> Option<SockRef<'_>> {
        match &self.tie {
            Binding::Bound(stream) => Some(SockRef::from(stream)),
            Binding::Loose(stream) => Some(SockRef::from(stream)),
            Binding::Lost => None,
        }
    }

    /// Returns another descriptor of the socket.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        match &self.tie {
            Binding::Bound(stream) => stream.as_fd().try_clone_to_owned(),
            Binding::Loose(stream) => stream.as_fd().try_clone_to_owned(),
            Binding::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Returns the bytes that the system has taken and the peer's system has not confirmed.
    pub(super) fn unconfirmed(&self) -> Option<usize> {
        match &self.tie {
            Binding::Bound(stream) => unconfirmed(stream.as_fd()),
            Binding::Loose(stream) => unconfirmed(stream.as_fd()),
            Binding::Lost => None,
        }
    }

    /// Sets which source says whether there is something to read.
    pub(super) fn ask(&mut self, look: SocketEvents) {
        self.look = look;
    }

    /// Reads the bytes that the system has, even if the reactor has seen no event.
    fn read_now(&self, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(socket) = self.options() else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        match (&*socket).read(into.initialize_unfilled()) {
            Ok(count) => {
                into.advance(count);
                Poll::Ready(Ok(()))
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        match &mut self.tie {
            Binding::Bound(stream) => Ok(Pin::new(stream)),
            Binding::Loose(_) | Binding::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

#[allow(unsafe_code)]
fn unconfirmed(socket: BorrowedFd<'_>) -> Option<usize> {
    // SAFETY: on a TCP socket this request writes one `int`, which is what the getter has room for.
    let bytes = unsafe { ioctl(socket, Getter::<{ libc::TIOCOUTQ as u32 }, libc::c_int>::new()) };
    bytes.ok().and_then(|bytes| usize::try_from(bytes).ok())
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.stream()?.poll_read(cx, into) {
            Poll::Pending if self.look == SocketEvents::System => self.read_now(into),
            polled => polled,
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}
