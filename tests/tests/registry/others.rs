//! Signatures by other programs: recorded ones, and new ones if cosign is installed, which also
//! checks ours. Without cosign a test says so and checks nothing. `WHARF_TESTS_COSIGN=required`
//! makes that a failure.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use wharf::oci::{
    Digest, PullPolicy, Pulled, Registries, RegistryConfig, RegistryError, SigningKey,
};
use wharf_tests::docker_registry::DockerRegistry;
use wharf_tests::languages::target;

use super::common::{push, pushed_component, reference, refused};
use super::signed::{get, key, put_blob, put_manifest, run, sign, signature_tag, trusting};

fn samples(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/registry/samples").join(name)
}

fn sample(name: &str) -> Vec<u8> {
    std::fs::read(samples(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Puts a manifest of the samples under a tag or its digest, after the blobs that it names.
fn publish(
    docker_registry: &DockerRegistry,
    scratch: &Path,
    manifest: &str,
    blobs: &[&str],
    tag: &str,
) {
    for blob in blobs {
        put_blob(docker_registry, scratch, &sample(blob));
    }
    put_manifest(docker_registry, tag, &sample(manifest));
}

/// Puts the plugin of the samples under a tag, without signatures.
fn publish_plugin(docker_registry: &DockerRegistry, scratch: &Path) -> Digest {
    publish(
        docker_registry,
        scratch,
        "plugin/manifest.json",
        &["plugin/config.json", "plugin/component"],
        "1",
    );
    Digest::of(&sample("plugin/manifest.json"))
}

fn pull(
    docker_registry: &DockerRegistry,
    scratch: &Path,
    key: &Path,
) -> Result<Pulled, RegistryError> {
    Registries::new(trusting(scratch, docker_registry, &[key]))
        .fetch(&reference(&docker_registry.reference("echo:1")))
}

#[test]
fn recorded_signatures_count_only_under_their_key() {
    for by in ["cosign-2.5.0", "cosign-3.1.1", "skopeo-1.18.0"] {
        let Some(docker_registry) = DockerRegistry::open() else { return };
        let folder = tempfile::tempdir().expect("a folder");
        let (_, other) = key(folder.path(), "other");
        let digest = publish_plugin(&docker_registry, folder.path());
        assert!(
            refused(pull(&docker_registry, folder.path(), &samples("team.pub")))
                .contains("not signed"),
            "{by}"
        );
        let file = |name: &str| format!("{by}/{name}");
        let blobs = [file("config.json"), file("text.json")];
        let blobs = [blobs[0].as_str(), blobs[1].as_str()];
        publish(
            &docker_registry,
            folder.path(),
            &file("manifest.json"),
            &blobs,
            &signature_tag(&digest),
        );

        let said = refused(pull(&docker_registry, folder.path(), &other));
        assert!(
            said.contains("none of its 1 signatures is by a key that is believed here: other.pub"),
            "{by}: {said}"
        );
        let pulled = pull(&docker_registry, folder.path(), &samples("team.pub")).expect(by);
        assert_eq!(
            (pulled.bytes.as_slice(), pulled.signed_by.as_deref()),
            (&b"bytes"[..], Some("team.pub")),
            "{by}"
        );
    }
}

#[test]
fn signature_list_may_have_docker_types() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let digest = publish_plugin(&docker_registry, folder.path());
    for blob in ["cosign-2.5.0/config.json", "cosign-2.5.0/text.json"] {
        put_blob(&docker_registry, folder.path(), &sample(blob));
    }
    let mut manifest: Value =
        serde_json::from_slice(&sample("cosign-2.5.0/manifest.json")).expect("JSON");
    manifest["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json");
    manifest["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    put_manifest(&docker_registry, &signature_tag(&digest), manifest.to_string().as_bytes());
    pull(&docker_registry, folder.path(), &samples("team.pub")).expect("believed");
}

/// Attaches the bundle of a sample to the plugin of the samples.
fn attach(docker_registry: &DockerRegistry, scratch: &Path, by: &str, digest: &Digest) {
    let file = |name: &str| format!("{by}/{name}");
    let (manifest, blobs) = (file("manifest.json"), [file("config.json"), file("bundle.json")]);
    let named = Digest::of(&sample(&manifest));
    publish(docker_registry, scratch, &manifest, &[&blobs[0], &blobs[1]], named.as_str());
    publish(
        docker_registry,
        scratch,
        &file("index.json"),
        &[],
        &format!("sha256-{}", digest.hex()),
    );
}

#[test]
fn bundle_counts_if_it_names_repository_or_digest() {
    let Some(mut docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (_, other) = key(folder.path(), "other");
    let digest = publish_plugin(&docker_registry, folder.path());
    let pinned = reference(&docker_registry.reference(&format!("echo@{digest}")));
    let by_digest = |key: &Path| {
        Registries::new(trusting(folder.path(), &docker_registry, &[key])).fetch(&pinned)
    };
    let ours = samples("team.pub");

    // By default, cosign 3 writes a bundle that names only a digest.
    attach(&docker_registry, folder.path(), "cosign-3.1.1-bundle", &digest);
    let said = refused(pull(&docker_registry, folder.path(), &ours));
    let words = format!("(`@{digest}`), or sign it with `cosign sign -a repository=echo`");
    assert!(
        said.contains("team.pub has signed it without saying which plugin it is")
            && said.contains(&words),
        "{said}"
    );
    assert!(refused(by_digest(&other)).contains("none of its 1 signatures"));
    assert_eq!(by_digest(&ours).expect("believed").signed_by.as_deref(), Some("team.pub"));
    // The copy that was kept by its digest does not count for a tag.
    assert!(
        refused(pull(&docker_registry, folder.path(), &ours))
            .contains("without saying which plugin")
    );

    attach(&docker_registry, folder.path(), "cosign-3.1.1-repository", &digest);
    assert!(
        refused(pull(&docker_registry, folder.path(), &other)).contains("none of its 1 signatures")
    );
    assert_eq!(
        pull(&docker_registry, folder.path(), &ours).expect("believed").signed_by.as_deref(),
        Some("team.pub")
    );
    let config = trusting(folder.path(), &docker_registry, &[&ours]);
    let tagged = reference(&docker_registry.reference("echo:1"));
    docker_registry.stop();
    let kept = Registries::new(RegistryConfig { pull: PullPolicy::Never, ..config });
    for wanted in [&tagged, &pinned] {
        assert_eq!(kept.fetch(wanted).expect("kept").signed_by.as_deref(), Some("team.pub"));
    }
}

#[test]
fn attestation_is_not_a_signature() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let digest = publish_plugin(&docker_registry, folder.path());
    attach(&docker_registry, folder.path(), "cosign-3.1.1-attestation", &digest);
    let registries =
        Registries::new(trusting(folder.path(), &docker_registry, &[&samples("team.pub")]));
    let said = refused(
        registries.fetch(&reference(&docker_registry.reference(&format!("echo@{digest}")))),
    );
    assert!(said.contains("what team.pub has signed is no signature of a plugin"), "{said}");
}

#[test]
fn signing_keeps_the_signatures_of_others() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (ours, public) = key(folder.path(), "ours");
    let path = |name: &str| folder.path().join(name).display().to_string();
    run("openssl", &["genrsa", "-out", &path("rsa.key"), "2048"]);
    run("openssl", &["rsa", "-in", &path("rsa.key"), "-pubout", "-out", &path("rsa.pub")]);
    let digest = push(&docker_registry.reference("echo:1"), "1", b"bytes");
    let text = json!({ "critical": {
        "identity": { "docker-reference": format!("{}/echo", docker_registry.address()) },
        "image": { "docker-manifest-digest": digest.as_str() }, "type": "cosign container image \
         signature",
    }, "optional": null });
    std::fs::write(path("text"), text.to_string()).expect("kept");
    run(
        "openssl",
        &["dgst", "-sha256", "-sign", &path("rsa.key"), "-out", &path("signature"), &path("text")],
    );
    let signature = String::from_utf8(run("openssl", &["base64", "-A", "-in", &path("signature")]))
        .expect("text");
    assert_eq!(signature.len(), 344, "longer than any that is read here");
    let layer = json!({
        "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
        "size": text.to_string().len(),
        "digest": put_blob(&docker_registry, folder.path(), text.to_string().as_bytes()).as_str(),
        "annotations": { "dev.cosignproject.cosign/signature": signature,
        "example.theirs": "kept" },
    });
    let config = put_blob(&docker_registry, folder.path(), b"{}");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "layers": [layer],
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": config.as_str(), "size": 2 },
    });
    put_manifest(&docker_registry, &signature_tag(&digest), manifest.to_string().as_bytes());
    let said = refused(pull(&docker_registry, folder.path(), &public));
    assert!(
        said.contains("no signature in a form that is looked at")
            && said.contains("; 1 in other forms"),
        "{said}"
    );

    assert_eq!(sign(&docker_registry, "echo:1", b"bytes", &ours), digest);
    let manifest = get(&docker_registry, &format!("echo/manifests/{}", signature_tag(&digest)));
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    assert_eq!(
        (&manifest["layers"][0], manifest["layers"].as_array().map(Vec::len)),
        (&layer, Some(2))
    );
    assert_eq!(
        pull(&docker_registry, folder.path(), &public).expect("believed").signed_by.as_deref(),
        Some("ours.pub")
    );
    if let Some(cosign) = Cosign::find(folder.path()) {
        for key in ["rsa.pub", "ours.pub"] {
            let verified = cosign.verify(&docker_registry, "1", &folder.path().join(key));
            assert!(
                verified.status.success(),
                "{key}: {}",
                String::from_utf8_lossy(&verified.stderr)
            );
        }
    }

    // If a new signature would be one too many to be read, it is not added.
    let mut full = manifest;
    full["layers"] = json!(vec![layer; 16]);
    put_manifest(&docker_registry, &signature_tag(&digest), full.to_string().as_bytes());
    let push = Registries::new(RegistryConfig::default()).push(
        &reference(&docker_registry.reference("echo:1")),
        pushed_component("1", b"bytes"),
        Some(&SigningKey::read(&ours).expect("a key")),
    );
    let said = push.expect_err("refused").to_string();
    assert!(
        said.contains("it has 16 signatures or more already")
            && said.contains(&signature_tag(&digest)),
        "{said}"
    );
}

/// The output of `cosign signing-config create` without services.
const NO_SERVICES: &str = r#"{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json",
    "rekorTlogConfig":{},"tsaConfig":{}}"#;

/// The cosign program and the folder of its files.
struct Cosign {
    program: PathBuf,
    folder: PathBuf,
}

impl Cosign {
    /// Finds the program that `tests/cosign.sh` installed, or one on the path.
    fn find(folder: &Path) -> Option<Self> {
        let own = target().join("toolchains/cosign/usr/bin/cosign");
        let program = if own.exists() { own } else { "cosign".into() };
        if let Err(error) = Command::new(&program).arg("version").output() {
            assert!(std::env::var_os("WHARF_TESTS_COSIGN").is_none(), "cosign: {error}");
            eprintln!("SKIPPED: nothing was tried with cosign: {error}");
            return None;
        }
        Some(Self { program, folder: folder.into() })
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .current_dir(&self.folder)
            .env("HOME", &self.folder)
            .env("COSIGN_PASSWORD", "");
        command.output().expect("it runs")
    }

    /// Makes `NAME.key`, in cosign's own format, and `NAME.pub`.
    fn key(&self, name: &str) -> PathBuf {
        let made = self.run(&["generate-key-pair", "--output-key-prefix", name]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self.folder.join(format!("{name}.pub"))
    }

    /// Signs a digest with `NAME.key`, in the default form of cosign 2.
    fn sign(&self, docker_registry: &DockerRegistry, digest: &Digest, name: &str) {
        let (key, place) =
            (format!("{name}.key"), format!("{}/echo@{digest}", docker_registry.address()));
        let mut arguments =
            vec!["sign", "--key", &key, "--tlog-upload=false", "--allow-http-registry", "-y"];
        if self.writes_bundles() {
            arguments.extend(["--new-bundle-format=false", "--use-signing-config=false"]);
        }
        arguments.push(&place);
        let signed = self.run(&arguments);
        assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
    }

    fn writes_bundles(&self) -> bool {
        let help = self.run(&["sign", "--help"]);
        String::from_utf8_lossy(&help.stdout).contains("--use-signing-config")
    }

    /// Verifies the signatures of a tag.
    fn verify(&self, docker_registry: &DockerRegistry, tag: &str, public: &Path) -> Output {
        let (place, key) =
            (format!("{}/echo:{tag}", docker_registry.address()), public.display().to_string());
        self.run(&[
            "verify",
            "--key",
            &key,
            "--insecure-ignore-tlog=true",
            "--allow-http-registry",
            &place,
        ])
    }
}

#[test]
fn plugin_signed_by_cosign_is_pulled() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let Some(cosign) = Cosign::find(folder.path()) else { return };
    let (public, other) = (cosign.key("ours"), cosign.key("theirs"));
    let digest = push(&docker_registry.reference("echo:1"), "1", b"bytes");
    cosign.sign(&docker_registry, &digest, "theirs");
    assert!(
        refused(pull(&docker_registry, folder.path(), &public))
            .contains("none of its 1 signatures")
    );
    cosign.sign(&docker_registry, &digest, "ours");
    for (key, name) in [(&public, "ours.pub"), (&other, "theirs.pub")] {
        assert_eq!(
            pull(&docker_registry, folder.path(), key).expect("believed").signed_by.as_deref(),
            Some(name)
        );
    }
    push(&docker_registry.reference("echo:1"), "2", b"others");
    let fresh = tempfile::tempdir().expect("a folder");
    assert!(refused(pull(&docker_registry, fresh.path(), &public)).contains("it is not signed"));
}

#[test]
fn plugin_signed_by_cosign_3_bundle_is_pulled() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let Some(cosign) = Cosign::find(folder.path()) else { return };
    if !cosign.writes_bundles() {
        eprintln!("SKIPPED: this cosign writes no bundles of itself; recorded ones are tried");
        return;
    }
    let public = cosign.key("ours");
    let digest = push(&docker_registry.reference("echo:1"), "1", b"bytes");
    std::fs::write(folder.path().join("none.json"), NO_SERVICES).expect("kept");
    let place = format!("{}/echo@{digest}", docker_registry.address());
    let sign = |more: &[&str]| {
        let usual = [
            "sign",
            "--key",
            "ours.key",
            "--signing-config",
            "none.json",
            "--allow-http-registry",
            "-y",
            &place,
        ];
        let signed = cosign.run(&[&usual, more].concat());
        assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
    };
    sign(&[]);
    assert!(
        refused(pull(&docker_registry, folder.path(), &public))
            .contains("without saying which plugin it is")
    );
    sign(&["-a", "repository=team/echo"]);
    assert_eq!(
        pull(&docker_registry, folder.path(), &public).expect("believed").signed_by.as_deref(),
        Some("ours.pub")
    );
}

#[test]
fn cosign_verifies_signatures_of_wharf() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let Some(cosign) = Cosign::find(folder.path()) else { return };
    let ((ours, public), other) = (key(folder.path(), "ours"), cosign.key("theirs"));
    let digest = sign(&docker_registry, "echo:1", b"bytes", &ours);
    let verified = cosign.verify(&docker_registry, "1", &public);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    assert!(String::from_utf8_lossy(&verified.stdout).contains(digest.as_str()));
    assert!(!cosign.verify(&docker_registry, "1", &other).status.success());
    // Both programs find both signatures after they signed one after the other.
    cosign.sign(&docker_registry, &digest, "theirs");
    let third = key(folder.path(), "third");
    sign(&docker_registry, "echo:1", b"bytes", &third.0);
    for key in [&public, &other, &third.1] {
        let verified = cosign.verify(&docker_registry, "1", key);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        pull(&docker_registry, folder.path(), key).expect("believed");
    }
}
