//! The catalogue of occurrences. `emit` writes the line and counts.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::counters::Kind;
use super::{Bucket, Counters, RevisionMetrics, Spent};
use crate::event::{EXCERPT_MAX_BYTES, Fault, NAME_MAX_BYTES, Origin, Priority, excerpt};

/// The threads for sessions run.
#[derive(Debug)]
pub struct LanesStarted<'a> {
    /// In each lane.
    pub threads: usize,
    /// What the kernel gave those of critical sessions.
    pub fast: &'a str,
    /// What it gave those of background sessions.
    pub idle: &'a str,
}

impl LanesStarted<'_> {
    /// Logs it.
    pub fn emit(&self) {
        let Self { threads, fast, idle } = self;
        info!(threads, fast, idle, "lanes");
    }
}

/// A server listens.
#[derive(Debug)]
pub struct ServerStarted<'a> {
    /// Its name.
    pub server: &'a str,
    /// Where.
    pub address: SocketAddr,
    /// Plain or TLS.
    pub secure: bool,
    /// What handles its sessions.
    pub plugin: &'a str,
}

impl ServerStarted<'_> {
    /// Logs it.
    pub fn emit(&self) {
        let Self { server, address, secure, plugin } = self;
        let protocol = if *secure { "tls" } else { "plaintext" };
        info!(server, %address, protocol, plugin, "listening");
    }
}

/// A socket of the control API does not listen any more, or cannot be opened again.
#[derive(Debug)]
pub struct ControlBroken<'a> {
    /// The path or the address.
    pub place: &'a str,
    /// What is in the way.
    pub error: &'a dyn std::error::Error,
}

impl ControlBroken<'_> {
    /// Logs it. At most once a second for each of the two doors.
    pub fn emit(&self) {
        let Self { place, error } = self;
        warn!(place, %error, "the control API does not listen here, and is opened again");
    }
}

/// A socket of the control API listens again.
#[derive(Debug)]
pub struct ControlReopened<'a> {
    /// The path or the address.
    pub place: &'a str,
}

impl ControlReopened<'_> {
    /// Logs it.
    pub fn emit(&self) {
        warn!(place = self.place, "the control API listens here again");
    }
}

/// Something happened to a server as a whole.
#[derive(Debug)]
pub struct ServerNotice<'a> {
    /// Its name.
    pub server: &'a str,
    /// What happened.
    pub occurrence: &'static str,
    /// What it is doing since.
    pub status: &'static str,
    /// Sessions that had to be cut off for it.
    pub cut_off: usize,
}

impl ServerNotice<'_> {
    /// Logs and counts it.
    pub fn emit(&self, counters: &Counters) {
        let Self { server, occurrence, status, cut_off } = self;
        counters.count(Kind::Notice, occurrence);
        info!(server, status, cut_off, "server {occurrence}");
    }
}

/// Newcomers are shown other credentials.
#[derive(Debug)]
pub struct CredentialsRenewed<'a> {
    /// The server.
    pub server: &'a str,
    /// The file they came from.
    pub file: &'a Path,
}

impl CredentialsRenewed<'_> {
    /// Logs and counts it.
    pub fn emit(&self, counters: &Counters) {
        counters.count(Kind::Notice, "credentials-renewed");
        info!(server = self.server, file = %self.file.display(), "newcomers are shown these \
            credentials");
    }
}

/// Somebody asked the control API to change something.
#[derive(Debug)]
pub struct ControlRequest<'a> {
    /// By which method.
    pub method: &'a str,
    /// What.
    pub path: &'a str,
    /// What came of it.
    pub status: u16,
}

impl ControlRequest<'_> {
    /// Logs it where `lines` lets it pass.
    pub fn emit(&self, lines: &Bucket) {
        let Self { method, path, status } = self;
        if let Some(suppressed) = lines.pass(Instant::now()) {
            let (method, path) =
                (excerpt(method, NAME_MAX_BYTES), excerpt(path, EXCERPT_MAX_BYTES));
            info!(method, path, status, suppressed, "control request");
        }
    }
}

/// The control API is open.
#[derive(Debug)]
pub struct ControlOpened<'a> {
    /// Its socket.
    pub socket: &'a Path,
    /// Its loopback address.
    pub address: Option<SocketAddr>,
}

impl ControlOpened<'_> {
    /// Logs it.
    pub fn emit(&self) {
        let address = self.address.map(|address| address.to_string());
        info!(socket = %self.socket.display(), address, "the control API is open");
    }
}

/// A lock was taken back because its time was over.
#[derive(Debug)]
pub struct LockExpired<'a> {
    /// The server.
    pub server: &'a str,
    /// How long it was held.
    pub hold: Duration,
}

impl LockExpired<'_> {
    /// Logs and counts it.
    pub fn emit(&self, counters: &Counters) {
        counters.count(Kind::Notice, "lock-expired");
        warn!(server = self.server, hold = ?self.hold, "the lock was not given back in time and is \
            open again");
    }
}

/// A plugin faulted again and again.
#[derive(Debug)]
pub struct BreakerTripped<'a> {
    /// The server.
    pub server: &'a str,
    /// How long newcomers wait.
    pub pause: Duration,
}

impl BreakerTripped<'_> {
    /// Logs it.
    pub fn emit(&self) {
        warn!(server = self.server, pause = ?self.pause, "the plugin faults again and again: \
            newcomers wait for a while");
    }
}

/// A plugin came from a registry, or from what is kept of it.
#[derive(Debug)]
pub struct PluginPulled<'a> {
    /// The reference by which it was asked for.
    pub wanted: &'a str,
    /// Its reference, with the digest of what came.
    pub reference: &'a str,
    /// Where it was: the registry, or the store.
    pub from: &'a str,
    /// The key that has signed it, where that was asked for.
    pub signed_by: Option<&'a str>,
}

impl PluginPulled<'_> {
    /// Logs it.
    pub fn emit(&self) {
        let Self { wanted, reference, from, signed_by } = self;
        info!(wanted, reference, from, signed_by, "plugin pulled");
    }
}

/// Accepting pauses because the machine is out of something.
#[derive(Debug)]
pub struct AcceptPaused<'a> {
    /// The server.
    pub server: &'a str,
    /// What the system said.
    pub error: &'a io::Error,
    /// For how long.
    pub pause: Duration,
    /// Newcomers that were refused by means of the descriptor in reserve.
    pub turned_away: usize,
}

impl AcceptPaused<'_> {
    /// Counts it, and logs it where `lines` lets it pass.
    pub fn emit(&self, counters: &Counters, lines: &Bucket) {
        let Self { server, error, pause, turned_away } = self;
        counters.count(Kind::Notice, "accept-paused");
        counters.add(Kind::Refused, "overload", *turned_away as u64);
        (0..*turned_away).for_each(|_| counters.accepted());
        if let Some(suppressed) = lines.pass(Instant::now()) {
            warn!(server, %error, ?pause, turned_away, suppressed, "accepting pauses: the host is \
                out of resources");
        }
    }
}

/// The listening socket does not listen any more.
#[derive(Debug)]
pub struct AcceptStopped<'a> {
    /// The server.
    pub server: &'a str,
    /// What the system said.
    pub error: &'a io::Error,
}

impl AcceptStopped<'_> {
    /// Counts it, and logs it where `lines` lets it pass.
    pub fn emit(&self, counters: &Counters, lines: &Bucket) {
        let Self { server, error } = self;
        counters.count(Kind::Notice, "accept-stopped");
        if let Some(suppressed) = lines.pass(Instant::now()) {
            warn!(server, %error, suppressed, "accepting stopped: the listening socket failed");
        }
    }
}

/// A server cannot listen. It is tried again without end.
#[derive(Debug)]
pub struct NotListening<'a> {
    /// The server.
    pub server: &'a str,
    /// What is in the way.
    pub why: &'a str,
}

impl NotListening<'_> {
    /// Logs it. The notice that follows is counted.
    pub fn emit(&self) {
        let Self { server, why } = self;
        warn!(server, why, "the server cannot listen, and tries again without end");
    }
}

/// The listening socket works again.
#[derive(Debug)]
pub struct AcceptRepaired<'a> {
    /// The server.
    pub server: &'a str,
    /// Whether by the `same` socket or by a `new` one at the same address.
    pub socket: &'static str,
}

impl AcceptRepaired<'_> {
    /// Counts it, and logs it where `lines` lets it pass.
    pub fn emit(&self, counters: &Counters, lines: &Bucket) {
        let Self { server, socket } = self;
        counters.count(Kind::Notice, "accept-repaired");
        if let Some(suppressed) = lines.pass(Instant::now()) {
            warn!(server, socket, suppressed, "accepting again: clients in the backlog were lost");
        }
    }
}

/// A newcomer was turned away.
#[derive(Debug)]
pub struct Refused<'a> {
    /// The server.
    pub server: &'a str,
    /// The newcomer.
    pub peer: SocketAddr,
    /// Why.
    pub reason: &'static str,
}

impl Refused<'_> {
    /// Logs and counts it.
    pub fn emit(&self, counters: &Counters) {
        counters.count(Kind::Refused, self.reason);
        debug!(server = self.server, peer = %self.peer, reason = self.reason, "client refused");
    }
}

/// A client got no session because of its handshake.
#[derive(Debug)]
pub struct HandshakeFailed<'a> {
    /// The server.
    pub server: &'a str,
    /// The client.
    pub peer: SocketAddr,
    /// Why.
    pub reason: &'static str,
    /// What TLS said, where it said something.
    pub detail: &'a str,
}

impl HandshakeFailed<'_> {
    /// Logs and counts it.
    pub fn emit(&self, counters: &Counters) {
        let Self { server, peer, reason, detail } = self;
        counters.count(Kind::Handshake, reason);
        debug!(server, %peer, reason, detail, "handshake failed");
    }
}

/// A session begins.
#[derive(Debug)]
pub struct SessionStarted<'a> {
    /// The server.
    pub server: &'a str,
    /// The session.
    pub session: u64,
    /// The client.
    pub peer: SocketAddr,
}

impl SessionStarted<'_> {
    /// Logs it.
    pub fn emit(&self) {
        debug!(server = self.server, session = self.session, peer = %self.peer, "session started");
    }
}

/// A session is over.
#[derive(Debug)]
pub struct SessionEnded<'a> {
    /// The server.
    pub server: &'a str,
    /// The session.
    pub session: u64,
    /// Its class at its end.
    pub class: Priority,
    /// The true reason.
    pub reason: &'a str,
    /// From first event to last.
    pub lasted: Duration,
    /// What it has used.
    pub spent: Spent,
}

impl SessionEnded<'_> {
    /// Counts it, and logs it where `lines` lets it pass.
    pub fn emit(&self, revision: &RevisionMetrics, lines: &Bucket) {
        let Self { server, session, class, reason, lasted, spent } = self;
        revision.ended(*class, reason, spent);
        if !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        if let Some(suppressed) = lines.pass(Instant::now()) {
            info!(
                server,
                session,
                reason,
                seconds = lasted.as_secs_f64(),
                events = spent.events,
                bytes_in = spent.bytes_in,
                bytes_out = spent.bytes_out,
                fuel = spent.fuel,
                cpu_seconds = spent.cpu.as_secs_f64(),
                plugin = &**revision.plugin(),
                suppressed,
                "session ended"
            );
        }
    }
}

/// A session that waited for this process cannot go on in it, and its connection was closed.
#[derive(Debug)]
pub struct SessionNotRestored<'a> {
    /// The server.
    pub server: &'a str,
    /// The session.
    pub session: u64,
    /// Why.
    pub reason: &'a str,
}

impl SessionNotRestored<'_> {
    /// Counts it, and logs it where `lines` lets it pass.
    pub fn emit(&self, counters: &Counters, lines: &Bucket) {
        let Self { server, session, reason } = self;
        counters.count(Kind::Notice, "session-not-restored");
        if let Some(suppressed) = lines.pass(Instant::now()) {
            warn!(
                server,
                session,
                reason,
                suppressed,
                "a session of the process before could not go on, and was closed"
            );
        }
    }
}

/// An event failed and took its instance along.
#[derive(Debug)]
pub struct Faulted<'a> {
    /// The server.
    pub server: &'a str,
    /// The session.
    pub session: u64,
    /// The client's address, by which faults are weighed.
    pub peer: IpAddr,
    /// Its class.
    pub class: Priority,
    /// The event.
    pub event: &'a str,
    /// What it was.
    pub fault: &'a Fault,
}

impl Faulted<'_> {
    /// Counts it, and logs it where `lines` lets it pass: a plugin that faults in every session has
    /// said why in the first.
    pub fn emit(&self, revision: &RevisionMetrics, lines: &Bucket) {
        let Self { server, session, peer, class, event, fault } = self;
        let (reason, origin) = (fault.kind.name(), fault.kind.origin().name());
        // What the operator did is the reason of the session's end and no fault of the plugin's.
        if fault.kind.origin() == Origin::Operator {
            return;
        }
        revision.faulted(*class, &reason);
        if let Some(suppressed) = lines.pass(Instant::now()) {
            let plugin = &**revision.plugin();
            let detail = &fault.detail;
            warn!(server, session, %peer, plugin, event, %reason, origin, suppressed, "plugin \
                fault: {detail}");
        }
    }
}

/// A plugin wrote a line to its standard output or error.
#[derive(Debug)]
pub struct PluginOutput<'a> {
    /// The server.
    pub server: &'a str,
    /// The session.
    pub session: u64,
    /// `stdout` or `stderr`.
    pub stream: &'static str,
    /// The line, escaped and cut.
    pub line: &'a str,
    /// Lines dropped since the last one that was let through.
    pub suppressed: u64,
}

impl PluginOutput<'_> {
    /// Logs it. What was dropped was counted when it was.
    pub fn emit(&self) {
        let Self { server, session, stream, line, suppressed } = self;
        if *suppressed > 0 {
            warn!(server, session, suppressed, "plugin output over the limit was dropped");
        }
        info!(target: "wharf::plugin_output", server, session, stream, "{line}");
    }
}
