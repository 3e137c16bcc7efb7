//! Facts about a client, as the host knows them and the plugin is told.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

/// Scheduling class of a session, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Priority {
    /// Runs on the CPU time that all others leave.
    Background,
    /// Gets less than normal.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Gets more than normal.
    High,
    /// Runs before everything else.
    Critical,
}

impl Priority {
    /// Every class, lowest first.
    pub const ALL: [Self; 5] =
        [Self::Background, Self::Low, Self::Normal, Self::High, Self::Critical];

    /// Returns the class's name in configuration and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        ["background", "low", "normal", "high", "critical"][self as usize]
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Word that names no [`Priority`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no priority: expected background, low, normal, high or critical")]
pub struct UnknownPriorityError {
    /// The word.
    pub found: String,
}

impl FromStr for Priority {
    type Err = UnknownPriorityError;

    fn from_str(text: &str) -> Result<Self, UnknownPriorityError> {
        let found = Self::ALL.into_iter().find(|class| class.name() == text);
        found.ok_or_else(|| UnknownPriorityError { found: text.to_owned() })
    }
}

/// Facts about one established session, which are fixed for its life. The priority in force is kept
/// elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientInfo {
    /// The session's number: unique for the life of the server, never reused, from 1.
    pub id: u64,
    /// Name of the server.
    pub server: Arc<str>,
    /// The client's address.
    pub peer: SocketAddr,
    /// The address of this host that the client reached.
    pub local: SocketAddr,
    /// `None` on a plaintext session.
    pub tls: Option<TlsInfo>,
    /// The number that the operator set for this server.
    pub parameter: i64,
}

/// The results of a TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub protocol: String,
    /// IANA name of the cipher suite.
    pub cipher_suite: String,
    /// The server name that the client asked for.
    pub server_name: Option<String>,
    /// The agreed application protocol. Bytes that are no text are escaped.
    pub alpn: Option<String>,
    /// Subject of the verified client certificate.
    pub client_subject: Option<String>,
}
