//! The vocabulary that the session side and the plugin side share, and the port between them.
//!
//! This module owns no socket, clock or engine. `session` drives events through [`Procedure`] and
//! [`Instance`]. `plugin` acts on the session through [`Port`], and on its server through
//! [`Peers`]. Neither imports the other.

mod client;
mod excerpt;
mod fault;
mod kept;
mod null;
mod port;
mod reason;

pub use client::{ClientInfo, Priority, TlsInfo, UnknownPriorityError};
pub use excerpt::{EXCERPT_MAX_BYTES, NAME_MAX_BYTES, NAMES_SHOWN_MAX, excerpt, some_of};
pub use fault::{Fault, FaultKind, Origin};
pub use kept::KeptEvent;
pub use null::{NoPeers, NullPort, Unheard};
pub use port::{
    Broadcast, Budget, Instance, Meter, NameError, Peers, Port, Procedure, Scope, SendError, Usage,
    WriteError,
};
pub use reason::{DisconnectReason, EndReason};

/// One event on its way to a plugin. Exhaustive: the contract names no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The session is established. Always the first event.
    Connect,
    /// Bytes arrived: 1 to [`READ_MAX_BYTES`].
    Read(&'a [u8]),
    /// The send buffer was full and has drained.
    Write,
    /// Neither side sent a byte for this time.
    Timeout {
        /// Milliseconds since the last byte in either direction.
        idle_ms: u64,
    },
    /// A timer fired.
    Timer {
        /// The number that the plugin gave the timer.
        id: u32,
    },
    /// The peer finished sending.
    End,
    /// The session is over. Always the last event.
    Disconnect(DisconnectReason),
}

impl Event<'_> {
    /// Returns the event's name in logs, metrics and the contract.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connect => "on-connect",
            Self::Read(_) => "on-read",
            Self::Write => "on-write",
            Self::Timeout { .. } => "on-timeout",
            Self::Timer { .. } => "on-timer",
            Self::End => "on-end",
            Self::Disconnect(_) => "on-disconnect",
        }
    }
}

/// Maximum bytes of one `on-read`, and the size of a read buffer.
pub const READ_MAX_BYTES: usize = 64 << 10;

/// A handler's answer: what becomes of its session. Exhaustive: the contract names no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Keep going.
    Proceed,
    /// Send the send buffer, then close.
    Close,
    /// Drop the send buffer and reset the connection.
    Abort,
}
