//! One check for each parser of bytes that come from outside of the process. `cargo test` runs each
//! on bytes that proptest makes, and `fuzz/` on bytes that libFuzzer makes.
//!
//! A check panics if a promise is broken: the parser panics, reads more than it may, takes what it
//! must refuse, refuses without saying what it expected, or reads its own text differently. It
//! returns whether the parser took the bytes.

pub use crate::admission::fuzzing::network;
pub use crate::authoring::fuzzing::{core_module, transcript};
pub use crate::cli::fuzzing::{api_answer, stored_name};
pub use crate::config::fuzzing::configuration;
pub use crate::control::fuzzing::{api_head, api_query, api_request, api_token};
pub use crate::handover::fuzzing::{detached_session, upgrade_answer};
pub use crate::net::fuzzing::{
    client_certificate, fd_channel, proxy_header, snapshot_file, tls_files,
};
pub use crate::oci::fuzzing::{
    oci_bundle, oci_challenge, oci_key, oci_logins, oci_manifest, oci_reference, oci_referrers,
    oci_signatures, oci_signed_text, oci_store, oci_token,
};
pub use crate::plugin::fuzzing::{compile_cache, component, plugin_manifest, plugin_output};
pub use crate::rollout::fuzzing::version_record;
pub use crate::session::fuzzing::session_snapshot;
pub use crate::upgrade::fuzzing::upgrade_offer;

#[cfg(test)]
#[path = "../../fuzz/property.rs"]
#[macro_use]
mod property;
#[cfg(test)]
mod tests;
