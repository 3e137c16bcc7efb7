//! Compiled code on disk, in a folder that only the host's own user can write.
//!
//! A cached file is native code, so loading a forged file would run it. The rules:
//!
//! - The folder must belong to this user and be closed to all other users.
//! - A file is written under another name and then moved into place.
//! - Each file carries a digest of its content, so that a torn or rotten file is compiled again,
//!   not run.
//!
//! The layout of a file, in bytes. The last digest covers all before it, so a file never passes for
//! that of another component:
//!
//! | 16 | 32 | 32 | any | 32 |
//! |---|---|---|---|---|
//! | [`FORMAT`] | hash of the digest | SHA-256 of the settings | machine code | SHA-256 |

use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::compiler::CODE_MAX_BYTES;
use crate::files;

const DIGEST_BYTES: usize = 32;
/// The first bytes of a file. Files of older versions have no head.
const FORMAT: &[u8; 16] = b"wharf code 3\r\n\x1a\0";
const HEAD_BYTES: usize = FORMAT.len() + 2 * DIGEST_BYTES;
/// A longer file is not read: compilers may not produce that much.
const FILE_MAX_BYTES: u64 = CODE_MAX_BYTES + (HEAD_BYTES + DIGEST_BYTES) as u64;
/// Compiled code that is kept. If there is more, the cache removes the code that was unused
/// longest. In a heavy language, each change of a plugin makes 60 MB.
const KEPT_MAX_BYTES: u64 = 2 << 30;
/// An older draft was left by a process that is gone.
const DRAFT_MAX_AGE: Duration = Duration::from_secs(3_600);

/// Contents of the cache for a component.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cached {
    /// Its machine code.
    Code(Vec<u8>),
    /// Nothing, or a file of an older format.
    Nothing,
    /// A file that must not be run, and why.
    Refused(&'static str),
}

/// A usable cache folder.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Opens the folder, and creates it if it is missing.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        files::own_folder(folder)?;
        Ok(Self { folder: folder.into() })
    }

    /// The file for a component under this engine. The name changes with everything that changes
    /// the code.
    pub(super) fn file(&self, engine: &wasmtime::Engine, digest: &[u8]) -> PathBuf {
        let mut hasher = std::hash::DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        self.folder.join(format!("{}-{:016x}.bin", hex(digest), hasher.finish()))
    }

    /// The compiled code for a component, if the cache has a whole file for this component and
    /// engine.
    pub(super) fn get(&self, engine: &wasmtime::Engine, digest: &[u8]) -> Cached {
        let Ok(mut file) = fs::File::open(self.file(engine, digest)) else {
            return Cached::Nothing;
        };
        // Used code stays longest. If the time cannot be set, the code is only removed earlier.
        let _ = file.set_modified(SystemTime::now());
        if file.metadata().is_ok_and(|seen| seen.len() > FILE_MAX_BYTES) {
            return Cached::Refused("it is longer than machine code may be");
        }
        let mut before = [0; HEAD_BYTES];
        let mut content = Vec::new();
        let read = file
            .read_exact(&mut before)
            .and_then(|()| file.take(FILE_MAX_BYTES).read_to_end(&mut content));
        if read.is_err() {
            return Cached::Refused("it is cut short, or cannot be read");
        }
        let whole = |from: &[&[u8]], at: usize| {
            let mut sum = from.iter().fold(Sha256::new(), |sum, bytes| sum.chain_update(bytes));
            sum.update(&content[..at]);
            sum.finalize().as_slice() == &content[at..]
        };
        match content.len().checked_sub(DIGEST_BYTES) {
            Some(at) if whole(&[&before], at) && before == head(engine, digest) => {
                content.truncate(at);
                Cached::Code(content)
            }
            // Files that an older version of this program wrote end with the same kind of digest.
            Some(at) if !before.starts_with(FORMAT) && whole(&[&before], at) => Cached::Nothing,
            Some(at) if whole(&[&before], at) => {
                Cached::Refused("it is of another component, or for another engine")
            }
            _ => Cached::Refused("it is torn or rotten"),
        }
    }

    /// Keeps compiled code. After an error, nothing is left behind.
    pub(super) fn put(
        &self,
        engine: &wasmtime::Engine,
        digest: &[u8],
        code: &[u8],
    ) -> io::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let draft = self.folder.join(format!("draft-{}-{number}", std::process::id()));
        let written = (|| {
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            let head = head(engine, digest);
            file.write_all(&head)?;
            file.write_all(code)?;
            file.write_all(&Sha256::new_with_prefix(head).chain_update(code).finalize())?;
            file.sync_data()?;
            fs::rename(&draft, self.file(engine, digest))
        })();
        if written.is_ok() {
            prune(&self.folder, KEPT_MAX_BYTES);
        } else {
            // The rest of the draft is of no use. If even this fails, there is nothing more to do.
            let _ = fs::remove_file(&draft);
        }
        written
    }
}

/// The head of a file with the code of this component for this engine.
fn head(engine: &wasmtime::Engine, digest: &[u8]) -> [u8; HEAD_BYTES] {
    /// A hasher that passes all bytes to SHA-256. A collision of 64-bit hashes could be forged.
    struct Settings(Sha256);
    impl Hasher for Settings {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut settings = Settings(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut settings);
    let mut head = [0; HEAD_BYTES];
    let parts = [FORMAT.as_slice(), &Sha256::digest(digest), &settings.0.finalize()].concat();
    head.copy_from_slice(&parts);
    head
}

/// Whether a file name is one of [`Cache::file`]. The folder may contain other files.
fn is_code(name: &str) -> bool {
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let parts = name.strip_suffix(".bin").and_then(|stem| stem.split_once('-'));
    parts.is_some_and(|(digest, engine)| hex(digest, 64) && hex(engine, 16))
}

/// Removes the code that was unused longest, until the rest has at most `max_bytes`, and abandoned
/// drafts. A file that cannot be removed stays, which only costs space.
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

    const COMPONENTS: usize = 4;

    fn digest_of(component: usize) -> [u8; DIGEST_BYTES] {
        Sha256::digest([component as u8]).into()
    }

    /// Code that names its component. One is empty.
    fn code_of(component: usize) -> Vec<u8> {
        vec![component as u8; component * 23]
    }

    /// Two engines, and a cache with the code of each component for each engine.
    fn filled(folder: &Path) -> (Cache, [wasmtime::Engine; 2]) {
        let _ = fs::remove_dir_all(folder);
        let cache = Cache::open(folder).expect("a folder");
        let mut other = wasmtime::Config::new();
        other.consume_fuel(true);
        let engines =
            [wasmtime::Engine::default(), wasmtime::Engine::new(&other).expect("an engine")];
        for engine in &engines {
            for one in 0..COMPONENTS {
                cache.put(engine, &digest_of(one), &code_of(one)).expect("kept");
                assert_eq!(cache.get(engine, &digest_of(one)), Cached::Code(code_of(one)));
            }
        }
        (cache, engines)
    }

    #[test]
    fn damaged_files_are_refused() {
        let folder =
            std::env::temp_dir().join(format!("wharf-cache-damage-{}", std::process::id()));
        let (cache, engines) = filled(&folder);
        let all: Vec<_> = engines
            .iter()
            .flat_map(|engine| (0..COMPONENTS).map(move |one| (engine, one)))
            .collect();
        let file = |(engine, one): (&wasmtime::Engine, usize)| cache.file(engine, &digest_of(one));
        for &at in &all {
            let own = fs::read(file(at)).expect("it is kept");
            let mut tries: Vec<(String, Vec<u8>)> = Vec::new();
            tries.extend(
                (0..own.len()).map(|length| (format!("cut to {length}"), own[..length].to_vec())),
            );
            for byte in 0..own.len() {
                let mut flipped = own.clone();
                flipped[byte] ^= 1 << (byte % 8);
                tries.push((format!("byte {byte} flipped"), flipped));
            }
            for &from in all.iter().filter(|&&from| file(from) != file(at)) {
                let other = fs::read(file(from)).expect("it is kept");
                let mut own_head = own[..HEAD_BYTES].to_vec();
                own_head.extend_from_slice(&other[HEAD_BYTES..]);
                tries.push((format!("the code of {}", from.1), own_head));
                tries.push((
                    format!("followed by {}", from.1),
                    [own.clone(), other.clone()].concat(),
                ));
                tries.push((format!("behind {}", from.1), [other.clone(), own.clone()].concat()));
                tries.push((format!("all of {}", from.1), other));
            }
            for (what, bytes) in tries {
                fs::write(file(at), bytes).expect("kept");
                let seen = cache.get(at.0, &digest_of(at.1));
                assert!(matches!(seen, Cached::Refused(_)), "{what}: {seen:?}");
            }
            fs::write(file(at), own).expect("kept");
            assert_eq!(cache.get(at.0, &digest_of(at.1)), Cached::Code(code_of(at.1)));
        }
        fs::remove_dir_all(&folder).expect("it was there");
    }

    #[test]
    fn files_of_older_versions_are_nothing() {
        let folder = std::env::temp_dir().join(format!("wharf-cache-old-{}", std::process::id()));
        let (cache, [engine, _]) = filled(&folder);
        for length in [HEAD_BYTES, 200, 5_000] {
            let code = vec![7; length];
            let old = [code.clone(), Sha256::digest(&code).to_vec()].concat();
            fs::write(cache.file(&engine, &digest_of(1)), old).expect("kept");
            assert_eq!(cache.get(&engine, &digest_of(1)), Cached::Nothing);
        }
        fs::File::create(cache.file(&engine, &digest_of(1)))
            .and_then(|file| file.set_len(FILE_MAX_BYTES + 1))
            .expect("kept");
        assert!(matches!(cache.get(&engine, &digest_of(1)),
                Cached::Refused(why) if why.contains("longer")));
        fs::remove_dir_all(&folder).expect("it was there");
    }

    #[test]
    fn oldest_code_and_abandoned_drafts_are_pruned() {
        let folder = std::env::temp_dir().join(format!("wharf-cache-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let put = |name: &str, age: u64| {
            let file = fs::File::create(folder.join(name)).expect("a file");
            file.set_len(100).expect("its length");
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("its time");
        };
        let code = |number: usize| format!("{number:064x}-{number:016x}.bin");
        for (name, age) in [
            (&*code(2), 30),
            (&code(1), 10),
            (&code(3), 40),
            ("draft-1-0", 10),
            ("draft-2-0", 9_999),
        ] {
            put(name, age);
        }
        put("not-ours", 9_999);
        put("backup.bin", 9_999);
        prune(&folder, 250);
        let mut left: Vec<_> =
            fs::read_dir(&folder).expect("a folder").flatten().map(|one| one.file_name()).collect();
        left.sort();
        assert_eq!(left, [&*code(1), &code(2), "backup.bin", "draft-1-0", "not-ours"]);
        prune(&folder, 50);
        assert!(
            !folder.join(code(1)).exists(),
            "one that is over the limit by itself is not kept either"
        );
        fs::remove_dir_all(&folder).expect("it was there");
    }
}
