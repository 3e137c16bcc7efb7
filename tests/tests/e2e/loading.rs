//! Loading: a file that is no plugin gets one clear error that names the file, and leaves nothing.

use std::path::Path;

use wharf::plugin::{CacheUse, Engine, EngineConfig, Grant, Grants, Loader};
use wharf_tests::clients::Client;
use wharf_tests::guests::{built, component, component_for, contract, encode, file, versioned};
use wharf_tests::servers::{host, start};

fn refused(path: &Path, grants: &Grants) -> String {
    let said = host().loader().load(path, grants).err().expect("it must not load").to_string();
    assert!(
        said.contains(path.file_name().and_then(|name| name.to_str()).expect("a name")),
        "no file in: {said}"
    );
    said
}

fn says(name: &str, bytes: &[u8], words: &str) {
    let said = refused(&file(name, bytes), &Grants::none());
    assert!(said.contains(words), "expected {words:?} in: {said}");
}

#[test]
fn error_names_what_the_file_is() {
    says("text", b"hello", "not WebAssembly");
    says("empty", b"", "an empty file");
    says("source", b"(component)", "WebAssembly text");
    says("native", b"\x7fELF\x02\x01\x01", "native code, which is never loaded");
    says("core", &wat::parse_str("(module)").expect("a module"), "core module");
}

#[test]
fn truncated_component_is_refused_at_any_length() {
    let whole = component("");
    for part in [1, 5, 9] {
        let cut = whole.len() * part / 10;
        says(&format!("truncated-{part}"), &whole[..cut], "not a component this host can run");
    }
}

#[test]
fn compiled_code_is_never_loaded_as_plugin() {
    let engine = foreign_compiled_component();
    says("precompiled", &engine, "native code, which is never loaded");
}

/// The first bytes of a compiled component. The rest does not matter, because the host must not
/// read it.
fn foreign_compiled_component() -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01\xc8".to_vec();
    elf.resize(4_096, 0);
    elf
}

#[test]
fn paths_without_plugin_are_refused_without_a_hang() {
    let folder = tempfile::tempdir().expect("a folder");
    refused(&folder.path().join("missing.wasm"), &Grants::none());
    let said =
        host().loader().load(folder.path(), &Grants::none()).err().expect("no plugin").to_string();
    assert!(said.contains("plugin.toml"), "{said}");
    let pipe = folder.path().join("pipe.wasm");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .expect("a pipe");
    assert!(refused(&pipe, &Grants::none()).contains("regular file"));
    assert!(host().loader().load(Path::new("/dev/zero"), &Grants::none()).is_err());
}

#[test]
fn manifest_error_names_file_and_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = folder.path().join("plugin.toml");
    std::fs::write(&manifest, "name = 'x'\nversion = '1'\ncomponnent = 'x.wasm'\n")
        .expect("it is kept");
    let said =
        host().loader().load(folder.path(), &Grants::none()).err().expect("no plugin").to_string();
    assert!(said.contains("plugin.toml") && said.contains("componnent"), "{said}");
    std::fs::write(
        &manifest,
        "name = 'x'\nversion = '1'\ncomponent = 'x.wasm'\n[build]\ncommand = ['make', 'it']\n",
    )
    .expect("it is kept");
    let said = host()
        .loader()
        .load(folder.path(), &Grants::none())
        .err()
        .expect("no component")
        .to_string();
    assert!(said.contains("x.wasm") && said.contains("build it first: `make it`"), "{said}");
}

#[test]
fn error_for_another_world_names_the_expected_export() {
    let other = "package other:thing@1.0.0; world plugin { export run: func(); }";
    let bytes = encode("(module (func (export \"run\")))", other);
    says(
        "other-world",
        &bytes,
        "expected the export `wharf:server/inet-event-proc@0.1.0`, found `run`",
    );
    says("no-world", &wat::parse_str("(component)").expect("a component"), "found no exports");
}

#[test]
fn error_for_another_contract_version_gives_advice() {
    for (version, advice) in
        [("0.2.0", "newer host"), ("1.0.0", "newer host"), ("0.0.9", "build the plugin again")]
    {
        let contract = contract().replace("server@0.1.0", &format!("server@{version}"));
        let bytes = component_for("", &contract, version);
        says(
            &format!("version-{version}"),
            &bytes,
            &format!("built for contract version {version}"),
        );
        says(&format!("version-{version}"), &bytes, advice);
    }
}

#[test]
fn plugin_of_a_patched_contract_loads() {
    let contract = contract().replace("server@0.1.0", "server@0.1.7");
    let file = file("version-0.1.7", &component_for("", &contract, "0.1.7"));
    host().loader().load(&file, &Grants::none()).expect("a compatible version loads");
}

#[test]
fn handler_of_other_type_is_refused_at_load() {
    let contract = contract().replace("on-write: func() -> action;", "on-write: func();");
    let handlers = "(func $on-write (drop (i32.const 0)))";
    let text = component_text_without_result(handlers, &contract);
    let said = refused(&file("other-types", &text), &Grants::none());
    assert!(said.contains("type mismatch") || said.contains("expected"), "{said}");
}

fn component_text_without_result(handlers: &str, contract: &str) -> Vec<u8> {
    // The harness gives every handler the type of the real contract, so this component is built by
    // hand.
    let text = format!(
        "(module (memory (export \"memory\") 1)
           (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
           {handlers}
           (func (export \"wharf:server/inet-event-proc@0.1.0#on-connect\") (param i32) (result \
           i32) (i32.const 0))
           (func (export \"wharf:server/inet-event-proc@0.1.0#on-read\") (param i32 i32) (result \
           i32) (i32.const 0))
           (func (export \"wharf:server/inet-event-proc@0.1.0#on-write\") (call $on-write))
           (func (export \"wharf:server/inet-event-proc@0.1.0#on-timeout\") (param i64) (result \
           i32) (i32.const 0))
           (func (export \"wharf:server/inet-event-proc@0.1.0#on-timer\") (param i32) (result i32) \
           (i32.const 0))
           (func (export \"wharf:server/inet-event-proc@0.1.0#on-end\") (result i32) (i32.const 0))
           (func (export \"wharf:server/inet-event-proc@0.1.0#on-disconnect\") (param i32)))"
    );
    encode(&text, contract)
}

#[test]
fn missing_grant_is_named_with_its_import() {
    let (folder, grants) = built("tests/unruly");
    let said =
        host().loader().load(&folder, &Grants::none()).err().expect("nothing granted").to_string();
    for (import, grant) in [
        ("wharf:server/server@0.1.0", "server"),
        ("wasi:config/store@0.2.0-rc.1", "config"),
        ("wasi:cli/stdout@", "stdio"),
        ("wasi:clocks/monotonic-clock@", "clocks"),
    ] {
        let line = said
            .lines()
            .find(|line| line.contains(import))
            .unwrap_or_else(|| panic!("no {import} in: {said}"));
        assert!(line.contains(&format!("needs the grant \"{grant}\"")), "{line}");
    }
    let fewer: Grants = grants.iter().filter(|&grant| grant != Grant::Server).collect();
    let said = host().loader().load(&folder, &fewer).err().expect("one is missing").to_string();
    assert!(said.contains("\"server\"") && !said.contains("\"stdio\""), "{said}");
    host().loader().load(&folder, &grants).expect("with all of them it loads");
}

#[test]
fn start_that_traps_or_loops_fails_its_trial() {
    for (name, body, reasons) in [
        ("start-trap", "unreachable", &["trap:unreachable"][..]),
        // Any of the three limits may be reached first.
        ("start-loop", "(loop $x (br $x))", &["fuel", "cpu-time", "in time"]),
    ] {
        let bytes = component(&format!("(func $begin {body}) (start $begin)"));
        let said = refused(&file(name, &bytes), &Grants::none());
        let is_told = reasons.iter().any(|reason| said.contains(reason));
        assert!(said.contains("its trial instance failed") && is_told, "{said}");
    }
}

#[test]
fn memory_over_the_host_limit_is_refused() {
    let bytes = component("(memory $huge 5000)");
    let said = refused(&file("huge", &bytes), &Grants::none());
    assert!(!said.is_empty());
}

#[test]
fn cache_serves_reloads_and_replaces_rotten_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    let engine = Engine::new(EngineConfig { sessions_max: 4, ..EngineConfig::default() })
        .expect("an engine");
    let load = || {
        let loader = Loader::with_cache(engine.clone(), &cache).expect("a cache");
        loader.load(&file("cached", &component("")), &Grants::none()).expect("it loads").cache_use()
    };
    assert_eq!([load(), load()], [CacheUse::Compiled, CacheUse::Cached]);
    for entry in std::fs::read_dir(&cache).expect("the cache") {
        let path = entry.expect("an entry").path();
        let mut bytes = std::fs::read(&path).expect("compiled code");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).expect("it is rotten now");
    }
    assert_eq!([load(), load()], [CacheUse::Compiled, CacheUse::Cached]);
}

/// Each plugin answers with its own letter, although the files in the cache are swapped.
#[test]
fn mixed_up_cache_files_run_no_other_plugin() {
    let folder = tempfile::tempdir().expect("a folder");
    let letters = ['a', 'b', 'c'];
    let plugins = letters
        .map(|letter| file(&format!("mixed-{letter}"), &component(&versioned(letter, "", ""))));
    let load = |at: usize| {
        let loader = Loader::with_cache(host().engine().clone(), folder.path()).expect("a cache");
        let plugin = loader.load(&plugins[at], &Grants::none()).expect("it loads");
        let cache_use = plugin.cache_use();
        let server = start(std::sync::Arc::new(plugin));
        Client::connect(server.address()).send([1]).expect([letters[at] as u8, 1, 1]);
        cache_use
    };
    assert_eq!([0, 1, 2].map(load), [CacheUse::Compiled; 3]);
    assert_eq!([0, 1, 2].map(load), [CacheUse::Cached; 3]);
    let mut files: Vec<_> =
        std::fs::read_dir(folder.path()).expect("it").flatten().map(|one| one.path()).collect();
    files.sort();
    let whole: Vec<_> = files.iter().map(|file| std::fs::read(file).expect("code")).collect();
    for order in [[1, 0, 2], [2, 1, 0], [0, 2, 1], [1, 2, 0], [2, 0, 1]] {
        for (file, from) in files.iter().zip(order) {
            std::fs::write(file, &whole[from]).expect("kept");
        }
        let right = order.iter().enumerate().filter(|(at, from)| at == *from).count();
        let uses = [0, 1, 2].map(load);
        assert_eq!(uses.iter().filter(|one| **one == CacheUse::Cached).count(), right, "{order:?}");
        assert_eq!([0, 1, 2].map(load), [CacheUse::Cached; 3], "{order:?}: each has its own again");
    }
}

#[test]
fn cache_writable_by_others_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777))
        .expect("it is open");
    let engine = Engine::new(EngineConfig { sessions_max: 4, ..EngineConfig::default() })
        .expect("an engine");
    let said = Loader::with_cache(engine, folder.path()).err().expect("refused").to_string();
    assert!(said.contains("others may write"), "{said}");
}
