//! Record of a server's versions on disk, which decides what starts after a crash.
//!
//! The host keeps a component by its digest before it publishes the version. The host writes the
//! record after the swap and before it reports success. Both files are written under another name,
//! synced to disk and moved into place. So the record is the old one or the new one at every
//! moment.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::env::{self, DiskChange};
use super::publish::{Revision, RevisionState};
use crate::event::{EXCERPT_MAX_BYTES, excerpt};
use crate::files;
use crate::locks::lock;
use crate::oci::RegistryError;
use crate::plugin::{COMPONENT_MAX_BYTES, Plugin, digest};
use crate::work::{RefusedResource, WorkError};

/// Version of the format.
const FORMAT: u32 = 1;
/// File name of a record.
const RECORD: &str = "record.json";
/// Largest record, in bytes.
const RECORD_MAX_BYTES: u64 = 1 << 20;
/// Largest number that a record may have. It leaves room for all later revisions.
const NUMBER_MAX: u64 = 1 << 60;
/// Digits of a component's digest.
const DIGEST_CHARS: usize = 64;
/// Number of components that are kept for each server, for roll-backs.
const COMPONENTS_MAX: usize = 8;

/// Reason why nothing was recorded, or why a record cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", .file.display())]
pub struct RecordError {
    /// The file.
    pub file: PathBuf,
    /// The problem, and what to do.
    pub what: String,
    /// What the system refused, if that is the cause.
    pub refusal: Option<RefusedResource>,
}

/// Reason why a component was not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// The plugin's file is another component than the loaded one now.
    #[error("{}: it changed while it was loaded; try again", .0.display())]
    Changed(PathBuf),
    /// The component could not be read again or written.
    #[error(transparent)]
    Failed(#[from] RecordError),
}

impl RecordError {
    /// Returns the error for a recorded current version from a registry whose signature is not
    /// trusted any more. `component` is the file of its kept component.
    pub(crate) fn distrusted(component: &Path, current: &Revision, error: &RegistryError) -> Self {
        Self {
            file: component.with_file_name(RECORD),
            what: format!(
                "{} was swapped in, and by what `[registry]` says now it may not run: {error}. \
                 Believe a key that has signed it \
                 (`[[registry.trust]]`), or swap in another version first; or, while the server \
                 does not run, remove the file \
                 to start what the configuration names",
                current.label()
            ),
            refusal: None,
        }
    }
}

/// Reason why the bytes of a component were not read again.
pub(crate) struct NotRead {
    /// The reason in words.
    pub(crate) why: String,
    /// What the system refused, if that is the cause.
    pub(crate) refusal: Option<RefusedResource>,
}

/// State directory: the folder of all records of a process.
#[derive(Debug)]
pub struct StateDir {
    folder: PathBuf,
    /// Admits one writer at a time.
    writing: Mutex<()>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    /// Digest of the plugin that the configuration named.
    configured: String,
    #[serde(rename = "generations")]
    revisions: Vec<Revision>,
}

/// The record that a process left.
pub(crate) struct Recorded {
    /// All revisions of the record, so that no number is given twice.
    pub(crate) revisions: Vec<Revision>,
    /// The current version with the file of its component. `None` if the version that the
    /// configuration names must start.
    pub(crate) swapped: Option<(Revision, PathBuf)>,
}

impl StateDir {
    /// Creates a state directory at this path. The folder is created when the first record is
    /// written.
    #[must_use]
    pub fn at(folder: PathBuf) -> Self {
        Self { folder, writing: Mutex::default() }
    }

    /// Returns the error of a record that found no work thread.
    pub(crate) fn not_done(&self, server: &str, error: &WorkError) -> RecordError {
        RecordError {
            file: self.of(server).join(RECORD),
            what: format!("cannot write the record: {error}"),
            refusal: None,
        }
    }

    fn of(&self, server: &str) -> PathBuf {
        // Names may have any character. Characters that are not plain are written as their bytes.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let name = |byte: u8| {
            if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") }
        };
        self.folder.join(server.bytes().map(name).collect::<String>())
    }

    fn component(&self, server: &str, digest: &str) -> PathBuf {
        self.of(server).join(format!("{digest}.wasm"))
    }

    /// Reads the record of a server whose configuration names the plugin with the digest
    /// `configured`.
    ///
    /// The configured plugin must start in two cases:
    /// - it was current,
    /// - the configuration has named another plugin since the record was written, which the
    ///   operator wants.
    ///
    /// # Errors
    /// There is a record, and it cannot be read or trusted, or its component is gone or altered.
    pub(crate) fn read(
        &self,
        server: &str,
        configured: &str,
    ) -> Result<Option<Recorded>, RecordError> {
        let file = self.of(server).join(RECORD);
        let refused = |what: String, refusal: Option<RefusedResource>| RecordError {
            file: file.clone(),
            what: format!(
                "{what}; what was in force is not known. Remove the file to start what the \
                 configuration names"
            ),
            refusal,
        };
        let wrong = |what: String| refused(what, None);
        let bytes = match files::read(&file, RECORD_MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(refused(
                    format!("cannot read the record: {error}"),
                    RefusedResource::of(&error),
                ));
            }
        };
        // A user who can write to the folder decides which code runs.
        files::own_folder(&self.of(server)).map_err(|error| {
            refused(
                format!("the record is not believed: its folder: {error}"),
                RefusedResource::of(&error),
            )
        })?;
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| {
            wrong(excerpt(format_args!("not a record of versions: {error}"), EXCERPT_MAX_BYTES))
        })?;
        if record.format != FORMAT {
            return Err(wrong(format!("expected format {FORMAT}, found {}", record.format)));
        }
        if let Some(other) = record.revisions.iter().find(|revision| !is_sound(revision)) {
            return Err(wrong(format!(
                "version {}: expected a number of at most {NUMBER_MAX}, and {DIGEST_CHARS} \
                 hexadecimal digits as digest",
                other.number
            )));
        }
        if record.configured != configured {
            return Ok(Some(Recorded { revisions: record.revisions, swapped: None }));
        }
        let found = record
            .revisions
            .iter()
            .find(|revision| revision.state == RevisionState::Current)
            .cloned();
        let current = found.ok_or_else(|| wrong("it has nothing in force".into()))?;
        let component = self.component(server, &current.digest);
        if current.digest == configured {
            // The plugin is loaded from where the configuration says.
            return Ok(Some(Recorded { revisions: record.revisions, swapped: None }));
        }
        let kept = files::read(&component, COMPONENT_MAX_BYTES);
        let kept = kept.map_err(|error| {
            refused(
                format!("its component {} cannot be read: {error}", component.display()),
                RefusedResource::of(&error),
            )
        })?;
        if digest(&kept) != current.digest {
            return Err(wrong(format!(
                "its component {} is not what was recorded",
                component.display()
            )));
        }
        Ok(Some(Recorded { revisions: record.revisions, swapped: Some((current, component)) }))
    }

    /// Returns the file of a revision's kept component, if there is one.
    pub(crate) fn kept(&self, server: &str, revision: &Revision) -> Option<PathBuf> {
        Some(self.component(server, &revision.digest)).filter(|file| file.exists())
    }

    /// Keeps a plugin's component, whose bytes `read` gets again. Blocks.
    ///
    /// # Errors
    /// [`KeepError`]. Nothing is left behind.
    pub(crate) fn keep(
        &self,
        server: &str,
        plugin: &Plugin,
        read: impl FnOnce() -> Result<Vec<u8>, NotRead>,
    ) -> Result<(), KeepError> {
        let file = self.component(server, plugin.digest());
        if file.exists() {
            return Ok(());
        }
        let wrong = |file: &Path, what: String, refusal| RecordError {
            file: file.to_owned(),
            what,
            refusal,
        };
        let bytes = read().map_err(|NotRead { why, refusal }| {
            wrong(plugin.file(), format!("cannot read it again, to keep it: {why}"), refusal)
        })?;
        if digest(&bytes) != plugin.digest() {
            return Err(KeepError::Changed(plugin.file().to_owned()));
        }
        // The lock is taken only now, because `read` may ask a registry, and records of other
        // servers must not wait for that.
        let _alone = lock(&self.writing);
        if file.exists() {
            return Ok(());
        }
        let written = self.write(server, &file, &bytes);
        written.map_err(|error| {
            wrong(&file, format!("cannot keep the component: {error}"), RefusedResource::of(&error))
        })?;
        Ok(())
    }

    /// Writes a server's record and syncs it to disk, so that it outlives a crash of the machine.
    /// Blocks.
    ///
    /// # Errors
    /// The system's error; the record before is still there.
    pub(crate) fn write_record(
        &self,
        server: &str,
        configured: String,
        revisions: Vec<Revision>,
    ) -> Result<(), RecordError> {
        let _alone = lock(&self.writing);
        let file = self.of(server).join(RECORD);
        let record = Record { format: FORMAT, configured, revisions };
        let written = serde_json::to_vec_pretty(&record).map_err(io::Error::from);
        let written = written.and_then(|bytes| self.write(server, &file, &bytes));
        written.map_err(|error| {
            let refusal = RefusedResource::of(&error);
            RecordError { file, what: format!("cannot write the record: {error}"), refusal }
        })?;
        self.tidy(server, &record);
        Ok(())
    }

    fn write(&self, server: &str, file: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = self.of(server);
        env::may(DiskChange::Make)?;
        files::own_folder(&folder)?;
        let draft = folder.join("draft");
        // A crash may have left a draft.
        remove(&draft);
        let written = (|| {
            env::may(DiskChange::Make)?;
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            env::may(DiskChange::Write)?;
            file.write_all(bytes)?;
            env::sync(&file)?;
            env::may(DiskChange::Move)
        })();
        let moved = written.and_then(|()| fs::rename(&draft, file));
        if moved.is_err() {
            remove(&draft);
        }
        moved?;
        for folder in [folder.as_path(), &self.folder] {
            env::sync(&File::open(folder)?)?;
        }
        Ok(())
    }

    /// Removes components beyond [`COMPONENTS_MAX`]. Those of versions that were rolled back go
    /// first, because no roll-back returns to them.
    fn tidy(&self, server: &str, record: &Record) {
        let mut wanted: Vec<&str> = Vec::new();
        let is_current = |one: &&Revision| one.state == RevisionState::Current;
        let current = record.revisions.iter().find(is_current).map_or(0, |one| one.number);
        let by_need = |revision: &&Revision| match revision.state {
            RevisionState::Current => 0,
            RevisionState::Canary => 1,
            RevisionState::Superseded if revision.number < current => 2,
            RevisionState::Superseded => 3,
            RevisionState::RolledBack(_) => 4,
        };
        let mut revisions: Vec<_> = record.revisions.iter().rev().collect();
        revisions.sort_by_key(by_need);
        for revision in revisions {
            if !wanted.contains(&revision.digest.as_str()) && wanted.len() < COMPONENTS_MAX {
                wanted.push(&revision.digest);
            }
        }
        let Ok(entries) = fs::read_dir(self.of(server)) else { return };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let digest = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if path.extension().is_some_and(|end| end == "wasm") && !wanted.contains(&digest) {
                remove(&path);
            }
        }
    }
}

/// Whether the number leaves room for later revisions, and the digest is safe as a file name.
fn is_sound(revision: &Revision) -> bool {
    let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let digest = revision.digest.as_str();
    revision.number <= NUMBER_MAX && digest.len() == DIGEST_CHARS && digest.bytes().all(is_digit)
}

/// Removes a file. A file that stays does no harm, and the next record tries again.
fn remove(file: &Path) {
    if env::may(DiskChange::Remove).is_ok() {
        let _ = fs::remove_file(file);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::rng::Rng;

    /// A record as the process of version 0.1.0 writes it, with every state and origin.
    const RELEASED: &str = include_str!("record-0.1.0.json");

    #[test]
    fn released_records_are_read_and_written() {
        let record: Record = serde_json::from_str(RELEASED).expect("a record");
        let current = record.revisions.iter().find(|one| one.state == RevisionState::Current);
        assert_eq!(
            current.map(|one| (one.number, one.label())),
            Some((2, "echo-1 unversioned".into()))
        );
        assert!(record.revisions.iter().all(is_sound));
        let released: Value = serde_json::from_str(RELEASED).expect("JSON");
        assert_eq!(serde_json::to_value(&record).expect("JSON"), released);
    }

    #[test]
    fn record_keeps_components_of_roll_backs() {
        let record: Record = serde_json::from_str(RELEASED).expect("a record");
        let model = &record.revisions[0];
        for seed in 1..200 {
            let mut rng = Rng(seed);
            let count = 2 + rng.throw(31);
            let current = rng.throw(count);
            let revision = |number: u64| {
                let bad = number + 1 != current && rng.throw(8) > 0;
                let state = match number == current {
                    true => RevisionState::Current,
                    false if bad => RevisionState::RolledBack("faults".into()),
                    false => RevisionState::Superseded,
                };
                Revision { number, digest: format!("{number:064x}"), state, ..model.clone() }
            };
            let revisions: Vec<_> = (0..count).map(revision).collect();
            let target = revisions
                .iter()
                .rev()
                .find(|one| one.number < current && one.state == RevisionState::Superseded);
            let needed: Vec<_> = [Some(&revisions[current as usize]), target]
                .into_iter()
                .flatten()
                .cloned()
                .collect();
            files::scratch::with_folder(|folder| {
                let state_dir = StateDir::at(folder.to_owned());
                files::own_folder(&state_dir.of("echo")).expect("a folder");
                for one in &revisions {
                    fs::write(state_dir.component("echo", &one.digest), b"component")
                        .expect("room");
                }
                state_dir.write_record("echo", "configured".into(), revisions).expect("written");
                for one in needed {
                    assert!(state_dir.kept("echo", &one).is_some(), "seed {seed}: {}", one.number);
                }
                let kept = fs::read_dir(state_dir.of("echo")).expect("a folder").count();
                assert!(kept <= COMPONENTS_MAX + 1, "seed {seed}: {kept} files are kept");
            });
        }
    }
}
