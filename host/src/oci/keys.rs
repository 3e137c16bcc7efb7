//! Keys of signatures: ECDSA on P-256, as cosign and `openssl` make them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

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

/// File that has no usable key.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", .file.display())]
pub struct KeyFileError {
    /// The file.
    pub file: PathBuf,
    /// The reason.
    #[source]
    pub cause: KeyError,
}

/// Reason why the content of a file is no usable key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read, is too large, or lets other users read a private key.
    #[error("{0}")]
    Unreadable(#[source] io::Error),
    /// The text is no public key in PEM.
    #[error("expected a public key in PEM (`-----BEGIN PUBLIC KEY-----`)")]
    NoPublicKey,
    /// The public key is of another algorithm or curve.
    #[error("expected a key for ECDSA on P-256, as cosign makes it")]
    OtherPublicKey,
    /// The private key is encrypted.
    #[error(
        "it is encrypted, which is not supported; keep one that is not where only you can read it"
    )]
    Encrypted,
    /// The text is no private key in PKCS#8 and PEM.
    #[error(
        "expected a private key in PEM (`-----BEGIN PRIVATE KEY-----`); `openssl pkcs8 -topk8 \
         -nocrypt` makes it of others"
    )]
    NoPrivateKey,
    /// The private key is of another algorithm or curve.
    #[error(
        "expected a key for ECDSA on P-256: `openssl genpkey -algorithm EC -pkeyopt \
         ec_paramgen_curve:P-256`"
    )]
    OtherPrivateKey,
}

impl KeyError {
    fn of(self, file: &Path) -> KeyFileError {
        KeyFileError { file: file.to_owned(), cause: self }
    }
}

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
    /// [`KeyFileError`], with the file's name.
    pub fn read(file: &Path) -> Result<Self, KeyFileError> {
        let read = files::read(file, KEY_MAX_BYTES).map_err(KeyError::Unreadable);
        let point = read.and_then(|pem| Self::parse(&pem)).map_err(|cause| cause.of(file))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, point })
    }

    fn parse(pem: &[u8]) -> Result<Vec<u8>, KeyError> {
        let der =
            SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| KeyError::NoPublicKey)?;
        match der.strip_prefix(&P256) {
            Some(point) if point.len() == POINT_BYTES => Ok(point.to_vec()),
            _ => Err(KeyError::OtherPublicKey),
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
    /// [`KeyFileError`], with the file's name.
    pub fn read(file: &Path) -> Result<Self, KeyFileError> {
        let read = files::read_secret(file, KEY_MAX_BYTES).map_err(KeyError::Unreadable);
        read.and_then(|pem| Self::parse(&pem)).map_err(|cause| cause.of(file))
    }

    fn parse(pem: &str) -> Result<Self, KeyError> {
        if pem.contains("ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| KeyError::NoPrivateKey)?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            der.secret_pkcs8_der(),
            &random,
        )
        .map_err(|_| KeyError::OtherPrivateKey)?;
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
            assert!(PublicKey::parse(pem.as_bytes()).expect_err(pem).to_string().contains(word));
        }
    }
}
