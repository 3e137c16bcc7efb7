//! Required signatures: an unsigned plugin is refused, and so is one signed by another key or as
//! another plugin.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use wharf::oci::{
    Digest, PluginOrigin, PublicKey, PullPolicy, Registries, RegistryConfig, SignatureRule,
    SigningKey, Trust,
};
use wharf_tests::control_site::ControlSite;
use wharf_tests::docker_registry::DockerRegistry;
use wharf_tests::guests::component;

use super::common::{
    done, failed, kept, push, pushed_component, reference, refused, registry_config, wharf,
};

pub(crate) fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Makes `NAME.key` and `NAME.pub`.
pub(crate) fn key(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (private, public) =
        (folder.join(format!("{name}.key")), folder.join(format!("{name}.pub")));
    let path = |path: &Path| path.display().to_string();
    run(
        "openssl",
        &[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
            &path(&private),
        ],
    );
    run("openssl", &["pkey", "-in", &path(&private), "-pubout", "-out", &path(&public)]);
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    (private, public)
}

fn signing(file: &Path) -> SigningKey {
    SigningKey::read(file).expect("a key")
}

/// A configuration that trusts the registry if one of these keys has signed.
pub(crate) fn trusting(
    folder: &Path,
    docker_registry: &DockerRegistry,
    keys: &[&Path],
) -> RegistryConfig {
    let keys = keys.iter().map(|file| PublicKey::read(file).expect("a key")).collect();
    RegistryConfig {
        trust: vec![Trust { prefix: docker_registry.address(), keys }],
        ..registry_config(folder)
    }
}

pub(crate) fn sign(
    docker_registry: &DockerRegistry,
    tag: &str,
    bytes: &[u8],
    key: &Path,
) -> Digest {
    let registries = Registries::new(RegistryConfig::default());
    registries
        .push(
            &reference(&docker_registry.reference(tag)),
            pushed_component("1", bytes),
            Some(&signing(key)),
        )
        .expect("pushed")
}

pub(crate) fn signature_tag(digest: &Digest) -> String {
    format!("sha256-{}.sig", digest.hex())
}

pub(crate) fn get(docker_registry: &DockerRegistry, path: &str) -> Vec<u8> {
    let url = format!("http://{}/v2/{path}", docker_registry.address());
    run(
        "curl",
        &[
            "--silent",
            "--fail",
            "--header",
            "Accept: application/vnd.oci.image.manifest.v1+json",
            &url,
        ],
    )
}

pub(crate) fn put_manifest(docker_registry: &DockerRegistry, tag: &str, manifest: &[u8]) {
    let url = format!("http://{}/v2/echo/manifests/{tag}", docker_registry.address());
    let parsed: Value = serde_json::from_slice(manifest).expect("JSON");
    let kind = format!("Content-Type: {}", parsed["mediaType"].as_str().expect("a type"));
    let text = String::from_utf8(manifest.into()).expect("text");
    run(
        "curl",
        &[
            "--silent",
            "--fail",
            "--request",
            "PUT",
            "--header",
            &kind,
            "--data-binary",
            &text,
            &url,
        ],
    );
}

pub(crate) fn put_blob(docker_registry: &DockerRegistry, folder: &Path, content: &[u8]) -> Digest {
    let (file, digest) = (folder.join("blob"), Digest::of(content));
    std::fs::write(&file, content).expect("kept");
    let url = format!("http://{}/v2/echo/blobs/uploads/", docker_registry.address());
    let answer = run(
        "curl",
        &["--silent", "--fail", "--request", "POST", "--write-out", "%header{location}", &url],
    );
    let place = format!("{}&digest={digest}", String::from_utf8(answer).expect("an address"));
    let data = format!("@{}", file.display());
    let kind = "Content-Type: application/octet-stream";
    run(
        "curl",
        &[
            "--silent",
            "--fail",
            "--request",
            "PUT",
            "--header",
            kind,
            "--data-binary",
            &data,
            &place,
        ],
    );
    digest
}

#[test]
fn only_plugins_signed_by_trusted_keys_are_pulled() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let ((ours, public), (theirs, _)) = (key(folder.path(), "ours"), key(folder.path(), "theirs"));
    let registries = Registries::new(trusting(folder.path(), &docker_registry, &[&public]));
    let fetch = |tag: &str| registries.fetch(&reference(&docker_registry.reference(tag)));

    push(&docker_registry.reference("echo:unsigned"), "1", b"unsigned");
    let said = refused(fetch("echo:unsigned"));
    assert!(
        said.contains("a signature is required, and it is not signed; expected one of ours.pub"),
        "{said}"
    );
    sign(&docker_registry, "echo:theirs", b"theirs", &theirs);
    let said = refused(fetch("echo:theirs"));
    assert!(
        said.contains("none of its 1 signatures is by a key that is believed here: ours.pub"),
        "{said}"
    );
    assert_eq!(kept(folder.path()), 0, "nothing of it is kept");

    sign(&docker_registry, "echo:ours", b"ours", &ours);
    let pulled = fetch("echo:ours").expect("believed");
    assert_eq!(
        (pulled.bytes.as_slice(), pulled.signed_by.as_deref()),
        (&b"ours"[..], Some("ours.pub"))
    );
    // A foreign signature beside ours changes nothing, in either order.
    sign(&docker_registry, "echo:ours", b"ours", &theirs);
    assert!(
        registries
            .fetch_by(&reference(&docker_registry.reference("echo:ours")), PullPolicy::Always)
            .is_ok()
    );
    sign(&docker_registry, "echo:theirs", b"theirs", &ours);
    assert!(fetch("echo:theirs").is_ok());
}

#[test]
fn signature_of_another_plugin_does_not_count() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (ours, public) = key(folder.path(), "ours");
    let registries = Registries::new(trusting(folder.path(), &docker_registry, &[&public]));
    let good = sign(&docker_registry, "echo:good", b"good", &ours);
    let bad = push(&docker_registry.reference("echo:bad"), "1", b"bad");
    put_manifest(
        &docker_registry,
        &signature_tag(&bad),
        &get(&docker_registry, &format!("echo/manifests/{}", signature_tag(&good))),
    );
    let said = refused(registries.fetch(&reference(&docker_registry.reference("echo:bad"))));
    assert!(said.contains(&format!("ours.pub has signed another digest: {good}")), "{said}");
    // The signature is of the digest that the tag named before.
    push(&docker_registry.reference("echo:good"), "1", b"bad");
    assert!(
        refused(registries.fetch(&reference(&docker_registry.reference("echo:good"))))
            .contains("signed another digest")
    );
}

#[test]
fn one_signed_plugin_cannot_stand_in_for_another() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (ours, public) = key(folder.path(), "ours");
    let registries = Registries::new(trusting(folder.path(), &docker_registry, &[&public]));
    // Two repositories have the same manifest. Only one of them has it signed, and the signature is
    // copied to the other.
    let digest = sign(&docker_registry, "admin:1", b"admin", &ours);
    assert_eq!(push(&docker_registry.reference("echo:1"), "1", b"admin"), digest);
    let manifest = get(&docker_registry, &format!("admin/manifests/{}", signature_tag(&digest)));
    let named: Value = serde_json::from_slice(&manifest).expect("JSON");
    for part in [&named["config"], &named["layers"][0]] {
        let content = get(
            &docker_registry,
            &format!("admin/blobs/{}", part["digest"].as_str().expect("a digest")),
        );
        put_blob(&docker_registry, folder.path(), &content);
    }
    put_manifest(&docker_registry, &signature_tag(&digest), &manifest);
    let said = refused(registries.fetch(&reference(&docker_registry.reference("echo:1"))));
    assert!(said.contains("ours.pub has signed it as another plugin"), "{said}");
    registries.fetch(&reference(&docker_registry.reference("admin:1"))).expect("believed");
}

#[test]
fn signatures_are_compatible_with_openssl() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (ours, public) = key(folder.path(), "ours");
    let path = |name: &str| folder.path().join(name).display().to_string();

    // A foreign signature for wharf: a text with more fields and in another order, as cosign writes
    // it.
    let digest = push(&docker_registry.reference("echo:1"), "1", b"bytes");
    let text = format!(
        "{{\"critical\": {{\"identity\": \
         {{\"docker-reference\": \"elsewhere.example/mirrored/echo:1\"}}, \"image\": \
         {{\"docker-manifest-digest\": \"{digest}\"}}, \"type\": \"cosign container image \
         signature\"}}, \
         \"optional\": {{\"creator\": \"somebody\"}}}}"
    );
    std::fs::write(path("text"), &text).expect("kept");
    run(
        "openssl",
        &["dgst", "-sha256", "-sign", &path("ours.key"), "-out", &path("signature"), &path("text")],
    );
    let signature = String::from_utf8(run("openssl", &["base64", "-A", "-in", &path("signature")]))
        .expect("text");
    let layer = put_blob(&docker_registry, folder.path(), text.as_bytes());
    let config = put_blob(&docker_registry, folder.path(), b"{}");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": config.as_str(), "size": 2 },
        "layers": [{ "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
        "digest": layer.as_str(),
            "size": text.len(),
            "annotations": { "dev.cosignproject.cosign/signature": signature } }],
    });
    put_manifest(&docker_registry, &signature_tag(&digest), manifest.to_string().as_bytes());
    let registries = Registries::new(trusting(folder.path(), &docker_registry, &[&public]));
    registries.fetch(&reference(&docker_registry.reference("echo:1"))).expect("believed");

    // A signature by wharf for other programs.
    let digest = sign(&docker_registry, "echo:2", b"others", &ours);
    let manifest = get(&docker_registry, &format!("echo/manifests/{}", signature_tag(&digest)));
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let layer = &manifest["layers"][0];
    let text = get(
        &docker_registry,
        &format!("echo/blobs/{}", layer["digest"].as_str().expect("a digest")),
    );
    std::fs::write(path("text"), &text).expect("kept");
    let signature =
        layer["annotations"]["dev.cosignproject.cosign/signature"].as_str().expect("a signature");
    std::fs::write(path("base64"), signature).expect("kept");
    run("openssl", &["base64", "-d", "-A", "-in", &path("base64"), "-out", &path("signature")]);
    run(
        "openssl",
        &[
            "dgst",
            "-sha256",
            "-verify",
            &path("ours.pub"),
            "-signature",
            &path("signature"),
            &path("text"),
        ],
    );
    let text: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(text["critical"]["image"]["docker-manifest-digest"], digest.as_str());
}

#[test]
fn signature_is_kept_and_checked_each_time() {
    let Some(mut docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let ((ours, public), (_, other)) = (key(folder.path(), "ours"), key(folder.path(), "other"));
    let wanted = reference(&docker_registry.reference("echo:1"));
    sign(&docker_registry, "echo:1", b"bytes", &ours);
    let by = |keys: &[&Path], pull| {
        Registries::new(RegistryConfig { pull, ..trusting(folder.path(), &docker_registry, keys) })
            .fetch(&wanted)
    };
    by(&[&public], PullPolicy::IfMissing).expect("pulled");
    let pulled = by(&[&public], PullPolicy::Never).expect("kept");
    assert_eq!(
        (pulled.origin, pulled.signed_by.as_deref()),
        (PluginOrigin::Store, Some("ours.pub"))
    );
    // Signatures of a key that is no longer trusted do not count.
    for pull in [PullPolicy::Never, PullPolicy::IfMissing] {
        assert!(refused(by(&[&other], pull)).contains("by a key that is believed here: other.pub"));
    }
    // A kept plugin from before the signature was required is refused as well.
    let unsigned = push(&docker_registry.reference("echo:2"), "1", b"unsigned");
    let pinned = reference(&docker_registry.reference(&format!("echo@{unsigned}")));
    Registries::new(registry_config(folder.path())).fetch(&pinned).expect("pulled");
    let strict = Registries::new(trusting(folder.path(), &docker_registry, &[&public]));
    assert!(refused(strict.fetch(&pinned)).contains("not signed"));
    docker_registry.stop();
    assert_eq!(strict.fetch(&wanted).expect("kept").bytes, b"bytes");
}

#[test]
fn store_serves_one_digest_for_two_repositories() {
    let Some(mut docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (ours, public) = key(folder.path(), "ours");
    let places = ["team-a/echo:1", "team-b/echo:1"];
    let digests = places.map(|place| sign(&docker_registry, place, b"bytes", &ours));
    assert_eq!(digests[0], digests[1]);
    let fetch = |docker_registry: &DockerRegistry, place: &str, pull| {
        let config =
            RegistryConfig { pull, ..trusting(folder.path(), docker_registry, &[&public]) };
        Registries::new(config).fetch(&reference(&docker_registry.reference(place))).expect(place)
    };
    for place in places {
        assert_eq!(
            fetch(&docker_registry, place, PullPolicy::IfMissing).origin,
            PluginOrigin::Registry
        );
    }
    docker_registry.stop();
    for place in places {
        for pull in [PullPolicy::IfMissing, PullPolicy::Never] {
            assert_eq!(fetch(&docker_registry, place, pull).origin, PluginOrigin::Store);
        }
    }
}

#[test]
fn signature_required_everywhere_refuses_unlisted_registries() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (_, public) = key(folder.path(), "ours");
    push(&docker_registry.reference("echo:1"), "1", b"bytes");
    let mut config = trusting(folder.path(), &docker_registry, &[&public]);
    config.trust[0].prefix = "registry.example.com".into();
    let fetch = |config: &RegistryConfig| {
        Registries::new(config.clone()).fetch(&reference(&docker_registry.reference("echo:1")))
    };
    fetch(&config).expect("not asked for");
    config.signature = SignatureRule::Required;
    assert!(
        refused(fetch(&config))
            .contains("no `[[registry.trust]]` says whose signature is believed here")
    );
}

#[test]
fn start_and_swap_need_the_required_signature() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let site = ControlSite::default();
    let (ours, _) = key(site.folder.path(), "ours");
    let file = |name: &str| site.path(name).display().to_string();
    std::fs::write(site.path("echo.wasm"), component("")).expect("kept");
    let (signed, unsigned) =
        (docker_registry.reference("echo:signed"), docker_registry.reference("echo:unsigned"));
    done(&wharf(&["plugin", "push", &unsigned, &file("polite.wasm")], site.folder.path()));
    let text = std::fs::read_to_string(site.path("wharf.toml")).expect("its configuration");
    let trust = format!(
        "[[registry.trust]]\nprefix = '{}'\nkeys = ['ours.pub']\n",
        docker_registry.address()
    );
    std::fs::write(site.path("wharf.toml"), format!("{trust}{text}")).expect("kept");
    let socket = site.socket().display().to_string();
    done(&wharf(&["ctl", "--socket", &socket, "reload"], site.folder.path()));

    let swap = |place: &str| {
        wharf(&["plugin", "--socket", &socket, "swap", "echo", place], site.folder.path())
    };
    assert!(failed(&swap(&unsigned), 1).contains("it is not signed"));
    assert!(
        failed(&wharf(&["plugin", "pull", &unsigned], site.folder.path()), 1)
            .contains("it is not signed")
    );
    let bare = text.replace("polite.wasm", &unsigned);
    std::fs::write(site.path("other.toml"), format!("{trust}{bare}")).expect("kept");
    assert!(
        failed(&wharf(&["check", "other.toml"], site.folder.path()), 1)
            .contains("it is not signed")
    );

    let key = ours.display().to_string();
    let push = ["plugin", "push", &signed, &file("echo.wasm"), "--sign", &key];
    done(&wharf(&push, site.folder.path()));
    done(&swap(&signed));
    site.wharf.says("signed_by=\"ours.pub\"");
    // The component is the same. The signature is of its manifest, which has a name and a version.
    assert!(failed(&swap(&unsigned), 1).contains("not signed"));
}

#[test]
fn keys_that_cannot_sign_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let (private, public) = key(folder.path(), "ours");
    let path = |name: &str| folder.path().join(name);
    let said = |file: &Path| SigningKey::read(file).err().expect("refused").to_string();
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    assert!(said(&private).contains("ours.key: others may read it (mode 644)"));
    std::fs::set_permissions(&public, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    assert!(said(&public).contains("expected a private key in PEM"));
    let other = path("other.key").display().to_string();
    run(
        "openssl",
        &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384", "-out", &other],
    );
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    assert!(said(Path::new(&other)).contains("P-256"));
    assert!(said(&path("none.key")).contains("none.key"));
}
