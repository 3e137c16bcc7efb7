//! Layout of a plugin in a registry, as the Wasm packaging tools define it: one manifest with one
//! layer.

use std::collections::BTreeMap;

use oci_client::manifest::{OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest};

use super::digest::Digest;
use super::error::{RegistryProblem, excerpt};

/// Largest manifest that is read, in bytes.
pub(super) const MANIFEST_MAX_BYTES: u64 = 1 << 20;
/// Type of the component.
pub(super) const LAYER_TYPE: &str = "application/wasm";
/// Type of the configuration, which describes the component.
pub(super) const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
/// Type of the manifest.
pub(super) const MANIFEST_TYPE: &str = OCI_IMAGE_MEDIA_TYPE;

pub(super) const TITLE: &str = "org.opencontainers.image.title";
pub(super) const VERSION: &str = "org.opencontainers.image.version";
pub(super) const DESCRIPTION: &str = "org.opencontainers.image.description";

/// Longest name and version of a plugin from a registry, in characters.
const WORD_MAX_CHARS: usize = 64;

/// A valid manifest of a plugin.
pub(super) struct Artifact {
    pub(super) layer: Digest,
    pub(super) layer_bytes: u64,
    title: Option<String>,
    version: Option<String>,
}

impl Artifact {
    /// Reads a manifest whose component may have `component_max_bytes`.
    pub(super) fn read(manifest: &[u8], component_max_bytes: u64) -> Result<Self, RegistryProblem> {
        let not = |problem: String| Err(RegistryProblem::NotAPlugin(problem));
        let manifest = parse(manifest, &[MANIFEST_TYPE])?;
        if manifest.config.media_type != CONFIG_TYPE {
            return not(format!(
                "its configuration is of type `{}`, expected `{CONFIG_TYPE}`",
                excerpt(&manifest.config.media_type)
            ));
        }
        let [layer] = manifest.layers.as_slice() else {
            return not(format!("it has {} layers, expected one", manifest.layers.len()));
        };
        if layer.media_type != LAYER_TYPE {
            return not(format!(
                "its layer is of type `{}`, expected `{LAYER_TYPE}`",
                excerpt(&layer.media_type)
            ));
        }
        let (digest, bytes) = descriptor(layer)?;
        if bytes > component_max_bytes {
            return Err(RegistryProblem::TooLarge { what: "component", max: component_max_bytes });
        }
        let annotations = manifest.annotations.unwrap_or_default();
        Ok(Self {
            layer: digest,
            layer_bytes: bytes,
            title: word(&annotations, TITLE),
            version: word(&annotations, VERSION),
        })
    }

    /// Name of the plugin, from its manifest or else from the last part of the repository.
    pub(super) fn name(&self, repository: &str) -> String {
        let last = || repository.rsplit('/').next().unwrap_or_default();
        self.title.clone().unwrap_or_else(|| last().chars().take(WORD_MAX_CHARS).collect())
    }

    /// Version of the plugin, from its manifest or else from the requested tag.
    pub(super) fn version(&self, tag: Option<&str>) -> String {
        let tag = || tag.map(|tag| tag.chars().take(WORD_MAX_CHARS).collect());
        self.version.clone().or_else(tag).unwrap_or_else(|| "unversioned".to_owned())
    }
}

/// Parses a manifest of one image with one of these types. Lists of manifests and older kinds are
/// errors.
pub(super) fn parse(manifest: &[u8], types: &[&str]) -> Result<OciImageManifest, RegistryProblem> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        schema_version: Option<i64>,
        media_type: Option<String>,
    }
    let not = |problem: String| RegistryProblem::NotAPlugin(problem);
    let kind: Kind = serde_json::from_slice(manifest).map_err(|error| {
        not(format!("its manifest is no JSON: {}", excerpt(&error.to_string())))
    })?;
    if kind.schema_version != Some(2) {
        return Err(not("its manifest is not of schema version 2".into()));
    }
    match kind.media_type.as_deref() {
        Some(other) if !types.contains(&other) => {
            return Err(not(format!(
                "its manifest is of type `{}`, expected `{MANIFEST_TYPE}`",
                excerpt(other)
            )));
        }
        _ => {}
    }
    serde_json::from_slice(manifest).map_err(|error| {
        not(format!("its manifest is not as expected: {}", excerpt(&error.to_string())))
    })
}

/// Digest and size of an entry in a manifest.
pub(super) fn descriptor(named: &OciDescriptor) -> Result<(Digest, u64), RegistryProblem> {
    let digest = Digest::parse(&named.digest).ok_or_else(|| {
        RegistryProblem::NotAPlugin(format!("`{}` is no whole SHA-256", excerpt(&named.digest)))
    })?;
    let size = u64::try_from(named.size).map_err(|_| {
        RegistryProblem::NotAPlugin(format!("it names a size of {} bytes", named.size))
    })?;
    Ok((digest, size))
}

/// Returns an annotation that is one word in a log line. Other annotations are ignored.
fn word(annotations: &BTreeMap<String, String>, key: &str) -> Option<String> {
    let text = annotations.get(key)?;
    let good = text.chars().all(|one| one.is_ascii_graphic());
    (good && (1..=WORD_MAX_CHARS).contains(&text.len())).then(|| text.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn good() -> Value {
        let digest = Digest::of(b"component").to_string();
        json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
            "config": { "mediaType": CONFIG_TYPE, "digest": digest, "size": 2 },
            "layers": [{ "mediaType": LAYER_TYPE, "digest": digest, "size": 9 }],
            "annotations": { VERSION: "1.2.3", TITLE: "two words" },
        })
    }

    #[test]
    fn reference_supplies_what_manifest_lacks() {
        let read =
            |value: &Value| Artifact::read(value.to_string().as_bytes(), 9).expect("a plugin");
        let plugin = read(&good());
        assert_eq!((plugin.layer, plugin.layer_bytes), (Digest::of(b"component"), 9));
        let plugin = read(&good());
        // A title of two words is ignored.
        assert_eq!(
            (plugin.name("team/echo").as_str(), plugin.version(Some("latest")).as_str()),
            ("echo", "1.2.3")
        );
        let mut bare = good();
        bare.as_object_mut().expect("an object").remove("annotations");
        assert_eq!(
            (read(&bare).version(Some("tag")), read(&bare).version(None)),
            ("tag".into(), "unversioned".into())
        );
    }

    #[test]
    fn other_kinds_of_manifest_are_named() {
        let change = |path: &str, to: Value| {
            let mut value = good();
            *value.pointer_mut(path).expect(path) = to;
            value.to_string()
        };
        let layer = good()["layers"][0].clone();
        for (text, word) in [
            ("[]".to_owned(), "no JSON"),
            ("<html>".to_owned(), "no JSON"),
            (change("/schemaVersion", json!(1)), "schema version"),
            (change("/mediaType", json!("application/vnd.oci.image.index.v1+json")), "image.index"),
            (
                change("/config/mediaType", json!("application/vnd.oci.image.config.v1+json")),
                "image.config",
            ),
            (change("/layers", json!([])), "0 layers"),
            (change("/layers", json!([layer, layer])), "2 layers"),
            (change("/layers", json!(7)), "not as expected"),
            (
                change("/layers/0/mediaType", json!("application/vnd.oci.image.layer.v1.tar")),
                "layer.v1.tar",
            ),
            (change("/layers/0/digest", json!("sha256:../../x")), "SHA-256"),
            (change("/layers/0/size", json!(-1)), "-1 bytes"),
            (change("/layers/0/size", json!(10)), "larger than 9"),
        ] {
            let said = Artifact::read(text.as_bytes(), 9).err().expect("refused").to_string();
            assert!(said.contains(word), "no {word:?} in {said}");
        }
    }
}
