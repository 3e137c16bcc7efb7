//! Errors of pulls from a registry and pushes to it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Failed pull or push: one clear reason, and the reference. Nothing half-done is left anywhere.
#[derive(Debug, thiserror::Error)]
#[error("{reference}: {problem}")]
pub struct RegistryError {
    /// The reference that was asked for.
    pub reference: String,
    /// The reason.
    pub problem: RegistryProblem,
}

/// Reason why a pull or push failed. Each variant names the party at fault, and its text says what
/// to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryProblem {
    /// Operator: the text is no reference.
    #[error(
        "no reference to a plugin: {0}; expected oci://REGISTRY/REPOSITORY:TAG or \
         oci://REGISTRY/REPOSITORY@sha256:DIGEST"
    )]
    Reference(String),
    /// Network or registry: no server, no TLS, or the connection was lost.
    #[error("cannot reach the registry: {0}")]
    Unreachable(String),
    /// Registry: the pull was not done in time.
    #[error("the registry did not deliver it within {} \
        (`registry.timeout`)", humantime::format_duration(*.0))]
    TooSlow(Duration),
    /// Not a failure: a stop or a roll-back called it off.
    #[error("it was called off")]
    CalledOff,
    /// Registry: no bytes came for this long.
    #[error("the registry said nothing for {}", humantime::format_duration(*.0))]
    Silent(Duration),
    /// Operator or author: the content does not exist.
    #[error("{}", if *.0 == "manifest" { "the registry has no such \
        plugin".to_owned() } else { format!("the registry does not have the {} that the manifest \
        names", .0) })]
    NotThere(&'static str),
    /// Operator: the registry wants a login, or refuses the given one. True if a login was given.
    #[error("the registry refuses: {}", if *.0 { "its login in `registry.credentials_file` may not \
        do this, or is wrong" } else { "it wants a login, and `registry.credentials_file` has none \
        for it" })]
    Denied(bool),
    /// Registry: an unexpected answer.
    #[error("the registry answered with status \
        {status}{}", if .said.is_empty() { String::new() } else { format!(": {said}") })]
    Answer {
        /// Status of the answer.
        status: u16,
        /// Text of the answer, shortened.
        said: String,
    },
    /// Author or registry: the content is larger than the limit.
    #[error("the {what} is larger than {max} bytes{}", if *.what == "component" { " \
        (`registry.component_max_bytes`)" } else { "" })]
    TooLarge {
        /// The part that is too large.
        what: &'static str,
        /// The limit in bytes.
        max: u64,
    },
    /// Registry or network: the connection ended in the middle.
    #[error("the registry broke off after {got} bytes of the {what}: {cause}")]
    BrokeOff {
        /// The part that was read.
        what: &'static str,
        /// Bytes that came.
        got: usize,
        /// Error of the connection.
        cause: String,
    },
    /// Registry: a redirect to a place where this host does not go.
    #[error("the registry points to {to}, and this host does not follow: {why}")]
    Redirected {
        /// Target of the redirect.
        to: String,
        /// Reason against the target.
        why: &'static str,
    },
    /// Author: the content exists and is no plugin.
    #[error("not a plugin as the Wasm packaging tools publish them: {0}")]
    NotAPlugin(String),
    /// Registry: the content is not the promised one.
    #[error(
        "the {what} that the registry sent is not what was asked for: expected {expected}, found \
         {found}"
    )]
    Lied {
        /// The part that differs.
        what: &'static str,
        /// Digest or size that was asked for.
        expected: String,
        /// Digest or size that came.
        found: String,
    },
    /// Author or operator: the configuration demands a signature, and this is the problem with it.
    #[error("a signature is required, and {0}")]
    Signature(String),
    /// Author or registry: data about a plugin is malformed.
    #[error("the {what} that the registry has is not as expected: {cause}")]
    Unreadable {
        /// The malformed part.
        what: &'static str,
        /// The problem.
        cause: String,
    },
    /// Author: there are so many signatures that another one would not be read.
    #[error(
        "it has {max} signatures or more already, under the tag {tag}, and no more are looked at; \
         remove some of them there"
    )]
    TooManySignatures {
        /// Tag of the signatures.
        tag: String,
        /// Number of signatures that are read.
        max: usize,
    },
    /// Operator: the plugin is not in the store, and pulls are forbidden.
    #[error(
        "it is not in the store, and `registry.pull = \"never\"` forbids to ask for it; `wharf \
         plugin pull` fetches it"
    )]
    NotKept,
    /// Operator: the store cannot be used, and pulls are forbidden.
    #[error("cannot use the store {}: {source}", .folder.display())]
    Store {
        /// Folder of the store.
        folder: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// Host: no client could be made.
    #[error("cannot make a client for registries: {0}")]
    Client(String),
}

/// Returns the text of an error with all its causes, each text once. The result is one line without
/// addresses, because addresses may have secrets in their query.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let (mut said, mut next) = (Vec::<String>::new(), Some(error));
    while let Some(error) = next {
        let words = error.to_string();
        if !said.iter().any(|before| before.contains(&words)) {
            said.push(words);
        }
        next = error.source();
    }
    excerpt(&said.join(": "))
}

/// Number of characters of foreign text that are shown.
const EXCERPT_MAX_CHARS: usize = 300;

/// Shortens foreign text to one line.
pub(super) fn excerpt(text: &str) -> String {
    let mut short: String = text.trim().chars().take(EXCERPT_MAX_CHARS).collect();
    if short.len() < text.trim().len() {
        short.push('…');
    }
    short.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'")
}
