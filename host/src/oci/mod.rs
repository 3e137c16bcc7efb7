//! Plugins from and to OCI registries: references, pulls, trust and the store.
//!
//! This module gets from a reference to bytes with a known digest. [`crate::plugin`] finds out what
//! the bytes are. No work of this module runs on a thread that runs sessions.
//!
//! Pulls use a client of our own, which reads a bounded number of bytes and checks every redirect.
//! The client of the Wasm packaging tools, `oci-client`, reads manifests, tokens and error texts of
//! any size into memory. So `oci-client` only provides the types and does the pushes, which are an
//! operator's own commands.

mod artifact;
mod bundle;
mod claim;
mod client;
mod config;
mod credentials;
mod digest;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
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
    STORE_MAX_BYTES_DEFAULT, SignatureRule, TIMEOUT_DEFAULT, Trust, UnknownPullPolicyError,
    UnknownSignatureRuleError,
};
pub use credentials::{Login, LoginError, LoginsError, LoginsFileError, RegistryCredentials};
pub use digest::Digest;
pub use error::{RegistryError, RegistryProblem, SignatureError, UnsignedError, UntrustedError};
pub use keys::{KeyError, KeyFileError, PublicKey, SigningKey};
pub use puller::{PluginOrigin, Pulled, Registries};
pub use push::PushedComponent;
pub use reference::{Reference, SCHEME};
