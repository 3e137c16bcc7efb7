//! The byte stream of one established session, plain or TLS. It moves bytes and knows no events.

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
    /// Of a connection that somebody else made.
    #[cfg(test)]
    pub(crate) fn plain(stream: TcpStream) -> io::Result<Self> {
        Ok(Self::Plain(Socket::bound(stream)?))
    }

    /// Reads what is there into `buffer`. `Ok(0)` is the peer's proper end.
    ///
    /// # Errors
    /// What the system or TLS said; `UnexpectedEof` where a TLS peer vanished without a proper end.
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

    /// The same, and asks the system itself where the reactor has heard of nothing: a stop of the
    /// process lets timers run before the reactor has looked.
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
    /// What the system or TLS said.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, data),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, data),
        }
    }

    /// Hands what TLS still holds to the system. Ready at once on a plain wire.
    ///
    /// # Errors
    /// What the system or TLS said.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    /// Says that nothing more will be sent: `close_notify` on TLS, then FIN.
    ///
    /// # Errors
    /// What the system or TLS said.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }

    /// A connection that another process has established.
    ///
    /// # Errors
    /// It is none, or the reactor takes no more. It is closed here.
    pub fn adopt(connection: OwnedFd) -> io::Result<Self> {
        let stream = TcpStream::from(connection);
        stream.set_nonblocking(true)?;
        Ok(Self::Plain(Socket::bound(stream)?))
    }

    /// Another descriptor of the connection, for another process. What TLS knows is not in it.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.socket().duplicate()
    }

    /// Closes at once; the peer sees a reset, and nothing that is queued is sent.
    pub fn reset(self) {
        // Where the option fails the connection is already gone.
        let _ = self.socket().options().map(|socket| socket.set_linger(Some(Duration::ZERO)));
    }

    /// Whether the system knows that the connection broke. Costs a system call; for callers that
    /// neither read nor write at the moment.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        !matches!(self.socket().options().map(|socket| socket.take_error()), Some(Ok(None)))
    }

    /// Bytes that the system has taken and the peer's system has not confirmed. It falls as the
    /// peer reads, long before the system has room for more. Costs a system call.
    #[must_use]
    pub fn unconfirmed(&self) -> Option<usize> {
        self.socket().unconfirmed()
    }

    /// Lets go of the reactor, to be bound to another. Nothing that the peer sent or is sent is
    /// touched.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn loosen(&mut self) -> io::Result<()> {
        self.socket_mut().loosen()
    }

    /// Binds it to the reactor of the thread that runs this.
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
