//! Faults: why an event failed, and whose doing that was.

use std::borrow::Cow;
use std::fmt;

use super::excerpt;

/// Who has to act on a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The client.
    Peer,
    /// The plugin's author.
    Plugin,
    /// The person who configured the server.
    Operator,
    /// Wharf itself: a bug, or the machine is out of some resource.
    Host,
}

impl Origin {
    /// Returns the stable name for logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Plugin => "plugin",
            Self::Operator => "operator",
            Self::Host => "host",
        }
    }
}

/// The fault that ended an instance. Every fault ends exactly one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// The guest trapped. The name says how: `unreachable`, `stack-overflow`, ...
    Trap(&'static str),
    /// The guest called `exit`.
    Exit,
    /// The event used up its fuel.
    Fuel,
    /// The event used up its CPU time.
    CpuTime,
    /// The event took too long, including all waits except those for the session's own peer.
    WallTime,
    /// The guest trapped after the host refused to grow its memory.
    Memory,
    /// The guest trapped after its tenant's quota had no room to grow its memory.
    TenantMemory,
    /// The guest trapped after the host refused to grow its tables.
    Tables,
    /// One host call carried more bytes than may be copied.
    CopyLimit,
    /// The guest holds more handles than it may.
    HandleLimit,
    /// The component has more core modules than it may.
    Modules,
    /// The session lost its shared instance by a fault in an event of another session.
    InstanceLost,
    /// Other sessions kept the shared instance for longer than an event may wait.
    InstanceBusy,
    /// The new version refused to take the session over.
    HandoffRefused,
    /// An atomic migration was called off, because one of its sessions could not migrate.
    HandoffCalledOff,
    /// The old version saved more than it may.
    StateLimit,
    /// The host had no slot or no memory for another instance, or the system refused a place for
    /// the session's connection.
    Capacity,
    /// The call was cancelled because the server's deadline for its sessions to end passed.
    Cancelled,
    /// The call was cancelled because the operator aborted the session.
    Aborted,
    /// The engine or the host failed in a way that is no guest's doing.
    Host,
}

impl FaultKind {
    /// Every kind except the traps, which have one name each.
    pub const NAMED: [Self; 19] = [
        Self::Exit,
        Self::Fuel,
        Self::CpuTime,
        Self::WallTime,
        Self::Memory,
        Self::TenantMemory,
        Self::Tables,
        Self::CopyLimit,
        Self::HandleLimit,
        Self::Modules,
        Self::InstanceLost,
        Self::InstanceBusy,
        Self::HandoffRefused,
        Self::HandoffCalledOff,
        Self::StateLimit,
        Self::Capacity,
        Self::Cancelled,
        Self::Aborted,
        Self::Host,
    ];

    /// Returns the stable name for logs, metrics and tests.
    #[must_use]
    pub fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Trap(kind) => return Cow::Owned(format!("trap:{kind}")),
            Self::Exit => "exit",
            Self::Fuel => "fuel",
            Self::CpuTime => "cpu-time",
            Self::WallTime => "wall-time",
            Self::Memory => "limit-session-mem",
            Self::TenantMemory => "limit-tenant-mem",
            Self::Tables => "limit-tables",
            Self::Modules => "limit-modules",
            Self::InstanceLost => "instance-lost",
            Self::InstanceBusy => "instance-busy",
            Self::CopyLimit => "copy-limit",
            Self::HandleLimit => "handle-limit",
            Self::HandoffRefused => "handoff-refused",
            Self::HandoffCalledOff => "called-off",
            Self::StateLimit => "state-limit",
            Self::Capacity => "overload",
            Self::Cancelled => "drain-deadline",
            Self::Aborted => "aborted",
            Self::Host => "host-error",
        })
    }

    /// Returns whose doing the fault is.
    #[must_use]
    pub fn origin(self) -> Origin {
        match self {
            Self::Capacity | Self::Host => Origin::Host,
            Self::Cancelled | Self::Aborted | Self::HandoffCalledOff => Origin::Operator,
            _ => Origin::Plugin,
        }
    }
}

/// One failed event, with what its owner needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The kind of the fault.
    pub kind: FaultKind,
    /// Text for the plugin's owner: the trap's text and a backtrace with names. May have many
    /// lines, and at most [`Fault::DETAIL_MAX_BYTES`].
    pub detail: String,
}

impl Fault {
    /// Maximum bytes of a detail: room for a backtrace of twenty frames.
    pub const DETAIL_MAX_BYTES: usize = 3 << 10;

    /// Creates a fault. A detail that is too long is cut.
    pub fn new(kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: excerpt(detail.into(), Self::DETAIL_MAX_BYTES) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}'s doing): {}", self.kind.name(), self.kind.origin().name(), self.detail)
    }
}
