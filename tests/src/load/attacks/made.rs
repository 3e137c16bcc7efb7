//! Components that are expensive for their host: many memories and tables, long compilations, huge
//! names.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use wit_component::StringEncoding;

use crate::guests::{component, component_in, root};
use crate::imports::open_contract;

/// Memories and tables of a heavy instance, beside the one of each that every guest has. Each is in
/// a module of its own.
const MEMORIES: usize = 3;
const TABLES: usize = 7;
/// Functions of a component that takes long to compile, and operations in each.
const SLOW_FUNCTIONS: usize = 160;
const SLOW_OPERATIONS: usize = 3_000;
/// Exports with huge names, and bytes of each: 37 MiB together.
const HUGE_NAMES: usize = 400;
const HUGE_NAME_BYTES: usize = 97_000;
/// Versions that wait to be swapped in, and versions before them that take long to compile.
const SWAPS_QUEUED: usize = 36;
const SWAPS_SLOW: usize = 2;

/// The guest of most attacks: `tests/guests/attacker.wat`.
///
/// # Errors
/// The file cannot be read.
pub fn attacker() -> Result<Vec<u8>> {
    let text = std::fs::read_to_string(root().join("tests/guests/attacker.wat"))?;
    Ok(component_in(&text, &open_contract(), "0.1.0", StringEncoding::UTF8))
}

/// An echo whose instance has eight tables and four memories. Three of the memories have a data
/// segment and grow at the start.
///
/// # Errors
/// The component cannot be made.
pub fn heavy() -> Result<Vec<u8>> {
    let mut bytes = component("");
    let first = core_modules(&bytes).context("a component of sections")?;
    let memory = r#"(memory 2) (data (i32.const 64) "not all of it is zero")
                    (func $start (drop (memory.grow (i32.const 4)))
                      (i32.store (i32.const 300000) (i32.const 1)))
                    (start $start)"#;
    for number in 0..TABLES {
        let memory = if number < MEMORIES { memory } else { "" };
        let module = wat::parse_str(format!("(module (table 10 funcref) {memory})"))?;
        section(&mut bytes, CORE_MODULE, &module);
    }
    let mut instances = leb(TABLES);
    for number in first..first + TABLES {
        // An instance of one module, without arguments.
        instances.push(0);
        instances.extend(leb(number));
        instances.push(0);
    }
    section(&mut bytes, CORE_INSTANCE, &instances);
    Ok(bytes)
}

/// An echo that takes a second or more to compile. Another `mark` makes another component.
#[must_use]
pub fn slow(mark: usize) -> Vec<u8> {
    let operations: String = (0..SLOW_OPERATIONS)
        .map(|at| {
            let (from, to, number) = (at % 7, (at * 5 + 3) % 7, at * 2_654_435_761 % 1_000_003);
            format!(
                "(local.set {to} (i32.xor (i32.mul (local.get {from}) (i32.const {number})) \
                (local.get {to})))\n"
            )
        })
        .collect();
    let functions: String = (0..SLOW_FUNCTIONS)
        .map(|number| {
            format!(
                "(func $slow{number} (export \"slow{number}\") (param i32) (result i32)\n\
                 (local i32 i32 i32 i32 i32 i32) (local.set 1 (i32.const {mark}))\n\
                 {operations} (local.get 0))\n"
            )
        })
        .collect();
    component(&functions)
}

/// A component whose exports have names of 37 MiB together. It is no plugin.
///
/// # Errors
/// The component cannot be made.
pub fn huge_names() -> Result<Vec<u8>> {
    let exports: String = (0..HUGE_NAMES)
        .map(|number| {
            let name = format!("n{number}x").repeat(HUGE_NAME_BYTES / format!("n{number}x").len());
            format!("(export \"{name}\" (type $byte))\n")
        })
        .collect();
    Ok(wat::parse_str(format!("(component (type $byte u8)\n{exports})"))?)
}

/// The versions of the queue of swaps: two slow ones first.
///
/// # Errors
/// A file cannot be written.
pub fn queue(folder: &Path) -> Result<Vec<PathBuf>> {
    (0..SWAPS_SLOW + SWAPS_QUEUED)
        .map(|number| {
            let bytes =
                if number < SWAPS_SLOW { slow(number) } else { marked(&component(""), number) };
            kept(folder, &format!("version-{number}"), &bytes)
        })
        .collect()
}

/// Writes a component to a file of the folder.
///
/// # Errors
/// The file cannot be written.
pub fn kept(folder: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let file = folder.join(format!("{name}.wasm"));
    std::fs::write(&file, bytes)?;
    Ok(file)
}

/// The component with a mark that changes nothing but its digest.
#[must_use]
pub fn marked(component: &[u8], mark: usize) -> Vec<u8> {
    let (mut bytes, name) = (component.to_vec(), format!("mark-{mark}"));
    let mut content = leb(name.len());
    content.extend(name.as_bytes());
    section(&mut bytes, CUSTOM, &content);
    bytes
}

const CUSTOM: u8 = 0;
const CORE_MODULE: u8 = 1;
const CORE_INSTANCE: u8 = 2;
/// Magic, version and layer.
const PREAMBLE_BYTES: usize = 8;

fn section(bytes: &mut Vec<u8>, id: u8, content: &[u8]) {
    bytes.push(id);
    bytes.extend(leb(content.len()));
    bytes.extend(content);
}

/// A number in LEB128.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// The number of core modules in a component's top sections.
fn core_modules(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut modules) = (PREAMBLE_BYTES, 0);
    while at < bytes.len() {
        modules += usize::from(bytes[at] == CORE_MODULE);
        let (mut length, mut shift) = (0, 0);
        loop {
            at += 1;
            let byte = *bytes.get(at)?;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        at += 1 + length;
    }
    Some(modules)
}

#[cfg(test)]
mod tests {
    use wharf::plugin::{Grant, Grants};
    use wharf::server::{Host, HostConfig};

    use super::*;

    #[test]
    fn made_components_are_what_they_say() {
        let host = Host::new(&HostConfig { workers: 1, sessions_max: 64, ..HostConfig::default() })
            .expect("a host");
        let folder = tempfile::tempdir().expect("a folder");
        let grants: Grants = [Grant::Stdio, Grant::Server].into_iter().collect();
        for (name, bytes) in [
            ("attacker", attacker()),
            ("heavy", heavy()),
            ("marked", Ok(marked(&component(""), 7))),
        ] {
            let file =
                kept(folder.path(), name, &bytes.expect("it is put together")).expect("kept");
            host.loader().load(&file, &grants).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert_ne!(marked(b"", 1), marked(b"", 2));
        let names = huge_names().expect("it is put together");
        assert!((37 << 20..40 << 20).contains(&names.len()), "{} bytes", names.len());
    }
}
