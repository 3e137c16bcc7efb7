//! Signatures in the form of cosign 2 with a key pair ("simple signing"). The signed text names a
//! digest and a repository. A tag made of that digest holds the signatures beside the plugin.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_client::manifest::OciDescriptor;
use serde_json::{Value, json};

use super::claim::{Claim, Evidence, Form, decoded};
use super::digest::Digest;
use super::keys::SigningKey;

/// Type of a signed text.
const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Annotation with the signature of a text.
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// Type that a signed text gives itself.
const KIND: &str = "cosign container image signature";
/// Largest signed text that is read, in bytes.
pub(super) const PAYLOAD_MAX_BYTES: u64 = 64 << 10;

/// Returns the tag of a plugin's signatures.
pub(super) fn tag(plugin: &Digest) -> String {
    format!("sha256-{}.sig", plugin.hex())
}

/// Signs a plugin. `None` if the system has no random numbers.
pub(super) fn made(key: &SigningKey, place: &str, plugin: &Digest) -> Option<Evidence> {
    let payload = json!({
        "critical": {
            "identity": { "docker-reference": place },
            "image": { "docker-manifest-digest": plugin.as_str() },
            "type": KIND,
        },
        "optional": null,
    });
    let payload = payload.to_string().into_bytes();
    let signature = key.sign(&payload)?;
    Some(Evidence { form: Form::Simple, payload, signature })
}

/// Returns the entry of a signed text in a manifest.
pub(super) fn descriptor(evidence: &Evidence) -> OciDescriptor {
    let signature = STANDARD.encode(&evidence.signature);
    OciDescriptor {
        media_type: PAYLOAD_TYPE.into(),
        digest: Digest::of(&evidence.payload).to_string(),
        size: i64::try_from(evidence.payload.len()).unwrap_or(i64::MAX),
        annotations: Some(BTreeMap::from([(ANNOTATION.into(), signature)])),
        ..OciDescriptor::default()
    }
}

/// Returns the signature of a text in a manifest's entry. `None` if the entry is for other content
/// or has a signature in another form.
pub(super) fn named_by(layer: &OciDescriptor) -> Option<Vec<u8>> {
    let text = layer.annotations.as_ref()?.get(ANNOTATION)?;
    (layer.media_type == PAYLOAD_TYPE).then(|| decoded(text)).flatten()
}

/// Returns the claim of a signed text.
pub(super) fn claim(payload: &[u8]) -> Option<Claim> {
    let value: Value = serde_json::from_slice(payload).ok()?;
    let critical = value.get("critical")?;
    (critical.get("type")? == KIND).then_some(())?;
    let digest = critical.get("image")?.get("docker-manifest-digest")?.as_str()?.to_owned();
    let place = critical.get("identity")?.get("docker-reference")?.as_str()?.to_owned();
    Some(Claim { digest, place: Some(place) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_survives_its_manifest() {
        let evidence = made(&SigningKey::for_tests(), "a.example/echo", &Digest::of(b"plugin"))
            .expect("signed");
        assert_eq!(named_by(&descriptor(&evidence)), Some(evidence.signature.clone()));
        let mut other = descriptor(&evidence);
        other.media_type = "application/wasm".into();
        assert_eq!(named_by(&other), None);
    }
}
