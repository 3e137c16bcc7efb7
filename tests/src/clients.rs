//! Plain clients over raw sockets. Every read has a deadline, so that a failing test does not hang.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::servers::PATIENCE;

/// A connection to a server.
pub struct Client(pub TcpStream);

impl Client {
    /// Connects.
    #[must_use]
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        stream.set_write_timeout(Some(PATIENCE)).expect("a deadline");
        stream.set_nodelay(true).expect("no delay");
        Self(stream)
    }

    /// Sends everything.
    pub fn send(&mut self, data: impl AsRef<[u8]>) -> &mut Self {
        self.0.write_all(data.as_ref()).expect("the server takes it");
        self
    }

    /// Reads as many bytes as expected, and checks that they are the expected ones.
    pub fn expect(&mut self, data: impl AsRef<[u8]>) -> &mut Self {
        let data = data.as_ref();
        let mut seen = vec![0; data.len()];
        self.0.read_exact(&mut seen).unwrap_or_else(|error| {
            panic!(
                "expected {:?}: {error}; saw {:?}",
                data.escape_ascii().to_string(),
                seen.escape_ascii().to_string()
            )
        });
        assert_eq!(seen.escape_ascii().to_string(), data.escape_ascii().to_string());
        self
    }

    /// Reads `count` bytes and ignores them.
    pub fn skip(&mut self, count: usize) -> &mut Self {
        self.take(count);
        self
    }

    /// Reads the next `count` bytes.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let mut seen = vec![0; count];
        self.0.read_exact(&mut seen).expect("the server sends it");
        seen
    }

    /// Sends bytes, and expects the same bytes back.
    pub fn echo(&mut self, data: impl AsRef<[u8]>) -> &mut Self {
        let data = data.as_ref();
        self.send(data).expect(data)
    }

    /// Shuts down the sending side of the connection.
    pub fn finish(&mut self) -> &mut Self {
        self.0.shutdown(Shutdown::Write).expect("the connection is open");
        self
    }

    /// Reads to the end. Returns all bytes, and whether the connection ended properly (`Ok`) or
    /// broke (`Err`).
    pub fn rest(&mut self) -> (Vec<u8>, io::Result<()>) {
        let mut seen = Vec::new();
        let outcome = self.0.read_to_end(&mut seen).map(drop);
        (seen, outcome)
    }

    /// Checks that the server closes properly, without another byte.
    pub fn expect_closed(&mut self) {
        let (seen, outcome) = self.rest();
        assert!(outcome.is_ok(), "expected a proper end, saw {outcome:?}");
        assert_eq!(seen.escape_ascii().to_string(), "");
    }

    /// Checks that the server closes or resets the connection.
    pub fn expect_gone(&mut self) {
        let (_, outcome) = self.rest();
        let kind = outcome.err().map(|error| error.kind());
        assert!(
            !matches!(kind, Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)),
            "it is still open"
        );
    }

    /// Checks that the server resets the connection.
    pub fn expect_reset(&mut self) {
        let (_, outcome) = self.rest();
        assert_eq!(outcome.err().map(|error| error.kind()), Some(io::ErrorKind::ConnectionReset));
    }
}
