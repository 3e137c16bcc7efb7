//! How registries are spoken to and what of theirs is believed: what `[registry]` says.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::credentials::RegistryCredentials;
use super::error::RegistryProblem;
use super::keys::PublicKey;
use super::reference::Reference;

/// Largest component that is pulled where nobody says.
pub const COMPONENT_MAX_BYTES_DEFAULT: u64 = 64 << 20;
/// What is kept where nobody says.
pub const STORE_MAX_BYTES_DEFAULT: u64 = 1 << 30;
/// How long pulling one plugin may take where nobody says.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// Registries that are spoken to without TLS where nobody says: those of this machine.
pub const PLAIN_HTTP_DEFAULT: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// When a registry is asked. What a digest names never changes, so what is kept under the digest of
/// a reference is never asked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// Each time, what the tag names now.
    Always,
    /// Only for what is not in the store.
    #[default]
    IfMissing,
    /// Never: what is not in the store is not there.
    Never,
}

impl PullPolicy {
    /// For somebody who names a plugin just now: they mean what the tag names now.
    #[must_use]
    pub fn just_named(self) -> Self {
        match self {
            Self::Always | Self::IfMissing => Self::Always,
            Self::Never => Self::Never,
        }
    }
}

impl FromStr for PullPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "always" => Ok(Self::Always),
            "if-missing" => Ok(Self::IfMissing),
            "never" => Ok(Self::Never),
            other => Err(format!(
                "expected \"always\", \"if-missing\" or \"never\", found `{}`",
                other.escape_debug()
            )),
        }
    }
}

/// Whether plugins have to be signed of which no [`Trust`] says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SignatureRule {
    /// They do not.
    #[default]
    Optional,
    /// They do; and since nobody is trusted with them, they are refused.
    Required,
}

impl FromStr for SignatureRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "optional" => Ok(Self::Optional),
            "required" => Ok(Self::Required),
            other => Err(format!(
                "expected \"optional\" or \"required\", found `{}`",
                other.escape_debug()
            )),
        }
    }
}

/// Who has to have signed what comes from a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// A registry, or a registry and the beginning of a repository in whole parts:
    /// `registry.example.com/team`.
    pub prefix: String,
    /// One of these.
    pub keys: Vec<PublicKey>,
}

/// How registries are spoken to and what of theirs is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryConfig {
    /// When they are asked.
    pub pull: PullPolicy,
    /// Folder for what was pulled. `None`: nothing is kept.
    pub store_dir: Option<PathBuf>,
    /// Most that is kept; beyond it what was used least lately goes.
    pub store_max_bytes: u64,
    /// Largest component that is pulled.
    pub component_max_bytes: u64,
    /// How long pulling one plugin, or pushing it, may take.
    pub timeout: Duration,
    /// Logins.
    pub credentials: RegistryCredentials,
    /// Registries spoken to without TLS, each a host, or a host and a port.
    pub plain_http: Vec<String>,
    /// Authorities in PEM that registries' certificates lead to. `None`: the system's.
    pub authority: Option<Vec<u8>>,
    /// For what no `trust` covers.
    pub signature: SignatureRule,
    /// Whose signatures are believed, and where one is therefore required.
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
    /// Keys of which one has to have signed it. `None`: it need not be signed.
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
        // The one that says the most.
        let trust = self.trust.iter().filter(covers).max_by_key(|trust| trust.prefix.len());
        match (trust, self.signature) {
            (Some(trust), _) => Ok(Some(&trust.keys)),
            (None, SignatureRule::Optional) => Ok(None),
            (None, SignatureRule::Required) => Err(RegistryProblem::Signature(
                "no `[[registry.trust]]` says whose signature is believed here".into(),
            )),
        }
    }

    /// Whether a host, with its port if it has one, is spoken to without TLS.
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
    fn the_longest_prefix_of_whole_parts_decides_whose_signature_is_believed() {
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
    fn only_this_machine_is_spoken_to_without_tls_unless_somebody_says_so() {
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
