//! Digest: the name of content, its SHA-256. The host accepts no other algorithm from registries.

use std::fmt;

use ring::digest::{SHA256, digest};

const ALGORITHM: &str = "sha256:";

/// `sha256:` and 64 lower-case hexadecimal digits, so that the digits are safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

impl Digest {
    /// Computes the digest of content.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        let hex: String =
            digest(&SHA256, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Self(format!("{ALGORITHM}{hex}"))
    }

    /// Parses a written digest. `None` if the text is no SHA-256 digest.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix(ALGORITHM)?;
        let good =
            hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        good.then(|| Self(text.to_owned()))
    }

    /// Digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0[ALGORITHM.len()..]
    }

    /// The whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Digest;

    #[test]
    fn only_whole_digests_of_sha_256_are_taken() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::parse(empty), Some(Digest::of(b"")));
        for bad in [
            "",
            "sha256:",
            &empty[1..],
            &empty[..70],
            &empty.to_uppercase(),
            "sha256:../../etc/passwd",
        ] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
        assert_eq!(Digest::parse(&empty.replace("sha256", "sha512")), None);
    }
}
