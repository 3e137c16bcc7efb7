//! The contract in `wit/` as Rust types, and the calls into a guest.
//!
//! The Rust types are generated from `wit/`. Add no import here, but in `imports`. The imports are
//! linked there by hand, because a generated binding would copy every list that a guest passes.

#![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "wharf:server/plugin",
    exports: { default: async },
});

pub(super) use self::wharf::server::server::{NameError, SendError};
pub(super) use self::wharf::server::types::{
    Action, ClientInfo, DisconnectReason, Priority, TlsInfo, WriteError,
};

use crate::event;

/// Version of the contract that this host speaks. Components built against any `0.1.x` fit.
pub(super) const CONTRACT_VERSION: &str = "0.1.0";

impl From<event::Priority> for Priority {
    fn from(priority: event::Priority) -> Self {
        match priority {
            event::Priority::Background => Self::Background,
            event::Priority::Low => Self::Low,
            event::Priority::Normal => Self::Normal,
            event::Priority::High => Self::High,
            event::Priority::Critical => Self::Critical,
        }
    }
}

impl From<Priority> for event::Priority {
    fn from(priority: Priority) -> Self {
        Self::ALL[priority as usize]
    }
}

impl From<Action> for event::Action {
    fn from(action: Action) -> Self {
        match action {
            Action::Proceed => Self::Proceed,
            Action::Close => Self::Close,
            Action::Abort => Self::Abort,
        }
    }
}

impl From<event::DisconnectReason> for DisconnectReason {
    fn from(reason: event::DisconnectReason) -> Self {
        match reason {
            event::DisconnectReason::PeerClosed => Self::PeerClosed,
            event::DisconnectReason::PeerReset => Self::PeerReset,
            event::DisconnectReason::PeerTruncated => Self::PeerTruncated,
            event::DisconnectReason::ClosedByPlugin => Self::ClosedByPlugin,
            event::DisconnectReason::IdleTimeout => Self::IdleTimeout,
            event::DisconnectReason::WriteTimeout => Self::WriteTimeout,
            event::DisconnectReason::Evicted => Self::Evicted,
            event::DisconnectReason::ServerStopped => Self::ServerStopped,
            event::DisconnectReason::FirstByteTimeout => Self::FirstByteTimeout,
            event::DisconnectReason::MinRate => Self::MinRate,
            event::DisconnectReason::SessionTimeout => Self::SessionTimeout,
        }
    }
}

impl From<event::WriteError> for WriteError {
    fn from(error: event::WriteError) -> Self {
        match error {
            event::WriteError::Closed => Self::Closed,
            event::WriteError::TooLarge => Self::TooLarge,
            event::WriteError::TimedOut => Self::TimedOut,
        }
    }
}

impl From<event::SendError> for SendError {
    fn from(error: event::SendError) -> Self {
        match error {
            event::SendError::Closed => Self::Closed,
            event::SendError::Full => Self::Full,
            event::SendError::TooLarge => Self::TooLarge,
        }
    }
}

impl From<event::NameError> for NameError {
    fn from(error: event::NameError) -> Self {
        match error {
            event::NameError::Taken => Self::Taken,
            event::NameError::TooLong => Self::TooLong,
            event::NameError::Empty => Self::Empty,
        }
    }
}

/// What `on-connect` and `session.info` tell a guest about its client.
pub(super) fn client_info(info: &event::ClientInfo, priority: event::Priority) -> ClientInfo {
    ClientInfo {
        id: info.id,
        server: info.server.to_string(),
        peer_address: info.peer.ip().to_string(),
        peer_port: info.peer.port(),
        local_address: info.local.ip().to_string(),
        local_port: info.local.port(),
        tls: info.tls.as_ref().map(|tls| TlsInfo {
            protocol: tls.protocol.clone(),
            cipher_suite: tls.cipher_suite.clone(),
            server_name: tls.server_name.clone(),
            alpn: tls.alpn.clone(),
            client_subject: tls.client_subject.clone(),
        }),
        priority: priority.into(),
        parameter: info.parameter,
    }
}
