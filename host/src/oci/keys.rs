//! Keys of signatures: ECDSA on P-256, as cosign and `openssl` make them.

use std::fmt;
use std::path::Path;

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

use crate::files;

/// Largest file of a key, in bytes.
const KEY_MAX_BYTES: u64 = 64 << 10;
/// Beginning of a public key on P-256; its point follows.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const POINT_BYTES: usize = 65;

/// A trusted public key, with the name of its file for people.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    point: Vec<u8>,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.name)
    }
}

impl PublicKey {
    /// Reads a PEM file, as `cosign generate-key-pair` and `openssl pkey -pubout` write it.
    ///
    /// # Errors
    /// The problem with the file, and the file's name.
    pub fn read(file: &Path) -> Result<Self, String> {
        let wrong = |problem: &dyn fmt::Display| format!("{}: {problem}", file.display());
        let pem = files::read(file, KEY_MAX_BYTES).map_err(|error| wrong(&error))?;
        let point = Self::parse(&pem).map_err(|problem| wrong(&problem))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, point })
    }

    fn parse(pem: &[u8]) -> Result<Vec<u8>, &'static str> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem)
            .map_err(|_| "expected a public key in PEM (`-----BEGIN PUBLIC KEY-----`)")?;
        match der.strip_prefix(&P256) {
            Some(point) if point.len() == POINT_BYTES => Ok(point.to_vec()),
            _ => Err("expected a key for ECDSA on P-256, as cosign makes it"),
        }
    }

    /// Name of the key's file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether this key signed the text.
    pub(super) fn has_signed(&self, text: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point).verify(text, signature).is_ok()
    }

    #[cfg(test)]
    pub(super) fn named_for_tests(name: &str) -> Self {
        Self { name: name.into(), point: Vec::new() }
    }
}

/// A key to sign with.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl SigningKey {
    /// Reads a PEM file that no other user may read, as `openssl genpkey` writes it.
    ///
    /// # Errors
    /// The problem with the file, and the file's name.
    pub fn read(file: &Path) -> Result<Self, String> {
        let wrong = |problem: &dyn fmt::Display| format!("{}: {problem}", file.display());
        let pem = files::read_secret(file, KEY_MAX_BYTES).map_err(|error| wrong(&error))?;
        if pem.contains("ENCRYPTED") {
            return Err(wrong(
                &"it is encrypted, which is not supported; keep one that is not where only you can \
                    read it",
            ));
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| {
            wrong(
                &"expected a private key in PEM (`-----BEGIN PRIVATE KEY-----`); `openssl pkcs8 \
                -topk8 -nocrypt` makes it of others",
            )
        })?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            der.secret_pkcs8_der(),
            &random,
        )
        .map_err(|_| {
            wrong(
                &"expected a key for ECDSA on P-256: `openssl genpkey -algorithm EC -pkeyopt \
                    ec_paramgen_curve:P-256`",
            )
        })?;
        Ok(Self { pair, random })
    }

    /// Public half of the key.
    pub(super) fn public(&self) -> PublicKey {
        PublicKey {
            name: "the signing key".into(),
            point: self.pair.public_key().as_ref().to_vec(),
        }
    }

    /// Signs the text. `None` if the system has no random numbers.
    pub(super) fn sign(&self, text: &[u8]) -> Option<Vec<u8>> {
        self.pair.sign(&self.random, text).ok().map(|signature| signature.as_ref().to_vec())
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn for_tests() -> Self {
        let random = SystemRandom::new();
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).expect("a key");
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random);
        Self { pair: pair.expect("a key"), random }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_another_kind_are_refused() {
        for (pem, word) in [
            ("hello", "PEM"),
            (
                "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n",
                "P-256",
            ),
        ] {
            assert!(PublicKey::parse(pem.as_bytes()).expect_err(pem).contains(word));
        }
    }
}
