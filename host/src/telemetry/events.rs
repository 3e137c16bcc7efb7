//! The catalogue of occurrences. `emit` writes the line and counts.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::{Bucket, Counters};
use crate::event::Fault;

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

/// A server is stopped and its address free.
#[derive(Debug)]
pub struct ServerStopped<'a> {
    /// Its name.
    pub server: &'a str,
    /// Sessions that had to be cancelled at the deadline.
    pub cancelled: usize,
}

impl ServerStopped<'_> {
    /// Logs it.
    pub fn emit(&self) {
        info!(server = self.server, cancelled = self.cancelled, "stopped");
    }
}

/// New sessions get another build of the plugin.
#[derive(Debug)]
pub struct PluginSwapped<'a> {
    /// The server.
    pub server: &'a str,
    /// What new sessions get.
    pub plugin: &'a str,
}

impl PluginSwapped<'_> {
    /// Logs it.
    pub fn emit(&self) {
        info!(server = self.server, plugin = self.plugin, "new sessions get this build");
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
}

impl AcceptPaused<'_> {
    /// Logs and counts it.
    pub fn emit(&self, counters: &Counters) {
        counters.count("refused", "accept-paused");
        warn!(server = self.server, error = %self.error, pause = ?self.pause, "accepting pauses: the host is out of resources");
    }
}

/// The listening socket is of no more use.
#[derive(Debug)]
pub struct AcceptStopped<'a> {
    /// The server.
    pub server: &'a str,
    /// What the system said.
    pub error: &'a io::Error,
}

impl AcceptStopped<'_> {
    /// Logs and counts it.
    pub fn emit(&self, counters: &Counters) {
        counters.count("refused", "accept-stopped");
        warn!(server = self.server, error = %self.error, "accepting stopped: the listening socket failed");
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
        counters.count("refused", self.reason);
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
        counters.count("handshake", reason);
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
    /// The true reason.
    pub reason: &'a str,
    /// From first event to last.
    pub lasted: Duration,
    /// Events dispatched.
    pub events: u64,
    /// Bytes from the peer.
    pub bytes_in: u64,
    /// Bytes to the peer.
    pub bytes_out: u64,
    /// Fuel burnt.
    pub fuel: u64,
}

impl SessionEnded<'_> {
    /// Logs and counts it.
    pub fn emit(&self, counters: &Counters) {
        let Self { server, session, reason, lasted, events, bytes_in, bytes_out, fuel } = self;
        counters.count("ended", reason);
        counters.add_session(*events, *bytes_in, *bytes_out, *fuel);
        debug!(server, session, reason, ?lasted, events, bytes_in, bytes_out, fuel, "session ended");
    }
}

/// An event failed and took its instance along.
#[derive(Debug)]
pub struct Faulted<'a> {
    /// The server.
    pub server: &'a str,
    /// The session.
    pub session: u64,
    /// The plugin, with its version.
    pub plugin: &'a str,
    /// The event.
    pub event: &'a str,
    /// What it was.
    pub fault: &'a Fault,
}

impl Faulted<'_> {
    /// Counts it, and logs it where `lines` lets it pass: a plugin that faults in every session has said why in the first.
    pub fn emit(&self, counters: &Counters, lines: &Bucket) {
        let Self { server, session, plugin, event, fault } = self;
        let (reason, origin) = (fault.kind.name(), fault.kind.origin().name());
        counters.count("fault", &reason);
        if let Some(suppressed) = lines.pass(Instant::now()) {
            warn!(server, session, plugin, event, %reason, origin, suppressed, "plugin fault: {}", fault.detail);
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
