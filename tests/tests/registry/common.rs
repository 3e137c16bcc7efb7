//! Helpers of the registry tests: configurations, components, and the files of the store.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use wharf::oci::{
    Digest, PullPolicy, Pulled, PushedComponent, Reference, Registries, RegistryConfig,
    RegistryError,
};
use wharf_tests::guests::wharf_binary;

/// A configuration with a store in a folder.
pub(crate) fn registry_config(folder: &Path) -> RegistryConfig {
    RegistryConfig {
        store_dir: Some(folder.join("store")),
        timeout: Duration::from_secs(30),
        ..RegistryConfig::default()
    }
}

/// Registries with a store in a folder and a pull policy.
pub(crate) fn registries(folder: &Path, pull: PullPolicy) -> Registries {
    Registries::new(RegistryConfig { pull, ..registry_config(folder) })
}

/// Parses a reference that must be valid.
pub(crate) fn reference(text: &str) -> Reference {
    text.parse().expect("a reference")
}

/// A component `echo` of these bytes, which need not be WebAssembly.
pub(crate) fn pushed_component(version: &str, bytes: &[u8]) -> PushedComponent {
    PushedComponent {
        name: "echo".into(),
        version: Some(version.into()),
        description: String::new(),
        bytes: bytes.into(),
        imports: Vec::new(),
        exports: Vec::new(),
    }
}

/// Pushes bytes under a reference, unsigned.
pub(crate) fn push(at: &str, version: &str, bytes: &[u8]) -> Digest {
    let registries = Registries::new(RegistryConfig::default());
    registries.push(&reference(at), pushed_component(version, bytes), None).expect("pushed")
}

/// The error of a pull that must fail.
pub(crate) fn refused(pulled: Result<Pulled, RegistryError>) -> String {
    pulled.expect_err("refused").to_string()
}

/// The number of files in the store. Half-written files would count.
pub(crate) fn kept(folder: &Path) -> usize {
    fn count(folder: &Path) -> usize {
        let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
    }
    count(&folder.join("store"))
}

/// Runs the `wharf` command in a folder.
pub(crate) fn wharf(arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(wharf_binary());
    command.args(arguments).current_dir(folder).env("XDG_CACHE_HOME", folder.join("cache"));
    command.output().expect("it runs")
}

/// The standard output of a command that must succeed.
pub(crate) fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The errors of a command that must fail with this code.
pub(crate) fn failed(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}
