//! From an admitted client to an established session: the TLS handshake, or nothing on a plaintext
//! server.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConnection;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::refusal::is_refused_by_system;
use super::socket::Socket;
use super::{Accepted, Credentials, CredentialsError, Stream};
use crate::admission::{Admitted, Permit};
use crate::event::{TlsInfo, excerpt};

/// Bytes kept of a TLS error about a peer.
const FAULT_MAX_BYTES: usize = 512;
/// Bytes of a certificate's subject. A longer subject is dropped, since two subjects could look the
/// same after a cut.
pub(super) const SUBJECT_MAX_BYTES: usize = 2 << 10;

/// How a server's clients are secured.
#[derive(Clone)]
pub struct Security(Option<TlsAcceptor>);

/// A client that may have a session: admitted, and past the handshake. Only [`Security::establish`]
/// makes one.
#[derive(Debug)]
pub struct Established {
    /// The client's address.
    pub peer: SocketAddr,
    /// The address that the client reached.
    pub local: SocketAddr,
    /// The results of the TLS handshake.
    pub tls: Option<TlsInfo>,
    stream: Stream,
    permit: Permit,
}

impl Established {
    /// Returns the byte stream, and the permit to hold while the stream is open.
    #[must_use]
    pub fn into_parts(self) -> (Stream, Permit) {
        (self.stream, self.permit)
    }
}

/// Why a client got no session. All but [`HandshakeError::Recalled`] and
/// [`HandshakeError::System`] are the peer's doing.
#[derive(Debug)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The handshake was not done within the server's timeout.
    Timeout,
    /// The connection ended or broke.
    Gone,
    /// The bytes were no TLS, or TLS that the server refuses.
    Tls(String),
    /// The system refused the host a place for the connection.
    System(io::Error),
    /// The server ended its clients meanwhile.
    Recalled,
}

impl HandshakeError {
    /// Every name.
    pub const NAMES: [&'static str; 5] = [
        "handshake-timeout",
        "handshake-gone",
        "handshake-tls",
        "handshake-refused",
        "handshake-recalled",
    ];

    /// Returns the stable name for logs and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        let [timeout, gone, tls, refused, recalled] = Self::NAMES;
        match self {
            Self::Timeout => timeout,
            Self::Gone => gone,
            Self::Tls(_) => tls,
            Self::System(_) => refused,
            Self::Recalled => recalled,
        }
    }

    /// Returns the error of TLS or of the system. Empty if the name says all.
    #[must_use]
    pub fn detail(&self) -> Cow<'_, str> {
        match self {
            Self::Timeout | Self::Gone | Self::Recalled => Cow::Borrowed(""),
            Self::Tls(detail) => Cow::Borrowed(detail.as_str()),
            Self::System(error) => Cow::Owned(error.to_string()),
        }
    }
}

impl Security {
    /// Returns security without TLS.
    #[must_use]
    pub fn plaintext() -> Self {
        Self(None)
    }

    /// Returns security by TLS with these credentials.
    ///
    /// # Errors
    /// [`CredentialsError`], naming the file.
    pub fn tls(credentials: &Credentials) -> Result<Self, CredentialsError> {
        Ok(Self(Some(TlsAcceptor::from(credentials.load()?))))
    }

    /// Returns whether there is no handshake.
    #[must_use]
    pub fn is_plaintext(&self) -> bool {
        self.0.is_none()
    }

    /// Performs the handshake, if the server has one. Has no time limit of its own. Cancel safe:
    /// dropping the future closes the connection and frees the permit.
    ///
    /// # Errors
    /// [`HandshakeError`]; the connection is closed and the permit is free.
    pub async fn establish(
        &self,
        client: Admitted<Accepted>,
    ) -> Result<Established, HandshakeError> {
        let (Accepted { stream, peer, local }, permit) = client.into_parts();
        let stream = Socket::bound(stream).map_err(HandshakeError::System)?;
        let Some(acceptor) = &self.0 else {
            return Ok(Established {
                peer,
                local,
                tls: None,
                stream: Stream::Plain(stream),
                permit,
            });
        };
        // Boxed: a handshake's state is several kilobytes, and a session keeps its task's size for
        // life.
        let handshake = Box::pin(acceptor.accept(stream));
        let stream = handshake.await.map_err(explain)?;
        let tls = Some(settled(stream.get_ref().1));
        Ok(Established { peer, local, tls, stream: Stream::Tls(Box::new(stream)), permit })
    }
}

fn explain(error: io::Error) -> HandshakeError {
    match error.kind() {
        io::ErrorKind::InvalidData => HandshakeError::Tls(excerpt(error, FAULT_MAX_BYTES)),
        _ if is_refused_by_system(&error) => HandshakeError::System(error),
        _ => HandshakeError::Gone,
    }
}

fn settled(connection: &ServerConnection) -> TlsInfo {
    let subject = connection.peer_certificates().and_then(|chain| subject(chain.first()?));
    TlsInfo {
        protocol: match connection.protocol_version() {
            Some(tokio_rustls::rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2".into(),
            _ => "TLSv1.3".into(),
        },
        cipher_suite: connection
            .negotiated_cipher_suite()
            .and_then(|suite| suite.suite().as_str().map(iana))
            .unwrap_or_default(),
        server_name: connection.server_name().map(str::to_owned),
        alpn: connection.alpn_protocol().map(|name| name.escape_ascii().to_string()),
        client_subject: subject,
    }
}

/// The subject of a certificate, if it is short enough to be told from all others.
pub(super) fn subject(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.subject().to_string()).filter(|subject| subject.len() <= SUBJECT_MAX_BYTES)
}

/// Returns the IANA name of a cipher suite. Rustls names the TLS 1.3 suites `TLS13_...`; IANA does
/// not.
fn iana(name: &str) -> String {
    name.replacen("TLS13_", "TLS_", 1)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rustix::io::Errno;

    use super::*;
    use crate::admission::{ClientCount, Gate, Networks, SharedLimits, Throttle};

    #[test]
    fn words_about_a_peer_are_short() {
        for length in [0, FAULT_MAX_BYTES, FAULT_MAX_BYTES + 1, 1 << 20] {
            let error = io::Error::new(io::ErrorKind::InvalidData, "x".repeat(length));
            let HandshakeError::Tls(said) = explain(error) else { panic!("it is of TLS") };
            assert_eq!(said.len(), length.min(FAULT_MAX_BYTES));
        }
    }

    #[tokio::test]
    async fn refused_registration_is_not_the_peers_doing() {
        let (process, tenant) = (ClientCount::up_to(0), ClientCount::up_to(0));
        let shared = SharedLimits { process, instances: None, tenant };
        let gate = Gate::new(Throttle::default(), Networks::default(), shared);
        let client = Accepted::without_events();
        let address = client.peer().ip();
        let admitted = gate.admit(client, address, Instant::now()).expect("there is room");
        let error = Security::plaintext().establish(admitted).await.expect_err("no events");
        assert_eq!((error.name(), gate.clients()), ("handshake-refused", 0));
        assert!(!error.detail().is_empty());
    }

    #[test]
    fn broken_handshakes_stay_the_peers_doing() {
        for (errno, name) in [
            (Errno::CONNRESET, "handshake-gone"),
            (Errno::PIPE, "handshake-gone"),
            (Errno::NOMEM, "handshake-refused"),
            (Errno::NOBUFS, "handshake-refused"),
        ] {
            assert_eq!(explain(errno.into()).name(), name, "{errno}");
        }
    }
}
