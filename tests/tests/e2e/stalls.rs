//! A process that stands still for longer than any of its deadlines. It answers what arrived by
//! then, and its peers are not blamed for the time in which it stood still.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};
use wharf_tests::certificates::Certificates;
use wharf_tests::clients::Client;
use wharf_tests::guests::component;
use wharf_tests::ports::free_port;
use wharf_tests::process::Wharf;
use wharf_tests::readers::{PIECE_BYTES, Reader, THINKER, writer_component};
use wharf_tests::seeds::Seed;
use wharf_tests::servers::PATIENCE;

/// Every deadline of these servers.
const DEADLINE: Duration = Duration::from_secs(3);
/// How long the process stands still.
const STOP: Duration = Duration::from_secs(5);
/// Pieces that a client asks for: more than the buffers of the kernel take.
const PIECES: u8 = 120;

/// A plugin that closes its sessions when they idle.
const CLOSER: &str = "(func $on-timeout (param $idle i64) (result i32) (i32.const 1))";

/// What a session waits for when the process stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Idle,
    FirstByte,
    OnTimeout,
    Handshake,
    ProxyHeader,
    Event,
    Reader,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Idle,
        Self::FirstByte,
        Self::OnTimeout,
        Self::Handshake,
        Self::ProxyHeader,
        Self::Event,
        Self::Reader,
    ];

    /// The table of this kind's server in the configuration.
    fn table(self, port: u16) -> String {
        let seconds = DEADLINE.as_secs();
        let (plugin, more) = match self {
            Self::Idle => ("polite", format!("[server.timeouts]\nidle = '{seconds}s'")),
            Self::FirstByte => ("polite", format!("[server.timeouts]\nfirst_byte = '{seconds}s'")),
            Self::OnTimeout => ("closer", format!("timeout = '{seconds}s'")),
            Self::Handshake => (
                "polite",
                format!(
                    "options = ['secure']\n[server.timeouts]\nhandshake = \
                     '{seconds}s'\n[server.credentials]\n\
                     certificate_chain = 'server.pem'\nprivate_key = 'server.key'"
                ),
            ),
            Self::ProxyHeader => (
                "polite",
                format!("proxies = ['127.0.0.0/8']\n[server.timeouts]\nhandshake = '{seconds}s'"),
            ),
            Self::Event => (
                "thinker",
                format!(
                    "[server.budgets.normal]\nfuel = 1000000000000\ncpu = '60s'\nwall = \
                     '{seconds}s'"
                ),
            ),
            Self::Reader => ("writer", format!("[server.timeouts]\nwrite = '{seconds}s'")),
        };
        format!(
            "[[server]]\nname = '{self:?}'\nhost = '127.0.0.1'\nport = {port}\nplugin = \
             '{plugin}.wasm'\n{more}\n"
        )
    }
}

/// One client, from before the stop to its answer.
struct Waiting {
    kind: Kind,
    client: Reader,
    tls: Option<(ClientConnection, Vec<u8>)>,
}

impl Waiting {
    fn begin(kind: Kind, address: SocketAddr, roots: &Arc<ClientConfig>) -> Self {
        let mut client = Reader::connect(address);
        let mut tls = None;
        match kind {
            Kind::Idle | Kind::OnTimeout => _ = client.0.echo("before"),
            Kind::FirstByte => {}
            Kind::ProxyHeader => _ = client.0.send("PROXY TCP4 192.0.2"),
            Kind::Event => _ = client.0.send("x"),
            Kind::Reader => _ = client.ask(PIECES),
            Kind::Handshake => {
                let name = "localhost".try_into().expect("a name");
                let mut connection =
                    ClientConnection::new(Arc::clone(roots), name).expect("a client");
                let mut hello = Vec::new();
                connection.write_tls(&mut hello).expect("into memory");
                let rest = hello.split_off(hello.len() / 2);
                client.0.send(&hello);
                tls = Some((connection, rest));
            }
        }
        Self { kind, client, tls }
    }

    /// Sends what the client sends while the process stands still, or just after.
    fn go_on(&mut self) {
        match (self.kind, &self.tls) {
            (Kind::Idle | Kind::FirstByte | Kind::OnTimeout, _) => _ = self.client.0.send("x"),
            (Kind::ProxyHeader, _) => _ = self.client.0.send(".1 192.0.2.2 4000 80\r\nx"),
            (Kind::Handshake, Some((_, rest))) => _ = self.client.0.send(rest),
            // The event runs or the answer waits, so the client sends nothing more.
            _ => {}
        }
    }

    /// Whether the client gets its answer.
    fn is_answered(&mut self) -> bool {
        let stream = &mut self.client.0.0;
        let mut seen = [0];
        match &mut self.tls {
            Some((connection, _)) => {
                let mut tls = Stream::new(connection, stream);
                tls.write_all(b"x").is_ok() && tls.read_exact(&mut seen).is_ok() && seen == *b"x"
            }
            None if self.kind == Kind::Reader => {
                let mut all = vec![0; usize::from(PIECES) * PIECE_BYTES];
                stream.read_exact(&mut all).is_ok()
            }
            None => stream.read_exact(&mut seen).is_ok() && seen == *b"x",
        }
    }
}

/// Starts a process with a server for each kind. Returns it with their addresses.
fn run(folder: &Path, certificates: &Certificates) -> (Wharf, Vec<(Kind, SocketAddr)>) {
    let keep = |name: &str, bytes: Vec<u8>| std::fs::write(folder.join(name), bytes).expect("kept");
    keep("polite.wasm", component(""));
    keep("closer.wasm", component(CLOSER));
    keep("thinker.wasm", component(THINKER));
    keep("writer.wasm", writer_component('a'));
    for name in ["server.pem", "server.key"] {
        std::fs::copy(certificates.path(name), folder.join(name)).expect("kept");
    }
    let (mut text, mut addresses) = ("[host]\nsessions_max = 64\n".to_owned(), Vec::new());
    for kind in Kind::ALL {
        let port = free_port();
        text += &kind.table(port);
        addresses.push((kind, SocketAddr::from(([127, 0, 0, 1], port))));
    }
    keep("wharf.toml", text.into_bytes());
    let wharf = Wharf::run(&["serve"], folder);
    Kind::ALL.iter().for_each(|_| drop(wharf.says("server started")));
    (wharf, addresses)
}

fn roots(certificates: &Certificates) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let authority =
        CertificateDer::from_pem_file(certificates.path("ca.pem")).expect("an authority");
    roots.add(authority).expect("it is one");
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Arc::new(config.expect("versions").with_root_certificates(roots).with_no_client_auth())
}

#[test]
fn standing_still_costs_no_session() {
    let mut seed = Seed::of_this_run();
    let (certificates, folder) = (Certificates::new(), tempfile::tempdir().expect("a folder"));
    let (wharf, addresses) = run(folder.path(), &certificates);
    let roots = roots(&certificates);
    // Once before the stop, so that every server has compiled and met a client.
    for (kind, address) in &addresses {
        let mut first = Waiting::begin(*kind, *address, &roots);
        first.go_on();
        assert!(first.is_answered(), "{kind:?} before the stop");
    }
    let begun = Instant::now();
    let mut waiting: Vec<_> = (0..28)
        .map(|number| {
            if number % Kind::ALL.len() == 0 {
                thread::sleep(seed.millis(0, 150));
            }
            let (kind, address) = addresses[number % Kind::ALL.len()];
            Waiting::begin(kind, address, &roots)
        })
        .collect();
    assert!(begun.elapsed() < DEADLINE / 2, "too slow to show anything: {:?}", begun.elapsed());
    wharf.signal(Signal::STOP);
    let stopped = Instant::now();
    // Some clients go on during the stop, and some just after it: they had time left.
    let (mut early, mut late): (Vec<_>, Vec<_>) =
        waiting.iter_mut().partition(|_| seed.below(4) > 0);
    for client in &mut early {
        thread::sleep(seed.millis(0, 150));
        client.go_on();
    }
    thread::sleep(STOP.saturating_sub(stopped.elapsed()));
    wharf.signal(Signal::CONT);
    thread::sleep(seed.millis(0, 300));
    late.iter_mut().for_each(|client| client.go_on());
    // In parallel, because from now on each client has its own deadline.
    let lost: Vec<_> = thread::scope(|scope| {
        let asked =
            waiting.iter_mut().map(|client| (client.kind, scope.spawn(|| client.is_answered())));
        let asked: Vec<_> = asked.collect();
        let lost = asked
            .into_iter()
            .filter_map(|(kind, answered)| (!answered.join().expect("no panic")).then_some(kind));
        lost.collect()
    });
    if !lost.is_empty() {
        // Fails and prints everything that the process logged.
        wharf.signal(Signal::TERM);
        wharf.says(&format!("anything of the lost {lost:?}"));
    }
}

#[test]
fn silence_after_a_stop_still_ends_sessions() {
    let (certificates, folder) = (Certificates::new(), tempfile::tempdir().expect("a folder"));
    let (wharf, addresses) = run(folder.path(), &certificates);
    let silent = [
        Kind::Idle,
        Kind::FirstByte,
        Kind::OnTimeout,
        Kind::Handshake,
        Kind::ProxyHeader,
        Kind::Reader,
    ];
    let roots = roots(&certificates);
    let of = |kind| addresses.iter().find(|(other, _)| *other == kind).expect("it has a server").1;
    let mut waiting: Vec<_> = silent.map(|kind| Waiting::begin(kind, of(kind), &roots)).into();
    wharf.signal(Signal::STOP);
    thread::sleep(Duration::from_secs(1));
    wharf.signal(Signal::CONT);
    // A peer whose system still confirms bytes at first has the write timeout once more.
    thread::sleep(DEADLINE * 3);
    for client in &mut waiting {
        let mut stream: &TcpStream = &client.client.0.0;
        stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        // The connection is closed or reset after the bytes that were queued.
        let outcome = stream.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
        let open = [Err(std::io::ErrorKind::WouldBlock), Err(std::io::ErrorKind::TimedOut)];
        assert!(!open.contains(&outcome.map(|_| ())), "{:?} is still open", client.kind);
    }
    Client::connect(of(Kind::Idle)).echo("and it serves");
}
