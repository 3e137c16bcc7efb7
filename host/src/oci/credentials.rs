//! Logins for registries, in the format of Docker's `config.json`: `{"auths": {"HOST": {"auth":
//! "BASE64"}}}`.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

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

/// File that has no usable logins.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", .file.display())]
pub struct LoginsFileError {
    /// The file.
    pub file: PathBuf,
    /// The reason.
    #[source]
    pub cause: LoginsError,
}

/// Reason why the content of a file is no list of logins. No text of the file is in the reason,
/// except the names of registries.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginsError {
    /// The file cannot be read, is too large, or lets other users read.
    #[error("{0}")]
    Unreadable(#[source] io::Error),
    /// The text is not in the format of Docker's `config.json`.
    #[error("expected Docker's config.json: line {line}: not as expected")]
    NoConfig {
        /// Number of the line.
        line: usize,
    },
    /// A registry's login cannot be used.
    #[error("`auths.{}`: {cause}", .registry.escape_debug())]
    Login {
        /// Name of the registry, as in the file.
        registry: String,
        /// The reason.
        #[source]
        cause: LoginError,
    },
}

/// Reason why an entry of a registry is no login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// The entry has an identity token.
    #[error("identity tokens are not supported; expected `auth`, or `username` and `password`")]
    IdentityToken,
    /// The entry has no user name or no password, for example because a helper program keeps them.
    #[error(
        "expected `auth`, or `username` and `password`; logins that a helper program keeps are \
         not read"
    )]
    Missing,
    /// The member `auth` is no base64.
    #[error("`auth`: expected base64")]
    NoBase64,
    /// The member `auth` is no user name and password with a colon between them.
    #[error("`auth`: expected NAME:PASSWORD in base64")]
    NoNameAndPassword,
}

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
    /// [`LoginsFileError`], with the file's name.
    pub fn read(file: &Path) -> Result<Self, LoginsFileError> {
        let read = files::read_secret(file, FILE_MAX_BYTES).map_err(LoginsError::Unreadable);
        read.and_then(|text| Self::parse(&text))
            .map_err(|cause| LoginsFileError { file: file.to_owned(), cause })
    }

    fn parse(text: &str) -> Result<Self, LoginsError> {
        // The parser's own message could quote the file, so only the line's number is shown.
        let file: File = serde_json::from_str(text)
            .map_err(|error| LoginsError::NoConfig { line: error.line() })?;
        let read = |(registry, entry): (String, Entry)| match entry.login() {
            Ok(login) => Ok((host(&registry).to_owned(), login)),
            Err(cause) => Err(LoginsError::Login { registry, cause }),
        };
        file.auths.into_iter().map(read).collect::<Result<_, _>>().map(Self)
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
    fn login(self) -> Result<Login, LoginError> {
        if !self.identitytoken.is_empty() {
            return Err(LoginError::IdentityToken);
        }
        if self.auth.is_empty() {
            return match (self.username.is_empty(), self.password.is_empty()) {
                (false, false) => Ok(Login { user: self.username, password: self.password }),
                _ => Err(LoginError::Missing),
            };
        }
        let bytes = STANDARD.decode(self.auth.trim()).map_err(|_| LoginError::NoBase64)?;
        let text = String::from_utf8(bytes).map_err(|_| LoginError::NoNameAndPassword)?;
        let (user, password) = text.split_once(':').ok_or(LoginError::NoNameAndPassword)?;
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
            let said = RegistryCredentials::parse(text).expect_err(text).to_string();
            assert!(said.contains(word) && !said.contains("hush"), "{said}");
        }
    }
}
