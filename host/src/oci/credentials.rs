//! Logins for registries, in the format of Docker's `config.json`: `{"auths": {"HOST": {"auth":
//! "BASE64"}}}`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::files;

/// Largest file of logins that is read, in bytes.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// Names of Docker Hub, which share a login.
const HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// A user name and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the password nor the user name is shown.
        f.write_str("Login")
    }
}

/// Logins by registry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistryCredentials(BTreeMap<String, Login>);

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

/// Login of one registry. Members of other programs are ignored.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "lowercase")]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

impl RegistryCredentials {
    /// Reads a file that no other user may read.
    ///
    /// # Errors
    /// The problem with the file, and the file's name.
    pub fn read(file: &Path) -> Result<Self, String> {
        let wrong = |problem: String| format!("{}: {problem}", file.display());
        let text =
            files::read_secret(file, FILE_MAX_BYTES).map_err(|error| wrong(error.to_string()))?;
        Self::parse(&text).map_err(wrong)
    }

    fn parse(text: &str) -> Result<Self, String> {
        // The parser's own message could quote the file, so only the line's number is shown.
        let file: File = serde_json::from_str(text).map_err(|error| {
            format!("expected Docker's config.json: line {}: not as expected", error.line())
        })?;
        let read = |(place, entry): (String, Entry)| {
            let login = entry
                .login()
                .map_err(|problem| format!("`auths.{}`: {problem}", place.escape_debug()))?;
            Ok((host(&place).to_owned(), login))
        };
        file.auths.into_iter().map(read).collect::<Result<_, String>>().map(Self)
    }

    /// Returns the login for a registry, by host and port.
    pub(super) fn of(&self, registry: &str) -> Option<&Login> {
        let known = self.0.get(registry);
        known.or_else(|| {
            HUB.contains(&registry).then(|| HUB.iter().find_map(|name| self.0.get(*name))).flatten()
        })
    }
}

impl Entry {
    fn login(self) -> Result<Login, String> {
        if !self.identitytoken.is_empty() {
            return Err(
                "identity tokens are not supported; expected `auth`, or `username` and `password`"
                    .into(),
            );
        }
        if self.auth.is_empty() {
            return match (self.username.is_empty(), self.password.is_empty()) {
                (false, false) => Ok(Login { user: self.username, password: self.password }),
                _ => Err("expected `auth`, or `username` and `password`; logins that a helper \
                    program keeps are not \
                          read"
                    .into()),
            };
        }
        let bytes = STANDARD.decode(self.auth.trim()).map_err(|_| "`auth`: expected base64")?;
        let text =
            String::from_utf8(bytes).map_err(|_| "`auth`: expected NAME:PASSWORD in base64")?;
        let (user, password) =
            text.split_once(':').ok_or("`auth`: expected NAME:PASSWORD in base64")?;
        Ok(Login { user: user.into(), password: password.into() })
    }
}

/// Returns host and port of an entry. Older entries are whole addresses.
fn host(place: &str) -> &str {
    let bare =
        place.strip_prefix("https://").or_else(|| place.strip_prefix("http://")).unwrap_or(place);
    bare.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_found_by_registry() {
        let text = r#"{"auths": {"registry.lan:5000": {"auth": "YW5uOnNlY3JldDp4"},
            "https://index.docker.io/v1/": {"username": "bob", "password": "b"}},
            "currentContext": "x"}"#;
        let credentials = RegistryCredentials::parse(text).expect("logins");
        let ann = credentials.of("registry.lan:5000").expect("hers");
        assert_eq!((ann.user.as_str(), ann.password.as_str()), ("ann", "secret:x"));
        assert_eq!(credentials.of("docker.io").expect("his").user, "bob");
        assert!(credentials.of("registry.lan").is_none());
        assert!(!format!("{credentials:?}").contains("secret"));
    }

    #[test]
    fn unusable_logins_say_why_without_secrets() {
        for (text, word) in [
            (r#"{"auths": {"a.b": {}}}"#, "helper"),
            (r#"{"auths": {"a.b": {"identitytoken": "hush"}}}"#, "identity tokens"),
            (r#"{"auths": {"a.b": {"auth": "hush!"}}}"#, "base64"),
            (r#"{"auths": {"a.b": {"auth": "aHVzaA=="}}}"#, "NAME:PASSWORD"),
            (r#"{"auths": "hush"}"#, "line 1"),
        ] {
            let said = RegistryCredentials::parse(text).expect_err(text);
            assert!(said.contains(word) && !said.contains("hush"), "{said}");
        }
    }
}
