//! Signatures in the form of cosign 3 with a key pair: a statement in a sigstore bundle. A manifest
//! of its own attaches the bundle to the plugin as a referrer.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_client::manifest::OCI_IMAGE_INDEX_MEDIA_TYPE;
use serde::Deserialize;
use serde_json::Value;

use super::artifact::{self, MANIFEST_TYPE};
use super::claim::{Claim, Evidence, Form, decoded};
use super::digest::Digest;
use super::error::{RegistryProblem, excerpt};

/// Type of a list of referrers.
pub(super) const INDEX_TYPE: &str = OCI_IMAGE_INDEX_MEDIA_TYPE;
/// Largest list of referrers that is read, in bytes.
pub(super) const INDEX_MAX_BYTES: u64 = 256 << 10;
/// Number of referrers that are read. Other attachments of a plugin count as well.
pub(super) const REFERRERS_MAX: usize = 32;
/// Largest manifest of a referrer that is read, in bytes.
pub(super) const REFERRER_MAX_BYTES: u64 = 64 << 10;
/// Largest bundle that is read, in bytes.
pub(super) const BUNDLE_MAX_BYTES: u64 = 64 << 10;

/// Beginning of the types of bundles; versions follow.
const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle";
/// Type of the signed statement. The signature covers this type.
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Type that a statement gives itself.
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// Predicate of a statement that is a signature. Attestations have other predicates.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
/// Annotation that `cosign sign -a repository=...` writes.
const REPOSITORY: &str = "repository";

/// Returns the tag of a plugin's referrers, for registries without an API for referrers.
pub(super) fn tag(plugin: &Digest) -> String {
    format!("sha256-{}", plugin.hex())
}

/// Returns the manifests in a list of referrers, each once. The types in the list are not trusted,
/// but entries that the list calls bundles come first.
pub(super) fn referrers(index: &[u8]) -> Result<Vec<Digest>, RegistryProblem> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Value>,
    }
    let index: Index =
        serde_json::from_slice(index).map_err(|error| RegistryProblem::Unreadable {
            what: "list of its referrers",
            cause: excerpt(&error.to_string()),
        })?;
    let manifest = |entry: &Value| {
        let image = entry.get("mediaType")? == MANIFEST_TYPE;
        let digest = image.then(|| Digest::parse(entry.get("digest")?.as_str()?)).flatten()?;
        let kind = entry.get("artifactType").and_then(Value::as_str).unwrap_or_default();
        Some((kind.starts_with(BUNDLE_TYPE), digest))
    };
    let listed = index.manifests.iter().filter_map(manifest);
    let (mut first, rest): (Vec<_>, Vec<_>) = listed.partition(|(bundle, _)| *bundle);
    first.extend(rest);
    let mut known = BTreeSet::new();
    let digests = first.into_iter().map(|(_, digest)| digest);
    Ok(digests.filter(|digest| known.insert(digest.clone())).collect())
}

/// Returns the digest and size of the bundle that a manifest attaches to a plugin. `None` if the
/// manifest attaches other content, or attaches it to other content.
pub(super) fn attached_by(manifest: &[u8], plugin: &Digest) -> Option<(Digest, u64)> {
    let manifest = artifact::parse(manifest, &[MANIFEST_TYPE]).ok()?;
    let [layer] = manifest.layers.as_slice() else { return None };
    let fits =
        layer.media_type.starts_with(BUNDLE_TYPE) && manifest.subject?.digest == plugin.as_str();
    fits.then(|| artifact::descriptor(layer).ok()).flatten()
}

/// Returns the one signature in a bundle. `None` if the bundle has several, a signature in another
/// form, or one of other content than a statement.
pub(super) fn read(bundle: &[u8]) -> Option<Evidence> {
    #[derive(Deserialize)]
    struct Bundle {
        #[serde(rename = "dsseEnvelope")]
        envelope: Envelope,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Envelope {
        payload: String,
        payload_type: String,
        signatures: Vec<Signature>,
    }
    #[derive(Deserialize)]
    struct Signature {
        sig: String,
    }
    let envelope = serde_json::from_slice::<Bundle>(bundle).ok()?.envelope;
    let [signature] = envelope.signatures.as_slice() else { return None };
    (envelope.payload_type == PAYLOAD_TYPE).then_some(())?;
    let (payload, signature) = (STANDARD.decode(&envelope.payload).ok()?, decoded(&signature.sig)?);
    Some(Evidence { form: Form::Bundle, payload, signature })
}

/// Returns the bytes that the signature covers: the statement, its type, and the length of each.
pub(super) fn signed(payload: &[u8]) -> Vec<u8> {
    let before = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [before.as_bytes(), payload].concat()
}

/// Returns the claims of a statement about one or more digests. `None` if the statement is no
/// signature, but for example an attestation.
pub(super) fn claims(payload: &[u8]) -> Option<Vec<Claim>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Statement {
        #[serde(rename = "_type")]
        kind: String,
        predicate_type: String,
        subject: Vec<Subject>,
    }
    #[derive(Deserialize)]
    struct Subject {
        #[serde(default)]
        digest: BTreeMap<String, String>,
        annotations: Option<BTreeMap<String, Value>>,
    }
    let statement: Statement = serde_json::from_slice(payload).ok()?;
    (statement.kind == STATEMENT && statement.predicate_type == SIGNED).then_some(())?;
    let claim = |subject: Subject| {
        let digest = format!("sha256:{}", subject.digest.get("sha256")?);
        // An annotation that is no text matches no repository.
        let place = subject.annotations.unwrap_or_default().get(REPOSITORY).cloned();
        Some(Claim {
            digest,
            place: place.map(|place| place.as_str().unwrap_or_default().to_owned()),
        })
    };
    Some(statement.subject.into_iter().filter_map(claim).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn referrers_are_listed_once_bundles_first() {
        let digest = |name: &str| Digest::of(name.as_bytes());
        let entry = |name: &str, kind: &str| {
            json!({ "mediaType": MANIFEST_TYPE,
            "digest": digest(name).as_str(), "artifactType": kind })
        };
        let bundle = "application/vnd.dev.sigstore.bundle.v0.3+json";
        let bare = json!({ "mediaType": MANIFEST_TYPE, "digest": digest("bare").as_str() });
        let image = json!({ "mediaType": INDEX_TYPE, "digest": digest("index").as_str(),
            "artifactType": bundle });
        let list = json!({ "manifests": [
            bare, entry("sbom", "x/y"), entry("one", bundle), entry("sbom", "x/y"), image,
                entry("two", bundle),
            entry("one", "x/y"), entry("one", bundle), json!({}), json!(7),
        ] });
        let found = referrers(list.to_string().as_bytes()).expect("a list");
        assert_eq!(found, ["one", "two", "bare", "sbom"].map(digest));
        assert!(referrers(b"{}").is_err());
    }
}
