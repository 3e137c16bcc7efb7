//! A real registry, from `wharf plugin push` to a session on the pulled plugin.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;
use wharf::oci::{Registries, RegistryConfig, RegistryCredentials};
use wharf_tests::certificates::Certificates;
use wharf_tests::clients::Client;
use wharf_tests::control_site::ControlSite;
use wharf_tests::docker_registry::DockerRegistry;
use wharf_tests::guests::{built, component};
use wharf_tests::ports::free_port;
use wharf_tests::process::Wharf;

use super::common::{
    done, failed, push, pushed_component, reference, refused, registry_config, wharf,
};

/// Logins from a file with this text.
pub(crate) fn credentials(folder: &Path, text: &str) -> RegistryCredentials {
    let file = folder.join("logins.json");
    std::fs::write(&file, text).expect("kept");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    RegistryCredentials::read(&file).expect("logins")
}

#[test]
fn plugin_is_pushed_checked_pulled_and_served() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let (plugin, _) = built("plugins/lines");
    let folder = tempfile::tempdir().expect("a folder");
    let at = docker_registry.reference("team/lines:1");
    let pinned =
        done(&wharf(&["plugin", "push", &at, &plugin.display().to_string()], folder.path()));
    assert!(pinned.starts_with(&docker_registry.reference("team/lines@sha256:")), "{pinned}");
    let again =
        done(&wharf(&["plugin", "push", &at, &plugin.display().to_string()], folder.path()));
    assert_eq!(again, pinned, "the same plugin has the same digest");

    let port = free_port();
    let text = format!(
        "[host]\nsessions_max = 64\n[registry]\nstore_dir = 'store'\n[[server]]\nname = \
         'lines'\nhost = '127.0.0.1'\n\
         port = {port}\nplugin = '{at}'\ngrants = ['stdio', 'config']\n"
    );
    std::fs::write(folder.path().join("wharf.toml"), text).expect("kept");
    let told = done(&wharf(&["check"], folder.path()));
    assert!(told.contains("plugin lines 0.1.0") && told.contains(&pinned), "{told}");
    let served = Wharf::run(&["serve"], folder.path());
    let line = served.says("plugin pulled");
    assert!(line.contains(&pinned) && line.contains("store"), "{line}");
    served.says("server started");
    Client::connect(SocketAddr::from(([127, 0, 0, 1], port))).send("hello\n");

    let output = folder.path().join("pulled.wasm");
    let name = output.display().to_string();
    assert_eq!(done(&wharf(&["plugin", "pull", &at, "-o", &name], folder.path())), pinned);
    let component = wharf::plugin::Manifest::read(&plugin).expect("its manifest").component;
    assert_eq!(std::fs::read(output).expect("pulled"), std::fs::read(component).expect("built"));
    let json = done(&wharf(&["plugin", "pull", &at, "--json"], folder.path()));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["reference"], &json["version"]), (&json!(pinned), &json!("0.1.0")));
}

#[test]
fn live_server_swaps_to_a_reference() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let site = ControlSite::default();
    let mut client = Client::connect(site.address());
    client.echo("before");
    let at = docker_registry.reference("echo:2");
    let digest = push(&at, "2.0", &component("(global $other i32 (i32.const 2))"));
    let socket = site.socket().display().to_string();
    let swap = |place: &str| {
        wharf(
            &["plugin", "--socket", &socket, "swap", "echo", place, "--policy", "pin"],
            site.folder.path(),
        )
    };
    let told = done(&swap(&at));
    assert!(told.contains("echo 2.0"), "{told}");
    site.wharf.says(&format!("echo@{digest}"));
    client.echo("after");
    Client::connect(site.address()).echo("new");
    let shown =
        done(&wharf(&["ctl", "--socket", &socket, "show", "echo", "--json"], site.folder.path()));
    assert!(shown.contains(&docker_registry.reference(&format!("echo@{digest}"))), "{shown}");

    // A tag means the plugin that it names now.
    push(&at, "2.1", &component("(global $other i32 (i32.const 3))"));
    let told = done(&swap(&at));
    assert!(told.contains("echo 2.1"), "{told}");

    let said = failed(&swap(&docker_registry.reference("echo:3")), 1);
    assert!(said.contains("echo:3: the registry has no such plugin"), "{said}");
    push(&docker_registry.reference("echo:core"), "1", b"\0asm\x01\0\0\0");
    let said = failed(&swap(&docker_registry.reference("echo:core")), 1);
    assert!(
        said.contains("core module") && said.contains(&docker_registry.reference("echo@sha256:")),
        "{said}"
    );
    assert!(failed(&swap("oci://echo"), 2).contains("expected oci://REGISTRY"));
    Client::connect(site.address()).echo("still");
}

#[test]
fn failed_pull_prevents_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let (gone, port) = (free_port(), free_port());
    let at = format!("oci://127.0.0.1:{gone}/echo:1");
    let said = failed(
        &wharf(
            &["serve", "--plugin", &at, "--listen", &format!("127.0.0.1:{port}")],
            folder.path(),
        ),
        1,
    );
    assert!(
        said.contains(&format!("{at}: cannot reach the registry"))
            && said.contains("nothing was started"),
        "{said}"
    );
}

#[test]
fn unloadable_component_is_not_pushed() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("core.wasm"), b"\0asm\x01\0\0\0").expect("kept");
    let at = docker_registry.reference("echo:1");
    assert!(
        failed(&wharf(&["plugin", "push", &at, "core.wasm"], folder.path()), 1)
            .contains("core module")
    );
    assert!(
        failed(&wharf(&["plugin", "push", "echo:1", "core.wasm"], folder.path()), 2)
            .contains("oci://")
    );
    assert!(failed(&wharf(&["plugin", "pull", &at], folder.path()), 1).contains("no such plugin"));
}

#[test]
fn registry_gets_its_own_login() {
    let Some(docker_registry) = DockerRegistry::closed() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let wanted = reference(&docker_registry.reference("team/echo:1"));
    let with = |password: &str| {
        let logins = json!({ "auths": { docker_registry.address(): { "username": "ann",
            "password": password } } });
        Registries::new(RegistryConfig {
            credentials: credentials(folder.path(), &logins.to_string()),
            ..registry_config(folder.path())
        })
    };
    let without = Registries::new(registry_config(folder.path()));
    let push =
        |registries: &Registries| registries.push(&wanted, pushed_component("1", b"bytes"), None);
    assert!(push(&without).expect_err("refused").to_string().contains("wants a login"));
    assert!(push(&with("guess")).expect_err("refused").to_string().contains("or is wrong"));
    push(&with("secret")).expect("pushed");
    assert!(refused(without.fetch(&wanted)).contains("wants a login"));
    assert!(refused(with("guess").fetch(&wanted)).contains("or is wrong"));
    assert_eq!(with("secret").fetch(&wanted).expect("pulled").bytes, b"bytes");
}

#[test]
fn logins_readable_by_others_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("logins.json"), "{}").expect("kept");
    std::fs::set_permissions(
        folder.path().join("logins.json"),
        std::fs::Permissions::from_mode(0o644),
    )
    .expect("a mode");
    let text = "[registry]\ncredentials_file = 'logins.json'\n[[server]]\nport = 7000\nplugin = \
        'oci://a.b/c:1'\n";
    std::fs::write(folder.path().join("wharf.toml"), text).expect("kept");
    for arguments in [&["check"][..], &["plugin", "pull", "oci://a.b/c:1"]] {
        let said = failed(&wharf(arguments, folder.path()), 1);
        assert!(
            said.contains("`registry.credentials_file`")
                && said.contains("others may read it (mode 644)"),
            "{said}"
        );
    }
}

#[test]
fn unnamed_registries_need_tls_and_a_known_authority() {
    let certificates = Certificates::new();
    let Some(docker_registry) = DockerRegistry::secure(&certificates) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let wanted = reference(&docker_registry.reference("echo:1"));
    let authority =
        |name: &str| Some(std::fs::read(certificates.path(name)).expect("an authority"));
    let by = |authority| {
        Registries::new(RegistryConfig {
            plain_http: Vec::new(),
            authority,
            ..registry_config(folder.path())
        })
    };
    by(authority("ca.pem")).push(&wanted, pushed_component("1", b"bytes"), None).expect("pushed");
    assert!(
        by(authority("other-ca.pem")).push(&wanted, pushed_component("1", b"bytes"), None).is_err()
    );
    for stranger in [None, authority("other-ca.pem")] {
        let said = refused(by(stranger).fetch(&wanted));
        assert!(
            said.contains("cannot reach the registry") && said.contains("certificate"),
            "{said}"
        );
    }
    assert_eq!(by(authority("ca.pem")).fetch(&wanted).expect("pulled").bytes, b"bytes");
}

#[test]
fn corrupted_component_is_refused() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let wanted = reference(&docker_registry.reference("echo:1"));
    push(&wanted.to_string(), "1", b"bytes");
    docker_registry.corrupt(wharf::oci::Digest::of(b"bytes").hex(), b"bytez");
    let said = refused(Registries::new(registry_config(folder.path())).fetch(&wanted));
    assert!(
        said.contains("the component that the registry sent is not what was asked for"),
        "{said}"
    );
}
