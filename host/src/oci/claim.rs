//! A signature as a registry has it, and the claim of a signed text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Longest signature in base64: two numbers of 32 bytes in their encoding.
const SIGNATURE_MAX_CHARS: usize = 128;

/// Decodes a signature in base64. `None` if it is none, or too long to be valid.
pub(super) fn decoded(text: &str) -> Option<Vec<u8>> {
    (text.len() <= SIGNATURE_MAX_CHARS).then(|| STANDARD.decode(text).ok()).flatten()
}

/// Form of a signature. The store contains these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Form {
    #[default]
    Simple,
    Bundle,
}

/// A text and its signature, both unchecked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Evidence {
    pub(super) form: Form,
    pub(super) payload: Vec<u8>,
    pub(super) signature: Vec<u8>,
}

/// Claim of a signed text about a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) digest: String,
    /// Repository of the plugin. `None` if the text names none.
    pub(super) place: Option<String>,
}
