//! Clients that keep a server busy and count its answers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Longest latency the histograms hold, in microseconds.
const LATENCY_MAX_US: u64 = 60_000_000;

/// The shape of a round of load.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Clients at a time.
    pub connections: usize,
    /// Bytes of a message.
    pub size: usize,
    /// Messages in flight on each connection.
    pub depth: usize,
    /// Length of the round.
    pub time: Duration,
}

/// The result of a round of load.
#[derive(Debug)]
pub struct Seen {
    /// Messages (or connections) per second.
    pub rate: f64,
    /// Time from sending a message to the end of its echo, in microseconds.
    pub latency: Histogram<u64>,
}

/// Exchanges messages with an echo over connections that stay open.
///
/// # Errors
/// A connection failed, or an echo differed from what was sent.
pub async fn messages(address: SocketAddr, shape: Shape) -> Result<Seen> {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..shape.connections {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        clients.spawn(talk(stream, shape, Arc::clone(&stop), Arc::clone(&count)));
    }
    measure(clients, shape, &stop, &count).await
}

/// Lets the clients warm up, counts for the time of the round, stops them and adds up their
/// results.
async fn measure(
    mut clients: JoinSet<Result<Histogram<u64>>>,
    shape: Shape,
    stop: &AtomicBool,
    count: &AtomicU64,
) -> Result<Seen> {
    tokio::time::sleep(shape.time / 10).await;
    let (before, start) = (count.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(shape.time).await;
    let (after, lasted) = (count.load(Ordering::Relaxed), start.elapsed());
    stop.store(true, Ordering::Relaxed);
    let mut latency = Histogram::new_with_max(LATENCY_MAX_US, 3)?;
    while let Some(one) = clients.join_next().await {
        latency.add(one??)?;
    }
    Ok(Seen { rate: (after - before) as f64 / lasted.as_secs_f64(), latency })
}

async fn talk(
    mut stream: TcpStream,
    shape: Shape,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
) -> Result<Histogram<u64>> {
    let mut latency = Histogram::new_with_max(LATENCY_MAX_US, 3)?;
    let out: Vec<u8> =
        (0..shape.size * shape.depth).map(|at| (at % shape.size % 251) as u8).collect();
    let mut inbox = vec![0; (shape.size * shape.depth).max(4_096)];
    let (mut at, mut sent) = (0, Instant::now());
    // Both directions run at once: a window larger than the sockets' buffers would wait for itself.
    let (mut reader, mut writer) = stream.split();
    let mut owed: usize = shape.size * shape.depth;
    let mut flying = 0;
    while !stop.load(Ordering::Relaxed) || flying > 0 {
        if stop.load(Ordering::Relaxed) {
            owed = 0;
        }
        let take = out.len().min(owed);
        tokio::select! {
            biased;
            written = writer.write(&out[..take]), if take > 0 => {
                let written = written?;
                // The rest of a message that was written in part.
                let partial = written % shape.size;
                if partial > 0 {
                    writer.write_all(&out[partial..shape.size]).await?;
                }
                let whole = written.div_ceil(shape.size) * shape.size;
                owed -= whole;
                flying += whole;
            }
            read = reader.read(&mut inbox) => {
                let read = read?;
                ensure!(read > 0, "the server closed the connection");
                ensure!(inbox[0] == (at % shape.size % 251) as u8, "the echo differs");
                let done = (at + read) / shape.size;
                at = (at + read) % shape.size;
                flying -= read;
                owed += done * shape.size;
                count.fetch_add(done as u64, Ordering::Relaxed);
                if done > 0 {
                    latency.saturating_record(sent.elapsed().as_micros() as u64);
                    sent = Instant::now();
                }
            }
        }
    }
    Ok(latency)
}

/// Connects, exchanges one message and closes, again and again.
///
/// # Errors
/// A connection failed.
pub async fn connections(address: SocketAddr, shape: Shape) -> Result<Seen> {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..shape.connections {
        let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
        clients.spawn(async move {
            let mut latency = Histogram::<u64>::new_with_max(LATENCY_MAX_US, 3)?;
            let (out, mut inbox) = (vec![7; shape.size], vec![0; shape.size]);
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                let mut stream = connect(address).await?;
                stream.write_all(&out).await?;
                stream.read_exact(&mut inbox).await?;
                drop(stream);
                latency.saturating_record(start.elapsed().as_micros() as u64);
                count.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(latency)
        });
    }
    measure(clients, shape, &stop, &count).await
}

/// Connects from one loopback address after the other. A closed connection keeps its port for a
/// minute, so a single address would run out of ports within a second. The measurement would then
/// be of the search for a free port.
pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let from =
        SocketAddr::from(([127, 0, (number / 250 % 250) as u8, (number % 250) as u8 + 2], 0));
    let socket = TcpSocket::new_v4()?;
    socket.bind(from)?;
    Ok(socket.connect(address).await?)
}

/// A connection that is held open, plain or over TLS.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Connections that are held open. Dropping this closes them.
pub struct Held(Vec<Box<dyn Stream>>);

impl Held {
    /// The number of connections.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// Opens `count` connections, exchanges one message on each, and returns them open. With an
/// authority's certificate the connections use TLS.
///
/// # Errors
/// A connection failed.
pub async fn hold(address: SocketAddr, count: usize, authority: Option<&Path>) -> Result<Held> {
    let tls = authority.map(connector).transpose()?;
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let stream = TcpStream::connect(address).await?;
        let mut stream: Box<dyn Stream> = match &tls {
            Some(tls) => Box::new(tls.connect(ServerName::try_from("localhost")?, stream).await?),
            None => Box::new(stream),
        };
        stream.write_all(b"hello").await?;
        let mut echo = [0; 5];
        stream.read_exact(&mut echo).await?;
        ensure!(&echo == b"hello", "the echo differs");
        held.push(stream);
    }
    Ok(Held(held))
}

/// A connector for TLS to servers of this authority.
///
/// # Errors
/// The certificate cannot be read.
pub fn connector(authority: &Path) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority)?)?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth())))
}
