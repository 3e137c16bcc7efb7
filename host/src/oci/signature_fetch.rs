//! Signatures of a plugin in a registry: the list of them, and their signed texts. Nothing is
//! checked here.

use oci_client::manifest::{IMAGE_CONFIG_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OciDescriptor};
use serde_json::{Value, json};

use super::artifact::{self, MANIFEST_MAX_BYTES, MANIFEST_TYPE};
use super::bundle::{
    self, BUNDLE_MAX_BYTES, INDEX_MAX_BYTES, INDEX_TYPE, REFERRER_MAX_BYTES, REFERRERS_MAX,
};
use super::claim::{Evidence, Form};
use super::client::{RegistryClient, lied};
use super::digest::Digest;
use super::error::RegistryProblem;
use super::signature::{Found, SIGNATURES_MAX};
use super::simple::{self, PAYLOAD_MAX_BYTES};

/// Name of the list in errors.
const LIST: &str = "list of its signatures";

/// Manifest under the signature tag of a plugin, by any author.
#[derive(Default)]
pub(super) struct SignatureList {
    manifest: Value,
    layers: Vec<OciDescriptor>,
}

impl SignatureList {
    pub(super) fn read(manifest: &[u8]) -> Result<Self, RegistryProblem> {
        let unreadable = |cause| RegistryProblem::Unreadable { what: LIST, cause };
        // The types in a list of signatures do not matter.
        let layers = match artifact::parse(manifest, &[MANIFEST_TYPE, IMAGE_MANIFEST_MEDIA_TYPE]) {
            Ok(manifest) => manifest.layers,
            Err(RegistryProblem::NotAPlugin(cause)) => return Err(unreadable(cause)),
            Err(problem) => return Err(problem),
        };
        let manifest =
            serde_json::from_slice(manifest).map_err(|error| unreadable(error.to_string()))?;
        Ok(Self { manifest, layers })
    }

    /// Number of signatures in the list, in any form.
    pub(super) fn len(&self) -> usize {
        self.layers.len()
    }

    /// Adds a signature and returns the new manifest's configuration and the manifest. Entries of
    /// others stay unchanged, because other tools know more forms of signatures than this host.
    pub(super) fn with(self, added: &OciDescriptor) -> Result<(Vec<u8>, Vec<u8>), RegistryProblem> {
        let text = |value: &Value| value.to_string().into_bytes();
        let mut manifest = if self.manifest.is_object() { self.manifest } else { json!({}) };
        let mut layers =
            manifest["layers"].take().as_array_mut().map(std::mem::take).unwrap_or_default();
        layers.push(
            serde_json::to_value(added)
                .map_err(|error| RegistryProblem::Client(error.to_string()))?,
        );
        let digests: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let config = text(&json!({
            "architecture": "", "os": "", "config": {}, "created": "1970-01-01T00:00:00Z",
            "rootfs": { "type": "layers", "diff_ids": digests },
        }));
        manifest["schemaVersion"] = json!(2);
        manifest["mediaType"] = json!(MANIFEST_TYPE);
        manifest["config"] = json!({
            "mediaType": IMAGE_CONFIG_MEDIA_TYPE, "digest": Digest::of(&config).as_str(),
            "size": config.len(),
        });
        manifest["layers"] = Value::Array(layers);
        let manifest = text(&manifest);
        match manifest.len() as u64 > MANIFEST_MAX_BYTES {
            true => Err(RegistryProblem::TooLarge {
                what: "list of signatures",
                max: MANIFEST_MAX_BYTES,
            }),
            false => Ok((config, manifest)),
        }
    }
}

impl RegistryClient<'_> {
    /// Fetches the list of a plugin's signatures. The list is empty if there is none.
    pub(super) async fn signatures(
        &mut self,
        plugin: &Digest,
    ) -> Result<SignatureList, RegistryProblem> {
        let path = format!("manifests/{}", simple::tag(plugin));
        let types = format!("{MANIFEST_TYPE}, {IMAGE_MANIFEST_MEDIA_TYPE}");
        match self.get(&path, &types, LIST, MANIFEST_MAX_BYTES).await {
            Ok(manifest) => SignatureList::read(&manifest),
            Err(RegistryProblem::NotThere(_)) => Ok(SignatureList::default()),
            Err(problem) => Err(problem),
        }
    }

    /// Fetches the texts that the signatures of a list sign.
    pub(super) async fn texts(&mut self, list: &SignatureList, found: &mut Found) {
        for (at, layer) in list.layers.iter().enumerate() {
            let Some(signature) = simple::named_by(layer).filter(|_| at < SIGNATURES_MAX) else {
                found.passed_over += 1;
                continue;
            };
            match self.text(layer).await {
                Ok(payload) => found.add(Evidence { form: Form::Simple, payload, signature }),
                Err(problem) => found.note(problem),
            }
        }
    }

    async fn text(&mut self, layer: &OciDescriptor) -> Result<Vec<u8>, RegistryProblem> {
        let (digest, bytes) = artifact::descriptor(layer)?;
        match bytes > PAYLOAD_MAX_BYTES {
            true => Err(RegistryProblem::TooLarge { what: "signed text", max: PAYLOAD_MAX_BYTES }),
            false => self.blob("signed text", &digest, bytes).await,
        }
    }

    /// Fetches the bundles that are attached to a plugin.
    pub(super) async fn bundles(&mut self, plugin: &Digest, found: &mut Found) {
        let referrers = self.referrers(plugin, found).await;
        for (at, referrer) in referrers.iter().enumerate() {
            if at >= REFERRERS_MAX || found.is_full() {
                found.referrers_left = referrers.len() - at;
                break;
            }
            match self.bundle(referrer, plugin).await {
                Ok(None) => {}
                Ok(Some(bundle)) => match bundle::read(&bundle) {
                    Some(evidence) => found.add(evidence),
                    None => found.passed_over += 1,
                },
                Err(problem) => found.note(problem),
            }
        }
    }

    /// Fetches the digests of a plugin's referrers, from the registry's API or, if it has none,
    /// from the tag under which clients keep the list.
    async fn referrers(&mut self, plugin: &Digest, found: &mut Found) -> Vec<Digest> {
        for path in [format!("referrers/{plugin}"), format!("manifests/{}", bundle::tag(plugin))] {
            let list = self.page(&path, INDEX_TYPE, "list of its referrers", INDEX_MAX_BYTES).await;
            match list.and_then(|list| Ok((bundle::referrers(&list.content)?, list.more))) {
                Ok((referrers, more)) => {
                    // Each further part would cost another request, and their number is unknown.
                    found.pages_left = more;
                    return referrers;
                }
                // Registries without this API answer in one of these ways.
                Err(
                    RegistryProblem::NotThere(_)
                    | RegistryProblem::Answer { status: 400 | 405 | 406, .. },
                ) => {}
                Err(problem) => found.note(problem),
            }
        }
        Vec::new()
    }

    /// Fetches the bundle that a referrer attaches to a plugin. `None` if the referrer is something
    /// else.
    async fn bundle(
        &mut self,
        referrer: &Digest,
        plugin: &Digest,
    ) -> Result<Option<Vec<u8>>, RegistryProblem> {
        let path = format!("manifests/{referrer}");
        let manifest = match self
            .get(&path, MANIFEST_TYPE, "manifest of a referrer", REFERRER_MAX_BYTES)
            .await
        {
            // A list may name a manifest that is gone.
            Err(RegistryProblem::NotThere(_)) => return Ok(None),
            manifest => manifest?,
        };
        let digest = Digest::of(&manifest);
        if digest != *referrer {
            return Err(lied("manifest of a referrer", referrer, &digest));
        }
        let Some((digest, bytes)) = bundle::attached_by(&manifest, plugin) else { return Ok(None) };
        match bytes > BUNDLE_MAX_BYTES {
            true => Err(RegistryProblem::TooLarge { what: "bundle", max: BUNDLE_MAX_BYTES }),
            false => self.blob("bundle", &digest, bytes).await.map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_signature_leaves_others_unchanged() {
        let theirs = json!({
            "mediaType": "application/x", "digest": Digest::of(b"theirs").as_str(), "size": 6,
            "data": "dGhlaXJz",
            "annotations": { "dev.cosignproject.cosign/signature": "A".repeat(344),
            "dev.sigstore.cosign/bundle": "{}" },
        });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "layers": [theirs],
            "annotations": { "by": "them" },
            "config": { "mediaType": "application/y", "digest": Digest::of(b"{}").as_str(),
            "size": 2 },
        });
        let list = SignatureList::read(manifest.to_string().as_bytes()).expect("a list");
        assert_eq!(list.len(), 1);
        let ours =
            OciDescriptor { digest: Digest::of(b"ours").to_string(), ..OciDescriptor::default() };
        let (config, manifest) = list.with(&ours).expect("a manifest");
        let value = |text: &[u8]| serde_json::from_slice::<Value>(text).expect("JSON");
        assert_eq!(
            (&value(&manifest)["layers"][0], &value(&manifest)["annotations"]["by"]),
            (&theirs, &json!("them"))
        );
        assert_eq!(value(&manifest)["layers"][1]["digest"], ours.digest.as_str());
        let digests = json!([Digest::of(b"theirs").as_str(), Digest::of(b"ours").as_str()]);
        assert_eq!(value(&config)["rootfs"]["diff_ids"], digests);
        assert_eq!(SignatureList::read(&manifest).expect("a list").len(), 2);

        let (_, first) = SignatureList::default().with(&ours).expect("a manifest");
        assert_eq!(SignatureList::read(&first).expect("a list").len(), 1);
    }
}
