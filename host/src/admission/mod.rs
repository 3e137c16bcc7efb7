//! Who may enter, how many, and how fast. Nothing here touches a socket: it counts, and says yes or
//! no.
//!
//! A [`Permit`] is proof of a yes. It travels with the session and gives its places back when it is
//! dropped, whatever way the session ends.

mod addresses;
mod count;
mod gate;
mod networks;
mod room;
mod throttle;

pub use addresses::AddressGroup;
pub use count::{Count, Places};
pub use gate::{Admitted, Entered, Gate, Permit, Room};
pub use networks::{Network, Networks};
pub use room::InstanceRoom;
pub use throttle::{Change, Throttle, ThrottleError};

/// Why a newcomer was turned away. Each is a counter and costs the newcomer's connection only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Its network may not enter.
    Denied,
    /// The server has its maximum of clients.
    MaxClients,
    /// The servers of its tenant have their maximum of clients together.
    TenantClients,
    /// Its address has its maximum of clients.
    MaxPerAddress,
    /// Its address came more often than it may.
    RatePerAddress,
    /// The server is for clients of trusted proxies only.
    Untrusted,
    /// The server is suspended and turns newcomers away.
    Suspended,
    /// The process has no instance slot or no descriptor left, whatever the server allows.
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

    /// Stable name for logs and metrics.
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
