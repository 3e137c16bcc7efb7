//! The cryptography of TLS clients that other code makes in this process.

use tokio_rustls::rustls::crypto::ring;

/// Makes `ring` the default cryptography of TLS clients, as it is that of the servers here. If an
/// embedder has chosen another before, that choice stays.
pub fn take_ring_for_tls() {
    // An error says that there is a default already.
    let _ = ring::default_provider().install_default();
}
