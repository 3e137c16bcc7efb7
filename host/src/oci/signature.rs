//! Signatures as cosign makes them with a key pair ("simple signing"): ECDSA on P-256 over a text that names a digest, kept
//! beside the plugin under a tag made of that digest.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_client::manifest::OciDescriptor;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde_json::{Value, json};

use super::digest::Digest;
use super::failure::excerpt;
use crate::files;

/// Type of a signed text.
pub(super) const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Where the signature of a text stands.
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// What a signed text says that it is.
const KIND: &str = "cosign container image signature";
/// Largest signed text that is read.
pub(super) const PAYLOAD_MAX_BYTES: u64 = 64 << 10;
/// Signatures of one plugin that are looked at.
pub(super) const SIGNATURES_MAX: usize = 16;
/// Longest signature in base64: two numbers of 32 bytes and what holds them together.
const SIGNATURE_MAX_CHARS: usize = 128;

/// Largest file of a key.
const KEY_MAX_BYTES: u64 = 64 << 10;
/// What a public key on P-256 begins with; its point follows.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const POINT_BYTES: usize = 65;

/// A key whose signatures are believed, with the name of its file for people.
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
    /// What is wrong with it, naming it.
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

    /// The name of its file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn has_signed(&self, evidence: &Evidence) -> bool {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point);
        key.verify(&evidence.payload, &evidence.signature).is_ok()
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
    /// Reads a PEM file that nobody else may read, as `openssl genpkey` writes it.
    ///
    /// # Errors
    /// What is wrong with it, naming it.
    pub fn read(file: &Path) -> Result<Self, String> {
        let wrong = |problem: &dyn fmt::Display| format!("{}: {problem}", file.display());
        let pem = files::read_secret(file, KEY_MAX_BYTES).map_err(|error| wrong(&error))?;
        if pem.contains("ENCRYPTED") {
            return Err(wrong(
                &"it is encrypted, which is not supported; keep one that is not where only you can read it",
            ));
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| {
            wrong(&"expected a private key in PEM (`-----BEGIN PRIVATE KEY-----`); `openssl pkcs8 -topk8 -nocrypt` makes it of others")
        })?;
        let random = SystemRandom::new();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der.secret_pkcs8_der(), &random).map_err(|_| {
                wrong(&"expected a key for ECDSA on P-256: `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`")
            })?;
        Ok(Self { pair, random })
    }

    /// Its public half.
    pub(super) fn public(&self) -> PublicKey {
        PublicKey { name: "the signing key".into(), point: self.pair.public_key().as_ref().to_vec() }
    }

    /// Says of a plugin that it is good. `None`: the system has no random numbers.
    pub(super) fn sign(&self, place: &str, plugin: &Digest) -> Option<Evidence> {
        let payload = json!({
            "critical": {
                "identity": { "docker-reference": place },
                "image": { "docker-manifest-digest": plugin.as_str() },
                "type": KIND,
            },
            "optional": null,
        });
        let payload = payload.to_string().into_bytes();
        let signature = self.pair.sign(&self.random, &payload).ok()?.as_ref().to_vec();
        Some(Evidence { payload, signature })
    }
}

/// A text and a signature of it. Nothing is known about either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Evidence {
    pub(super) payload: Vec<u8>,
    pub(super) signature: Vec<u8>,
}

impl Evidence {
    /// What names its text in a manifest.
    pub(super) fn descriptor(&self) -> OciDescriptor {
        let signature = STANDARD.encode(&self.signature);
        OciDescriptor {
            media_type: PAYLOAD_TYPE.into(),
            digest: Digest::of(&self.payload).to_string(),
            size: i64::try_from(self.payload.len()).unwrap_or(i64::MAX),
            annotations: Some(BTreeMap::from([(ANNOTATION.into(), signature)])),
            ..OciDescriptor::default()
        }
    }
}

/// The signature of a text that a manifest names. `None`: it names something else.
pub(super) fn named_by(layer: &OciDescriptor) -> Option<Vec<u8>> {
    let text = layer.annotations.as_ref()?.get(ANNOTATION)?;
    let fits = layer.media_type == PAYLOAD_TYPE && text.len() <= SIGNATURE_MAX_CHARS;
    fits.then(|| STANDARD.decode(text).ok()).flatten()
}

/// The tag under which a plugin's signatures are.
pub(super) fn tag(plugin: &Digest) -> String {
    format!("sha256-{}.sig", plugin.hex())
}

/// The key that has signed this plugin, or why it counts as unsigned.
pub(super) fn check<'a>(
    evidence: &[Evidence],
    keys: &'a [PublicKey],
    plugin: &Digest,
    repository: &str,
) -> Result<&'a PublicKey, String> {
    let mut why = None;
    for evidence in evidence.iter().take(SIGNATURES_MAX) {
        let Some(key) = keys.iter().find(|key| key.has_signed(evidence)) else { continue };
        // What was signed is known to come from the key's owner only now, and is read only now.
        match Statement::read(&evidence.payload) {
            None => why = Some(format!("what {} has signed names no plugin", key.name)),
            Some(said) if said.digest != plugin.as_str() => {
                why = Some(format!("{} has signed another digest: {}", key.name, excerpt(&said.digest)));
            }
            Some(said) if !said.is_about(repository) => {
                why = Some(format!("{} has signed it as another plugin: {}", key.name, excerpt(&said.place)));
            }
            Some(_) => return Ok(key),
        }
    }
    let names = || keys.iter().map(PublicKey::name).collect::<Vec<_>>().join(", ");
    Err(why.unwrap_or_else(|| match evidence.len() {
        0 => format!("it is not signed; expected one of {}", names()),
        count => format!("none of its {count} signatures is by a key that is believed here: {}", names()),
    }))
}

/// What a signed text says.
struct Statement {
    digest: String,
    place: String,
}

impl Statement {
    fn read(payload: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(payload).ok()?;
        let critical = value.get("critical")?;
        (critical.get("type")? == KIND).then_some(())?;
        let digest = critical.get("image")?.get("docker-manifest-digest")?.as_str()?.to_owned();
        let place = critical.get("identity")?.get("docker-reference")?.as_str()?.to_owned();
        Some(Self { digest, place })
    }

    /// Whether it is about a repository of this name, so that a registry cannot have one signed plugin stand in for another. A
    /// mirror may put something before the name, or leave it out, and is another registry.
    fn is_about(&self, repository: &str) -> bool {
        let signed = self.place.split('@').next().unwrap_or_default();
        let path = match signed.split_once('/') {
            Some((registry, path)) if registry.contains(['.', ':']) || registry == "localhost" => path,
            _ => signed,
        };
        let name = match path.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => name,
            _ => path,
        };
        let ends = |long: &str, short: &str| {
            long.strip_suffix(short).is_some_and(|before| before.is_empty() || before.ends_with('/'))
        };
        !name.is_empty() && (ends(repository, name) || ends(name, repository))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random);
        SigningKey { pair: pair.expect("a key"), random }
    }

    #[test]
    fn only_a_believed_key_on_this_digest_counts() {
        let (ours, theirs, plugin) = (key(), key(), Digest::of(b"plugin"));
        let keys = [ours.public()];
        let by = |key: &SigningKey, digest: &Digest| key.sign("a.example/echo", digest).expect("signed");
        let good = by(&ours, &plugin);
        assert!(check(std::slice::from_ref(&good), &keys, &plugin, "echo").is_ok());
        assert!(check(&[by(&theirs, &plugin), good.clone()], &keys, &plugin, "echo").is_ok());

        let refused = |evidence: &[Evidence]| check(evidence, &keys, &plugin, "echo").expect_err("refused");
        assert!(refused(&[]).contains("not signed"));
        assert!(refused(&[by(&theirs, &plugin)]).contains("none of its 1"));
        assert!(refused(&[by(&ours, &Digest::of(b"other"))]).contains("another digest"));
        let other = ours.sign("a.example/admin", &plugin).expect("signed");
        assert!(refused(&[other]).contains("as another plugin: a.example/admin"));
        let mut changed = good.clone();
        changed.payload.push(b' ');
        assert!(refused(&[changed]).contains("none of its 1"));
        let mut cut = good.clone();
        cut.signature.truncate(8);
        assert!(refused(&[cut]).contains("none of its 1"));
        let filler = by(&theirs, &plugin);
        let mut late = vec![filler; SIGNATURES_MAX];
        late.push(good);
        assert!(check(&late, &keys, &plugin, "echo").is_err(), "beyond the limit nothing is looked at");
    }

    #[test]
    fn a_mirror_is_not_another_plugin() {
        let about = |place: &str, repository: &str| {
            Statement { digest: String::new(), place: place.into() }.is_about(repository)
        };
        for place in
            ["a.example/team/echo", "localhost:5000/team/echo:1.0", "team/echo", "echo", "b.example/x/team/echo"]
        {
            assert!(about(place, "team/echo"), "{place}");
        }
        for place in ["a.example/team/admin", "a.example/teams/echo", "cho", "", "a.example/", "a.example/team"] {
            assert!(!about(place, "team/echo"), "{place}");
        }
    }

    #[test]
    fn a_signature_survives_its_way_through_a_manifest() {
        let evidence = key().sign("a.example/echo", &Digest::of(b"plugin")).expect("signed");
        assert_eq!(named_by(&evidence.descriptor()), Some(evidence.signature.clone()));
        let mut other = evidence.descriptor();
        other.media_type = "application/wasm".into();
        assert_eq!(named_by(&other), None);
    }

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
