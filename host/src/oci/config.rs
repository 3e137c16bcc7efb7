//! Configuration of registries (`[registry]`): how the host uses them, and which signatures it
//! trusts.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::credentials::RegistryCredentials;
use super::error::{RegistryProblem, SignatureError};
use super::keys::PublicKey;
use super::reference::Reference;

/// Default of the largest component, in bytes: 64 MiB.
pub const COMPONENT_MAX_BYTES_DEFAULT: u64 = 64 << 20;
/// Default of the store's size, in bytes: 1 GiB.
pub const STORE_MAX_BYTES_DEFAULT: u64 = 1 << 30;
/// Default of the time for one pull: a minute.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// Default of the registries without TLS: those of this machine.
pub const PLAIN_HTTP_DEFAULT: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// When the host asks a registry. The content of a digest never changes. So the host never asks
/// again for a reference by digest that is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// Each time, for the current content of the tag.
    Always,
    /// Only if the store does not have the plugin.
    #[default]
    IfMissing,
    /// Never: only plugins in the store can be used.
    Never,
}

impl PullPolicy {
    /// Returns the policy for an operator who names a plugin right now and means the current
    /// content of the tag. `Never` stays.
    #[must_use]
    pub fn just_named(self) -> Self {
        match self {
            Self::Always | Self::IfMissing => Self::Always,
            Self::Never => Self::Never,
        }
    }
}

/// Word that names no [`PullPolicy`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected \"always\", \"if-missing\" or \"never\", found `{}`", .found.escape_debug())]
pub struct UnknownPullPolicyError {
    /// The word.
    pub found: String,
}

impl FromStr for PullPolicy {
    type Err = UnknownPullPolicyError;

    fn from_str(text: &str) -> Result<Self, UnknownPullPolicyError> {
        match text {
            "always" => Ok(Self::Always),
            "if-missing" => Ok(Self::IfMissing),
            "never" => Ok(Self::Never),
            other => Err(UnknownPullPolicyError { found: other.to_owned() }),
        }
    }
}

/// Whether a plugin needs a signature if no [`Trust`] covers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SignatureRule {
    /// No signature is needed.
    #[default]
    Optional,
    /// A signature is required, and since no key is trusted, the plugin is refused.
    Required,
}

/// Word that names no [`SignatureRule`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected \"optional\" or \"required\", found `{}`", .found.escape_debug())]
pub struct UnknownSignatureRuleError {
    /// The word.
    pub found: String,
}

impl FromStr for SignatureRule {
    type Err = UnknownSignatureRuleError;

    fn from_str(text: &str) -> Result<Self, UnknownSignatureRuleError> {
        match text {
            "optional" => Ok(Self::Optional),
            "required" => Ok(Self::Required),
            other => Err(UnknownSignatureRuleError { found: other.to_owned() }),
        }
    }
}

/// Keys that are trusted for plugins from one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// A registry, or a registry and the beginning of a repository in whole parts:
    /// `registry.example.com/team`.
    pub prefix: String,
    /// Trusted keys. One of them must have signed the plugin.
    pub keys: Vec<PublicKey>,
}

/// Configuration of registries, and of the trust in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryConfig {
    /// When registries are asked.
    pub pull: PullPolicy,
    /// Folder of the store. `None` if nothing is kept.
    pub store_dir: Option<PathBuf>,
    /// Size of the store, in bytes. Above this size, the least recently used content is removed.
    pub store_max_bytes: u64,
    /// Largest component that is pulled, in bytes.
    pub component_max_bytes: u64,
    /// Time that one pull or push may take.
    pub timeout: Duration,
    /// Logins.
    pub credentials: RegistryCredentials,
    /// Registries without TLS, each a host, or a host and a port.
    pub plain_http: Vec<String>,
    /// Authorities in PEM for the certificates of registries. `None` for those of the system.
    pub authority: Option<Vec<u8>>,
    /// Rule for plugins that no `trust` covers.
    pub signature: SignatureRule,
    /// Trusted keys by place. A plugin from such a place needs a signature.
    pub trust: Vec<Trust>,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            pull: PullPolicy::default(),
            store_dir: None,
            store_max_bytes: STORE_MAX_BYTES_DEFAULT,
            component_max_bytes: COMPONENT_MAX_BYTES_DEFAULT,
            timeout: TIMEOUT_DEFAULT,
            credentials: RegistryCredentials::default(),
            plain_http: PLAIN_HTTP_DEFAULT.map(str::to_owned).into(),
            authority: None,
            signature: SignatureRule::default(),
            trust: Vec::new(),
        }
    }
}

impl RegistryConfig {
    /// Returns the keys of which one must have signed the plugin. `None` if it needs no signature.
    pub(super) fn keys_for(
        &self,
        reference: &Reference,
    ) -> Result<Option<&[PublicKey]>, RegistryProblem> {
        let place = reference.place();
        let covers = |trust: &&Trust| {
            place
                .strip_prefix(&trust.prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        // The longest prefix wins.
        let trust = self.trust.iter().filter(covers).max_by_key(|trust| trust.prefix.len());
        match (trust, self.signature) {
            (Some(trust), _) => Ok(Some(&trust.keys)),
            (None, SignatureRule::Optional) => Ok(None),
            (None, SignatureRule::Required) => {
                Err(RegistryProblem::Signature(SignatureError::NoTrust))
            }
        }
    }

    /// Returns whether the host uses no TLS with this registry.
    pub(super) fn is_plain(&self, host: &str, port: Option<u16>) -> bool {
        self.plain_http.iter().any(|plain| {
            let with_port = || port.is_some_and(|port| *plain == format!("{host}:{port}"));
            plain == host || with_port()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_prefix_of_whole_parts_decides_trust() {
        let key = |name: &str| PublicKey::named_for_tests(name);
        let trust = |prefix: &str, name| Trust { prefix: prefix.into(), keys: vec![key(name)] };
        let trust = vec![
            trust("a.example", "a"),
            trust("a.example/team", "team"),
            trust("a.example:5000/x", "x"),
        ];
        let mut registry_config = RegistryConfig { trust, ..RegistryConfig::default() };
        let who = |registry_config: &RegistryConfig, place: &str| {
            let reference = format!("oci://{place}:1").parse().expect(place);
            registry_config
                .keys_for(&reference)
                .map(|keys| keys.map(|keys| keys[0].name().to_owned()))
        };
        assert_eq!(who(&registry_config, "a.example/echo").expect("a rule").as_deref(), Some("a"));
        assert_eq!(
            who(&registry_config, "a.example/team/echo").expect("a rule").as_deref(),
            Some("team")
        );
        assert_eq!(
            who(&registry_config, "a.example/teams/echo").expect("a rule").as_deref(),
            Some("a")
        );
        assert_eq!(who(&registry_config, "a.example:5000/echo").expect("no rule"), None);
        assert_eq!(who(&registry_config, "a.example.org/echo").expect("no rule"), None);
        registry_config.signature = SignatureRule::Required;
        assert!(who(&registry_config, "b.example/echo").is_err());
        assert_eq!(who(&registry_config, "a.example/echo").expect("a rule").as_deref(), Some("a"));
    }

    #[test]
    fn only_this_machine_has_plain_http_by_default() {
        let mut registry_config = RegistryConfig::default();
        assert!(
            registry_config.is_plain("127.0.0.1", Some(5000))
                && registry_config.is_plain("localhost", None)
        );
        assert!(
            !registry_config.is_plain("registry.lan", Some(5000))
                && !registry_config.is_plain("127.0.0.1.example.com", None)
        );
        registry_config.plain_http = vec!["registry.lan:5000".into()];
        assert!(
            registry_config.is_plain("registry.lan", Some(5000))
                && !registry_config.is_plain("registry.lan", Some(80))
        );
        assert!(!registry_config.is_plain("127.0.0.1", Some(5000)));
    }
}
