//! The byte stream of one established session, plain or TLS. The stream moves bytes and knows no
//! events.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::socket::{Socket, SocketEvents};

/// An established connection. Dropping it closes the connection.
#[derive(Debug)]
pub enum Stream {
    /// Bytes as they are.
    Plain(Socket),
    /// Bytes inside TLS.
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    /// Wraps a connection that other code made.
    #[cfg(test)]
    pub(crate) fn plain(stream: TcpStream) -> io::Result<Self> {
        Ok(Self::Plain(Socket::bound(stream)?))
    }

    /// Reads available bytes into `buffer`. `Ok(0)` is the peer's proper end.
    ///
    /// # Errors
    /// The error of the system or of TLS; `UnexpectedEof` if a TLS peer vanished without a proper
    /// end.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut into = ReadBuf::new(buffer);
        let done = match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, &mut into),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, &mut into),
        };
        done.map_ok(|()| into.filled().len())
    }

    /// Reads as [`Stream::poll_read`] does, and asks the system itself if the reactor has seen no
    /// event. After a stall of the process timers may run before the reactor has looked.
    ///
    /// # Errors
    /// As [`Stream::poll_read`].
    pub fn poll_read_late(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.socket_mut().ask(SocketEvents::System);
        let done = self.poll_read(cx, buffer);
        self.socket_mut().ask(SocketEvents::Reactor);
        done
    }

    /// Writes some of `data`.
    ///
    /// # Errors
    /// The error of the system or of TLS.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, data),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, data),
        }
    }

    /// Sends the bytes that TLS still holds to the system. Ready at once on a plain stream.
    ///
    /// # Errors
    /// The error of the system or of TLS.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    /// Ends sending: `close_notify` on TLS, then FIN.
    ///
    /// # Errors
    /// The error of the system or of TLS.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }

    /// Takes over a connection that another process has established.
    ///
    /// # Errors
    /// The descriptor is no connection, or the reactor takes no more. It is closed here.
    pub fn adopt(connection: OwnedFd) -> io::Result<Self> {
        let stream = TcpStream::from(connection);
        stream.set_nonblocking(true)?;
        Ok(Self::Plain(Socket::bound(stream)?))
    }

    /// Returns another descriptor of the connection, for another process. TLS's state is not in it.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.socket().duplicate()
    }

    /// Closes at once. The peer sees a reset, and queued bytes are not sent.
    pub fn reset(self) {
        // If the option fails, the connection is already gone.
        let _ = self.socket().options().map(|socket| socket.set_linger(Some(Duration::ZERO)));
    }

    /// Returns whether the system knows that the connection broke. Costs a system call. For callers
    /// that neither read nor write at the moment.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        !matches!(self.socket().options().map(|socket| socket.take_error()), Some(Ok(None)))
    }

    /// Returns the bytes that the system has taken and the peer's system has not confirmed. The
    /// number falls as the peer reads, long before the system has room for more. Costs a system
    /// call.
    #[must_use]
    pub fn unconfirmed(&self) -> Option<usize> {
        self.socket().unconfirmed()
    }

    /// Takes the stream out of its reactor, so that it can enter another. Bytes in either direction
    /// stay untouched.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn loosen(&mut self) -> io::Result<()> {
        self.socket_mut().loosen()
    }

    /// Binds the stream to the reactor of the calling thread.
    ///
    /// # Errors
    /// The reactor takes no more; the connection is closed.
    pub fn bind(&mut self) -> io::Result<()> {
        self.socket_mut().bind()
    }

    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    fn socket_mut(&mut self) -> &mut Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.get_mut().0,
        }
    }
}
