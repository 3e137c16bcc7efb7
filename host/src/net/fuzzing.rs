//! Checks of what comes from clients, from proxies, from another process, and out of PEM files: see
//! `crate::fuzzing`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::thread;

use futures_util::FutureExt;

use super::fd_channel::{BODY_MAX_BYTES, FRAME_BYTES, FdChannel, HEAD_MAX_BYTES};
use super::handshake::{SUBJECT_MAX_BYTES, subject};
use super::memfd::SnapshotFile;
use super::proxy::{self, ProxyError, V2_MAX_BYTES, V2_START_BYTES};
use super::{ClientCertificate, Credentials, ProtocolMin, Security};
use crate::files::scratch;

/// Bytes of an input that are sent to another end. A socket takes them without a reader.
const SENT_MAX_BYTES: usize = 64 << 10;

type Told = Option<(std::net::SocketAddr, std::net::SocketAddr)>;

/// What the header says, and how many bytes were read for it.
fn header(bytes: &[u8]) -> (Result<Told, ProxyError>, usize) {
    let mut left = bytes;
    let read = proxy::header(&mut left).now_or_never().expect("bytes do not wait");
    (read, bytes.len() - left.len())
}

/// The PROXY header is read exactly: bytes after it change nothing. Its beginning alone is no
/// header. Addresses are read again from the text that they have in version 1.
pub fn proxy_header(bytes: &[u8]) -> bool {
    let (read, taken) = header(bytes);
    assert!(taken <= V2_START_BYTES + V2_MAX_BYTES, "{taken} bytes were read");
    let told = match read {
        Ok(told) => told,
        Err(ProxyError::Gone(error)) => {
            assert_eq!((error.kind(), taken), (io::ErrorKind::UnexpectedEof, bytes.len()));
            return false;
        }
        Err(fault) => {
            let said = fault.to_string();
            assert!(fault.name() == "proxy-header" && said.len() <= 1 << 10, "{said}");
            return false;
        }
    };
    let (again, exact) = header(&[&bytes[..taken], b"\r\nPROXY \0"].concat());
    assert_eq!((again.ok(), exact), (Some(told), taken), "something follows");
    for cut in [0, taken / 2, taken - 1] {
        assert!(matches!(header(&bytes[..cut]).0, Err(ProxyError::Gone(_))), "{cut} of {taken}");
    }
    if let Some((source, destination)) = told {
        let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
        let (from, to) = (source.ip(), destination.ip());
        let ports = (source.port(), destination.port());
        let text = format!("PROXY {family} {from} {to} {} {}\r\n", ports.0, ports.1);
        assert_eq!(header(text.as_bytes()).0.ok(), Some(told), "{text:?}");
    }
    true
}

/// The subject of a client's certificate is short, or is none.
pub fn client_certificate(bytes: &[u8]) -> bool {
    let subject = subject(bytes);
    assert!(subject.as_ref().is_none_or(|subject| subject.len() <= SUBJECT_MAX_BYTES));
    subject.is_some()
}

/// The messages of a channel are as large as they say, and the same when they are sent again.
pub fn fd_channel(bytes: &[u8]) -> bool {
    let bytes = &bytes[..bytes.len().min(SENT_MAX_BYTES)];
    let messages = received(bytes);
    let (mut near, far) = FdChannel::pair().expect("descriptors");
    // Thousands of small messages do not fit into a socket.
    let reading = thread::spawn(move || {
        let mut again = Vec::new();
        UnixStream::from(far).read_to_end(&mut again).map(|_| again)
    });
    for (head, body) in &messages {
        assert!(head.len() <= HEAD_MAX_BYTES && body.len() <= BODY_MAX_BYTES);
        near.send(head, body, None).expect("it came like this");
    }
    drop(near);
    let again = reading.join().expect("no panic").expect("the other end is closed");
    assert!(bytes.starts_with(&again), "other bytes were sent than came");
    !messages.is_empty()
}

/// Every whole message in these bytes, without descriptors.
fn received(bytes: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (near, far) = UnixStream::pair().expect("descriptors");
    (&near).write_all(bytes).expect("room");
    drop(near);
    let mut channel = FdChannel::given(far.into());
    let mut messages = Vec::new();
    while let Ok(message) = channel.receive() {
        messages.push((message.head, message.body));
    }
    messages
}

/// A snapshot file is as long as it says, is written as it is read, and is void once it is voided.
pub fn snapshot_file(bytes: &[u8]) -> bool {
    scratch::with_file(bytes, |path| {
        let file = File::options().read(true).write(true).open(path).expect("an own file");
        let snapshot = SnapshotFile::open(file.into()).expect("a file");
        let (head, body) = (snapshot.head(), snapshot.body());
        assert_eq!(head.is_ok(), body.is_ok());
        let taken = match head.and_then(|head| Ok((head, body?))) {
            Ok((head, body)) => {
                assert_eq!(bytes.len(), FRAME_BYTES + head.len() + body.len());
                let written = SnapshotFile::write(&head, &[&body]).expect("memory");
                let mut again = vec![0; bytes.len()];
                let written = File::from(written.as_fd().try_clone_to_owned().expect("its own"));
                written.read_exact_at(&mut again, 0).expect("as long as it says");
                assert_eq!(again, bytes);
                true
            }
            Err(error) => {
                let kinds = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
                assert!(kinds.contains(&error.kind()), "{error}");
                false
            }
        };
        snapshot.void().expect("an own file");
        assert!(snapshot.head().is_err() && snapshot.body().is_err());
        taken
    })
}

/// A PEM file as certificate chain, key and authority at once. Each refusal names the file.
pub fn tls_files(bytes: &[u8]) -> bool {
    scratch::with_file(bytes, |path| {
        let credentials = Credentials {
            certificate_chain: path.into(),
            private_key: path.into(),
            protocol_min: ProtocolMin::Tls12,
            alpn: Vec::new(),
            client_authority: Some(path.into()),
            client_certificate: ClientCertificate::Required,
        };
        match Security::tls(&credentials) {
            Ok(_) => true,
            Err(error) => {
                let said = error.to_string();
                assert!(said.contains(&path.display().to_string()), "{said}");
                assert!(said.len() <= 4 << 10, "{} bytes: {said:.100}", said.len());
                false
            }
        }
    })
}
