//! Signatures in bundles, in registries that list the attachments of a plugin in one way or
//! another, or lie about them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use wharf::oci::{Digest, PublicKey, Registries, RegistryConfig, Trust};
use wharf_tests::control_site::ControlSite;
use wharf_tests::docker_registry::DockerRegistry;
use wharf_tests::fake_registry::{Asked, FakeRegistry, Reply};
use wharf_tests::guests::component;

use super::common::{done, failed, reference, refused, registry_config, wharf};
use super::signed::{key, put_blob, put_manifest, run};

const COMPONENT: &[u8] = b"a component";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";

fn statement(digest: &Digest, annotations: &Value) -> Value {
    json!({
        "_type": "https://in-toto.io/Statement/v1", "predicateType": SIGNED, "predicate": {},
        "subject": [{ "digest": { "sha256": digest.hex() }, "annotations": annotations }],
    })
}

/// Signs a statement with openssl, and returns the bundle in the form of cosign 3.
fn bundle(folder: &Path, key: &Path, statement: &Value) -> Value {
    let path = |name: &str| folder.join(name).display().to_string();
    let base64 = |file: &str| {
        String::from_utf8(run("openssl", &["base64", "-A", "-in", &path(file)]))
            .expect("text")
            .trim()
            .to_owned()
    };
    let (kind, payload) = ("application/vnd.in-toto+json", statement.to_string());
    std::fs::write(path("payload"), &payload).expect("kept");
    let signed = format!("DSSEv1 {} {kind} {} {payload}", kind.len(), payload.len());
    std::fs::write(path("signed"), signed).expect("kept");
    let key = key.display().to_string();
    run(
        "openssl",
        &["dgst", "-sha256", "-sign", &key, "-out", &path("signature"), &path("signed")],
    );
    json!({
        "mediaType": BUNDLE, "verificationMaterial": { "publicKey": { "hint": "x" } },
        "dsseEnvelope": { "payload": base64("payload"), "payloadType": kind,
        "signatures": [{ "sig": base64("signature") }] },
    })
}

/// The manifest that attaches a bundle to a plugin.
fn attaching(bundle: &str, plugin: &Digest) -> String {
    json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": BUNDLE,
        "config": { "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": Digest::of(b"{}").as_str(), "size": 2 },
        "layers": [{ "mediaType": BUNDLE, "digest": Digest::of(bundle.as_bytes()).as_str(),
        "size": bundle.len() }],
        "subject": { "mediaType": MANIFEST, "digest": plugin.as_str(), "size": 1 },
    })
    .to_string()
}

fn index(manifests: &[String]) -> String {
    let entry = |manifest: &String| {
        json!({ "mediaType": MANIFEST, "digest": Digest::of(manifest.as_bytes()).as_str(),
            "size": manifest.len(),
            "artifactType": "application/vnd.oci.empty.v1+json" })
    };
    let manifests: Vec<Value> = manifests.iter().map(entry).collect();
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }).to_string()
}

/// A registry with one plugin, `team/echo:1`, and its attachments.
struct BundleRegistry {
    folder: TempDir,
    ours: PathBuf,
    public: PathBuf,
    plugin: Digest,
    /// Type and content by path below `/v2/team/echo/`.
    there: HashMap<String, (String, Vec<u8>)>,
}

impl BundleRegistry {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (ours, public) = key(folder.path(), "ours");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.wasm.config.v0+json",
            "digest": Digest::of(b"{}").as_str(), "size": 2 },
            "layers": [{ "mediaType": "application/wasm", "digest": Digest::of(COMPONENT).as_str(),
            "size": COMPONENT.len() }],
        })
        .to_string();
        let plugin = Digest::of(manifest.as_bytes());
        let mut registry = Self { folder, ours, public, plugin, there: HashMap::new() };
        registry.put("manifests/1", MANIFEST, &manifest);
        registry.put(&format!("manifests/{}", registry.plugin.clone()), MANIFEST, &manifest);
        registry.put(&format!("blobs/{}", Digest::of(COMPONENT)), "x/y", "a component");
        registry
    }

    fn put(&mut self, path: &str, kind: &str, content: &str) {
        self.there.insert(path.into(), (kind.into(), content.into()));
    }

    /// A bundle signed by our key that names the plugin.
    fn good(&self) -> Value {
        bundle(
            self.folder.path(),
            &self.ours,
            &statement(&self.plugin, &json!({ "repository": "team/echo" })),
        )
    }

    /// Puts a bundle and the manifest that attaches it. Returns the manifest, which lists name.
    fn attach(&mut self, bundle: &Value) -> String {
        let bundle = bundle.to_string();
        let manifest = attaching(&bundle, &self.plugin);
        self.put(&format!("blobs/{}", Digest::of(bundle.as_bytes())), "x/y", &bundle);
        self.put(&format!("manifests/{}", Digest::of(manifest.as_bytes())), MANIFEST, &manifest);
        manifest
    }

    fn list_by_tag(&mut self, list: &str) {
        let path = format!("manifests/sha256-{}", self.plugin.hex());
        self.put(&path, INDEX, list);
    }

    fn list_by_api(&mut self, list: &str) {
        let path = format!("referrers/{}", self.plugin);
        self.put(&path, INDEX, list);
    }

    /// Pulls the plugin with trust in our key. Returns the error, or an empty text.
    fn says(&self, by: &str) -> String {
        let there = self.there.clone();
        self.says_by(by, move |asked| {
            let path = asked.path.strip_prefix("/v2/team/echo/").unwrap_or_default();
            there
                .get(path)
                .map_or_else(Reply::nothing, |(kind, content)| Reply::ok(kind, content.clone()))
        })
    }

    /// [`Self::says`], with a registry that answers by `answer`.
    fn says_by(
        &self,
        by: &str,
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> String {
        let fake_registry = FakeRegistry::new(answer);
        let folder = tempfile::tempdir().expect("a folder");
        let keys = vec![PublicKey::read(&self.public).expect("a key")];
        let config = RegistryConfig {
            trust: vec![Trust { prefix: fake_registry.address(), keys }],
            ..registry_config(folder.path())
        };
        let wanted = reference(&format!("oci://{}/team/echo{by}", fake_registry.address()));
        let pulled = Registries::new(config).fetch(&wanted);
        if pulled.as_ref().is_ok_and(|pulled| pulled.signed_by.as_deref() == Some("ours.pub")) {
            return String::new();
        }
        refused(pulled)
    }

    fn by_tag(&self) -> String {
        self.says(":1")
    }

    fn by_digest(&self) -> String {
        self.says(&format!("@{}", self.plugin))
    }

    /// Pulls the plugin with this bundle as its only attachment: by tag and by digest.
    fn with(&self, bundle: &Value) -> (String, String) {
        let mut registry = self.copy();
        let manifest = registry.attach(bundle);
        registry.list_by_tag(&index(&[manifest]));
        (registry.by_tag(), registry.by_digest())
    }

    fn copy(&self) -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            ours: self.ours.clone(),
            public: self.public.clone(),
            plugin: self.plugin.clone(),
            there: self.there.clone(),
        }
    }
}

fn says(said: &str, words: &str) {
    assert!(said.contains(words), "no {words:?} in {said:?}");
}

#[test]
fn bundles_are_found_by_api_or_by_tag() {
    for by_api in [false, true] {
        let mut registry = BundleRegistry::new();
        says(&registry.by_tag(), "it is not signed");
        let good = registry.good();
        // A referrer of another type and one that is gone are skipped.
        let other = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
            "config": { "mediaType": "x/y", "digest": Digest::of(b"{}").as_str(), "size": 2 } });
        registry.put(
            &format!("manifests/{}", Digest::of(other.to_string().as_bytes())),
            MANIFEST,
            &other.to_string(),
        );
        let list = index(&["gone".into(), other.to_string(), registry.attach(&good)]);
        match by_api {
            true => registry.list_by_api(&list),
            false => registry.list_by_tag(&list),
        }
        assert_eq!(
            (registry.by_tag(), registry.by_digest()),
            (String::new(), String::new()),
            "{by_api}"
        );
        // If the registry has a list of its own, the tag is not asked for.
        registry.list_by_api(&index(&[]));
        says(&registry.by_tag(), "it is not signed");
    }
}

#[test]
fn bad_referrers_list_hides_no_good_one() {
    let mut registry = BundleRegistry::new();
    registry.list_by_api("<html>Log in</html>");
    says(&registry.by_tag(), "none was found");
    says(&registry.by_tag(), "the list of its referrers that the registry has is not as expected");
    let good = registry.good();
    let manifest = registry.attach(&good);
    registry.list_by_tag(&index(&[manifest]));
    assert_eq!(registry.by_tag(), "");
    registry.list_by_tag(r#"{"manifests": 7}"#);
    says(&registry.by_tag(), "none was found");
    registry.list_by_tag(&" ".repeat((256 << 10) + 1));
    registry.there.remove(&format!("referrers/{}", registry.plugin));
    says(&registry.by_tag(), "the list of its referrers is larger than 262144 bytes");
}

#[test]
fn bad_signature_list_does_not_reject_the_plugin() {
    let mut registry = BundleRegistry::new();
    let path = format!("manifests/sha256-{}.sig", registry.plugin.hex());
    for list in ["<html>", r#"{"schemaVersion": 1}"#, &index(&[])] {
        registry.put(&path, MANIFEST, list);
        let said = registry.by_tag();
        says(&said, "none was found");
        says(
            &said,
            "the list of its signatures that the registry has is not as expected: its manifest is",
        );
    }
    let good = registry.good();
    let manifest = registry.attach(&good);
    registry.list_by_tag(&index(&[manifest]));
    assert_eq!(registry.by_tag(), "");
}

#[test]
fn statement_decides_once_its_signature_holds() {
    let registry = BundleRegistry::new();
    let made = |statement: &Value| bundle(registry.folder.path(), &registry.ours, statement);
    let both = |bundle: &Value, words: &str| {
        let (by_tag, by_digest) = registry.with(bundle);
        says(&by_tag, words);
        says(&by_digest, words);
    };
    let named = json!({ "repository": "team/echo" });
    assert_eq!(registry.with(&registry.good()), (String::new(), String::new()));

    let (by_tag, by_digest) = registry.with(&made(&statement(&registry.plugin, &json!({}))));
    says(&by_tag, "ours.pub has signed it without saying which plugin it is");
    says(&by_tag, "`cosign sign -a repository=team/echo`");
    assert_eq!(by_digest, "");
    both(
        &made(&statement(&registry.plugin, &json!({ "repository": "team/admin" }))),
        "as another plugin: team/admin",
    );
    both(&made(&statement(&Digest::of(b"other"), &named)), "ours.pub has signed another digest");
    let mut attestation = statement(&registry.plugin, &named);
    attestation["predicateType"] = json!("https://slsa.dev/provenance/v1");
    both(&made(&attestation), "what ours.pub has signed is no signature of a plugin");

    // A changed payload, a changed payload type (which is signed too), and a bundle in another
    // form.
    let mut forged = made(&statement(&Digest::of(b"other"), &named));
    forged["dsseEnvelope"]["payload"] = registry.good()["dsseEnvelope"]["payload"].clone();
    both(&forged, "none of its 1 signatures is by a key that is believed here");
    let mut typed = registry.good();
    typed["dsseEnvelope"]["payloadType"] = json!("text/plain");
    both(&typed, "1 in other forms");
    let mut long = registry.good();
    long["dsseEnvelope"]["signatures"][0]["sig"] = json!("A".repeat(344));
    both(&long, "no signature in a form that is looked at");
    both(
        &json!({ "mediaType": BUNDLE, "messageSignature": { "signature": "AAAA" } }),
        "1 in other forms",
    );
}

#[test]
fn attachment_must_match_list_and_plugin() {
    let mut registry = BundleRegistry::new();
    let good = registry.good().to_string();
    let elsewhere = attaching(&good, &Digest::of(b"other"));
    registry.put(&format!("blobs/{}", Digest::of(good.as_bytes())), "x/y", &good);
    registry.put(&format!("manifests/{}", Digest::of(elsewhere.as_bytes())), MANIFEST, &elsewhere);
    registry.list_by_tag(&index(std::slice::from_ref(&elsewhere)));
    says(&registry.by_tag(), "it is not signed");

    let right = attaching(&good, &registry.plugin);
    registry.put(&format!("manifests/{}", Digest::of(elsewhere.as_bytes())), MANIFEST, &right);
    says(
        &registry.by_tag(),
        "the manifest of a referrer that the registry sent is not what was asked for",
    );
    registry.put(&format!("manifests/{}", Digest::of(right.as_bytes())), MANIFEST, &right);
    registry.list_by_tag(&index(&[elsewhere, right.clone()]));
    assert_eq!(registry.by_tag(), "", "one that lies hides no good one");
    registry.list_by_tag(&index(std::slice::from_ref(&right)));
    registry.put(
        &format!("blobs/{}", Digest::of(good.as_bytes())),
        "x/y",
        &good.replace("hint", "tint"),
    );
    says(&registry.by_tag(), "the bundle that the registry sent is not what was asked for");
}

#[test]
fn referrers_and_signatures_read_are_limited() {
    let mut registry = BundleRegistry::new();
    let good = registry.good();
    let good = registry.attach(&good);
    let list = |others: usize| {
        let mut manifests: Vec<String> =
            (0..others).map(|number| format!("gone {number}")).collect();
        manifests.push(good.clone());
        index(&manifests)
    };
    registry.list_by_tag(&list(31));
    assert_eq!(registry.by_tag(), "");
    registry.list_by_tag(&list(32));
    says(&registry.by_tag(), "none was found");
    says(&registry.by_tag(), "1 of its referrers not looked at");

    let (theirs, _) = key(registry.folder.path(), "theirs");
    let filler = bundle(registry.folder.path(), &theirs, &statement(&registry.plugin, &json!({})));
    let fillers: Vec<String> = (0..16)
        .map(|number| {
            let mut filler = filler.clone();
            filler["number"] = json!(number);
            registry.attach(&filler)
        })
        .collect();
    let filled = |count: usize| index(&[&fillers[..count], std::slice::from_ref(&good)].concat());
    registry.list_by_tag(&filled(15));
    assert_eq!(registry.by_tag(), "");
    registry.list_by_tag(&filled(16));
    says(&registry.by_tag(), "none of its 16 signatures is by a key that is believed here");
    says(&registry.by_tag(), "1 of its referrers not looked at");

    let mut large = registry.good();
    large["padding"] = json!(" ".repeat(64 << 10));
    let (by_tag, _) = registry.with(&large);
    says(&by_tag, "the bundle is larger than 65536 bytes");
}

#[test]
fn listed_bundles_come_first_and_no_referrer_twice() {
    let mut registry = BundleRegistry::new();
    let good = registry.good();
    let good = registry.attach(&good);
    let others: Vec<String> = (0..100).map(|number| format!("gone {number}")).collect();
    let mut list: Value =
        serde_json::from_str(&index(&[others, vec![good.clone()]].concat())).expect("JSON");
    list["manifests"][100]["artifactType"] = json!(BUNDLE);
    registry.list_by_tag(&list.to_string());
    assert_eq!(registry.by_tag(), "");
    registry.list_by_tag(&index(&[vec!["gone".into(); 100], vec![good]].concat()));
    assert_eq!(registry.by_tag(), "");
}

#[test]
fn partial_referrers_list_is_reported() {
    let registry = BundleRegistry::new();
    let (path, list) = (format!("/v2/team/echo/referrers/{}", registry.plugin), index(&[]));
    let says_with = |link: &'static str| {
        let (there, path, list) = (registry.there.clone(), path.clone(), list.clone());
        registry.says_by(":1", move |asked| {
            if asked.path == path {
                return Reply::Whole(
                    200,
                    format!("Content-Type: {INDEX}\r\n{link}"),
                    list.clone().into(),
                );
            }
            let below = asked.path.strip_prefix("/v2/team/echo/").unwrap_or_default();
            there
                .get(below)
                .map_or_else(Reply::nothing, |(kind, content)| Reply::ok(kind, content.clone()))
        })
    };
    says(&says_with(""), "it is not signed");
    let said = says_with("Link: </v2/team/echo/referrers/x?n=2>; rel=\"next\"\r\n");
    says(&said, "none was found");
    says(&said, "the list of its referrers goes on, and only its first part was looked at");
}

#[test]
fn signatures_must_name_the_repository_or_digest() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let site = ControlSite::default();
    let scratch = site.folder.path();
    let (ours, _) = key(scratch, "ours");
    std::fs::write(site.path("echo.wasm"), component("")).expect("kept");
    let tagged = docker_registry.reference("echo:1");
    let pushed = ["plugin", "push", &tagged, &site.path("echo.wasm").display().to_string()];
    let pinned = done(&wharf(&pushed, scratch)).lines().last().expect("a reference").to_owned();
    let plugin = Digest::parse(pinned.split_once('@').expect("a digest").1).expect("a digest");
    let bundle = bundle(scratch, &ours, &statement(&plugin, &json!({}))).to_string();
    let manifest = attaching(&bundle, &plugin);
    put_blob(&docker_registry, scratch, b"{}");
    put_blob(&docker_registry, scratch, bundle.as_bytes());
    put_manifest(&docker_registry, Digest::of(manifest.as_bytes()).as_str(), manifest.as_bytes());
    put_manifest(
        &docker_registry,
        &format!("sha256-{}", plugin.hex()),
        index(&[manifest]).as_bytes(),
    );

    let text = std::fs::read_to_string(site.path("wharf.toml")).expect("its configuration");
    let trust = format!(
        "[[registry.trust]]\nprefix = '{}'\nkeys = ['ours.pub']\n",
        docker_registry.address()
    );
    std::fs::write(site.path("wharf.toml"), format!("{trust}{text}")).expect("kept");
    let socket = site.socket().display().to_string();
    done(&wharf(&["ctl", "--socket", &socket, "reload"], scratch));
    let check = |place: &str| {
        std::fs::write(
            site.path("other.toml"),
            format!("{trust}{}", text.replace("polite.wasm", place)),
        )
        .expect("kept");
        wharf(&["check", "other.toml"], scratch)
    };
    let serve = |place: &str| {
        std::fs::write(
            site.path("wharf.toml"),
            format!("{trust}{}", text.replace("polite.wasm", place)),
        )
        .expect("kept");
        wharf(&["ctl", "--socket", &socket, "reload"], scratch)
    };
    let steer = |way: &str, place: &str| {
        wharf(&["plugin", "--socket", &socket, way, "echo", place], scratch)
    };
    let words = "without saying which plugin it is";
    says(&failed(&wharf(&["plugin", "pull", &tagged], scratch), 1), words);
    says(&failed(&check(&tagged), 1), words);
    says(&failed(&serve(&tagged), 1), words);
    for way in ["swap", "canary"] {
        says(&failed(&steer(way, &tagged), 1), words);
    }
    done(&wharf(&["plugin", "pull", &pinned], scratch));
    done(&check(&pinned));
    done(&steer("swap", &pinned));
    site.wharf.says("signed_by=\"ours.pub\"");
    done(&serve(&pinned));
    // The copy that was kept by its digest does not count for a tag.
    says(&failed(&steer("swap", &tagged), 1), words);
}
