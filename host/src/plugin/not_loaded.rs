//! Errors of loading, sorted by whose doing they are: the plugin's or the system's.

use std::io;
use std::path::{Path, PathBuf};

use super::load_error::LoadError;
use crate::event::{EXCERPT_MAX_BYTES, excerpt};
use crate::work::{Refusal, SystemRefused};

/// Why there was no trial instance.
pub(super) enum TrialFailed {
    /// By the plugin, or for want of a place in the host's pool.
    Plugin(String),
    /// By the system.
    System(SystemRefused),
}

impl TrialFailed {
    pub(super) fn of(self, file: PathBuf) -> LoadError {
        match self {
            Self::Plugin(cause) => LoadError::Trial { file, cause },
            Self::System(refused) => LoadError::System { file, refused },
        }
    }

    /// No thread of the host can run it.
    pub(super) fn no_room(error: &io::Error) -> Self {
        let what = format!("the host has no room for a trial instance: {error}");
        match Refusal::of(error) {
            Some(refusal) => Self::System(SystemRefused { refusal, what }),
            None => Self::Plugin(what),
        }
    }
}

/// The error of a component that was not compiled, or whose machine code was not taken in.
pub(super) fn not_compiled(file: &Path, error: &wasmtime::Error) -> LoadError {
    let (file, cause) = (file.to_owned(), short(error));
    if let Some(refused) = error.downcast_ref::<SystemRefused>() {
        return LoadError::System { file, refused: refused.clone() };
    }
    match Refusal::in_causes(error.as_ref()) {
        Some(refusal) => {
            LoadError::System { file, refused: SystemRefused { refusal, what: cause } }
        }
        None => LoadError::Invalid { file, cause },
    }
}

/// An error of the engine, which may have names in it that the plugin chose.
pub(super) fn short(error: &wasmtime::Error) -> String {
    excerpt(format_args!("{error:#}"), EXCERPT_MAX_BYTES)
}
