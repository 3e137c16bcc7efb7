//! Compiled code on disk, in a folder that only the host's own user can write.
//!
//! A file here is native code, and loading a forged one would be running it. So the folder must belong to this user
//! and be closed to everyone else, files are written under another name and moved into place, and each carries a
//! digest of its content, so that a torn or rotten file is compiled again and not run.

use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use crate::files;

const DIGEST_BYTES: usize = 32;

/// A usable cache folder.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Opens the folder and makes it where it is missing.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        files::own_folder(folder)?;
        Ok(Self { folder: folder.into() })
    }

    /// The file for a component under this engine. Its name changes with everything that changes the code.
    fn file(&self, engine: &wasmtime::Engine, digest: &[u8]) -> PathBuf {
        let mut hasher = std::hash::DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        self.folder.join(format!("{}-{:016x}.bin", hex(digest), hasher.finish()))
    }

    /// The compiled code for a component, if it is here and whole.
    pub(super) fn get(&self, engine: &wasmtime::Engine, digest: &[u8]) -> Option<Vec<u8>> {
        let mut content = fs::read(self.file(engine, digest)).ok()?;
        let at = content.len().checked_sub(DIGEST_BYTES)?;
        let whole = Sha256::digest(&content[..at]).as_slice() == &content[at..];
        content.truncate(at);
        whole.then_some(content)
    }

    /// Keeps compiled code. On an error nothing is left behind.
    pub(super) fn put(&self, engine: &wasmtime::Engine, digest: &[u8], code: &[u8]) -> io::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let draft = self.folder.join(format!("draft-{}-{number}", std::process::id()));
        let written = (|| {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            file.write_all(code)?;
            file.write_all(&Sha256::digest(code))?;
            file.sync_data()?;
            fs::rename(&draft, self.file(engine, digest))
        })();
        if written.is_err() {
            // Whatever is left of the draft is of no use; if even this fails there is nothing more to do.
            let _ = fs::remove_file(&draft);
        }
        written
    }
}

/// SHA-256, in hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
