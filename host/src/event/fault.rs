//! Why an event failed, and whose doing it was.

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
    /// Whoever configured the server.
    Operator,
    /// Wharf itself: a bug, or the machine is out of something.
    Host,
}

impl Origin {
    /// Stable name for logs.
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

/// What ended an instance. Every kind ends exactly one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// The guest trapped; the name says how (`unreachable`, `stack-overflow`, ...).
    Trap(&'static str),
    /// The guest called `exit`.
    Exit,
    /// The event used up its fuel.
    Fuel,
    /// The event used up its CPU time.
    CpuTime,
    /// The event took too long, waits included, but for those for the session's own peer.
    WallTime,
    /// The guest trapped after a refused growth of its memory.
    Memory,
    /// The guest trapped after a growth of its memory that its tenant's share had no room for.
    TenantMemory,
    /// The guest trapped after a refused growth of its tables.
    Tables,
    /// One host call carried more bytes than may be copied.
    CopyLimit,
    /// The guest holds more handles than it may.
    HandleLimit,
    /// The component is made of more core modules than it may be.
    Modules,
    /// The session shared its instance with others, and the instance is gone by a fault in an event
    /// of one of them.
    InstanceLost,
    /// The session shares its instance with others, which kept it for longer than an event may
    /// wait.
    InstanceBusy,
    /// The new version refused to take the session over.
    HandoffRefused,
    /// Sessions were to move together, and one of them could not.
    HandoffCalledOff,
    /// What the old version saved is larger than it may be.
    StateLimit,
    /// The host had no slot or no memory for another instance.
    Capacity,
    /// The call was cancelled because the server's deadline for its sessions to end passed.
    Cancelled,
    /// The call was cancelled because the operator aborted the session.
    Aborted,
    /// The engine or the host failed in a way that is no guest's doing.
    Host,
}

impl FaultKind {
    /// Every kind but the traps, which have a name each.
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

    /// Stable name for logs, metrics and tests.
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

    /// Whose doing it is.
    #[must_use]
    pub fn origin(self) -> Origin {
        match self {
            Self::Capacity | Self::Host => Origin::Host,
            Self::Cancelled | Self::Aborted | Self::HandoffCalledOff => Origin::Operator,
            _ => Origin::Plugin,
        }
    }
}

/// One failed event: what it was and what its owner needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What it was.
    pub kind: FaultKind,
    /// For the owner of the plugin: the trap's text and a backtrace with names. May hold many
    /// lines, and at most [`Fault::DETAIL_MAX_BYTES`].
    pub detail: String,
}

impl Fault {
    /// Bytes of a detail: room for a backtrace of twenty frames.
    pub const DETAIL_MAX_BYTES: usize = 3 << 10;

    /// A fault with its detail, which is cut where it is too long.
    pub fn new(kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: excerpt(detail.into(), Self::DETAIL_MAX_BYTES) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}'s doing): {}", self.kind.name(), self.kind.origin().name(), self.detail)
    }
}
