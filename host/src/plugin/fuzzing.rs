//! Checks of a plugin's folder, of its component, of its output, and of machine code on disk: see
//! `crate::fuzzing`.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use super::cache::{Cache, Cached};
use super::compile::problem;
use super::manifest::Manifest;
use super::output::escape;
use super::source::not_a_component;
use crate::files::scratch;
use crate::telemetry::drives_reader;

/// A `plugin.toml` names its plugin shortly, and builds within a day.
pub fn plugin_manifest(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match Manifest::parse(Path::new("folder"), text) {
        Ok(manifest) => {
            assert!((1..=64).contains(&manifest.name.len()) && manifest.version.len() <= 64);
            if let Some(build) = manifest.build {
                assert!(!build.command[0].is_empty());
                assert!((1..=86_400).contains(&build.time_max.as_secs()));
            }
            true
        }
        Err(why) => {
            assert!(!why.to_string().is_empty());
            false
        }
    }
}

/// A component is told by its first bytes, and refused if it is too deep.
pub fn component(bytes: &[u8]) -> bool {
    let other = not_a_component(bytes);
    assert!(other.is_none_or(|what| what.starts_with("expected a component")));
    let deep = problem(bytes);
    assert!(deep.as_ref().is_none_or(|deep| deep.len() <= 200), "{deep:?}");
    other.is_none() && deep.is_none()
}

/// What a plugin prints is a line of text that does not drive the terminal.
pub fn plugin_output(bytes: &[u8]) -> bool {
    for cut in [false, true] {
        let text = escape(bytes, cut);
        let drives = |one: char| drives_reader(one) && one != '\t';
        assert!(!text.contains(drives), "{text:?}");
        assert!(text.len() <= 10 * bytes.len() + 10, "{} bytes", text.len());
    }
    true
}

/// A file of the cache is run if it is whole and of this component. It is then the file that would
/// be written.
pub fn compile_cache(bytes: &[u8]) -> bool {
    static ENGINE: LazyLock<wasmtime::Engine> = LazyLock::new(wasmtime::Engine::default);
    scratch::with_folder(|folder| {
        let cache = Cache::open(folder).expect("a folder");
        let file = cache.file(&ENGINE, b"digest");
        // A seed is machine code: it is written as such, and everything else as it stands.
        if let Some(code) = bytes.strip_prefix(b"code:") {
            cache.put(&ENGINE, b"digest", code).expect("room");
            assert_eq!(cache.get(&ENGINE, b"digest"), Cached::Code(code.to_vec()));
            let whole = fs::read(&file).expect("it is kept");
            for damaged in [&whole[..whole.len() - 1], &whole[1..], code] {
                fs::write(&file, damaged).expect("room");
                assert!(!matches!(cache.get(&ENGINE, b"digest"), Cached::Code(_)));
            }
            return true;
        }
        fs::write(&file, bytes).expect("room");
        match cache.get(&ENGINE, b"digest") {
            Cached::Code(code) => {
                cache.put(&ENGINE, b"digest", &code).expect("room");
                assert_eq!(fs::read(&file).expect("it is kept"), bytes);
                true
            }
            Cached::Refused(why) => {
                assert!(!why.is_empty());
                false
            }
            Cached::Nothing => false,
        }
    })
}
