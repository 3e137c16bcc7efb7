//! The catalogue of occurrences. `emit` writes the log line and counts the occurrence.

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
    /// Threads in each lane.
    pub threads: usize,
    /// The scheduling parameters of the threads of critical sessions.
    pub fast: &'a str,
    /// The scheduling parameters of the threads of background sessions.
    pub idle: &'a str,
}

impl LanesStarted<'_> {
    /// Logs the occurrence.
    pub fn emit(&self) {
        let Self { threads, fast, idle } = self;
        info!(threads, fast, idle, "lanes");
    }
}

/// A server listens.
#[derive(Debug)]
pub struct ServerStarted<'a> {
    /// The server's name.
    pub server: &'a str,
    /// The address.
    pub address: SocketAddr,
    /// Whether the server uses TLS.
    pub secure: bool,
    /// The plugin that handles the server's sessions.
    pub plugin: &'a str,
}

impl ServerStarted<'_> {
    /// Logs the occurrence.
    pub fn emit(&self) {
        let Self { server, address, secure, plugin } = self;
        let protocol = if *secure { "tls" } else { "plaintext" };
        info!(server, %address, protocol, plugin, "listening");
    }
}

/// A control endpoint no longer listens, or cannot be opened again.
#[derive(Debug)]
pub struct ControlBroken<'a> {
    /// The path or the address.
    pub place: &'a str,
    /// The error.
    pub error: &'a dyn std::error::Error,
}

impl ControlBroken<'_> {
    /// Logs the occurrence. Called at most once a second for each of the two endpoints.
    pub fn emit(&self) {
        let Self { place, error } = self;
        warn!(place, %error, "the control API does not listen here, and is opened again");
    }
}

/// A control endpoint listens again.
#[derive(Debug)]
pub struct ControlReopened<'a> {
    /// The path or the address.
    pub place: &'a str,
}

impl ControlReopened<'_> {
    /// Logs the occurrence.
    pub fn emit(&self) {
        warn!(place = self.place, "the control API listens here again");
    }
}

/// A notice of a server.
#[derive(Debug)]
pub struct ServerNotice<'a> {
    /// The server's name.
    pub server: &'a str,
    /// The name of the notice.
    pub occurrence: &'static str,
    /// The server's status since then.
    pub status: &'static str,
    /// Sessions that had to be cut off.
    pub cut_off: usize,
}

impl ServerNotice<'_> {
    /// Logs and counts the occurrence.
    pub fn emit(&self, counters: &Counters) {
        let Self { server, occurrence, status, cut_off } = self;
        counters.count(Kind::Notice, occurrence);
        info!(server, status, cut_off, "server {occurrence}");
    }
}

/// New connections are shown other credentials.
#[derive(Debug)]
pub struct CredentialsRenewed<'a> {
    /// The server.
    pub server: &'a str,
    /// The file of the credentials.
    pub file: &'a Path,
}

impl CredentialsRenewed<'_> {
    /// Logs and counts the occurrence.
    pub fn emit(&self, counters: &Counters) {
        counters.count(Kind::Notice, "credentials-renewed");
        info!(server = self.server, file = %self.file.display(), "new connections are shown these \
            credentials");
    }
}

/// A request to the control API asked for a change.
#[derive(Debug)]
pub struct ControlRequest<'a> {
    /// The request's method.
    pub method: &'a str,
    /// The request's path.
    pub path: &'a str,
    /// The status of the answer.
    pub status: u16,
}

impl ControlRequest<'_> {
    /// Logs the occurrence if `lines` lets it pass.
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
    /// The path of its socket.
    pub socket: &'a Path,
    /// Its loopback address.
    pub address: Option<SocketAddr>,
}

impl ControlOpened<'_> {
    /// Logs the occurrence.
    pub fn emit(&self) {
        let address = self.address.map(|address| address.to_string());
        info!(socket = %self.socket.display(), address, "the control API is open");
    }
}

/// A lock was released because its time was over.
#[derive(Debug)]
pub struct LockExpired<'a> {
    /// The server.
    pub server: &'a str,
    /// How long the lock was held.
    pub hold: Duration,
}

impl LockExpired<'_> {
    /// Logs and counts the occurrence.
    pub fn emit(&self, counters: &Counters) {
        counters.count(Kind::Notice, "lock-expired");
        warn!(server = self.server, hold = ?self.hold, "the lock was not given back in time and is \
            open again");
    }
}

/// The breaker tripped, because the plugin faulted again and again.
#[derive(Debug)]
pub struct BreakerTripped<'a> {
    /// The server.
    pub server: &'a str,
    /// How long new connections wait.
    pub pause: Duration,
}

impl BreakerTripped<'_> {
    /// Logs the occurrence.
    pub fn emit(&self) {
        warn!(server = self.server, pause = ?self.pause, "the plugin faults again and again: \
            new connections wait for a while");
    }
}

/// A plugin came from a registry or from the store.
#[derive(Debug)]
pub struct PluginPulled<'a> {
    /// The reference by which the plugin was asked for.
    pub wanted: &'a str,
    /// The plugin's reference with the digest of its content.
    pub reference: &'a str,
    /// The source: the registry or the store.
    pub from: &'a str,
    /// The key that has signed the plugin, if a signature was asked for.
    pub signed_by: Option<&'a str>,
}

impl PluginPulled<'_> {
    /// Logs the occurrence.
    pub fn emit(&self) {
        let Self { wanted, reference, from, signed_by } = self;
        info!(wanted, reference, from, signed_by, "plugin pulled");
    }
}

/// Accepting pauses because the machine is out of some resource.
#[derive(Debug)]
pub struct AcceptPaused<'a> {
    /// The server.
    pub server: &'a str,
    /// The system's error.
    pub error: &'a io::Error,
    /// The length of the pause.
    pub pause: Duration,
    /// New connections that were refused by means of the spare descriptor.
    pub turned_away: usize,
}

impl AcceptPaused<'_> {
    /// Counts the occurrence, and logs it if `lines` lets it pass.
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

/// The listening socket no longer listens.
#[derive(Debug)]
pub struct AcceptStopped<'a> {
    /// The server.
    pub server: &'a str,
    /// The system's error.
    pub error: &'a io::Error,
}

impl AcceptStopped<'_> {
    /// Counts the occurrence, and logs it if `lines` lets it pass.
    pub fn emit(&self, counters: &Counters, lines: &Bucket) {
        let Self { server, error } = self;
        counters.count(Kind::Notice, "accept-stopped");
        if let Some(suppressed) = lines.pass(Instant::now()) {
            warn!(server, %error, suppressed, "accepting stopped: the listening socket failed");
        }
    }
}

/// A server cannot listen. The server tries again without end.
#[derive(Debug)]
pub struct NotListening<'a> {
    /// The server.
    pub server: &'a str,
    /// The obstacle.
    pub why: &'a str,
}

impl NotListening<'_> {
    /// Logs the occurrence. The notice that follows is counted.
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
    /// `same` for the same socket, `new` for a new one at the same address.
    pub socket: &'static str,
}

impl AcceptRepaired<'_> {
    /// Counts the occurrence, and logs it if `lines` lets it pass.
    pub fn emit(&self, counters: &Counters, lines: &Bucket) {
        let Self { server, socket } = self;
        counters.count(Kind::Notice, "accept-repaired");
        if let Some(suppressed) = lines.pass(Instant::now()) {
            warn!(server, socket, suppressed, "accepting again: clients in the backlog were lost");
        }
    }
}

/// A new connection was turned away.
#[derive(Debug)]
pub struct Refused<'a> {
    /// The server.
    pub server: &'a str,
    /// The client's address.
    pub peer: SocketAddr,
    /// The reason.
    pub reason: &'static str,
}

impl Refused<'_> {
    /// Logs and counts the occurrence.
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
    /// The client's address.
    pub peer: SocketAddr,
    /// The reason.
    pub reason: &'static str,
    /// The error of TLS, of the proxy header or of the system; empty if there is none.
    pub detail: &'a str,
}

impl HandshakeFailed<'_> {
    /// Logs and counts the occurrence.
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
    /// The client's address.
    pub peer: SocketAddr,
}

impl SessionStarted<'_> {
    /// Logs the occurrence.
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
    /// The session's class at its end.
    pub class: Priority,
    /// The true reason.
    pub reason: &'a str,
    /// The time from the first event to the last.
    pub lasted: Duration,
    /// What the session has used.
    pub spent: Spent,
}

impl SessionEnded<'_> {
    /// Counts the occurrence, and logs it if `lines` lets it pass.
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

/// A detached session cannot go on in this process, and its connection was closed.
#[derive(Debug)]
pub struct SessionNotRestored<'a> {
    /// The server.
    pub server: &'a str,
    /// The session.
    pub session: u64,
    /// The reason.
    pub reason: &'a str,
}

impl SessionNotRestored<'_> {
    /// Counts the occurrence, and logs it if `lines` lets it pass.
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

/// An event failed, and its instance is lost.
#[derive(Debug)]
pub struct Faulted<'a> {
    /// The server.
    pub server: &'a str,
    /// The session.
    pub session: u64,
    /// The client's address, by which faults are weighed.
    pub peer: IpAddr,
    /// The session's class.
    pub class: Priority,
    /// The event.
    pub event: &'a str,
    /// The fault.
    pub fault: &'a Fault,
}

impl Faulted<'_> {
    /// Counts the occurrence, and logs it if `lines` lets it pass. A plugin that faults in every
    /// session repeats the reason of the first fault.
    pub fn emit(&self, revision: &RevisionMetrics, lines: &Bucket) {
        let Self { server, session, peer, class, event, fault } = self;
        let (reason, origin) = (fault.kind.name(), fault.kind.origin().name());
        // A fault by the operator's doing is the reason of the session's end, and no fault of the
        // plugin.
        if fault.kind.origin() == Origin::Operator {
            return;
        }
        revision.faulted(*class, &reason);
        if let Some(suppressed) = lines.pass(Instant::now()) {
            let (plugin, detail) = (&**revision.plugin(), &fault.detail);
            warn!(
                server, session, %peer, plugin, event, %reason, origin, suppressed,
                "event failed: {detail}"
            );
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
    /// Lines dropped since the last one that passed.
    pub suppressed: u64,
}

impl PluginOutput<'_> {
    /// Logs the line. Dropped lines were counted when they were dropped.
    pub fn emit(&self) {
        let Self { server, session, stream, line, suppressed } = self;
        if *suppressed > 0 {
            warn!(server, session, suppressed, "plugin output over the limit was dropped");
        }
        info!(target: "wharf::plugin_output", server, session, stream, "{line}");
    }
}
