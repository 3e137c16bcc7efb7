//! The hardest packets that a peer can send, fed to a plugin without sockets.
//!
//! An event may spend half of the lowest class's fuel; an event that needs more is a fault. Every
//! session must end by the plugin's own close, at the latest after the peer has finished.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::rng::Rng;
use tokio::runtime::Runtime;
use wharf::event::{
    Action, Broadcast, Budget, ClientInfo, DisconnectReason, Event, Fault, Instance, NameError,
    Peers, Port, Priority, Procedure, READ_MAX_BYTES, Scope, SendError, WriteError,
};
use wharf::plugin::{Binding, EventProcedure, Plugin, PluginInstance};
use wharf::sched::Budgets;

/// The factor by which an event must stay below the lowest class's fuel.
const MARGIN: u64 = 2;
/// Sessions that receive a broadcast. The sender is charged for each.
const RECEIVERS: u32 = 1_000;
/// Most timers that may fire after a packet. With more, the plugin counts as endless.
const TIMERS_MAX: usize = 70_000;
/// The size of the send buffer: a server's default.
const CAPACITY_BYTES: usize = 256 << 10;
/// Packets of a flood: more than any plugin stores.
const FLOOD: usize = 4;
/// Most bytes that a session may save.
const STATE_MAX_BYTES: usize = 256 << 10;

/// A server with many sessions, of which only the session itself has the name that is looked up.
struct Room(Mutex<Option<String>>);

impl Peers for Room {
    fn client_count(&self) -> u32 {
        RECEIVERS + 1
    }
    fn broadcast(&self, _: u64, _: &[u8]) -> Box<dyn Broadcast> {
        Box::new(ToAll(0))
    }
    fn set_name(&self, _: u64, name: &str) -> Result<(), NameError> {
        *locked(&self.0) = Some(name.to_owned());
        Ok(())
    }
    fn find(&self, name: &str) -> Option<u64> {
        locked(&self.0).as_deref().is_some_and(|own| own.eq_ignore_ascii_case(name)).then_some(1)
    }
    fn send_to(&self, _: u64, _: &[u8]) -> Result<(), SendError> {
        Ok(())
    }
    fn disconnect(&self, _: u64, _: u64) -> bool {
        false
    }
}

/// A broadcast that every session takes, with the number that have taken it.
struct ToAll(u32);

impl Broadcast for ToAll {
    fn go_on(&mut self, max: usize) -> bool {
        let max = u32::try_from(max).unwrap_or(RECEIVERS);
        self.0 = self.0.saturating_add(max).min(RECEIVERS);
        self.0 < RECEIVERS
    }

    fn taken(&self) -> u32 {
        self.0
    }
}

/// The port of the session: its peer reads everything at once.
struct Wire {
    info: ClientInfo,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    now_ms: u64,
    timers: BTreeMap<u32, u64>,
    written: Vec<u8>,
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wire {
    /// Takes the timer that fires next, and moves the time on to it.
    fn next_timer(&self) -> Option<u32> {
        let mut state = locked(&self.state);
        let (id, at) = state.timers.iter().map(|(id, at)| (*id, *at)).min_by_key(|(_, at)| *at)?;
        state.timers.remove(&id);
        state.now_ms = state.now_ms.max(at);
        Some(id)
    }
}

impl Port for Wire {
    fn info(&self) -> &ClientInfo {
        &self.info
    }
    fn poll_write(&self, _: &mut Context<'_>, data: &[u8]) -> Poll<Result<(), WriteError>> {
        if data.len() > CAPACITY_BYTES {
            return Poll::Ready(Err(WriteError::TooLarge));
        }
        locked(&self.state).written.extend_from_slice(data);
        Poll::Ready(Ok(()))
    }
    fn write_capacity(&self) -> u32 {
        CAPACITY_BYTES as u32
    }
    fn priority(&self) -> Priority {
        Priority::Background
    }
    fn set_priority(&self, _: Priority) -> Priority {
        Priority::Background
    }
    fn set_timer(&self, id: u32, after_ms: u64) -> bool {
        let mut state = locked(&self.state);
        match after_ms {
            0 => drop(state.timers.remove(&id)),
            _ => {
                let at = state.now_ms + after_ms;
                state.timers.insert(id, at);
            }
        }
        true
    }
}

/// How a session is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Timers fire as soon as they can.
    Calm,
    /// Timers fire as soon as they can, and the session moves to a new instance before each event.
    HandedOver,
    /// This many packets arrive before a timer fires: the peer is faster than the plugin.
    Flooded(usize),
}

/// The result of a session.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The bytes that the plugin wrote.
    pub written: Vec<u8>,
    /// Fuel of the most expensive event.
    pub fuel: u64,
    /// Number of timers that fired.
    pub timers: usize,
}

/// The plugin under test.
pub struct Subject {
    procedure: EventProcedure,
    runtime: Runtime,
    start: Budget,
    event: Budget,
}

impl Subject {
    /// A plugin with these settings.
    #[must_use]
    pub fn new(plugin: &Arc<Plugin>, settings: &[(&str, &str)]) -> Self {
        let settings =
            settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let binding = Binding { server: "packets".into(), settings, ..Binding::default() };
        let long = Duration::from_secs(3_600);
        // Only fuel is limited. Time depends on the machine.
        let of = |budget: Budget, share: u64| Budget {
            fuel: budget.fuel / share,
            cpu: long,
            wall: long,
        };
        let budgets = Budgets::default();
        Self {
            procedure: EventProcedure::new(Arc::clone(plugin), binding),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .expect("a runtime"),
            start: of(budgets.start(Priority::Critical), 1),
            event: of(budgets.event(Priority::Background), MARGIN),
        }
    }

    /// Plays one session that gets these packets, then the peer's end.
    ///
    /// # Errors
    /// The fault, or another failure, in words.
    pub fn play(&self, packets: &[&[u8]], manner: Manner) -> Result<Outcome, String> {
        self.runtime.block_on(self.session(packets, manner))
    }

    async fn session(&self, packets: &[&[u8]], manner: Manner) -> Result<Outcome, String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 7_000));
        let info = ClientInfo {
            id: 1,
            server: "packets".into(),
            peer: address,
            local: address,
            tls: None,
            parameter: 0,
        };
        let port = Arc::new(Wire { info, state: Mutex::default() });
        let scope = Scope { port: port.clone(), peers: Arc::new(Room(Mutex::default())) };
        let instance = done("start", self.procedure.instantiate(scope.clone(), self.start)).await?;
        let (moves, ended, outcome) = (manner == Manner::HandedOver, false, Outcome::default());
        let mut play = Play { subject: self, scope, port, instance, moves, ended, outcome };
        play.event(Event::Connect).await?;
        for (number, packet) in packets.iter().enumerate() {
            for piece in packet.chunks(READ_MAX_BYTES) {
                play.event(Event::Read(piece)).await?;
            }
            let fires = match manner {
                Manner::Flooded(packets) => usize::from((number + 1) % packets == 0),
                Manner::Calm | Manner::HandedOver => TIMERS_MAX,
            };
            play.timers(fires).await?;
        }
        play.event(Event::End).await?;
        play.timers(TIMERS_MAX).await?;
        if !play.ended {
            return Err("the peer has finished, and the plugin does not close".into());
        }
        (play.ended, play.moves) = (false, false);
        play.event(Event::Disconnect(DisconnectReason::PeerClosed)).await?;
        play.outcome.written = std::mem::take(&mut locked(&play.port.state).written);
        Ok(play.outcome)
    }
}

struct Play<'a> {
    subject: &'a Subject,
    scope: Scope,
    port: Arc<Wire>,
    instance: PluginInstance,
    /// Whether the session moves to a new instance before each event.
    moves: bool,
    ended: bool,
    outcome: Outcome,
}

impl Play<'_> {
    async fn event(&mut self, event: Event<'_>) -> Result<(), String> {
        if self.ended {
            return Ok(());
        }
        if self.moves && event != Event::Connect {
            self.hand_over().await?;
        }
        let (name, before) = (event.name(), self.instance.usage().fuel);
        let action = done(name, self.instance.dispatch(event, self.subject.event)).await?;
        self.outcome.fuel = self.outcome.fuel.max(self.instance.usage().fuel - before);
        self.ended = action != Action::Proceed;
        Ok(())
    }

    async fn timers(&mut self, max: usize) -> Result<(), String> {
        for _ in 0..max {
            if self.ended {
                return Ok(());
            }
            let Some(id) = self.port.next_timer() else { return Ok(()) };
            self.outcome.timers += 1;
            self.event(Event::Timer { id }).await?;
        }
        if max == TIMERS_MAX { Err("its timers never end".into()) } else { Ok(()) }
    }

    async fn hand_over(&mut self) -> Result<(), String> {
        let Subject { procedure, start, event, .. } = self.subject;
        let state = done("save", self.instance.save(*event)).await?;
        if state.len() > STATE_MAX_BYTES {
            return Err(format!("it saves {} bytes", state.len()));
        }
        let version = procedure.version().to_owned();
        let taken = procedure.take_over(self.scope.clone(), *start, *event, &version, state);
        self.instance = done("restore", taken).await?;
        Ok(())
    }
}

async fn done<T>(what: &str, call: impl Future<Output = Result<T, Fault>>) -> Result<T, String> {
    call.await.map_err(|fault| format!("{what}: {fault}"))
}

/// Random packets from a seed.
pub struct Random(Rng);

impl Random {
    /// A generator with the seed `WHARF_SEED`, or else 1. Prints the seed.
    #[must_use]
    pub fn seeded() -> Self {
        let seed = std::env::var("WHARF_SEED")
            .map_or(1, |text| text.parse().expect("WHARF_SEED is a number"));
        eprintln!("WHARF_SEED={seed}");
        Self(Rng::seeded(seed))
    }

    /// A packet of random bytes.
    pub fn packet(&mut self) -> Vec<u8> {
        let mut packet = Vec::with_capacity(READ_MAX_BYTES);
        while packet.len() < READ_MAX_BYTES {
            packet.extend_from_slice(&self.0.throw().to_le_bytes());
        }
        packet
    }

    /// A packet of these messages in random order, the last one cut off.
    pub fn mixture(&mut self, messages: &[Vec<u8>]) -> Vec<u8> {
        let mut packet = Vec::with_capacity(2 * READ_MAX_BYTES);
        while packet.len() < READ_MAX_BYTES {
            let message = self.0.one_of(messages);
            packet.extend_from_slice(&message[..message.len().min(READ_MAX_BYTES)]);
        }
        packet.truncate(READ_MAX_BYTES);
        packet
    }
}

/// A packet of one message, repeated, the last copy cut off.
#[must_use]
pub fn repeated(message: &[u8]) -> Vec<u8> {
    message.iter().copied().cycle().take(READ_MAX_BYTES).collect()
}

/// The number of packets of each kind.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// The step through the 256 repeated bytes. Line ends are never left out.
    pub bytes_step: usize,
    /// Packets of random bytes.
    pub random: usize,
    /// Packets of random messages.
    pub mixed: usize,
}

impl Amount {
    /// All packets.
    pub const ALL: Self = Self { bytes_step: 1, random: 10_000, mixed: 50 };
    /// Fewer packets, for further settings of a plugin that gets all of them elsewhere.
    pub const SOME: Self = Self { bytes_step: 8, random: 200, mixed: 20 };
}

/// Feeds a plugin with every repeated byte, every repeated message, floods of them, mixtures and
/// random bytes. `first` is sent before each. Returns the fuel of the most expensive event. Panics
/// with the packet if a session fails.
pub fn feed(subject: &Subject, first: &[u8], messages: &[Vec<u8>], amount: Amount) -> u64 {
    let mut most = 0;
    let mut random = Random::seeded();
    let mut play = |what: &dyn Fn() -> String, packet: &[u8], manner: Manner| {
        let packets: Vec<&[u8]> = match manner {
            Manner::Flooded(_) => {
                std::iter::once(first).chain(std::iter::repeat_n(packet, FLOOD)).collect()
            }
            Manner::Calm | Manner::HandedOver => vec![first, packet],
        };
        let packets: Vec<_> = packets.into_iter().filter(|packet| !packet.is_empty()).collect();
        let outcome = subject
            .play(&packets, manner)
            .unwrap_or_else(|error| panic!("{}: {manner:?}: {error}", what()));
        most = most.max(outcome.fuel);
        outcome
    };
    for byte in (0..=u8::MAX)
        .filter(|byte| usize::from(*byte) % amount.bytes_step == 0 || matches!(byte, 10 | 13))
    {
        let what = || format!("byte {byte:#04x} repeated");
        play(&what, &repeated(&[byte]), Manner::Calm);
    }
    for message in messages {
        let shown = &message[..message.len().min(100)];
        let what = || format!("\"{}\" repeated, {} bytes", shown.escape_ascii(), message.len());
        let calm = play(&what, &repeated(message), Manner::Calm);
        let moved = play(&what, &repeated(message), Manner::HandedOver);
        assert!(
            calm.written == moved.written,
            "{}: a session that moves is answered otherwise",
            what()
        );
        for packets in [1, 3] {
            play(&what, &repeated(message), Manner::Flooded(packets));
        }
    }
    for number in 0..amount.mixed {
        play(&|| format!("mixture {number}"), &random.mixture(messages), Manner::Calm);
    }
    for number in 0..amount.random {
        play(&|| format!("random packet {number}"), &random.packet(), Manner::Calm);
    }
    most
}

/// Lines for the plugins `lines` and `chat`.
#[must_use]
pub fn lines() -> Vec<Vec<u8>> {
    let lengths =
        (0..=40).chain([63, 64, 100, 255, 256, 511, 512, 513, 1_023, 1_024, 1_025, 4_096, 65_535]);
    let endings: [&[u8]; 3] = [b"\n", b"\r\n", b"\r\r\n"];
    let all =
        lengths.flat_map(|length| endings.map(|ending| [&vec![b'x'; length][..], ending].concat()));
    all.chain([b"\xff\xfe\n".to_vec(), "ä ö ü\n".into(), b"\0\n".to_vec(), b"\n\r".to_vec()])
        .collect()
}

/// Lines for a chat: words, commands, and near misses of commands.
#[must_use]
pub fn chatter() -> Vec<Vec<u8>> {
    let names = ["", "ann", "ANN", "bob", "no-client-of-this-name", "ä"];
    let whispers = names.iter().flat_map(|name| {
        ["", " ", " x", " a longer line"].map(|words| format!("/to {name}{words}\n"))
    });
    let commands = ["/quit\n", "/quit now\n", "/to\n", "/x\n", "/\n", " /quit\n", "/TO ann x\n"]
        .map(String::from);
    let mixed = ["a\n/to ann b\n", "a\n/x\n", "a\n\n", "\r\n", "a\r\n"].map(String::from);
    let text = whispers.chain(commands).chain(mixed).map(String::into_bytes);
    text.chain(lines().into_iter().step_by(4))
        .chain([[&b"/to ann "[..], &[b'x'; 500], b"\n"].concat()])
        .collect()
}

/// HTTP requests of all methods, with bodies of many sizes, whole and partial, and texts that are
/// no requests.
#[must_use]
pub fn requests() -> Vec<Vec<u8>> {
    let methods = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "BREW",
        "get", "",
    ];
    let mut all: Vec<String> = Vec::new();
    for method in methods {
        for (target, version) in [
            ("/", "1.1"),
            ("/", "1.0"),
            ("*", "1.1"),
            ("/a?b#c", "1.1"),
            ("http://a/b", "1.1"),
            ("/", "2.0"),
        ] {
            all.push(format!("{method} {target} HTTP/{version}\r\nHost:\r\n\r\n"));
        }
        for body in [0, 1, 2, 5, 10, 100, 1_000, 4_096, 10_000, 65_000, 1 << 20] {
            let head = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: {body}\r\n\r\n");
            all.push(head + &"b".repeat(body.min(70_000)));
        }
    }
    let get = "GET / HTTP/1.1\r\nHost: a\r\n";
    for field in
        ["a:\r\n", "a: b\r\n", "Connection: close,close,close\r\n", "Connection: ,\r\n", ",:\r\n"]
    {
        for count in [1, 10, 100, 1_000, 3_000] {
            all.push(format!("{get}{}\r\n", field.repeat(count)));
        }
    }
    for size in [1_000, 8_000, 16_000, 16_384, 20_000] {
        all.push(format!("{get}X: {}\r\n\r\n", "x".repeat(size)));
        all.push(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(size)));
    }
    let whole = format!("{get}Connection: keep-alive\r\n\r\n");
    all.extend((1..whole.len()).map(|length| whole[..length].to_owned()));
    all.extend(
        ["\r\n\r\n", "GET /\r\n", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "\x16\x03\x01"]
            .map(String::from),
    );
    all.push("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".into());
    all.push("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into());
    all.into_iter().map(String::into_bytes).collect()
}
