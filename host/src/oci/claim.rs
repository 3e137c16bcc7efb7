//! A signature as a registry has it, and what a signed text says.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Longest signature in base64: two numbers of 32 bytes and what holds them together.
const SIGNATURE_MAX_CHARS: usize = 128;

/// A signature in base64. `None`: it is none, or longer than any that could be believed.
pub(super) fn decoded(text: &str) -> Option<Vec<u8>> {
    (text.len() <= SIGNATURE_MAX_CHARS).then(|| STANDARD.decode(text).ok()).flatten()
}

/// How something is signed. The names stand in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Form {
    #[default]
    Simple,
    Bundle,
}

/// A text and a signature of it. Nothing is known about either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Evidence {
    pub(super) form: Form,
    pub(super) payload: Vec<u8>,
    pub(super) signature: Vec<u8>,
}

/// What a signed text says of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) digest: String,
    /// Its repository. `None`: it does not say.
    pub(super) place: Option<String>,
}
