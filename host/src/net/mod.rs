//! Sockets and TLS: binding, accepting, the handshake, and the byte stream of an established
//! session.
//!
//! `socket2` and `rustls` live here only. Each step consumes the value of the one before:
//! [`Accepted`] -> `Admitted<Accepted>` -> [`Established`].

mod accept;
mod bind;
mod credentials;
mod diagnosis;
mod handshake;
mod keepsake;
mod passage;
mod provider;
mod proxy;
mod relisten;
mod socket;
mod wire;

pub use accept::{AcceptFault, Accepted, Listener, Repaired};
pub use bind::{BindError, Endpoint, ListenPort, SocketOptions};
pub use credentials::{ClientCertificate, Credentials, CredentialsError, ProtocolMin};
pub use handshake::{Established, HandshakeFault, Security};
pub use keepsake::{Keepsake, is_listening, socket_number};
pub use passage::{BODY_MAX_BYTES, Parcel, Passage};
pub use provider::take_ring_for_tls;
pub use proxy::ProxyFault;
pub use wire::Wire;
