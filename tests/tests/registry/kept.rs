//! Pull policies and the store: when the host asks a registry, and what it keeps.

use wharf::oci::{PluginOrigin, PullPolicy, Registries, RegistryConfig};
use wharf_tests::docker_registry::DockerRegistry;

use super::common::{kept, push, reference, refused, registries, registry_config};

#[test]
fn pull_policy_decides_whether_moved_tags_count() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let at = docker_registry.reference("team/echo:stable");
    let wanted = reference(&at);
    let by = |pull| registries(folder.path(), pull).fetch(&wanted);

    push(&at, "1.0", b"one");
    assert!(refused(by(PullPolicy::Never)).contains("not in the store"));
    assert_eq!(by(PullPolicy::IfMissing).expect("pulled").origin, PluginOrigin::Registry);
    push(&at, "2.0", b"two");
    for (pull, origin, bytes) in [
        (PullPolicy::Never, PluginOrigin::Store, b"one"),
        (PullPolicy::IfMissing, PluginOrigin::Store, b"one"),
        (PullPolicy::Always, PluginOrigin::Registry, b"two"),
        (PullPolicy::IfMissing, PluginOrigin::Store, b"two"),
    ] {
        let pulled = by(pull).expect("there");
        assert_eq!((pulled.origin, pulled.bytes.as_slice()), (origin, &bytes[..]), "{pull:?}");
        let version = if bytes == b"one" { "1.0" } else { "2.0" };
        assert_eq!((pulled.name.as_str(), pulled.version.as_str()), ("echo", version));
    }
}

#[test]
fn kept_digest_needs_no_registry() {
    let Some(mut docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let digest = push(&docker_registry.reference("echo:1"), "1", b"bytes");
    let pinned = reference(&docker_registry.reference(&format!("echo@{digest}")));
    let pulled = registries(folder.path(), PullPolicy::Always).fetch(&pinned).expect("pulled");
    assert_eq!((pulled.digest.clone(), pulled.reference.to_string()), (digest, pinned.to_string()));
    docker_registry.stop();
    for pull in [PullPolicy::IfMissing, PullPolicy::Never] {
        assert_eq!(registries(folder.path(), pull).fetch(&pinned).expect("kept").bytes, b"bytes");
    }
    let tagged = reference(&docker_registry.reference("echo:1"));
    let said = refused(registries(folder.path(), PullPolicy::Always).fetch(&tagged));
    assert!(
        said.contains(&tagged.to_string()) && said.contains("cannot reach the registry"),
        "{said}"
    );
}

#[test]
fn rot_in_the_store_is_pulled_anew() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let wanted = reference(&docker_registry.reference("echo:1"));
    push(&wanted.to_string(), "1", b"bytes");
    let registries = registries(folder.path(), PullPolicy::IfMissing);
    registries.fetch(&wanted).expect("pulled");
    let blob = folder.path().join("store/blobs").join(wharf::oci::Digest::of(b"bytes").hex());
    std::fs::write(&blob, b"bytez").expect("changed");
    let pulled = registries.fetch(&wanted).expect("pulled again");
    assert_eq!((pulled.origin, pulled.bytes), (PluginOrigin::Registry, b"bytes".to_vec()));
    assert_eq!(std::fs::read(&blob).expect("kept"), b"bytes");
}

#[test]
fn component_over_the_limit_is_not_requested() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let wanted = reference(&docker_registry.reference("echo:1"));
    push(&wanted.to_string(), "1", &[7; 1000]);
    let within = |component_max_bytes| {
        Registries::new(RegistryConfig { component_max_bytes, ..registry_config(folder.path()) })
            .fetch(&wanted)
    };
    let said = refused(within(999));
    assert!(
        said.contains("larger than 999 bytes") && said.contains("component_max_bytes"),
        "{said}"
    );
    assert_eq!(kept(folder.path()), 0);
    assert_eq!(within(1000).expect("pulled").bytes.len(), 1000);
}

#[test]
fn unusable_store_only_costs_more_pulls() {
    let Some(docker_registry) = DockerRegistry::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("store"), "a file is in its place").expect("kept");
    let wanted = reference(&docker_registry.reference("echo:1"));
    push(&wanted.to_string(), "1", b"bytes");
    for _ in 0..2 {
        let pulled =
            registries(folder.path(), PullPolicy::IfMissing).fetch(&wanted).expect("pulled");
        assert_eq!(pulled.origin, PluginOrigin::Registry);
    }
    assert!(
        refused(registries(folder.path(), PullPolicy::Never).fetch(&wanted))
            .contains("cannot use the store")
    );
}
