//! Admission: who may enter, how many, and how fast. This module touches no socket: it counts, and
//! answers yes or no.
//!
//! A [`Permit`] is proof of admission. The session holds it, and dropping it gives its places back,
//! however the session ends.

mod addresses;
mod count;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod gate;
mod networks;
mod room;
mod throttle;

pub use addresses::AddressGroup;
pub use count::ClientCount;
pub use gate::{Admitted, Gate, Permit, PreAdmitted, SharedLimits};
pub use networks::{Network, NetworkError, Networks};
pub use room::InstanceRoom;
pub use throttle::{Change, Throttle, ThrottleError};

/// Why a connection was turned away. Each refusal has a counter, and costs only that connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The client's network may not enter.
    Denied,
    /// The server has its maximum of clients.
    MaxClients,
    /// The servers of the tenant have their maximum of clients together.
    TenantClients,
    /// The client's address has its maximum of clients.
    MaxPerAddress,
    /// The client's address connected more often than it may.
    RatePerAddress,
    /// The server takes clients of trusted proxies only.
    Untrusted,
    /// The server is suspended and turns new connections away.
    Suspended,
    /// The process has no instance slot or no descriptor left, regardless of the server's limits.
    Overload,
}

impl Refusal {
    /// Every refusal.
    pub const ALL: [Self; 8] = [
        Self::Denied,
        Self::MaxClients,
        Self::TenantClients,
        Self::MaxPerAddress,
        Self::RatePerAddress,
        Self::Untrusted,
        Self::Suspended,
        Self::Overload,
    ];

    /// Returns the stable name for logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::MaxClients => "limit-clients",
            Self::TenantClients => "limit-tenant-clients",
            Self::MaxPerAddress => "limit-per-ip",
            Self::RatePerAddress => "limit-rate-per-ip",
            Self::Untrusted => "proxy-untrusted",
            Self::Suspended => "suspended",
            Self::Overload => "overload",
        }
    }
}
