//! Plugins from and to OCI registries: references, pulling, what is believed, and where it is kept.
//!
//! From a reference to bytes whose digest is known, and nothing further: what the bytes are is for
//! [`crate::plugin`] to find out. Pulling is done by a client of our own that reads a bounded
//! number of bytes and follows no redirect blindly; the client of the Wasm packaging tools,
//! `oci-client`, reads manifests, tokens and error texts of any size into memory, so it brings the
//! types and does the pushing, which is a person's own command. None of this runs on a thread that
//! runs sessions.

mod artifact;
mod bundle;
mod claim;
mod client;
mod config;
mod credentials;
mod digest;
mod error;
mod keys;
mod puller;
mod push;
mod reference;
mod resolver;
mod reverify;
mod signature;
mod signature_fetch;
mod simple;
mod store;
mod token;

pub use config::{
    COMPONENT_MAX_BYTES_DEFAULT, PLAIN_HTTP_DEFAULT, PullPolicy, RegistryConfig,
    STORE_MAX_BYTES_DEFAULT, SignatureRule, TIMEOUT_DEFAULT, Trust,
};
pub use credentials::{Login, RegistryCredentials};
pub use digest::Digest;
pub use error::{RegistryError, RegistryProblem};
pub use keys::{PublicKey, SigningKey};
pub use puller::{Origin, Pulled, Registries};
pub use push::PushedComponent;
pub use reference::{Reference, SCHEME};
