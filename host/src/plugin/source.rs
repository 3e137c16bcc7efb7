//! Reading the bytes of a component from a path. Nothing about the file is trusted.

use std::io;
use std::path::{Path, PathBuf};

use super::manifest::{Manifest, ManifestError};
use crate::files;

/// Largest component file that is read.
pub const COMPONENT_MAX_BYTES: u64 = 64 << 20;

/// Bytes at the start of a file that are enough to recognize a component.
const FIRST_BYTES: usize = 64;

/// Why the bytes of a component could not be read. Each error names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The folder's manifest is missing or bad.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The file is missing, not permitted, not regular, or larger than [`COMPONENT_MAX_BYTES`].
    #[error("{}: cannot read it: {source}{hint}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
        /// Advice. May be empty.
        hint: String,
    },
    /// By its first bytes, the file is not a component.
    #[error("{}: {what}", .file.display())]
    NotAComponent {
        /// The file.
        file: PathBuf,
        /// What the file is instead, and what to do.
        what: &'static str,
    },
}

/// A component's bytes, with what its manifest says.
pub struct Source {
    /// The file, or the reference by which the component was pulled.
    pub file: PathBuf,
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Whether a fresh instance can continue a session of this plugin.
    pub stateless: bool,
    /// The bytes, which look like a component at their start.
    pub bytes: Vec<u8>,
}

impl Source {
    /// Reads a folder with a manifest, or a component file.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn read(path: &Path) -> Result<Self, SourceError> {
        read(path)
    }

    /// A pulled component, which has neither a folder nor a manifest.
    ///
    /// # Errors
    /// [`SourceError::NotAComponent`].
    pub fn pulled(
        reference: &str,
        name: String,
        version: String,
        bytes: Vec<u8>,
    ) -> Result<Self, SourceError> {
        let file = PathBuf::from(reference);
        match not_a_component(&bytes) {
            Some(what) => Err(SourceError::NotAComponent { file, what }),
            None => Ok(Self { file, name, version, stateless: false, bytes }),
        }
    }
}

/// Reads a folder with a manifest, or a component file.
pub(super) fn read(path: &Path) -> Result<Source, SourceError> {
    let (file, name, version, stateless, hint) = if let Some(manifest) = Manifest::find(path)? {
        let hint = match &manifest.build {
            Some(build) => format!(
                " (build it first: `{}` in {})",
                build.command.join(" "),
                manifest.folder.display()
            ),
            None => String::new(),
        };
        (manifest.component, manifest.name, manifest.version, manifest.stateless, hint)
    } else {
        let stem =
            path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        (path.to_owned(), stem, "unversioned".to_owned(), false, String::new())
    };
    let bytes = match files::read(&file, COMPONENT_MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(source) => return Err(SourceError::Unreadable { file, source, hint }),
    };
    if let Some(what) = not_a_component(&bytes) {
        return Err(SourceError::NotAComponent { file, what });
    }
    Ok(Source { file, name, version, stateless, bytes })
}

pub(super) fn not_a_component(bytes: &[u8]) -> Option<&'static str> {
    let version = bytes.get(4..8);
    match (bytes.get(..4), version) {
        (Some(b"\0asm"), Some(b"\x0d\x00\x01\x00")) => None,
        (Some(b"\0asm"), Some(b"\x01\x00\x00\x00")) => Some(
            "expected a component, found a core module: build for wasm32-wasip2, or run `wharf \
             component` on it",
        ),
        (Some(b"\0asm"), _) => {
            Some("expected a component, found WebAssembly of an unknown version")
        }
        (Some(b"\x7fELF"), _) => {
            Some("expected a component, found native code, which is never loaded")
        }
        _ if bytes.is_empty() => Some("expected a component, found an empty file: build it again"),
        _ if is_text(bytes) => {
            Some("expected a component, found WebAssembly text: run `wharf component` on it")
        }
        _ => Some("expected a component, found something that is not WebAssembly"),
    }
}

/// Whether the bytes begin as WebAssembly text does: with a parenthesis, which also starts a block
/// comment, or with a line comment.
fn is_text(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    text.starts_with(b"(") || text.starts_with(b";;")
}

/// Says what a regular file is, if its first bytes are not a component's. Returns `None` if the
/// file cannot be read: a later read reports the reason.
pub(super) fn no_component_in(file: &Path) -> Option<&'static str> {
    not_a_component(files::read_first(file, &mut [0; FIRST_BYTES]).ok()?)
}

/// Whether a file looks like a component, a core module or WebAssembly text by its first bytes. For
/// callers that expect another kind of file.
#[must_use]
pub fn looks_like_wasm(file: &Path) -> bool {
    files::read_first(file, &mut [0; FIRST_BYTES])
        .is_ok_and(|bytes| bytes.starts_with(b"\0asm") || is_text(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_what_a_file_is() {
        assert!(not_a_component(b"\0asm\x0d\0\x01\0rest").is_none());
        for (bytes, word) in [
            (&b"\0asm\x01\0\0\0"[..], "core module"),
            (b"\0asm\x09\0\0\0", "unknown version"),
            (b"\0asm", "unknown version"),
            (b"\x7fELF....", "native code"),
            (b"  (component)", "text"),
            (b" \n;; a comment\n(module)", "text"),
            (b"", "empty"),
            (b"hello", "not WebAssembly"),
        ] {
            let what = not_a_component(bytes).expect("no component");
            assert!(what.contains(word), "{what}");
        }
    }
}
