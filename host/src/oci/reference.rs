//! References: `oci://REGISTRY/REPOSITORY:TAG` and `oci://REGISTRY/REPOSITORY@sha256:DIGEST`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::digest::Digest;
use super::error::{RegistryError, RegistryProblem};

/// Beginning of a reference, which tells it from a path.
pub const SCHEME: &str = "oci://";
/// Longest reference, in bytes.
const REFERENCE_MAX_BYTES: usize = 512;

/// Name of a plugin in a registry. The registry, and a tag or a digest, are always written out,
/// because the plugin of a server should not depend on a tool's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    inner: oci_client::Reference,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads a reference in the place of a path. `None` if it is a path.
    ///
    /// # Errors
    /// The text begins like a reference and is none.
    #[must_use]
    pub fn in_place_of(path: &Path) -> Option<Result<Self, RegistryError>> {
        path.to_str().filter(|text| text.starts_with(SCHEME)).map(str::parse)
    }

    /// Host and port of the registry for requests.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.inner.resolve_registry()
    }

    /// Repository in the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        self.inner.repository()
    }

    /// The tag, if there is one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.inner.tag()
    }

    /// The required digest of the content, if there is one. It overrides the tag.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns the same reference by its digest, without a tag that may come to name other content.
    #[must_use]
    pub fn pinned(&self, digest: &Digest) -> Self {
        Self {
            inner: self.inner.clone_with_digest(digest.to_string()),
            digest: Some(digest.clone()),
        }
    }

    /// Returns the same repository with another tag.
    pub(super) fn tagged(&self, tag: &str) -> Self {
        let (registry, repository) =
            (self.inner.registry().to_owned(), self.inner.repository().to_owned());
        Self {
            inner: oci_client::Reference::with_tag(registry, repository, tag.to_owned()),
            digest: None,
        }
    }

    /// Registry and repository, which decide about trust.
    pub(super) fn place(&self) -> String {
        format!("{}/{}", self.inner.registry(), self.inner.repository())
    }

    pub(super) fn inner(&self) -> &oci_client::Reference {
        &self.inner
    }
}

impl FromStr for Reference {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        let bad = |problem: &str| {
            let shown: String = text.chars().take(REFERENCE_MAX_BYTES).collect();
            RegistryError {
                reference: shown.escape_debug().to_string(),
                problem: RegistryProblem::Reference(problem.into()),
            }
        };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| bad("it does not begin with oci://"))?;
        if text.len() > REFERENCE_MAX_BYTES {
            return Err(bad("it is too long"));
        }
        let (registry, path) =
            rest.split_once('/').ok_or_else(|| bad("there is no repository in it"))?;
        if !(registry.contains(['.', ':']) || registry == "localhost") {
            return Err(bad(
                "its first part is no registry: write out host and port, as registry.example.com \
                 or localhost:5000",
            ));
        }
        let named = path.rsplit('/').next().is_some_and(|last| last.contains([':', '@']))
            || path.contains('@');
        if !named {
            return Err(bad("it names neither a tag nor a digest"));
        }
        let digest = match path.split_once('@') {
            Some((_, digest)) => {
                Some(Digest::parse(digest).ok_or_else(|| bad("its digest is no whole SHA-256"))?)
            }
            None => None,
        };
        let inner: oci_client::Reference =
            rest.parse().map_err(|error| bad(&format!("{error}")))?;
        Ok(Self { inner, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn reference_names_registry_and_tag_or_digest() {
        let read = |text: &str| text.parse::<Reference>().expect(text);
        let tagged = read("oci://127.0.0.1:5000/team/echo:1.0");
        assert_eq!((tagged.registry(), tagged.repository()), ("127.0.0.1:5000", "team/echo"));
        assert_eq!((tagged.tag(), tagged.digest()), (Some("1.0"), None));
        let pinned = read(&format!("oci://registry.example.com/echo@{DIGEST}"));
        assert_eq!(pinned.digest().map(Digest::as_str), Some(DIGEST));
        let named = tagged.pinned(pinned.digest().expect("it")).to_string();
        assert_eq!(named, format!("oci://127.0.0.1:5000/team/echo@{DIGEST}"));
        let both = read(&format!("oci://registry.example.com/echo:1@{DIGEST}"));
        assert_eq!((both.tag(), both.digest().map(Digest::as_str)), (Some("1"), Some(DIGEST)));
    }

    #[test]
    fn invalid_reference_says_why() {
        let long = format!("oci://a.b/{}:1", "c".repeat(600));
        for (text, word) in [
            ("echo.wasm", "oci://"),
            ("oci://registry.example.com", "repository"),
            ("oci://echo:1", "repository"),
            ("oci://team/echo:1", "registry"),
            ("oci://registry.example.com:5000/echo", "neither"),
            ("oci://registry.example.com/echo@sha256:abc", "digest"),
            ("oci://registry.example.com/Echo:1", "format"),
            ("oci://registry.example.com/../x:1", "format"),
            (&long, "too long"),
        ] {
            let said = text.parse::<Reference>().expect_err(text).to_string();
            assert!(
                said.contains(word) && said.contains("oci://REGISTRY/REPOSITORY:TAG"),
                "{said}"
            );
        }
        assert!(Reference::in_place_of(Path::new("plugins/echo")).is_none());
        assert!(Reference::in_place_of(Path::new("oci://echo")).expect("a reference").is_err());
    }
}
