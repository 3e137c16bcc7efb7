//! Signatures as cosign 3 makes them with a key pair: a statement in a sigstore bundle, which a
//! manifest of its own attaches to the plugin as a referrer.

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
/// Largest list of referrers that is read.
pub(super) const INDEX_MAX_BYTES: u64 = 256 << 10;
/// Referrers that are looked at. What else authors attach to a plugin is among them.
pub(super) const REFERRERS_MAX: usize = 32;
/// Largest manifest of a referrer that is read.
pub(super) const REFERRER_MAX_BYTES: u64 = 64 << 10;
/// Largest bundle that is read.
pub(super) const BUNDLE_MAX_BYTES: u64 = 64 << 10;

/// What the types of bundles begin with; versions follow.
const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle";
/// Type of what is signed. It is signed with it.
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// What a statement says that it is.
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// What a statement is about that is a signature. Attestations are about something else.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
/// What `cosign sign -a repository=...` writes.
const REPOSITORY: &str = "repository";

/// The tag under which a plugin's referrers are where the registry has no other way to ask for
/// them.
pub(super) fn tag(plugin: &Digest) -> String {
    format!("sha256-{}", plugin.hex())
}

/// The manifests in a list of referrers, each once. What the list says that they are is not to be
/// relied on, but what it says to be bundles comes first.
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

/// The bundle that a manifest attaches to a plugin, and its size. `None`: it attaches something
/// else, or to something else.
pub(super) fn attached_by(manifest: &[u8], plugin: &Digest) -> Option<(Digest, u64)> {
    let manifest = artifact::parse(manifest, &[MANIFEST_TYPE]).ok()?;
    let [layer] = manifest.layers.as_slice() else { return None };
    let fits =
        layer.media_type.starts_with(BUNDLE_TYPE) && manifest.subject?.digest == plugin.as_str();
    fits.then(|| artifact::descriptor(layer).ok()).flatten()
}

/// The one signature in a bundle. `None`: it has several, or one in another form, or of something
/// else than a statement.
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

/// What is signed in place of a statement: the statement, its type, and how long each is.
pub(super) fn signed(payload: &[u8]) -> Vec<u8> {
    let before = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [before.as_bytes(), payload].concat()
}

/// What a statement says, of one digest or of several. `None`: it is no signature, but an
/// attestation, say.
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
        // One that is no text names no repository that there could be.
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
    fn each_referrer_is_named_once_and_what_is_said_to_be_a_bundle_first() {
        let digest = |name: &str| Digest::of(name.as_bytes());
        let entry = |name: &str, kind: &str| json!({ "mediaType": MANIFEST_TYPE, "digest": digest(name).as_str(), "artifactType": kind });
        let bundle = "application/vnd.dev.sigstore.bundle.v0.3+json";
        let bare = json!({ "mediaType": MANIFEST_TYPE, "digest": digest("bare").as_str() });
        let image = json!({ "mediaType": INDEX_TYPE, "digest": digest("index").as_str(), "artifactType": bundle });
        let list = json!({ "manifests": [
            bare, entry("sbom", "x/y"), entry("one", bundle), entry("sbom", "x/y"), image, entry("two", bundle),
            entry("one", "x/y"), entry("one", bundle), json!({}), json!(7),
        ] });
        let found = referrers(list.to_string().as_bytes()).expect("a list");
        assert_eq!(found, ["one", "two", "bare", "sbom"].map(digest));
        assert!(referrers(b"{}").is_err());
    }
}
