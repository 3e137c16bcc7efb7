//! Registries that lie, stall or break off: one clear error that names the reference, and nothing
//! left in the store.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wharf::oci::{Digest, Registries, RegistryConfig};
use wharf_tests::fake_registry::{Asked, FakeRegistry, Reply};

use wharf_tests::clients::Client;
use wharf_tests::control_site::ControlSite;
use wharf_tests::servers::eventually;

use super::common::{failed, kept, pushed_component, reference, refused, registry_config, wharf};

const COMPONENT: &[u8] = b"a component";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn manifest() -> Value {
    json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.wasm.config.v0+json",
        "digest": Digest::of(b"{}").as_str(), "size": 2 },
        "layers": [{ "mediaType": "application/wasm", "digest": Digest::of(COMPONENT).as_str(),
        "size": COMPONENT.len() }],
    })
}

fn good_manifest() -> Reply {
    Reply::ok(MANIFEST, manifest().to_string())
}

fn is_blob(asked: &Asked) -> bool {
    asked.path.contains("/blobs/")
}

/// The error of a pull within two seconds from a registry that answers by `answer`.
fn told(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> String {
    told_on(|_| {}, answer)
}

fn told_on(
    change: impl Fn(&mut RegistryConfig),
    answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
) -> String {
    let (fake_registry, folder) =
        (FakeRegistry::new(answer), tempfile::tempdir().expect("a folder"));
    let mut config =
        RegistryConfig { timeout: Duration::from_secs(2), ..registry_config(folder.path()) };
    change(&mut config);
    let wanted = reference(&format!("oci://{}/team/echo:1", fake_registry.address()));
    let said = refused(Registries::new(config).fetch(&wanted));
    assert!(said.starts_with(&format!("{wanted}: ")), "{said}");
    assert!(said.len() < 700 && !said.contains('\n') && !said.contains('\u{1b}'), "{said}");
    assert_eq!(kept(folder.path()), 0, "nothing is kept");
    said
}

fn says(said: &str, words: &str) {
    assert!(said.contains(words), "no {words:?} in {said}");
}

#[test]
fn honest_registry_is_believed() {
    let fake_registry = FakeRegistry::new(|asked| {
        if is_blob(asked) { Reply::ok("x/y", COMPONENT) } else { good_manifest() }
    });
    let folder = tempfile::tempdir().expect("a folder");
    let wanted = reference(&format!("oci://{}/team/echo:1", fake_registry.address()));
    let pulled = Registries::new(registry_config(folder.path())).fetch(&wanted).expect("pulled");
    assert_eq!((pulled.bytes.as_slice(), pulled.version.as_str()), (COMPONENT, "1"));
    assert_eq!(kept(folder.path()), 3, "manifest, component and tag");
}

#[test]
fn other_content_than_was_asked_for_is_refused() {
    let other = |asked: &Asked| {
        if is_blob(asked) { Reply::ok("x/y", &b"b component"[..]) } else { good_manifest() }
    };
    says(&told(other), "the component that the registry sent is not what was asked for");
    let short = |asked: &Asked| {
        if is_blob(asked) { Reply::ok("x/y", &COMPONENT[1..]) } else { good_manifest() }
    };
    says(&told(short), "is not what was asked for");
    let long = |asked: &Asked| {
        if is_blob(asked) { Reply::ok("x/y", [COMPONENT, b"!"].concat()) } else { good_manifest() }
    };
    says(&told(long), "expected 11 bytes");
}

#[test]
fn another_manifest_than_the_digest_names_is_refused() {
    let (fake_registry, folder) =
        (FakeRegistry::new(|_| good_manifest()), tempfile::tempdir().expect("a folder"));
    let asked_for = Digest::of(b"another manifest");
    let wanted = reference(&format!("oci://{}/echo@{asked_for}", fake_registry.address()));
    let said = refused(Registries::new(registry_config(folder.path())).fetch(&wanted));
    says(&said, &format!("expected {asked_for}, found sha256:"));
    assert_eq!(
        (kept(folder.path()), fake_registry.asked().len()),
        (0, 1),
        "and nothing more is asked for"
    );
}

#[test]
fn endless_content_is_cut_off() {
    says(&told(|_| Reply::Endless), "the manifest is larger than 1048576 bytes");
    says(
        &told(|asked| if is_blob(asked) { Reply::Endless } else { good_manifest() }),
        "expected 11 bytes, found more",
    );
    says(&told(|_| Reply::ok(MANIFEST, vec![b' '; (1 << 20) + 1])), "the manifest is larger than");
}

#[test]
fn breaking_off_in_the_middle_is_told() {
    let cut = |asked: &Asked| {
        if is_blob(asked) { Reply::Cut(11, b"a com".into()) } else { good_manifest() }
    };
    says(&told(cut), "broke off after 5 bytes of the component");
    says(&told(|_| Reply::Cut(900, b"{".into())), "broke off after 1 bytes of the manifest");
}

#[test]
fn slow_registry_is_given_up() {
    let start = Instant::now();
    says(&told(|_| Reply::Silence), "did not deliver it within 2s (`registry.timeout`)");
    says(&told(|asked| if is_blob(asked) { Reply::Silence } else { good_manifest() }), "within 2s");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn redirects_to_odd_places_are_not_followed() {
    let blob_at = |url: &'static str| {
        move |asked: &Asked| if is_blob(asked) { Reply::elsewhere(url) } else { good_manifest() }
    };
    says(&told(blob_at("http://192.0.2.1:81/x?secret=1")), "points to http://192.0.2.1:81, and");
    says(&told(blob_at("http://192.0.2.1/x")), "without TLS");
    says(&told(blob_at("ftp://192.0.2.1/x")), "ftp://");
    says(&told(blob_at("/v2/team/echo/blobs/again")), "sent on too often");
}

#[test]
fn error_names_what_is_no_plugin() {
    let with = |path: &str, value: Value| {
        let mut manifest = manifest();
        *manifest.pointer_mut(path).expect(path) = value;
        told(move |_| Reply::ok(MANIFEST, manifest.to_string()))
    };
    says(&with("/mediaType", json!("application/vnd.oci.image.index.v1+json")), "image.index");
    says(
        &with("/config/mediaType", json!("application/vnd.oci.image.config.v1+json")),
        "image.config",
    );
    says(&with("/layers", json!([])), "0 layers");
    says(&with("/layers", json!([manifest()["layers"][0], manifest()["layers"][0]])), "2 layers");
    says(&with("/layers/0/mediaType", json!("\u{1b}[2J")), "\\u{1b}[2J");
    says(&told(|_| Reply::ok("text/html", "<html>Log in</html>")), "no JSON");
}

#[test]
fn errors_of_a_registry_are_one_short_line() {
    says(&told(|_| Reply::nothing()), "the registry has no such plugin");
    let gone = |asked: &Asked| if is_blob(asked) { Reply::nothing() } else { good_manifest() };
    says(&told(gone), "does not have the component");
    let loud = || format!("\u{1b}[2Jboom\n{}", "x".repeat(1 << 20));
    says(
        &told(move |_| Reply::Whole(500, String::new(), loud().into_bytes())),
        "status 500: \\u{1b}[2Jboom\\n",
    );
    says(&told(|_| Reply::Whole(401, String::new(), Vec::new())), "it wants a login");
    says(&told(|_| Reply::Whole(403, String::new(), Vec::new())), "refuses");
    let basic =
        |_: &Asked| Reply::Whole(401, "WWW-Authenticate: Basic realm=\"x\"\r\n".into(), Vec::new());
    says(&told(basic), "`registry.credentials_file` has none for it");
}

#[test]
fn login_goes_only_to_registry_and_token_server() {
    let blobs = FakeRegistry::new(|_| Reply::ok("x/y", COMPONENT));
    let elsewhere = format!("http://{}/blob", blobs.address());
    let tokens = FakeRegistry::new(|_| Reply::ok("application/json", r#"{"token": "sesame"}"#));
    let realm = format!("http://{}/token", tokens.address());
    let fake_registry = FakeRegistry::new(move |asked| match asked.authorization.as_deref() {
        Some("Bearer sesame") if is_blob(asked) => Reply::elsewhere(&elsewhere),
        Some("Bearer sesame") => good_manifest(),
        _ => Reply::Whole(
            401,
            format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\"\r\n"),
            Vec::new(),
        ),
    });
    let folder = tempfile::tempdir().expect("a folder");
    let logins = json!({ "auths": { fake_registry.address(): { "username": "ann",
        "password": "secret" } } });
    let credentials = super::real::credentials(folder.path(), &logins.to_string());
    let wanted = reference(&format!("oci://{}/team/echo:1", fake_registry.address()));
    let config = RegistryConfig { credentials, ..registry_config(folder.path()) };
    assert_eq!(Registries::new(config).fetch(&wanted).expect("pulled").bytes, COMPONENT);
    let asked = tokens.asked();
    assert_eq!(asked[0].path, "/token?service=s&scope=repository%3Ateam%2Fecho%3Apull");
    assert_eq!(asked[0].authorization.as_deref(), Some("Basic YW5uOnNlY3JldA=="));
    assert_eq!(blobs.asked()[0].authorization, None);
    assert!(
        fake_registry.asked().iter().all(|asked| asked
            .authorization
            .as_deref()
            .is_none_or(|shown| shown == "Bearer sesame"))
    );
}

#[test]
fn login_is_not_sent_to_odd_token_servers() {
    let realm = |realm: &str| format!("WWW-Authenticate: Bearer realm=\"{realm}\"\r\n");
    let far = realm("http://192.0.2.1/token");
    says(
        &told(move |_| Reply::Whole(401, far.clone(), Vec::new())),
        "points to http://192.0.2.1, and",
    );
    let mute = FakeRegistry::new(|_| Reply::Endless);
    let endless = realm(&format!("http://{}/token", mute.address()));
    says(
        &told(move |_| Reply::Whole(401, endless.clone(), Vec::new())),
        "the token is larger than",
    );
}

/// The error of a push within two seconds to a registry that answers by `answer`.
fn told_to_push(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> String {
    let fake_registry = FakeRegistry::new(answer);
    let registries = Registries::new(RegistryConfig {
        timeout: Duration::from_secs(2),
        ..RegistryConfig::default()
    });
    let at = reference(&format!("oci://{}/team/echo:1", fake_registry.address()));
    let said = registries
        .push(&at, pushed_component("1", COMPONENT), None)
        .expect_err("refused")
        .to_string();
    assert!(said.starts_with(&format!("{at}: ")) && !said.contains(['\n', '\u{1b}']), "{said}");
    said
}

#[test]
fn push_to_an_odd_registry_is_one_error() {
    says(&told_to_push(|_| Reply::Silence), "within 2s");
    says(&told_to_push(|_| Reply::Endless), "cannot reach the registry");
    says(&told_to_push(|_| Reply::nothing()), "status 404");
    says(
        &told_to_push(|_| Reply::Whole(500, String::new(), b"\x1b[2Jboom\n".into())),
        "status 500: \\u{1b}[2Jboom",
    );
    // The address of the upload is invalid, and the client does not expect that.
    let uploads = AtomicUsize::new(0);
    let odd = move |asked: &Asked| {
        let begun = asked.path.contains("/uploads/") && uploads.fetch_add(1, Ordering::Relaxed) > 0;
        Reply::Whole(if begun { 202 } else { 200 }, "Location: nowhere\r\n".into(), Vec::new())
    };
    says(&told_to_push(odd), "in a way that the client does not know");
}

#[test]
fn stalled_registry_delays_no_session() {
    let fake_registry = FakeRegistry::new(|_| Reply::Silence);
    let site = ControlSite::with("[registry]\ntimeout = '5s'\n", "");
    let mut client = Client::connect(site.address());
    client.echo("before");
    let (socket, place) =
        (site.socket().display().to_string(), format!("oci://{}/echo:1", fake_registry.address()));
    std::thread::scope(|scope| {
        let swap =
            || wharf(&["plugin", "--socket", &socket, "swap", "echo", &place], site.folder.path());
        let swap = scope.spawn(swap);
        eventually("the registry is asked", || !fake_registry.asked().is_empty());
        client.echo("meanwhile");
        Client::connect(site.address()).echo("new");
        assert!(!swap.is_finished());
        says(&failed(&swap.join().expect("it ran"), 1), "did not deliver it within 5s");
    });
    client.echo("after");
}
