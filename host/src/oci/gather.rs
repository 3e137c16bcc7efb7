//! What a registry has of signatures of a plugin: which there are, and their texts. They are checked by nobody here.

use oci_client::manifest::{IMAGE_CONFIG_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OciDescriptor};
use serde_json::{Value, json};

use super::artifact::{self, MANIFEST_MAX_BYTES, MANIFEST_TYPE};
use super::digest::Digest;
use super::failure::Problem;
use super::signature::{self, Evidence, PAYLOAD_MAX_BYTES, SIGNATURES_MAX};
use super::wire::Wire;

/// What a list of signatures is called.
const LIST: &str = "list of its signatures";

/// The manifest under the signature tag of a plugin, whoever wrote it.
#[derive(Default)]
pub(super) struct SignatureList {
    manifest: Value,
    layers: Vec<OciDescriptor>,
}

impl SignatureList {
    fn read(manifest: &[u8]) -> Result<Self, Problem> {
        let unreadable = |cause| Problem::Unreadable { what: LIST, cause };
        // Of a list of signatures nothing hangs on whose types it has.
        let layers = match artifact::parse(manifest, &[MANIFEST_TYPE, IMAGE_MANIFEST_MEDIA_TYPE]) {
            Ok(manifest) => manifest.layers,
            Err(Problem::NotAPlugin(cause)) => return Err(unreadable(cause)),
            Err(problem) => return Err(problem),
        };
        let manifest = serde_json::from_slice(manifest).map_err(|error| unreadable(error.to_string()))?;
        Ok(Self { manifest, layers })
    }

    /// How many signatures it names, in whatever form.
    pub(super) fn len(&self) -> usize {
        self.layers.len()
    }

    /// A manifest that names one more, and the configuration that it wants to have. What others wrote stays as they wrote it,
    /// for they know more forms of signatures than are read here.
    pub(super) fn with(self, added: &OciDescriptor) -> Result<(Vec<u8>, Vec<u8>), Problem> {
        let text = |value: &Value| value.to_string().into_bytes();
        let mut manifest = if self.manifest.is_object() { self.manifest } else { json!({}) };
        let mut layers = manifest["layers"].take().as_array_mut().map(std::mem::take).unwrap_or_default();
        layers.push(serde_json::to_value(added).map_err(|error| Problem::Client(error.to_string()))?);
        let digests: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let config = text(&json!({
            "architecture": "", "os": "", "config": {}, "created": "1970-01-01T00:00:00Z",
            "rootfs": { "type": "layers", "diff_ids": digests },
        }));
        manifest["schemaVersion"] = json!(2);
        manifest["mediaType"] = json!(MANIFEST_TYPE);
        manifest["config"] = json!({
            "mediaType": IMAGE_CONFIG_MEDIA_TYPE, "digest": Digest::of(&config).as_str(), "size": config.len(),
        });
        manifest["layers"] = Value::Array(layers);
        let manifest = text(&manifest);
        match manifest.len() as u64 > MANIFEST_MAX_BYTES {
            true => Err(Problem::TooLarge { what: "list of signatures", max: MANIFEST_MAX_BYTES }),
            false => Ok((config, manifest)),
        }
    }
}

impl Wire<'_> {
    /// The list of a plugin's signatures. It is empty where there is none.
    pub(super) async fn signatures(&mut self, plugin: &Digest) -> Result<SignatureList, Problem> {
        let path = format!("manifests/{}", signature::tag(plugin));
        let types = format!("{MANIFEST_TYPE}, {IMAGE_MANIFEST_MEDIA_TYPE}");
        match self.get(&path, &types, LIST, MANIFEST_MAX_BYTES).await {
            Ok(manifest) => SignatureList::read(&manifest),
            Err(Problem::NotThere(_)) => Ok(SignatureList::default()),
            Err(problem) => Err(problem),
        }
    }

    /// Those of a list that are looked at, with what they sign.
    pub(super) async fn evidence(&mut self, list: &SignatureList) -> Result<Vec<Evidence>, Problem> {
        let mut evidence = Vec::new();
        for layer in list.layers.iter().take(SIGNATURES_MAX) {
            let Some(signature) = signature::named_by(layer) else { continue };
            let (digest, bytes) = artifact::descriptor(layer)?;
            if bytes > PAYLOAD_MAX_BYTES {
                return Err(Problem::TooLarge { what: "signed text", max: PAYLOAD_MAX_BYTES });
            }
            evidence.push(Evidence { payload: self.blob("signed text", &digest, bytes).await?, signature });
        }
        Ok(evidence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_more_leaves_the_others_as_they_are() {
        let theirs = json!({
            "mediaType": "application/x", "digest": Digest::of(b"theirs").as_str(), "size": 6, "data": "dGhlaXJz",
            "annotations": { "dev.cosignproject.cosign/signature": "A".repeat(344), "dev.sigstore.cosign/bundle": "{}" },
        });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "layers": [theirs], "annotations": { "by": "them" },
            "config": { "mediaType": "application/y", "digest": Digest::of(b"{}").as_str(), "size": 2 },
        });
        let list = SignatureList::read(manifest.to_string().as_bytes()).expect("a list");
        assert_eq!(list.len(), 1);
        let ours = OciDescriptor { digest: Digest::of(b"ours").to_string(), ..OciDescriptor::default() };
        let (config, manifest) = list.with(&ours).expect("a manifest");
        let value = |text: &[u8]| serde_json::from_slice::<Value>(text).expect("JSON");
        assert_eq!((&value(&manifest)["layers"][0], &value(&manifest)["annotations"]["by"]), (&theirs, &json!("them")));
        assert_eq!(value(&manifest)["layers"][1]["digest"], ours.digest.as_str());
        let digests = json!([Digest::of(b"theirs").as_str(), Digest::of(b"ours").as_str()]);
        assert_eq!(value(&config)["rootfs"]["diff_ids"], digests);
        assert_eq!(SignatureList::read(&manifest).expect("a list").len(), 2);

        let (_, first) = SignatureList::default().with(&ours).expect("a manifest");
        assert_eq!(SignatureList::read(&first).expect("a list").len(), 1);
    }
}
