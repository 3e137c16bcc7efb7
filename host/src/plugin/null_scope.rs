//! A scope without a session, for instances that serve none yet.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::event::{ClientInfo, NoPeers, NullPort, Scope};

/// A scope whose session has no socket and no peers.
pub(super) fn scope() -> Scope {
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let info = ClientInfo {
        id: 0,
        server: "trial".into(),
        peer: nowhere,
        local: nowhere,
        tls: None,
        parameter: 0,
    };
    Scope { port: Arc::new(NullPort(info)), peers: Arc::new(NoPeers) }
}
