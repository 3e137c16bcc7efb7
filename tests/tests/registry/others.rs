//! Signatures by programs that are not ours, recorded from them.

use std::path::{Path, PathBuf};

use wharf::oci::{Digest, Pulled, Registries, RegistryError};
use wharf_tests::depot::Depot;

use super::common::{reference, refused};
use super::signed::{key, put_blob, put_manifest, signature_tag, trusting};

fn samples(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/registry/samples").join(name)
}

fn sample(name: &str) -> Vec<u8> {
    std::fs::read(samples(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Puts a manifest of the samples under a tag or its digest, after the blobs that it names.
fn publish(depot: &Depot, scratch: &Path, manifest: &str, blobs: &[&str], tag: &str) {
    for blob in blobs {
        put_blob(depot, scratch, &sample(blob));
    }
    put_manifest(depot, tag, &sample(manifest));
}

/// Puts the plugin that the samples sign under a tag, and nothing else.
fn publish_plugin(depot: &Depot, scratch: &Path) -> Digest {
    publish(depot, scratch, "plugin/manifest.json", &["plugin/config.json", "plugin/component"], "1");
    Digest::of(&sample("plugin/manifest.json"))
}

fn pull(depot: &Depot, scratch: &Path, key: &Path) -> Result<Pulled, RegistryError> {
    Registries::new(trusting(scratch, depot, &[key])).fetch(&reference(&depot.reference("echo:1")))
}

#[test]
fn signatures_recorded_from_other_programs_are_believed_under_their_key_only() {
    for by in ["cosign-2.5.0", "cosign-3.1.1", "skopeo-1.18.0"] {
        let Some(depot) = Depot::open() else { return };
        let folder = tempfile::tempdir().expect("a folder");
        let (_, other) = key(folder.path(), "other");
        let digest = publish_plugin(&depot, folder.path());
        assert!(refused(pull(&depot, folder.path(), &samples("team.pub"))).contains("not signed"), "{by}");
        let file = |name: &str| format!("{by}/{name}");
        let blobs = [file("config.json"), file("text.json")];
        let blobs = [blobs[0].as_str(), blobs[1].as_str()];
        publish(&depot, folder.path(), &file("manifest.json"), &blobs, &signature_tag(&digest));

        let said = refused(pull(&depot, folder.path(), &other));
        assert!(said.contains("none of its 1 signatures is by a key that is believed here: other.pub"), "{by}: {said}");
        let pulled = pull(&depot, folder.path(), &samples("team.pub")).expect(by);
        assert_eq!((pulled.bytes.as_slice(), pulled.signed_by.as_deref()), (&b"bytes"[..], Some("team.pub")), "{by}");
    }
}

#[test]
fn a_bundle_alone_is_not_a_signature() {
    let Some(depot) = Depot::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let digest = publish_plugin(&depot, folder.path());
    let file = |name: &str| format!("cosign-3.1.1-bundle/{name}");
    let (manifest, blobs) = (file("manifest.json"), [file("config.json"), file("bundle.json")]);
    let named = Digest::of(&sample(&manifest));
    publish(&depot, folder.path(), &manifest, &[&blobs[0], &blobs[1]], named.as_str());
    publish(&depot, folder.path(), &file("index.json"), &[], &format!("sha256-{}", digest.hex()));
    let said = refused(pull(&depot, folder.path(), &samples("team.pub")));
    assert!(said.contains("it is not signed; expected one of team.pub"), "{said}");
}
