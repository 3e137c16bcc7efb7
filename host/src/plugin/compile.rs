//! Compiling a component that may have been made to harm the compiler.
//!
//! The engine's reader recurses into nested types without a limit, and reads nested components once
//! for each level. So this module refuses a component that is nested too deeply before the engine
//! sees it. The engine reads every other component on a stack that is large enough for it.

use std::thread;

use wasmtime::component::Component;
use wasmtime::{Engine, Result, bail, format_err};

use crate::work::{RefusedResource, SystemRefused};

/// Magic number, version and layer: the start of a component, and of each component inside it.
const HEADER_BYTES: usize = 8;
/// Sections that matter here, by their number in the binary format.
const COMPONENT_SECTION: u8 = 4;
const TYPE_SECTION: u8 = 7;
/// Levels of nested components. Components that tools compose have a handful.
const LEVELS_MAX: usize = 32;
/// Bytes that one section of types may have. The largest known have some thousand. A level takes at
/// least three bytes.
const TYPES_MAX_BYTES: usize = 64 << 10;
/// Stack for as many levels as a section may have. The engine's reader takes 3 to 6 KiB for each
/// level. Untouched pages cost nothing.
const STACK_BYTES: usize = 256 << 20;

/// Compiles the component in `bytes`. Blocks.
pub(super) fn compile(engine: &Engine, bytes: &[u8]) -> Result<Component> {
    deep(bytes, || Component::from_binary(engine, bytes))
}

/// Compiles the component in `bytes` to machine code, without loading it here. Blocks.
pub(super) fn precompile(engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>> {
    deep(bytes, || engine.precompile_component(bytes))
}

/// Runs `read` on a stack that is large enough for the component.
fn deep<T: Send>(bytes: &[u8], read: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if let Some(problem) = problem(bytes) {
        bail!("{problem}");
    }
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("wharf-compile".into()).stack_size(STACK_BYTES);
        let reading = builder.spawn_scoped(scope, read);
        let reading = reading.map_err(|error| match RefusedResource::of(&error) {
            Some(refusal) => {
                SystemRefused { refusal, what: format!("no thread to compile it on: {error}") }
                    .into()
            }
            None => format_err!("no thread to compile it on: {error}"),
        })?;
        reading.join().unwrap_or_else(|_| Err(format_err!("the compiler panicked")))
    })
}

/// Says what is nested too deeply in a component. Returns `None` if the bytes make no sense: the
/// engine reports that itself.
pub(super) fn problem(bytes: &[u8]) -> Option<String> {
    // Ends of the components that begin before `at`, the outermost first.
    let mut ends = vec![bytes.len()];
    let mut at = HEADER_BYTES;
    while let Some(&end) = ends.last() {
        if at >= end {
            ends.pop();
            continue;
        }
        let (size, content) = number(bytes, at + 1)?;
        let next = content.checked_add(size)?;
        match bytes[at] {
            COMPONENT_SECTION if ends.len() == LEVELS_MAX => {
                return Some(format!("more than {LEVELS_MAX} components lie in each other"));
            }
            COMPONENT_SECTION => {
                ends.push(next.min(end));
                at = content + HEADER_BYTES;
                continue;
            }
            TYPE_SECTION if size > TYPES_MAX_BYTES => {
                return Some(format!(
                    "expected at most {TYPES_MAX_BYTES} bytes of types in a section, found {size}"
                ));
            }
            _ => {}
        }
        at = next;
    }
    None
}

/// Reads a number in the format's variable length. Returns the number and the position after it.
pub(crate) fn number(bytes: &[u8], mut at: usize) -> Option<(usize, usize)> {
    let mut value = 0;
    for shift in (0..35).step_by(7) {
        let byte = *bytes.get(at)?;
        at += 1;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, at));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

    fn section(id: u8, content: &[u8]) -> Vec<u8> {
        let (mut section, mut left) = (vec![id], content.len());
        while left > 0x7f {
            section.push((left & 0x7f) as u8 | 0x80);
            left >>= 7;
        }
        section.push(left as u8);
        section.extend_from_slice(content);
        section
    }

    fn nested(levels: usize) -> Vec<u8> {
        (1..levels)
            .fold(EMPTY.to_vec(), |inner, _| [EMPTY, &section(COMPONENT_SECTION, &inner)].concat())
    }

    #[test]
    fn nesting_is_allowed_up_to_the_limit() {
        assert_eq!(problem(&nested(LEVELS_MAX)), None);
        assert!(problem(&nested(LEVELS_MAX + 1)).is_some());
        // Components side by side are no deeper.
        let two =
            [EMPTY, &section(COMPONENT_SECTION, EMPTY), &section(COMPONENT_SECTION, &nested(3))]
                .concat();
        assert_eq!(problem(&two), None);
    }

    #[test]
    fn types_are_bounded_wherever_they_are() {
        let types = |bytes| section(TYPE_SECTION, &vec![0; bytes]);
        assert_eq!(problem(&[EMPTY, &types(TYPES_MAX_BYTES)].concat()), None);
        let over = [EMPTY, &types(TYPES_MAX_BYTES + 1)].concat();
        assert!(problem(&over).is_some());
        let behind =
            [EMPTY, &section(COMPONENT_SECTION, EMPTY), &section(0, b"name"), &over[EMPTY.len()..]]
                .concat();
        assert!(problem(&behind).is_some());
        assert!(problem(&[EMPTY, &section(COMPONENT_SECTION, &over)].concat()).is_some());
    }

    #[test]
    fn malformed_bytes_are_left_to_the_engine() {
        for bytes in [
            &b""[..],
            b"\0asm",
            EMPTY,
            &[0xff; 40],
            &[EMPTY, &[4, 0xff, 0xff, 0xff, 0xff, 0xff, 1]].concat(),
        ] {
            assert_eq!(problem(bytes), None);
        }
    }
}
