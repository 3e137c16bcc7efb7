//! The record of a server's versions on disk: what is in force is what starts after a crash.
//!
//! A component is kept by its digest before it is published, and the record is written after the
//! swap and before its success is reported. Both are written under another name, brought to the
//! disk and moved into place, so that at every moment the record is the old one or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::{History, Revision, RevisionState};
use crate::files;
use crate::oci::RegistryError;
use crate::plugin::{COMPONENT_MAX_BYTES, Plugin, digest};
use crate::server::env::{self, Change};
use crate::work::{Refusal, WorkError};

/// The version of the format.
const FORMAT: u32 = 1;
/// What a record is called.
const RECORD: &str = "record.json";
/// Largest record.
const RECORD_MAX_BYTES: u64 = 1 << 20;
/// Components that are kept for each server, so that it can go back.
const COMPONENTS_MAX: usize = 8;

/// Why nothing was recorded, or what was recorded is of no use.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", .file.display())]
pub struct RecordError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong, and what to do.
    pub what: String,
    /// What the system refused, where that is the cause.
    pub refusal: Option<Refusal>,
}

impl RecordError {
    /// What was in force, with its component in this file, came from a registry and is not believed
    /// any more.
    pub(in crate::server) fn distrusted(
        component: &Path,
        in_force: &Revision,
        error: &RegistryError,
    ) -> Self {
        Self {
            file: component.with_file_name(RECORD),
            what: format!(
                "{} was swapped in, and by what `[registry]` says now it may not run: {error}. \
                 Believe a key that has signed it \
                 (`[[registry.trust]]`), or swap in another version first; or, while the server \
                 does not run, remove the file \
                 to start what the configuration names",
                in_force.label()
            ),
            refusal: None,
        }
    }
}

/// Why the bytes of a component were not read again.
pub(in crate::server) struct NotRead {
    /// In words.
    pub(in crate::server) why: String,
    /// What the system refused, where that is the cause.
    pub(in crate::server) refusal: Option<Refusal>,
}

/// The folder of all records of a process.
#[derive(Debug)]
pub struct StateFolder {
    folder: PathBuf,
    /// One writer at a time.
    writing: Mutex<()>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    /// Digest of the plugin that the configuration named.
    configured: String,
    generations: Vec<Revision>,
}

/// What was recorded when the process ended.
pub(in crate::server) struct Recorded {
    /// Not one of them is forgotten, so that no number is given twice.
    pub(in crate::server) generations: Vec<Revision>,
    /// What was in force, with the file of its component. `None`: what the configuration names is
    /// to start.
    pub(in crate::server) swapped: Option<(Revision, PathBuf)>,
}

impl StateFolder {
    /// Records go here. The folder is made when the first is written.
    #[must_use]
    pub fn at(folder: PathBuf) -> Self {
        Self { folder, writing: Mutex::default() }
    }

    /// The error of a record for which there was no thread.
    pub(in crate::server) fn not_done(&self, server: &str, error: &WorkError) -> RecordError {
        RecordError {
            file: self.of(server).join(RECORD),
            what: format!("cannot write the record: {error}"),
            refusal: None,
        }
    }

    fn of(&self, server: &str) -> PathBuf {
        // Names may have any character; what is not plain is written as its bytes.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let name = |byte: u8| {
            if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") }
        };
        self.folder.join(server.bytes().map(name).collect::<String>())
    }

    fn component(&self, server: &str, digest: &str) -> PathBuf {
        self.of(server).join(format!("{digest}.wasm"))
    }

    /// What was recorded for a server whose configuration names the plugin with this digest. That
    /// is to start where it was in force, or where the configuration names another one since: then
    /// that is what the operator wants.
    ///
    /// # Errors
    /// There is a record, and it cannot be read, or its component is gone.
    pub(in crate::server) fn read(
        &self,
        server: &str,
        configured: &str,
    ) -> Result<Option<Recorded>, RecordError> {
        let file = self.of(server).join(RECORD);
        let refused = |what: String, refusal: Option<Refusal>| RecordError {
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
                    Refusal::of(&error),
                ));
            }
        };
        // Whoever can write there says what runs.
        files::own_folder(&self.of(server)).map_err(|error| {
            refused(format!("the record is not believed: its folder: {error}"), Refusal::of(&error))
        })?;
        let record: Record = serde_json::from_slice(&bytes)
            .map_err(|error| wrong(format!("not a record of versions: {error}")))?;
        if record.format != FORMAT {
            return Err(wrong(format!("expected format {FORMAT}, found {}", record.format)));
        }
        if record.configured != configured {
            return Ok(Some(Recorded { generations: record.generations, swapped: None }));
        }
        let found = record
            .generations
            .iter()
            .find(|generation| generation.standing == RevisionState::InForce)
            .cloned();
        let in_force = found.ok_or_else(|| wrong("it has nothing in force".into()))?;
        let component = self.component(server, &in_force.digest);
        if in_force.digest == configured {
            // It is loaded from where the configuration says.
            return Ok(Some(Recorded { generations: record.generations, swapped: None }));
        }
        let kept = files::read(&component, COMPONENT_MAX_BYTES);
        let kept = kept.map_err(|error| {
            refused(
                format!("its component {} cannot be read: {error}", component.display()),
                Refusal::of(&error),
            )
        })?;
        if digest(&kept) != in_force.digest {
            return Err(wrong(format!(
                "its component {} is not what was recorded",
                component.display()
            )));
        }
        Ok(Some(Recorded { generations: record.generations, swapped: Some((in_force, component)) }))
    }

    /// Where the component of a generation is kept, if it is.
    pub(in crate::server) fn kept(&self, server: &str, generation: &Revision) -> Option<PathBuf> {
        Some(self.component(server, &generation.digest)).filter(|file| file.exists())
    }

    /// Keeps a plugin's component, which `read` gets again. Blocks.
    ///
    /// # Errors
    /// The system's, or the plugin's file is not what was loaded any more. Nothing is left behind.
    pub(in crate::server) fn keep(
        &self,
        server: &str,
        plugin: &Plugin,
        read: impl FnOnce() -> Result<Vec<u8>, NotRead>,
    ) -> Result<(), RecordError> {
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
            return Err(wrong(
                plugin.file(),
                "it changed while it was loaded; try again".into(),
                None,
            ));
        }
        // Only now: reading it may ask a registry, for which no other server's record is to wait.
        let _alone = self.writing.lock();
        if file.exists() {
            return Ok(());
        }
        let written = self.write(server, &file, &bytes);
        written.map_err(|error| {
            wrong(&file, format!("cannot keep the component: {error}"), Refusal::of(&error))
        })
    }

    /// Writes a server's record. When this returns it outlives the machine. Blocks.
    ///
    /// # Errors
    /// The system's; the record before is still there.
    pub(in crate::server) fn write_record(
        &self,
        server: &str,
        configured: String,
        generations: Vec<Revision>,
    ) -> Result<(), RecordError> {
        let _alone = self.writing.lock();
        let file = self.of(server).join(RECORD);
        let record = Record { format: FORMAT, configured, generations };
        let written = serde_json::to_vec_pretty(&record).map_err(io::Error::from);
        let written = written.and_then(|bytes| self.write(server, &file, &bytes));
        written.map_err(|error| {
            let refusal = Refusal::of(&error);
            RecordError { file, what: format!("cannot write the record: {error}"), refusal }
        })?;
        self.tidy(server, &record);
        Ok(())
    }

    fn write(&self, server: &str, file: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = self.of(server);
        env::may(Change::Make)?;
        files::own_folder(&folder)?;
        let draft = folder.join("draft");
        // One that a crash has left.
        remove(&draft);
        let written = (|| {
            env::may(Change::Make)?;
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            env::may(Change::Write)?;
            file.write_all(bytes)?;
            env::sync(&file)?;
            env::may(Change::Move)
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

    /// Forgets components that nobody goes back to any more.
    fn tidy(&self, server: &str, record: &Record) {
        let mut wanted: Vec<&str> = Vec::new();
        let by_need = |generation: &&Revision| generation.standing != RevisionState::InForce;
        let mut generations: Vec<_> = record.generations.iter().rev().collect();
        generations.sort_by_key(by_need);
        for generation in generations {
            if !wanted.contains(&generation.digest.as_str()) && wanted.len() < COMPONENTS_MAX {
                wanted.push(&generation.digest);
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

    /// Writes what a history says, where it says that something was swapped.
    pub(in crate::server) fn write_history(
        &self,
        server: &str,
        history: &Mutex<History>,
    ) -> Result<(), RecordError> {
        let (configured, generations) = {
            let history = history.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            (history.configured().to_owned(), history.seen())
        };
        self.write_record(server, configured, generations)
    }
}

/// What stays is only in the way; the next record tries again.
fn remove(file: &Path) {
    if env::may(Change::Remove).is_ok() {
        let _ = fs::remove_file(file);
    }
}
