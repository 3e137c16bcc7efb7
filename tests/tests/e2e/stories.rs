//! The transcripts of the bundled plugins, found by themselves and played plain and over TLS, whole and in single bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use wharf::server::ServerHandle;
use wharf_tests::certificates::Certificates;
use wharf_tests::guests::{bundled, root};
use wharf_tests::servers::{PATIENCE, describe};
use wharf_tests::transcript::{Act, Transcript};

trait Wire: Read + Write {
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

fn folders() -> Vec<PathBuf> {
    let all = std::fs::read_dir(root().join("plugins")).expect("the plugins").map(|entry| entry.expect("one").path());
    let with: Vec<_> = all.filter(|folder| folder.join("transcript.txt").exists()).collect();
    assert!(with.len() >= 3, "the bundled plugins tell stories");
    with
}

fn play(story: &Transcript, wire: &mut dyn Wire, bytewise: bool, name: &str) {
    for act in &story.acts {
        match act {
            Act::Send(data) => {
                let pieces = if bytewise { data.chunks(1) } else { data.chunks(data.len().max(1)) };
                pieces.for_each(|piece| wire.write_all(piece).expect("the server takes it"));
                wire.flush().expect("the server takes it");
            }
            Act::Expect(data) => {
                let mut seen = vec![0; data.len()];
                let outcome = wire.read_exact(&mut seen);
                assert_eq!(seen.escape_ascii().to_string(), data.escape_ascii().to_string(), "{name}: {outcome:?}");
            }
            Act::Finish => wire.finish(),
            Act::Closed => {
                let mut rest = Vec::new();
                wire.read_to_end(&mut rest).unwrap_or_else(|error| panic!("{name}: expected a proper end: {error}"));
                assert_eq!(rest.escape_ascii().to_string(), "", "{name}");
            }
        }
    }
}

fn server(folder: &Path, story: &Transcript, certificates: Option<&Certificates>) -> ServerHandle {
    let name = folder.strip_prefix(root()).expect("inside").to_str().expect("text");
    let mut server = describe(bundled(name));
    for (key, value) in &story.settings {
        server = server.setting(key, value);
    }
    if let Some(certificates) = certificates {
        server = server.credentials(certificates.credentials());
    }
    server.start().expect("it starts")
}

fn plain(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    stream.set_nodelay(true).expect("an option");
    stream
}

#[test]
fn every_transcript_plays_whole_and_in_single_bytes() {
    for folder in folders() {
        let story = Transcript::read(&folder.join("transcript.txt"));
        let server = server(&folder, &story, None);
        for bytewise in [false, true] {
            play(&story, &mut plain(server.address()), bytewise, &folder.display().to_string());
        }
    }
}

#[test]
fn every_transcript_plays_over_tls() {
    let certificates = Certificates::new();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificates.path("ca.pem")).expect("an authority")).expect("an authority");
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    for folder in folders() {
        let story = Transcript::read(&folder.join("transcript.txt"));
        let server = server(&folder, &story, Some(&certificates));
        let name = ServerName::try_from("localhost").expect("a name");
        let connection = ClientConnection::new(Arc::clone(&config), name).expect("a connection");
        let mut wire = StreamOwned::new(connection, plain(server.address()));
        play(&story, &mut wire, false, &folder.display().to_string());
    }
}
