//! Store of pulled content on disk, by digest:
//!
//! | folder | content |
//! |---|---|
//! | `blobs/` | manifests and components |
//! | `tags/` | the digest that each tag named when the registry was last asked |
//! | `signatures/` | the signatures of each plugin |
//!
//! The host does not trust the store: it compares content with its digest on each read, and checks
//! signatures on each use. Files are written under another name and moved into place.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::claim::{Evidence, Form};
use super::digest::Digest;
use super::signature::SIGNATURES_MAX;
use crate::files;

const BLOBS: &str = "blobs";
const TAGS: &str = "tags";
const SIGNATURES: &str = "signatures";
/// Beginning of a file's name until the file is complete.
const DRAFT: &str = "draft-";
/// Bytes that a file takes beside its content.
const FILE_BYTES: u64 = 4 << 10;
/// Largest record beside the blobs, in bytes.
const RECORD_MAX_BYTES: u64 = 4 << 20;
/// Age of a draft from which on its process counts as gone.
const DRAFT_MAX_AGE: Duration = Duration::from_secs(3_600);

/// An open store.
pub(super) struct Store {
    folder: PathBuf,
    max_bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct Tagged {
    reference: String,
    digest: String,
}

#[derive(Serialize, Deserialize)]
struct Signed {
    #[serde(default)]
    form: Form,
    payload: String,
    signature: String,
}

impl Store {
    /// Opens a folder, and creates it if it is missing. The folder must belong to this user, and
    /// others must not be able to write to it.
    pub(super) fn open(folder: &Path, max_bytes: u64) -> io::Result<Self> {
        files::own_folder(folder)?;
        for part in [BLOBS, TAGS, SIGNATURES] {
            files::own_folder(&folder.join(part))?;
        }
        Ok(Self { folder: folder.into(), max_bytes })
    }

    /// Returns content of this digest, if it is here and intact. Damaged content is removed.
    pub(super) fn blob(&self, digest: &Digest, max_bytes: u64) -> Option<Vec<u8>> {
        let path = self.folder.join(BLOBS).join(digest.hex());
        let content = files::read(&path, max_bytes).ok()?;
        if Digest::of(&content) == *digest {
            touch(&path);
            return Some(content);
        }
        tracing::warn!(file = %path.display(), "what was kept of a plugin has rotted, and is \
            thrown away");
        let _ = fs::remove_file(&path);
        None
    }

    /// Keeps content of this digest.
    pub(super) fn keep(&self, digest: &Digest, content: &[u8]) -> io::Result<()> {
        self.write(&self.folder.join(BLOBS).join(digest.hex()), content)
    }

    /// Returns the digest that a reference by tag named when the registry was last asked.
    pub(super) fn tag(&self, reference: &str) -> Option<Digest> {
        let path = self.tag_file(reference);
        let tagged: Tagged =
            serde_json::from_slice(&files::read(&path, RECORD_MAX_BYTES).ok()?).ok()?;
        touch(&path);
        if tagged.reference == reference { Digest::parse(&tagged.digest) } else { None }
    }

    /// Records the digest of a reference by tag.
    pub(super) fn set_tag(&self, reference: &str, digest: &Digest) -> io::Result<()> {
        let tagged = Tagged { reference: reference.into(), digest: digest.to_string() };
        self.write(&self.tag_file(reference), &serde_json::to_vec(&tagged)?)
    }

    /// Returns the kept signatures of a plugin.
    pub(super) fn evidence(&self, plugin: &Digest) -> Vec<Evidence> {
        let path = self.folder.join(SIGNATURES).join(plugin.hex());
        let read = || -> Option<Vec<Signed>> {
            serde_json::from_slice(&files::read(&path, RECORD_MAX_BYTES).ok()?).ok()
        };
        let signed = read().unwrap_or_default();
        touch(&path);
        let decode = |signed: Signed| {
            let (payload, signature) =
                (STANDARD.decode(signed.payload).ok()?, STANDARD.decode(signed.signature).ok()?);
            Some(Evidence { form: signed.form, payload, signature })
        };
        signed.into_iter().filter_map(decode).collect()
    }

    /// Adds signatures in front of the plugin's present ones. Several repositories may have the
    /// same digest, each with signatures of its own. The oldest beyond [`SIGNATURES_MAX`] are
    /// removed.
    ///
    /// If two processes add at once, the later may remove the signatures of the earlier, which are
    /// then fetched again.
    pub(super) fn add_evidence(&self, plugin: &Digest, evidence: &[Evidence]) -> io::Result<()> {
        let mut all: Vec<Evidence> = Vec::new();
        for one in evidence.iter().cloned().chain(self.evidence(plugin)) {
            if all.len() < SIGNATURES_MAX && !all.contains(&one) {
                all.push(one);
            }
        }
        let encode = |evidence: &Evidence| Signed {
            form: evidence.form,
            payload: STANDARD.encode(&evidence.payload),
            signature: STANDARD.encode(&evidence.signature),
        };
        let signed: Vec<_> = all.iter().map(encode).collect();
        self.write(&self.folder.join(SIGNATURES).join(plugin.hex()), &serde_json::to_vec(&signed)?)
    }

    fn tag_file(&self, reference: &str) -> PathBuf {
        self.folder.join(TAGS).join(Digest::of(reference.as_bytes()).hex())
    }

    /// Writes a file, all of it or nothing. The file survives a power failure.
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let draft = self.folder.join(format!("{DRAFT}{}-{number}", std::process::id()));
        let written = (|| {
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&draft, path)?;
            path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        })();
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written
    }

    /// Removes the least recently used content until the rest fits, and old drafts.
    pub(super) fn trim(&self) -> io::Result<()> {
        let now = SystemTime::now();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let old = || {
                entry
                    .metadata()
                    .and_then(|seen| seen.modified())
                    .is_ok_and(|then| age(now, then) > DRAFT_MAX_AGE)
            };
            if entry.file_name().to_string_lossy().starts_with(DRAFT) && old() {
                let _ = fs::remove_file(entry.path());
            }
        }
        let (mut kept, mut total) = (Vec::new(), 0_u64);
        for part in [BLOBS, TAGS, SIGNATURES] {
            for entry in fs::read_dir(self.folder.join(part))? {
                let entry = entry?;
                // A file that another process has removed meanwhile needs no room.
                let Ok(seen) = entry.metadata() else { continue };
                let bytes = seen.len() + FILE_BYTES;
                total = total.saturating_add(bytes);
                kept.push((seen.modified().unwrap_or(SystemTime::UNIX_EPOCH), bytes, entry.path()));
            }
        }
        kept.sort();
        for (_, bytes, path) in kept {
            if total <= self.max_bytes {
                break;
            }
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => total = total.saturating_sub(bytes),
            }
        }
        Ok(())
    }
}

/// Records that a file was used just now. If that fails, the file may be removed earlier than
/// others.
fn touch(path: &Path) {
    let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

fn age(now: SystemTime, then: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder =
                std::env::temp_dir().join(format!("wharf-store-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&folder);
            Self(folder)
        }
        fn store(&self, max_bytes: u64) -> Store {
            Store::open(&self.0, max_bytes).expect("a store")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn damaged_content_is_removed() {
        let folder = Folder::new("rotten");
        let (store, digest) = (folder.store(1 << 20), Digest::of(b"content"));
        store.keep(&digest, b"content").expect("kept");
        assert_eq!(store.blob(&digest, 7).as_deref(), Some(&b"content"[..]));
        assert_eq!(store.blob(&digest, 6), None, "over the caller's limit");
        let file = folder.0.join(BLOBS).join(digest.hex());
        fs::write(&file, b"c0ntent").expect("changed");
        assert_eq!(store.blob(&digest, 7), None);
        assert!(!file.exists(), "and the next pull writes it anew");
    }

    #[test]
    fn least_recently_used_content_goes_first() {
        let folder = Folder::new("trim");
        let store = folder.store(2 * (FILE_BYTES + 1));
        let digests = [b"a", b"b", b"c"].map(|content| Digest::of(content));
        for (content, digest) in [b"a", b"b", b"c"].iter().zip(&digests) {
            store.keep(digest, *content).expect("kept");
        }
        for (ago, digest) in [(30, &digests[0]), (20, &digests[1]), (10, &digests[2])] {
            let file = File::open(folder.0.join(BLOBS).join(digest.hex())).expect("kept");
            file.set_modified(SystemTime::now() - Duration::from_secs(ago)).expect("a time");
        }
        assert!(store.blob(&digests[0], 1).is_some(), "used just now");
        store.trim().expect("room");
        let left = digests.each_ref().map(|digest| store.blob(digest, 1).is_some());
        assert_eq!(left, [true, false, true]);
    }

    #[test]
    fn tags_and_signatures_are_read_back() {
        let folder = Folder::new("records");
        let (store, digest) = (folder.store(1 << 20), Digest::of(b"x"));
        store.set_tag("oci://a.b/c:1", &digest).expect("kept");
        assert_eq!(
            (store.tag("oci://a.b/c:1"), store.tag("oci://a.b/c:2")),
            (Some(digest.clone()), None)
        );
        let signed = |form| Evidence { form, payload: b"text".into(), signature: b"\0\xff".into() };
        let evidence = vec![signed(Form::Simple), signed(Form::Bundle)];
        store.add_evidence(&digest, &evidence).expect("kept");
        assert_eq!(store.evidence(&digest), evidence);
        assert!(store.evidence(&Digest::of(b"y")).is_empty());
        // Records of older versions, which knew one form only, do not name it.
        let older = br#"[{"payload":"dGV4dA==","signature":"AP8="}]"#;
        fs::write(folder.0.join(SIGNATURES).join(digest.hex()), older).expect("kept");
        assert_eq!(store.evidence(&digest), [signed(Form::Simple)]);
    }

    #[test]
    fn signatures_of_one_repository_keep_those_of_another() {
        let folder = Folder::new("evidence");
        let (store, digest) = (folder.store(1 << 20), Digest::of(b"x"));
        let signed = |text: &str| Evidence {
            form: Form::Simple,
            payload: text.as_bytes().into(),
            signature: b"s".into(),
        };
        let kept = |added: &[Evidence]| {
            store.add_evidence(&digest, added).expect("kept");
            store.evidence(&digest)
        };
        assert_eq!(kept(&[signed("a"), signed("a")]), [signed("a")]);
        assert_eq!(kept(&[signed("b")]), [signed("b"), signed("a")]);
        assert_eq!(
            kept(&[signed("a")]),
            [signed("a"), signed("b")],
            "the newest first, and each once"
        );
        let many: Vec<_> =
            (0..SIGNATURES_MAX - 1).map(|number| signed(&number.to_string())).collect();
        assert_eq!(kept(&many), [many.clone(), vec![signed("a")]].concat(), "the oldest go");
        assert_eq!(kept(&[many, vec![signed("c"), signed("d")]].concat()).len(), SIGNATURES_MAX);
    }

    #[test]
    fn folder_writable_by_others_is_no_store() {
        use std::os::unix::fs::PermissionsExt;
        let folder = Folder::new("open");
        fs::create_dir(&folder.0).expect("made");
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o777)).expect("a mode");
        assert!(Store::open(&folder.0, 1).is_err());
    }
}
