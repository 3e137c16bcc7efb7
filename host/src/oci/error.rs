//! Errors of pulls from a registry and pushes to it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::digest::Digest;

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
    /// Not a failure: a stop or a roll-back cancelled it.
    #[error("it was called off")]
    Cancelled,
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
    Signature(#[source] SignatureError),
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

/// Reason why no trusted signature of a plugin is known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// Operator: no trusted key is configured for the plugin's place.
    #[error("no `[[registry.trust]]` says whose signature is believed here")]
    NoTrust,
    /// Operator: the store has the plugin without a signature. The plugin was pulled while none was
    /// required.
    #[error("none is in the store; `wharf plugin pull` asks the registry")]
    NotKept,
    /// Operator: there is no store to look for signatures.
    #[error("there is no store that has one")]
    NoStore,
    /// Host: the reference of the plugin has no digest.
    #[error("no record has its digest")]
    NoDigest,
    /// Author or registry: no signature that was read counts.
    #[error(transparent)]
    Unsigned(#[from] Box<UnsignedError>),
    /// Author or registry: neither the store nor the registry has a trusted signature.
    #[error("{}; its registry was asked, too: {}", .kept.of_signature(), .asked.of_signature())]
    NotKeptNorServed {
        /// Problem with the signatures in the store.
        kept: Box<RegistryProblem>,
        /// Problem with the signatures in the registry.
        #[source]
        asked: Box<RegistryProblem>,
    },
}

impl RegistryProblem {
    /// Returns the text of a problem with a signature, without saying that one is required.
    pub(super) fn of_signature(&self) -> String {
        match self {
            Self::Signature(error) => error.to_string(),
            other => other.to_string(),
        }
    }
}

/// A plugin has no trusted signature. Some of its signatures may not have been read.
#[derive(Debug, thiserror::Error)]
pub struct UnsignedError {
    /// Problem with the signature that is nearest to a trusted one.
    pub cause: UntrustedError,
    /// Number of signatures that were not read, because of their form or their number.
    pub passed_over: usize,
    /// Number of signatures that are read.
    pub read_max: usize,
    /// Number of referrers that were not fetched.
    pub referrers_left: usize,
    /// Whether the list of referrers has further parts, which were not fetched.
    pub pages_left: bool,
    /// First problem because of which a signature could not be read.
    #[source]
    pub unread: Option<Arc<RegistryProblem>>,
}

impl fmt::Display for UnsignedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cause, passed_over, read_max, referrers_left, pages_left, unread } = self;
        write!(f, "{cause}")?;
        if *passed_over > 0 {
            write!(
                f,
                "; {passed_over} in other forms, or beyond the first {read_max}, not looked at: \
                 sign it with a key for ECDSA on P-256, by `wharf plugin push --sign` or `cosign \
                 sign --key`"
            )?;
        }
        if *referrers_left > 0 {
            write!(f, "; {referrers_left} of its referrers not looked at, for there are too many")?;
        }
        if *pages_left {
            f.write_str(
                "; the list of its referrers goes on, and only its first part was looked at",
            )?;
        }
        match unread {
            Some(problem) => write!(f, "; not all could be read: {problem}"),
            None => Ok(()),
        }
    }
}

/// Reason why none of the signatures that were read is a trusted one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UntrustedError {
    /// A trusted key signed a text that is no signature of a plugin.
    #[error("what {key} has signed is no signature of a plugin")]
    NoSignature {
        /// Name of the key.
        key: String,
    },
    /// A trusted key signed other content.
    #[error("{key} has signed another digest: {}", excerpt(.digest))]
    OtherDigest {
        /// Name of the key.
        key: String,
        /// The signed digest.
        digest: String,
    },
    /// A trusted key signed this content under the name of another plugin.
    #[error("{key} has signed it as another plugin: {}", excerpt(.place))]
    OtherPlugin {
        /// Name of the key.
        key: String,
        /// The signed name.
        place: String,
    },
    /// A trusted key signed this content without a name, and the reference is a tag.
    #[error(
        "{key} has signed it without saying which plugin it is, so that under a tag it could \
         stand in for another; name its digest where it is wanted (`@{digest}`), or sign it with \
         `cosign sign -a repository={repository}`"
    )]
    NoRepository {
        /// Name of the key.
        key: String,
        /// Digest of the plugin.
        digest: Digest,
        /// Repository of the plugin.
        repository: String,
    },
    /// All signatures have forms that the host does not read.
    #[error(
        "it has no signature in a form that is looked at; expected one of {}", .trusted.join(", ")
    )]
    OtherForms {
        /// Names of the trusted keys.
        trusted: Vec<String>,
    },
    /// No signature was found where not everything was read.
    #[error("none was found; expected one of {}", .trusted.join(", "))]
    NoneFound {
        /// Names of the trusted keys.
        trusted: Vec<String>,
    },
    /// There is no signature.
    #[error("it is not signed; expected one of {}", .trusted.join(", "))]
    NotSigned {
        /// Names of the trusted keys.
        trusted: Vec<String>,
    },
    /// All signatures are by other keys.
    #[error(
        "none of its {count} signatures is by a key that is believed here: {}", .trusted.join(", ")
    )]
    OtherKeys {
        /// Number of the signatures that were read.
        count: usize,
        /// Names of the trusted keys.
        trusted: Vec<String>,
    },
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
