//! Makes a component from a core module or from WebAssembly text.
//!
//! Compilers that make no components need this as a last step. An adapter inside the component
//! serves imports of the older `wasi_snapshot_preview1`.

use std::path::{Path, PathBuf};

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME as ADAPTER_NAME,
    WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER as ADAPTER,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, WorldId};

use crate::files;
use crate::plugin::number;

/// Largest file that is read, in bytes.
const MODULE_MAX_BYTES: u64 = 64 << 20;
/// The first bytes of a component.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// Why no component was made. Each error names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ComponentError {
    /// The file does not exist or is too large.
    #[error("{}: cannot read it: {source}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is a component already.
    #[error("{}: it is a component already", .file.display())]
    Already {
        /// The file.
        file: PathBuf,
    },
    /// The file is neither WebAssembly nor its text.
    #[error("{}: expected a core module or WebAssembly text: {cause}", .file.display())]
    NoModule {
        /// The file.
        file: PathBuf,
        /// The mistake, with its line.
        cause: String,
    },
    /// The world was not found.
    #[error("{}: {cause} (`--wit` names the folder of the world; `wharf new` writes one into \
        wit)", .wit.display())]
    World {
        /// The folder.
        wit: PathBuf,
        /// The reason.
        cause: String,
    },
    /// The module does not fit the world.
    #[error("{}: it does not fit the world in {}: {cause}", .file.display(), .wit.display())]
    Fit {
        /// The file.
        file: PathBuf,
        /// The folder of the world.
        wit: PathBuf,
        /// The item that is missing or has another type.
        cause: String,
    },
}

/// Makes a component of the module in `file`, for a world in the folder `wit`. `None` as `world`
/// selects the only world there.
///
/// # Errors
/// [`ComponentError`].
pub fn component(file: &Path, wit: &Path, world: Option<&str>) -> Result<Vec<u8>, ComponentError> {
    let bytes = files::read(file, MODULE_MAX_BYTES)
        .map_err(|source| ComponentError::Unreadable { file: file.into(), source })?;
    if bytes.starts_with(COMPONENT) {
        return Err(ComponentError::Already { file: file.into() });
    }
    let mut module = match wat::parse_bytes(&bytes) {
        Ok(module) => module.into_owned(),
        Err(mut error) => {
            error.set_path(file);
            return Err(ComponentError::NoModule { file: file.into(), cause: error.to_string() });
        }
    };
    let mut resolve = Resolve::default();
    let no_world = |cause: String| ComponentError::World { wit: wit.into(), cause };
    let (package, _) = resolve.push_path(wit).map_err(|error| no_world(format!("{error:#}")))?;
    let world =
        resolve.select_world(&[package], world).map_err(|error| no_world(format!("{error:#}")))?;
    let misfit = |cause: String| ComponentError::Fit {
        file: file.into(),
        wit: wit.into(),
        cause: cause.replace('\n', " "),
    };
    module = without_debug_sections(module);
    encode(&mut module, &resolve, world).map_err(misfit)
}

/// Removes the debug sections of a module, which take a megabyte for a C library. Keeps the names
/// of functions, for backtraces. Returns the module unchanged if its sections cannot be parsed.
pub(super) fn without_debug_sections(module: Vec<u8>) -> Vec<u8> {
    const HEADER_BYTES: usize = 8;
    const CUSTOM: u8 = 0;
    let Some(header) = module.get(..HEADER_BYTES) else { return module };
    let mut kept = header.to_vec();
    let mut at = HEADER_BYTES;
    while let Some(&id) = module.get(at) {
        let Some(next) =
            number(&module, at + 1).and_then(|(size, content)| content.checked_add(size))
        else {
            return module;
        };
        let Some(section) = module.get(at..next) else { return module };
        // A name that ends outside of its section is none.
        let name = || {
            let (_, content) = number(section, 1)?;
            let (length, name) = number(section, content)?;
            section.get(name..name.checked_add(length)?)
        };
        if id != CUSTOM || !name().is_some_and(|name| name.starts_with(b".debug_")) {
            kept.extend_from_slice(section);
        }
        at = next;
    }
    kept
}

fn encode(module: &mut Vec<u8>, resolve: &Resolve, world: WorldId) -> Result<Vec<u8>, String> {
    let go = is_go(module).then(go_adapter).transpose()?;
    embed_component_metadata(module, resolve, world, StringEncoding::UTF8)
        .map_err(|error| format!("{error:#}"))?;
    let encoder = ComponentEncoder::default().validate(true).module(module);
    let encoder =
        encoder.and_then(|encoder| encoder.adapter(ADAPTER_NAME, go.as_deref().unwrap_or(ADAPTER)));
    encoder.and_then(|mut encoder| encoder.encode()).map_err(|error| format!("{error:#}"))
}

/// Whether Go's linker made the module. It leaves a section of this name.
fn is_go(module: &[u8]) -> bool {
    const SECTION: &[u8] = b"\x0ago:buildid";
    module.windows(SECTION.len()).any(|bytes| bytes == SECTION)
}

/// Builds the adapter for Go, which cannot use the usual one. `go-adapter.wat` says why.
fn go_adapter() -> Result<Vec<u8>, String> {
    let mut module =
        wat::parse_str(include_str!("go-adapter.wat")).map_err(|error| error.to_string())?;
    let mut resolve = Resolve::default();
    let package = resolve.push_str("go-adapter.wit", include_str!("go-adapter.wit"));
    let world = package.and_then(|package| resolve.select_world(&[package], None));
    world
        .and_then(|world| {
            embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        })
        .map_err(|error| format!("{error:#}"))?;
    Ok(module)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debug_sections_are_left_out() {
        let (debug, names) = (b"\0\x0d\x0b.debug_info!".as_slice(), b"\0\x05\x04name");
        let module = [b"\0asm\x01\0\0\0".as_slice(), debug, names, b"\x01\x01\0"].concat();
        let kept = without_debug_sections(module.clone());
        assert_eq!(kept, [&module[..8], names, b"\x01\x01\0"].concat());
        let torn = module[..module.len() - 1].to_vec();
        assert_eq!(without_debug_sections(torn.clone()), torn);
    }

    #[test]
    fn go_adapter_is_whole_and_only_for_go() {
        go_adapter().expect("it has what its own world says");
        assert!(is_go(b"\0asm\x01\0\0\0\0\x20\x0ago:buildid...") && !is_go(ADAPTER));
    }
}
