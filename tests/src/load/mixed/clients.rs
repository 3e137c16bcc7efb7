//! Well-behaved clients. They send numbered messages, and check every byte of the answers.
//!
//! Operators send only the byte [`OPERATORS`], which no answer has, and which may come between any
//! two others. Operators may end a session at any time; all bytes until then must be right.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::place::{Kind, SPARE, Target};
use crate::load::clients::Stream;
use crate::rng::Rng;

/// The byte that operators send.
pub(super) const OPERATORS: u8 = 0xff;
/// Time that an answer may take: much longer than operators suspend or lock a server.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// Time that a chat may take to greet. A bad version never greets.
const GREETING_TIME_MAX: Duration = Duration::from_secs(3);
/// Messages of a session, from and to; and bytes of a large message.
const MESSAGES: (u64, u64) = (20, 600);
const LARGE_BYTES: u64 = 60_000;
/// Most bytes of a line for `lines` and `chat`.
const LINE_BYTES: u64 = 400;
/// Most errors that are kept with their messages. Further ones are only counted.
const WRONG_KEPT: usize = 20;

/// The state that all clients share.
pub(super) struct Shared {
    pub(super) stop: AtomicBool,
    pub(super) pace: Duration,
    pub(super) tls: TlsConnector,
    /// The whole answer of `http`.
    pub(super) page: Vec<u8>,
    pub(super) seen: Seen,
}

/// Counts of all clients.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) connections: AtomicU64,
    pub(super) messages: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) operators_bytes: AtomicU64,
    /// Sessions that ended before their client ended them.
    pub(super) cut: AtomicU64,
    pub(super) wrong: AtomicU64,
    /// How often clients misbehaved.
    pub(super) rude: AtomicU64,
    words: Mutex<Vec<String>>,
}

impl Seen {
    fn wrong(&self, words: String) {
        self.wrong.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < WRONG_KEPT {
            kept.push(words);
        }
    }

    /// The messages of the first errors.
    pub(super) fn words(&self) -> Vec<String> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Why a session is over before its client ended it.
enum Trouble {
    /// The session was ended, which operators may do.
    Cut,
    /// An error, with its message.
    Wrong(String),
}

impl From<io::Error> for Trouble {
    fn from(_: io::Error) -> Self {
        Self::Cut
    }
}

type Done<T = ()> = std::result::Result<T, Trouble>;

/// Runs one client, session after session, until `stop` is set.
pub(super) async fn talk(shared: Arc<Shared>, target: Target, number: usize, mut rng: Rng) {
    let mut connection = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        connection += 1;
        match session(&shared, &target, number, connection, &mut rng).await {
            Ok(()) => {}
            Err(Trouble::Cut) => drop(shared.seen.cut.fetch_add(1, Ordering::Relaxed)),
            Err(Trouble::Wrong(words)) => {
                shared.seen.wrong(format!(
                    "{}: client {number}, session {connection}: {words}",
                    target.name
                ));
            }
        }
        tokio::time::sleep(Duration::from_millis(rng.between(5, 100))).await;
    }
}

async fn session(
    shared: &Shared,
    target: &Target,
    number: usize,
    connection: u64,
    rng: &mut Rng,
) -> Done {
    let stream = match timeout(ANSWER_TIME_MAX, connect(target, &shared.tls, number)).await {
        Ok(Ok(stream)) => stream,
        // Only the spare server is ever stopped.
        Ok(Err(error))
            if error.kind() == io::ErrorKind::ConnectionRefused && target.name != SPARE =>
        {
            return Err(Trouble::Wrong("the system refused the connection".into()));
        }
        Ok(Err(_)) => return Err(Trouble::Cut),
        Err(_) => return Err(Trouble::Wrong(format!("no connection within {ANSWER_TIME_MAX:?}"))),
    };
    shared.seen.connections.fetch_add(1, Ordering::Relaxed);
    let mut wire = Checked { stream, seen: Vec::new(), shared };
    let name = format!("c{number}-{connection}");
    let mut others = HashMap::new();
    if target.kind == Kind::Chat {
        wire.enter(&name).await?;
    }
    for message in 0..rng.between(MESSAGES.0, MESSAGES.1) {
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let first = message * 4;
        // Now and then several messages are sent at once.
        let count = if rng.percent(20) { rng.between(2, 4) } else { 1 };
        let numbers = first..first + count;
        match target.kind {
            Kind::Echo => {
                let large = if rng.percent(1) { LARGE_BYTES } else { 3_000 };
                let sent: Vec<u8> =
                    numbers.flat_map(|at| text(&name, at, rng.between(1, large))).collect();
                wire.send(&sent).await?;
                wire.expect(&sent).await?;
            }
            Kind::Lines => {
                let sent: Vec<u8> =
                    numbers.flat_map(|at| text(&name, at, rng.between(1, LINE_BYTES))).collect();
                wire.send(&sent).await?;
                wire.expect(&sent.to_ascii_uppercase()).await?;
            }
            Kind::Http => {
                let sent: String = numbers
                    .map(|at| format!("GET /{name}/{at} HTTP/1.1\r\nHost: wharf\r\n\r\n"))
                    .collect();
                wire.send(sent.as_bytes()).await?;
                for _ in 0..count {
                    wire.expect(&shared.page).await?;
                }
            }
            Kind::Chat => wire.chat(&name, first, rng, &mut others).await?,
        }
        shared.seen.messages.fetch_add(count, Ordering::Relaxed);
        tokio::time::sleep(shared.pace.mul_f64(rng.between(50, 150) as f64 / 100.0)).await;
    }
    if rng.percent(50) {
        wire.finish(target.kind).await?;
    }
    Ok(())
}

/// Connects from an address of the client's own, over TLS if the server is secure.
pub(super) async fn connect(
    target: &Target,
    tls: &TlsConnector,
    number: usize,
) -> io::Result<Box<dyn Stream>> {
    let stream = connect_plainly(target.address, number).await?;
    stream.set_nodelay(true)?;
    if !target.secure {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    Ok(Box::new(tls.connect(name, stream).await?))
}

pub(super) async fn connect_plainly(address: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let from = [127, 0, (number / 200 % 200) as u8, (number % 200) as u8 + 2];
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    socket.connect(address).await
}

/// The whole answer of an `http` server, while no operator is at work.
pub(super) async fn page(target: &Target, tls: &TlsConnector) -> Result<Vec<u8>> {
    let mut stream = connect(target, tls, 0).await?;
    let ask = |fields: &str| format!("GET /page HTTP/1.1\r\nHost: wharf\r\n{fields}\r\n");
    let mut all = Vec::new();
    stream.write_all((ask("") + &ask("Connection: close\r\n")).as_bytes()).await?;
    stream.read_to_end(&mut all).await?;
    // Only the second answer has the header `Connection: close`, so the first one is kept.
    let second = all.windows(9).rposition(|nine| nine == b"HTTP/1.1 ").context("an answer")?;
    all.truncate(second);
    ensure!(all.starts_with(b"HTTP/1.1 200 OK\r\n"), "it answers {}", all.escape_ascii());
    Ok(all)
}

/// A message: its number and length, letters that follow from name and number, and a line end.
fn text(name: &str, number: u64, length: u64) -> Vec<u8> {
    let key =
        name.bytes().fold(0, |key: u64, byte| key.wrapping_mul(131).wrapping_add(u64::from(byte)));
    let mut rng = Rng::of(key, number);
    let mut text = format!("{number}:{length}:").into_bytes();
    for _ in 0..length.div_ceil(8) {
        text.extend(rng.throw().to_le_bytes().map(|byte| b'a' + byte % 26));
    }
    text.push(b'\n');
    text
}

/// A connection whose bytes are compared as they arrive.
struct Checked<'a> {
    stream: Box<dyn Stream>,
    seen: Vec<u8>,
    shared: &'a Shared,
}

impl Checked<'_> {
    async fn send(&mut self, bytes: &[u8]) -> Done {
        let sending = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match timeout(ANSWER_TIME_MAX, sending).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(Trouble::Wrong(format!("nothing of {} bytes was taken", bytes.len()))),
        }
    }

    /// Reads the next bytes, and drops the operators' ones. Returns false at the end.
    async fn more(&mut self, patience: Duration) -> Done<bool> {
        let mut some = [0; 16 << 10];
        let count = match timeout(patience, self.stream.read(&mut some)).await {
            Ok(count) => count?,
            Err(_) => {
                let seen = self.seen[..self.seen.len().min(80)].escape_ascii();
                return Err(Trouble::Wrong(format!("no answer within {patience:?}, after {seen}")));
            }
        };
        let before = self.seen.len();
        self.seen.extend(some[..count].iter().filter(|&&byte| byte != OPERATORS));
        let answered = self.seen.len() - before;
        self.shared.seen.bytes.fetch_add(answered as u64, Ordering::Relaxed);
        self.shared.seen.operators_bytes.fetch_add((count - answered) as u64, Ordering::Relaxed);
        Ok(count > 0)
    }

    async fn expect(&mut self, wanted: &[u8]) -> Done {
        loop {
            let common = self.seen.len().min(wanted.len());
            if let Some(at) = (0..common).find(|&at| self.seen[at] != wanted[at]) {
                let (from, to) = (at.saturating_sub(10), (at + 40).min(common));
                let [seen, wanted] =
                    [&self.seen[from..to], &wanted[from..to]].map(<[u8]>::escape_ascii);
                return Err(Trouble::Wrong(format!(
                    "at byte {at} came {seen} where {wanted} was next"
                )));
            }
            if common == wanted.len() {
                self.seen.drain(..common);
                return Ok(());
            }
            if !self.more(ANSWER_TIME_MAX).await? {
                return Err(Trouble::Cut);
            }
        }
    }

    async fn line(&mut self, patience: Duration) -> Done<String> {
        loop {
            if let Some(end) = self.seen.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.seen.drain(..=end).collect();
                let line = String::from_utf8(line);
                return line.map_err(|line| {
                    Trouble::Wrong(format!("no text: {}", line.as_bytes().escape_ascii()))
                });
            }
            if !self.more(patience).await? {
                return Err(Trouble::Cut);
            }
        }
    }

    /// Enters a chat by its name.
    async fn enter(&mut self, name: &str) -> Done {
        match self.line(GREETING_TIME_MAX).await {
            Ok(line) if line == "* your name?\n" => {}
            // A bad version lets a client in without a word, so that others are heard first.
            Ok(line) => {
                said(&line, &mut HashMap::new())?;
                return Err(Trouble::Cut);
            }
            // The server is suspended, or runs a bad version. Both happen in this test.
            Err(_) => return Err(Trouble::Cut),
        }
        self.send(format!("{name}\n").as_bytes()).await?;
        let welcome = format!("* welcome, {name}; others here: ");
        loop {
            let line = self.line(ANSWER_TIME_MAX).await?;
            if line.starts_with(&welcome) {
                return Ok(());
            }
            said(&line, &mut HashMap::new())?;
        }
    }

    /// Now and then sends a line to the whole chat. Always sends a line to itself, which must
    /// arrive.
    async fn chat(
        &mut self,
        name: &str,
        number: u64,
        rng: &mut Rng,
        others: &mut HashMap<String, u64>,
    ) -> Done {
        let line = text(name, number, rng.between(1, LINE_BYTES));
        if rng.percent(10) {
            self.send(&line).await?;
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        self.send(format!("/to {name} {line}").as_bytes()).await?;
        let own = format!("{name} (to you): {line}");
        // The line is lost if an operator has renamed the session, or if its mailbox is full.
        let lost = [format!("* nobody is called {name}\n"), format!("* {name} does not listen\n")];
        loop {
            let line = self.line(ANSWER_TIME_MAX).await?;
            if line == own || lost.contains(&line) {
                return Ok(());
            }
            said(&line, others)?;
        }
    }

    /// Ends the sending side, and reads to the end. Only lines of a chat may still come.
    async fn finish(&mut self, kind: Kind) -> Done {
        self.stream.shutdown().await?;
        while self.more(ANSWER_TIME_MAX).await? {}
        if kind != Kind::Chat && !self.seen.is_empty() {
            return Err(Trouble::Wrong(format!(
                "{} came after the last answer",
                self.seen.escape_ascii()
            )));
        }
        Ok(())
    }
}

/// Checks a line of another member of a chat: the sender, the text, and the number.
fn said(line: &str, others: &mut HashMap<String, u64>) -> Done {
    let wrong = || Err(Trouble::Wrong(format!("a chat said {line:?}")));
    // Lines of the chat itself, and of clients that misbehave.
    if line.starts_with("* ") || line.starts_with('r') {
        return Ok(());
    }
    let Some((name, rest)) = line.split_once(": ") else { return wrong() };
    let mut parts = rest.split(':').map_while(|part| part.parse::<u64>().ok());
    let (Some(number), Some(length)) = (parts.next(), parts.next()) else { return wrong() };
    if length > LINE_BYTES || text(name, number, length) != rest.as_bytes() {
        return wrong();
    }
    // A client that reads too slowly misses lines. No client gets a line twice.
    match others.insert(name.to_owned(), number) {
        Some(before) if before >= number => wrong(),
        _ => Ok(()),
    }
}
