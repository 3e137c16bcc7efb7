//! Plays transcripts against a server over a socket, plain or over TLS.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
pub use wharf::authoring::{Act, Transcript};

use crate::certificates::Certificates;
use crate::servers::PATIENCE;

/// A client's connection. Every read has a deadline.
pub trait Wire: Read + Write + Send {
    /// Ends the sending side of the connection.
    fn finish(&mut self);
}

impl Wire for TcpStream {
    fn finish(&mut self) {
        self.shutdown(std::net::Shutdown::Write).expect("it is open");
    }
}

impl Wire for StreamOwned<ClientConnection, TcpStream> {
    fn finish(&mut self) {
        self.conn.send_close_notify();
        self.flush().expect("it is open");
    }
}

/// Reads a transcript. Panics if it is not valid.
#[must_use]
pub fn story(file: &Path) -> Transcript {
    Transcript::read(file).unwrap_or_else(|error| panic!("{error}"))
}

/// Plays a transcript, in single bytes if `bytewise`. Messages of failures begin with `name`.
pub fn play(story: &Transcript, wire: &mut dyn Wire, bytewise: bool, name: &str) {
    for (line, act) in &story.acts {
        match act {
            Act::Send(data) => {
                let pieces = if bytewise { data.chunks(1) } else { data.chunks(data.len().max(1)) };
                pieces.for_each(|piece| wire.write_all(piece).expect("the server takes it"));
                wire.flush().expect("the server takes it");
            }
            Act::Expect(data) => {
                let mut seen = vec![0; data.len()];
                let outcome = wire.read_exact(&mut seen);
                let (seen, data) =
                    (seen.escape_ascii().to_string(), data.escape_ascii().to_string());
                assert_eq!(seen, data, "{name}: line {line}: {outcome:?}");
            }
            Act::Finish => wire.finish(),
            Act::Closed => {
                let mut rest = Vec::new();
                wire.read_to_end(&mut rest).unwrap_or_else(|error| {
                    panic!("{name}: line {line}: expected a proper end: {error}")
                });
                assert_eq!(rest.escape_ascii().to_string(), "", "{name}: line {line}");
            }
        }
    }
}

/// A plain connection.
#[must_use]
pub fn plain(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    stream.set_nodelay(true).expect("an option");
    stream
}

/// A connection over TLS to a server of these certificates.
#[must_use]
pub fn secure(
    address: SocketAddr,
    certificates: &Certificates,
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(certificates.path("ca.pem")).expect("an authority"))
        .expect("an authority");
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    StreamOwned::new(
        ClientConnection::new(Arc::new(config), name).expect("a connection"),
        plain(address),
    )
}
