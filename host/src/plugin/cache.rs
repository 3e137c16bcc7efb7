//! Compiled code on disk, in a folder that only the host's own user can write.
//!
//! A file here is native code, and loading a forged one would be running it. So the folder must belong to this user
//! and be closed to everyone else, files are written under another name and moved into place, and each carries a
//! digest of its content, so that a torn or rotten file is compiled again and not run.

use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::files;

const DIGEST_BYTES: usize = 32;
/// Compiled code that is kept: beyond it goes what was used longest ago. Who writes a plugin in a heavy language makes 60 MB with
/// each change.
const KEPT_MAX_BYTES: u64 = 2 << 30;
/// A draft that is older was left by a process that is gone.
const DRAFT_MAX_AGE: Duration = Duration::from_secs(3_600);

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
        let mut file = fs::File::open(self.file(engine, digest)).ok()?;
        // What is used stays longest. Where the time cannot be set it only goes earlier.
        let _ = file.set_modified(SystemTime::now());
        let mut content = Vec::new();
        file.read_to_end(&mut content).ok()?;
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
        if written.is_ok() {
            prune(&self.folder, KEPT_MAX_BYTES);
        } else {
            // Whatever is left of the draft is of no use; if even this fails there is nothing more to do.
            let _ = fs::remove_file(&draft);
        }
        written
    }
}

/// Whether a file of this name is one of [`Cache::file`]: the folder may have others.
fn is_code(name: &str) -> bool {
    let hex = |part: &str, length: usize| part.len() == length && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts = name.strip_suffix(".bin").and_then(|stem| stem.split_once('-'));
    parts.is_some_and(|(digest, engine)| hex(digest, 64) && hex(engine, 16))
}

/// Removes what was used longest ago, until the rest has at most `max_bytes`, and drafts that nobody finishes. What cannot be
/// removed stays: that costs room and nothing else.
fn prune(folder: &Path, max_bytes: u64) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let now = SystemTime::now();
    let mut kept: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in entries.flatten() {
        let (path, Ok(seen)) = (entry.path(), entry.metadata()) else { continue };
        let used = seen.modified().unwrap_or(now);
        if is_code(&entry.file_name().to_string_lossy()) {
            kept.push((used, seen.len(), path));
        } else if entry.file_name().to_string_lossy().starts_with("draft-")
            && now.duration_since(used).is_ok_and(|age| age > DRAFT_MAX_AGE)
        {
            let _ = fs::remove_file(path);
        }
    }
    kept.sort_unstable_by(|one, other| other.cmp(one));
    let mut bytes = 0;
    for (_, size, path) in kept {
        bytes += size;
        if bytes > max_bytes {
            let _ = fs::remove_file(path);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_goes_first_and_so_do_forgotten_drafts() {
        let folder = std::env::temp_dir().join(format!("wharf-cache-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let put = |name: &str, age: u64| {
            let file = fs::File::create(folder.join(name)).expect("a file");
            file.set_len(100).expect("its length");
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("its time");
        };
        let code = |number: usize| format!("{number:064x}-{number:016x}.bin");
        for (name, age) in [(&*code(2), 30), (&code(1), 10), (&code(3), 40), ("draft-1-0", 10), ("draft-2-0", 9_999)] {
            put(name, age);
        }
        put("not-ours", 9_999);
        put("backup.bin", 9_999);
        prune(&folder, 250);
        let mut left: Vec<_> = fs::read_dir(&folder).expect("a folder").flatten().map(|one| one.file_name()).collect();
        left.sort();
        assert_eq!(left, [&*code(1), &code(2), "backup.bin", "draft-1-0", "not-ours"]);
        prune(&folder, 50);
        assert!(!folder.join(code(1)).exists(), "one that is over the limit by itself is not kept either");
        fs::remove_dir_all(&folder).expect("it was there");
    }
}
