//! Which cryptography the TLS of clients takes that others make in this process.

use tokio_rustls::rustls::crypto::ring;

/// Has clients that ask for no cryptography in particular take `ring`, as the servers here do. Who
/// embeds Wharf and has chosen another before keeps that.
pub fn take_ring_for_tls() {
    // An error says that there is one already.
    let _ = ring::default_provider().install_default();
}
