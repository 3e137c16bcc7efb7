//! The reasons why a session is over: those for the plugin, and the larger set that the host
//! records.

use std::borrow::Cow;

use super::FaultKind;

/// The reasons that `on-disconnect` carries. Exhaustive: the contract names no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DisconnectReason {
    /// The peer finished and got everything.
    PeerClosed,
    /// The connection broke.
    PeerReset,
    /// A TLS peer vanished without a proper end.
    PeerTruncated,
    /// A handler ended the session.
    ClosedByPlugin,
    /// Neither side sent a byte for longer than the server allows, or for the timeout after the
    /// peer finished sending.
    IdleTimeout,
    /// The peer read nothing for the timeout.
    WriteTimeout,
    /// The operator or another session ended the session.
    Evicted,
    /// The server is stopping or starting afresh.
    ServerStopped,
    /// The peer sent no byte at all for longer than the server allows.
    FirstByteTimeout,
    /// The peer sent its data more slowly than the server allows.
    MinRate,
    /// The session lasted as long as the server allows.
    SessionTimeout,
}

impl DisconnectReason {
    /// Every reason.
    pub const ALL: [Self; 11] = [
        Self::PeerClosed,
        Self::PeerReset,
        Self::PeerTruncated,
        Self::ClosedByPlugin,
        Self::IdleTimeout,
        Self::WriteTimeout,
        Self::Evicted,
        Self::ServerStopped,
        Self::FirstByteTimeout,
        Self::MinRate,
        Self::SessionTimeout,
    ];

    /// Returns the stable name for logs, metrics and tests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PeerClosed => "peer-closed",
            Self::PeerReset => "peer-reset",
            Self::PeerTruncated => "peer-truncated",
            Self::ClosedByPlugin => "closed-by-plugin",
            Self::IdleTimeout => "idle-timeout",
            Self::WriteTimeout => "write-timeout",
            Self::Evicted => "evicted",
            Self::ServerStopped => "server-stopped",
            Self::FirstByteTimeout => "first-byte-timeout",
            Self::MinRate => "min-rate",
            Self::SessionTimeout => "session-timeout",
        }
    }
}

/// Why a session ended, as the host records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// An end that the plugin could be told of.
    Disconnect(DisconnectReason),
    /// The session goes on in another process.
    Moved,
    /// The plugin's instance is gone, so the plugin could not be told.
    Fault(FaultKind),
}

impl EndReason {
    /// Returns the stable name for logs, metrics and tests.
    #[must_use]
    pub fn name(self) -> Cow<'static, str> {
        match self {
            Self::Disconnect(reason) => Cow::Borrowed(reason.name()),
            Self::Moved => Cow::Borrowed("moved"),
            Self::Fault(kind) => kind.name(),
        }
    }
}
