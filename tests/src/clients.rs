//! Plain clients over raw sockets. Every read has a deadline, so that a test that fails does not
//! hang.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

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

    /// Reads exactly what is expected.
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

    /// Reads so many bytes, whatever they are.
    pub fn skip(&mut self, count: usize) -> &mut Self {
        self.take(count);
        self
    }

    /// The next so many bytes.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let mut seen = vec![0; count];
        self.0.read_exact(&mut seen).expect("the server sends it");
        seen
    }

    /// Sends, and expects the same back.
    pub fn echo(&mut self, data: impl AsRef<[u8]>) -> &mut Self {
        let data = data.as_ref();
        self.send(data).expect(data)
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) -> &mut Self {
        self.0.shutdown(Shutdown::Write).expect("the connection is open");
        self
    }

    /// Reads to the end: all that came, and whether it ended properly (`Ok`) or broke (`Err`).
    pub fn rest(&mut self) -> (Vec<u8>, io::Result<()>) {
        let mut seen = Vec::new();
        let outcome = self.0.read_to_end(&mut seen).map(drop);
        (seen, outcome)
    }

    /// The server closes properly without another byte.
    pub fn expect_closed(&mut self) {
        let (seen, outcome) = self.rest();
        assert!(outcome.is_ok(), "expected a proper end, saw {outcome:?}");
        assert_eq!(seen.escape_ascii().to_string(), "");
    }

    /// The server ends the connection, either way.
    pub fn expect_gone(&mut self) {
        let (_, outcome) = self.rest();
        let kind = outcome.err().map(|error| error.kind());
        assert!(
            !matches!(kind, Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)),
            "it is still open"
        );
    }

    /// The server resets the connection.
    pub fn expect_reset(&mut self) {
        let (_, outcome) = self.rest();
        assert_eq!(outcome.err().map(|error| error.kind()), Some(io::ErrorKind::ConnectionReset));
    }
}

/// A port that was free a moment ago.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port()
}
