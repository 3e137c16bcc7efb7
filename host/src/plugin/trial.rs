//! A session that leads nowhere, for the instance that a plugin must be able to make before it is published.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::event::{Alone, ClientInfo, Nowhere, Scope};

/// A scope in which nothing can be reached.
pub(super) fn scope() -> Scope {
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let info = ClientInfo { id: 0, server: "trial".into(), peer: nowhere, local: nowhere, tls: None, parameter: 0 };
    Scope { port: Arc::new(Nowhere(info)), peers: Arc::new(Alone) }
}
