//! Sockets and TLS: binding, accepting, the handshake, and the byte stream of an established
//! session.
//!
//! `socket2` and `rustls` are used here only. Each step consumes the value of the step before:
//! [`Accepted`] -> `Admitted<Accepted>` -> [`Established`].

mod accept;
mod bind;
mod credentials;
mod crypto;
mod diagnosis;
mod fd_channel;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod handshake;
mod memfd;
mod proxy;
mod refusal;
mod relisten;
mod socket;
mod stream;

pub use accept::{AcceptError, Accepted, Listener, Repaired};
pub use bind::{BindError, Endpoint, ListenPort, SocketOptions};
pub use credentials::{ClientCertificate, Credentials, CredentialsError, ProtocolMin};
pub use crypto::take_ring_for_tls;
pub use fd_channel::{BODY_MAX_BYTES, FdChannel, FdMessage};
pub use handshake::{Established, HandshakeError, Security};
pub use memfd::{SnapshotFile, is_listening, socket_number};
pub use proxy::ProxyError;
pub(crate) use refusal::is_refused_by_system;
pub use stream::Stream;
