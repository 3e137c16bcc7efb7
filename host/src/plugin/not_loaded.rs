//! Errors of loading, sorted by their cause: the plugin or the system.

use std::io;
use std::path::{Path, PathBuf};

use super::load_error::LoadError;
use crate::event::{EXCERPT_MAX_BYTES, excerpt};
use crate::work::{RefusedResource, SystemRefused};

/// Why there is no trial instance.
pub(super) enum TrialFailed {
    /// The plugin failed, or the host's pool has no slot.
    Plugin(String),
    /// The system refused something.
    System(SystemRefused),
}

impl TrialFailed {
    pub(super) fn of(self, file: PathBuf) -> LoadError {
        match self {
            Self::Plugin(cause) => LoadError::Trial { file, cause },
            Self::System(refused) => LoadError::System { file, refused },
        }
    }

    /// Error for a trial that no thread of the host can run.
    pub(super) fn no_room(error: &io::Error) -> Self {
        let what = format!("the host has no room for a trial instance: {error}");
        match RefusedResource::of(error) {
            Some(refusal) => Self::System(SystemRefused { refusal, what }),
            None => Self::Plugin(what),
        }
    }
}

/// Error for a component that did not compile, or whose machine code the engine did not load.
pub(super) fn not_compiled(file: &Path, error: &wasmtime::Error) -> LoadError {
    let (file, cause) = (file.to_owned(), short(error));
    if let Some(refused) = error.downcast_ref::<SystemRefused>() {
        return LoadError::System { file, refused: refused.clone() };
    }
    match RefusedResource::in_causes(error.as_ref()) {
        Some(refusal) => {
            LoadError::System { file, refused: SystemRefused { refusal, what: cause } }
        }
        None => LoadError::Invalid { file, cause },
    }
}

/// Shortens an error of the engine, which may contain names that the plugin chose.
pub(super) fn short(error: &wasmtime::Error) -> String {
    excerpt(format_args!("{error:#}"), EXCERPT_MAX_BYTES)
}
