//! Why a plugin did not come from a registry, or did not get there.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// One clear reason, and the reference that it is about. Nothing half-done is left anywhere.
#[derive(Debug, thiserror::Error)]
#[error("{reference}: {problem}")]
pub struct RegistryError {
    /// What was wanted.
    pub reference: String,
    /// What came in between.
    pub problem: RegistryProblem,
}

/// What came in between. Each says whose doing it was, and what may be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryProblem {
    /// The operator's: it is no reference.
    #[error(
        "no reference to a plugin: {0}; expected oci://REGISTRY/REPOSITORY:TAG or \
         oci://REGISTRY/REPOSITORY@sha256:DIGEST"
    )]
    Reference(String),
    /// The network's or the registry's: nobody there, no TLS, or it went away.
    #[error("cannot reach the registry: {0}")]
    Unreachable(String),
    /// The registry's: not done in time.
    #[error("the registry did not deliver it within {} \
        (`registry.timeout`)", humantime::format_duration(*.0))]
    TooSlow(Duration),
    /// Not a failure: a stop or a roll-back called it off.
    #[error("it was called off")]
    CalledOff,
    /// The registry's: it stopped talking.
    #[error("the registry said nothing for {}", humantime::format_duration(*.0))]
    Silent(Duration),
    /// The operator's or the author's: it is not there.
    #[error("{}", if *.0 == "manifest" { "the registry has no such \
        plugin".to_owned() } else { format!("the registry does not have the {} that the manifest \
        names", .0) })]
    NotThere(&'static str),
    /// The operator's: the registry wants to know who asks, or does not like the answer.
    #[error("the registry refuses: {}", if *.0 { "its login in `registry.credentials_file` may not \
        do this, or is wrong" } else { "it wants a login, and `registry.credentials_file` has none \
        for it" })]
    Denied(bool),
    /// The registry's: an answer that is none.
    #[error("the registry answered with status \
        {status}{}", if .said.is_empty() { String::new() } else { format!(": {said}") })]
    Answer {
        /// Its status.
        status: u16,
        /// What it said, shortened.
        said: String,
    },
    /// The author's or the registry's: more than is taken.
    #[error("the {what} is larger than {max} bytes{}", if *.what == "component" { " \
        (`registry.component_max_bytes`)" } else { "" })]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// What is taken.
        max: u64,
    },
    /// The registry's or the network's: the connection ended in the middle.
    #[error("the registry broke off after {got} bytes of the {what}: {cause}")]
    BrokeOff {
        /// Which part.
        what: &'static str,
        /// What came.
        got: usize,
        /// What the connection said.
        cause: String,
    },
    /// The registry's: it points somewhere where this host does not go.
    #[error("the registry points to {to}, and this host does not follow: {why}")]
    Redirected {
        /// Where.
        to: String,
        /// Why not.
        why: &'static str,
    },
    /// The author's: it is there, and no plugin.
    #[error("not a plugin as the Wasm packaging tools publish them: {0}")]
    NotAPlugin(String),
    /// The registry's: it sent something else than it promised.
    #[error(
        "the {what} that the registry sent is not what was asked for: expected {expected}, found \
         {found}"
    )]
    Lied {
        /// Which part.
        what: &'static str,
        /// The digest or size asked for.
        expected: String,
        /// That of what came.
        found: String,
    },
    /// The author's or the operator's: the configuration demands a signature.
    #[error("a signature is required, and {0}")]
    Signature(String),
    /// The author's or the registry's: what it has about a plugin is no such thing.
    #[error("the {what} that the registry has is not as expected: {cause}")]
    Unreadable {
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        cause: String,
    },
    /// The author's: one more would not be looked at.
    #[error(
        "it has {max} signatures or more already, under the tag {tag}, and no more are looked at; \
         remove some of them there"
    )]
    TooManySignatures {
        /// Where they are.
        tag: String,
        /// How many are looked at.
        max: usize,
    },
    /// The operator's: nothing may be pulled, and it is not in the store.
    #[error(
        "it is not in the store, and `registry.pull = \"never\"` forbids to ask for it; `wharf \
         plugin pull` fetches it"
    )]
    NotKept,
    /// The operator's: the store cannot be used, and nothing may be pulled.
    #[error("cannot use the store {}: {source}", .folder.display())]
    Store {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The host's: no client could be made.
    #[error("cannot make a client for registries: {0}")]
    Client(String),
}

/// An error with everything below it, each thing said once, in one line and without addresses,
/// which may have secrets in their query.
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

/// Characters of somebody else's text that are shown.
const EXCERPT_MAX_CHARS: usize = 300;

/// Text of somebody else's, short and in one line.
pub(super) fn excerpt(text: &str) -> String {
    let mut short: String = text.trim().chars().take(EXCERPT_MAX_CHARS).collect();
    if short.len() < text.trim().len() {
        short.push('…');
    }
    short.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'")
}
