//! From a path to the bytes of a component, believing nothing about the file.

use std::io;
use std::path::{Path, PathBuf};

use super::manifest::{Manifest, ManifestError};
use crate::files;

/// Largest component file that is read.
pub const COMPONENT_MAX_BYTES: u64 = 64 << 20;

/// Bytes by which a file is told from a component.
const FIRST_BYTES: usize = 64;

/// Why there are no bytes of a component. Each names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The folder's manifest is no good.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// No such file, no permission, no regular file, or over [`COMPONENT_MAX_BYTES`].
    #[error("{}: cannot read it: {source}{hint}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
        /// What may help; may be empty.
        hint: String,
    },
    /// Not a component by its first bytes.
    #[error("{}: {what}", .file.display())]
    NotAComponent {
        /// The file.
        file: PathBuf,
        /// What it is instead, and what to do.
        what: &'static str,
    },
}

/// A component's bytes, and what is known of them.
pub struct Source {
    /// Its file, or what stands for it: the reference by which it was pulled.
    pub file: PathBuf,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether a fresh instance can carry on with its sessions.
    pub stateless: bool,
    /// What looks like a component by its first bytes.
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

    /// What was pulled: a lone component, which has neither a folder nor a manifest beside it.
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

fn not_a_component(bytes: &[u8]) -> Option<&'static str> {
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

/// Whether it begins as WebAssembly text does: with a parenthesis, which is also how a comment may
/// begin, or with a comment of a line.
fn is_text(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    text.starts_with(b"(") || text.starts_with(b";;")
}

/// What a regular file is instead of a component, by its first bytes. Nothing where it cannot be
/// read: reading it says why.
pub(super) fn no_component_in(file: &Path) -> Option<&'static str> {
    not_a_component(files::read_first(file, &mut [0; FIRST_BYTES]).ok()?)
}

/// Whether a file that is to be read as something else is a component, or what one is made of, by
/// its first bytes.
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
