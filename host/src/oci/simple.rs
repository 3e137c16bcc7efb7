//! Signatures as cosign 2 makes them with a key pair ("simple signing"): of a text that names a
//! digest and a repository, kept beside the plugin under a tag made of that digest.

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
/// Where the signature of a text stands.
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// What a signed text says that it is.
const KIND: &str = "cosign container image signature";
/// Largest signed text that is read.
pub(super) const PAYLOAD_MAX_BYTES: u64 = 64 << 10;

/// The tag under which a plugin's signatures are.
pub(super) fn tag(plugin: &Digest) -> String {
    format!("sha256-{}.sig", plugin.hex())
}

/// Says of a plugin that it is good. `None`: the system has no random numbers.
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

/// What names a signed text in a manifest.
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

/// The signature of a text that a manifest names. `None`: it names something else, or a signature
/// in another form.
pub(super) fn named_by(layer: &OciDescriptor) -> Option<Vec<u8>> {
    let text = layer.annotations.as_ref()?.get(ANNOTATION)?;
    (layer.media_type == PAYLOAD_TYPE).then(|| decoded(text)).flatten()
}

/// What a signed text says.
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
    fn a_signature_survives_its_way_through_a_manifest() {
        let evidence = made(&SigningKey::for_tests(), "a.example/echo", &Digest::of(b"plugin"))
            .expect("signed");
        assert_eq!(named_by(&descriptor(&evidence)), Some(evidence.signature.clone()));
        let mut other = descriptor(&evidence);
        other.media_type = "application/wasm".into();
        assert_eq!(named_by(&other), None);
    }
}
