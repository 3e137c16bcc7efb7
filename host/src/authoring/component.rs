//! From a core module, or WebAssembly text, to a component: what compilers that know no components need as a last step.
//!
//! Imports of the older `wasi_snapshot_preview1` are served by an adapter that goes into the component.

use std::path::{Path, PathBuf};

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME as ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER as ADAPTER,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::files;

/// Largest file that is read.
const MODULE_MAX_BYTES: u64 = 64 << 20;
/// What a component begins with.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// Why there is no component. Each names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ComponentError {
    /// No such file, or too large.
    #[error("{}: cannot read it: {source}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nothing to be done.
    #[error("{}: it is a component already", .file.display())]
    Already {
        /// The file.
        file: PathBuf,
    },
    /// Neither WebAssembly nor its text.
    #[error("{}: expected a core module or WebAssembly text: {cause}", .file.display())]
    NoModule {
        /// The file.
        file: PathBuf,
        /// What is wrong, with the line.
        cause: String,
    },
    /// The world is not there.
    #[error("{}: {cause}", .wit.display())]
    World {
        /// The folder.
        wit: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The module does not fit the world.
    #[error("{}: it does not fit the world in {}: {cause}", .file.display(), .wit.display())]
    Fit {
        /// The file.
        file: PathBuf,
        /// The folder of the world.
        wit: PathBuf,
        /// What is missing, or has another type.
        cause: String,
    },
}

/// Makes a component of the module in `file` for a world in the folder `wit`: the only one there, or the one that is named.
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
    let world = resolve.select_world(&[package], world).map_err(|error| no_world(format!("{error:#}")))?;
    let misfit =
        |cause: String| ComponentError::Fit { file: file.into(), wit: wit.into(), cause: cause.replace('\n', " ") };
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .map_err(|error| misfit(format!("{error:#}")))?;
    let encoder =
        ComponentEncoder::default().validate(true).module(&module).map_err(|error| misfit(format!("{error:#}")))?;
    let mut encoder = encoder.adapter(ADAPTER_NAME, ADAPTER).map_err(|error| misfit(format!("{error:#}")))?;
    encoder.encode().map_err(|error| misfit(format!("{error:#}")))
}
