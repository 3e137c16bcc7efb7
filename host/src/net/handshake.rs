//! From an admitted client to an established session: the TLS handshake, or nothing on a plaintext
//! server.

use std::io;
use std::net::SocketAddr;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConnection;
use x509_parser::prelude::{FromDer, X509Certificate};

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

/// Why a client got no session. All of these are the peer's doing.
#[derive(Debug)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The handshake was not done within the server's timeout.
    Timeout,
    /// The connection ended or broke.
    Gone,
    /// The bytes were no TLS, or TLS that the server refuses.
    Tls(String),
}

impl HandshakeError {
    /// Returns the stable name for logs and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Timeout => "handshake-timeout",
            Self::Gone => "handshake-gone",
            Self::Tls(_) => "handshake-tls",
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
        let stream = Socket::bound(stream).map_err(|_| HandshakeError::Gone)?;
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
        let stream = handshake.await.map_err(|error| explain(&error))?;
        let tls = Some(settled(stream.get_ref().1));
        Ok(Established { peer, local, tls, stream: Stream::Tls(Box::new(stream)), permit })
    }
}

fn explain(error: &io::Error) -> HandshakeError {
    match error.kind() {
        io::ErrorKind::InvalidData => HandshakeError::Tls(excerpt(error, FAULT_MAX_BYTES)),
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
    use super::*;

    #[test]
    fn words_about_a_peer_are_short() {
        for length in [0, FAULT_MAX_BYTES, FAULT_MAX_BYTES + 1, 1 << 20] {
            let error = io::Error::new(io::ErrorKind::InvalidData, "x".repeat(length));
            let HandshakeError::Tls(said) = explain(&error) else { panic!("it is of TLS") };
            assert_eq!(said.len(), length.min(FAULT_MAX_BYTES));
        }
    }
}
