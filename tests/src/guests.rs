//! Guests: bundled plugins, built by their own command, and small ones in WebAssembly text for one
//! test.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use wharf::plugin::{Grants, Manifest, Plugin};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::servers::host;

/// The project's folder.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project's folder").to_owned()
}

/// Exports of the event procedure.
const HANDLERS: [&str; 7] =
    ["on-connect", "on-read", "on-write", "on-timeout", "on-timer", "on-end", "on-disconnect"];

/// A component from the text of some handlers; the others are those of `guests/defaults.wat`.
#[must_use]
pub fn component(handlers: &str) -> Vec<u8> {
    component_for(handlers, &contract(), "0.1.0")
}

/// The same component for another text of the contract, in which the package has this version.
#[must_use]
pub fn component_for(handlers: &str, contract: &str, version: &str) -> Vec<u8> {
    component_in(handlers, contract, version, StringEncoding::UTF8)
}

/// The same component with strings in another encoding. Lines of `handlers` that begin with
/// `(import` are imports. A `cabi_realloc` of `handlers` replaces that of the prelude.
#[must_use]
pub fn component_in(
    handlers: &str,
    contract: &str,
    version: &str,
    encoding: StringEncoding,
) -> Vec<u8> {
    let folder = root().join("tests/guests");
    let read =
        |name: &str| std::fs::read_to_string(folder.join(name)).expect("a part of every guest");
    let (defaults, mut prelude) = (read("defaults.wat"), read("prelude.wat"));
    if handlers.contains("\"cabi_realloc\"") {
        let start = prelude.find("(func (export \"cabi_realloc\")").expect("the allocator");
        let end = prelude.find(";; Writes;").expect("what comes after it");
        prelude.replace_range(start..end, "");
    }
    let (imports, handlers): (Vec<&str>, Vec<&str>) =
        handlers.lines().partition(|line| line.starts_with("(import"));
    let handlers = handlers.join("\n");
    let mut text = format!("(module\n{}\n{prelude}\n{handlers}\n", imports.join("\n"));
    for name in HANDLERS {
        if !handlers.contains(&format!("(func ${name} ")) {
            text.push_str(default_handler(&defaults, name));
        }
        // Every handler frees its allocations at its end.
        let (params, result, arguments) = match name {
            "on-connect" => ("(param i32)", "(result i32)", "(local.get 0)"),
            "on-read" => ("(param i32 i32)", "(result i32)", "(local.get 0) (local.get 1)"),
            "on-timeout" => ("(param i64)", "(result i32)", "(local.get 0)"),
            "on-timer" => ("(param i32)", "(result i32)", "(local.get 0)"),
            "on-disconnect" => ("(param i32)", "", "(local.get 0)"),
            _ => ("", "(result i32)", ""),
        };
        text.push_str(&format!(
            "(func (export \"wharf:server/inet-event-proc@{version}#{name}\") {params} {result}\n  \
             (call ${name} {arguments}) (global.set $heap (i32.const 65536)))\n"
        ));
    }
    // Only guests that define `save` and `restore` export the hand-off interface.
    let hands_over = handlers.contains("(func $save ");
    if hands_over {
        text.push_str(&format!(
            "(func (export \"wharf:server/handoff@{version}#save\") (result i32) (call $save))\n\
             (func (export \"wharf:server/handoff@{version}#restore\") (param i32 i32 i32 i32) \
             (result i32)\n  \
             (call $restore (local.get 0) (local.get 1) (local.get 2) (local.get 3)) (global.set \
             $heap (i32.const 65536)))\n"
        ));
    }
    text.push(')');
    let world = if hands_over { "plugin-with-handoff" } else { "plugin" };
    encode_for(&text.replace("@0.1.0", &format!("@{version}")), contract, world, encoding)
}

/// The text of one handler in the defaults: from its `(func` to the blank line or next function
/// after it.
fn default_handler<'a>(defaults: &'a str, name: &str) -> &'a str {
    let start = defaults.find(&format!("(func ${name} ")).expect("a default for every handler");
    let rest = &defaults[start..];
    let end = rest[1..].find("\n(func").map_or(rest.len(), |at| at + 2);
    &rest[..end]
}

/// A component from the text of a core module.
#[must_use]
pub fn encode(text: &str, contract: &str) -> Vec<u8> {
    encode_for(text, contract, "plugin", StringEncoding::UTF8)
}

fn encode_for(text: &str, contract: &str, world: &str, encoding: StringEncoding) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut resolve = Resolve::default();
    let package = resolve.push_str("contract.wit", contract).expect("the contract");
    let world = resolve.select_world(&[package], Some(world)).expect("its world");
    embed_component_metadata(&mut module, &resolve, world, encoding).expect("metadata");
    let encoder = ComponentEncoder::default().module(&module).expect("a module");
    encoder.validate(true).encode().expect("a component")
}

/// The contract's text without the world that needs other packages.
#[must_use]
pub fn contract() -> String {
    let text =
        std::fs::read_to_string(root().join("wit/inet-event-proc.wit")).expect("the contract");
    let end = text.find("/// What the Rust SDK binds to").expect("the last world");
    text[..end].to_owned()
}

/// Writes a component to a file of this name, in a folder of the process.
#[must_use]
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().expect("a folder"));
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    // Concurrent tests write the same guest, and no test may read a file that is half written.
    let half = folder.path().join(format!("{name}.{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    let file = folder.path().join(format!("{name}.wasm"));
    std::fs::write(&half, bytes)
        .and_then(|()| std::fs::rename(&half, &file))
        .expect("the component is kept");
    file
}

/// A guest of `tests/guests`, loaded.
#[must_use]
pub fn guest(name: &str) -> Arc<Plugin> {
    let handlers =
        std::fs::read_to_string(root().join(format!("tests/guests/{name}.wat"))).expect("a guest");
    inline(name, &handlers)
}

/// A guest from the text of its handlers, loaded.
#[must_use]
pub fn inline(name: &str, handlers: &str) -> Arc<Plugin> {
    let file = file(name, &component(handlers));
    Arc::new(
        host()
            .loader()
            .load(&file, &Grants::none())
            .unwrap_or_else(|error| panic!("{name}: {error}")),
    )
}

/// A guest that counts the bytes of its session, and labels its answers. The code `save` runs
/// before it saves, and the code `restore` after it has restored.
#[must_use]
pub fn versioned(label: char, save: &str, restore: &str) -> String {
    let text = std::fs::read_to_string(root().join("tests/guests/versioned.wat")).expect("a guest");
    text.replace("LABEL", &u32::from(label).to_string())
        .replace("RESTORE", restore)
        .replace("SAVE", save)
}

/// The same guest, but a session that has sent more than one byte cannot move: its `restore` loops
/// in proportion to that count, and traps. So sessions with different counts fail one after the
/// other, on slow and fast machines alike.
#[must_use]
pub fn loops_and_traps(label: char) -> String {
    // A budget of 50 million fuel is enough for 21 bytes.
    let restore = "(if (i32.gt_u (global.get $count) (i32.const 1)) (then
        (loop $more
          (global.set $turns (i32.add (global.get $turns) (i32.const 1)))
          (br_if $more (i32.lt_u (global.get $turns) (i32.mul (global.get $count) (i32.const \
          250000)))))
        unreachable))";
    format!("{}\n(global $turns (mut i32) (i32.const 0))\n", versioned(label, "", restore))
}

/// The default guest, loaded.
#[must_use]
pub fn polite() -> Arc<Plugin> {
    inline("polite", "")
}

/// Builds a plugin's folder once in this process. Returns the folder and the grants that its
/// manifest asks for.
#[must_use]
pub fn built(folder: &str) -> (PathBuf, Grants) {
    static BUILT: Mutex<Option<HashMap<PathBuf, Grants>>> = Mutex::new(None);
    let folder = root().join(folder);
    let mut built = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let grants = built.get_or_insert_default().entry(folder.clone()).or_insert_with(|| {
        let manifest = Manifest::read(&folder).expect("a manifest");
        // On a thread of its own, because the caller may be in a runtime.
        let build = || manifest.run_build_blocking().unwrap_or_else(|error| panic!("{error}"));
        std::thread::scope(|scope| scope.spawn(build).join().expect("it builds"));
        manifest.grants.iter().copied().collect()
    });
    (folder, grants.clone())
}

/// A plugin's folder, built and loaded with the grants of its manifest.
#[must_use]
pub fn bundled(folder: &str) -> Arc<Plugin> {
    let (folder, grants) = built(folder);
    Arc::new(host().loader().load(&folder, &grants).unwrap_or_else(|error| panic!("{error}")))
}

/// The same plugin as another build: a mark in it changes nothing but the digest.
#[must_use]
pub fn rebuilt(folder: &str, mark: &str) -> Arc<Plugin> {
    let (folder, grants) = built(folder);
    let manifest = Manifest::read(&folder).expect("a manifest");
    let mut bytes = std::fs::read(&manifest.component).expect("it is built");
    // A custom section: its number, its length, and its name with the length of that.
    let length = u8::try_from(mark.len()).expect("a short mark");
    bytes.extend([&[0, length + 1, length], mark.as_bytes()].concat());
    let file = file(&format!("{}-{mark}", manifest.name), &bytes);
    Arc::new(host().loader().load(&file, &grants).unwrap_or_else(|error| panic!("{error}")))
}

/// The `wharf` binary, built in the profile of the tests.
#[must_use]
pub fn wharf_binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| build(&["--bin", "wharf"]).join("wharf")).clone()
}

/// An example program of the host crate, built in the profile of the tests.
#[must_use]
pub fn example_binary(name: &str) -> PathBuf {
    static EXAMPLES: OnceLock<PathBuf> = OnceLock::new();
    EXAMPLES.get_or_init(|| build(&["--examples"]).join("examples")).join(name)
}

/// Builds targets of the workspace in the profile of the tests. Returns the profile's folder.
fn build(targets: &[&str]) -> PathBuf {
    let mut cargo =
        std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The binary lies beside this program's own, in any target folder and profile.
    let own = std::env::current_exe().expect("the program's own path");
    let folder = own
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps"))
        .expect("the profile's folder");
    cargo.args(["build", "--quiet", "--workspace"]).args(targets);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    // Build scripts of dependencies watch these names. Their values here are this crate's, so a
    // build that sees them would run the scripts again and rebuild what depends on them.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    assert!(cargo.current_dir(root()).status().expect("cargo runs").success(), "it builds");
    folder.to_owned()
}
