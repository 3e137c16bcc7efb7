//! Why a plugin was not loaded.

use std::path::PathBuf;

use super::bindings::CONTRACT_VERSION;
use super::loader::EVENT_PROCEDURE;
use super::source::SourceError;
use crate::work::SystemRefused;

/// Why a plugin was not loaded. Each names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// There are no bytes of a component.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The engine refuses it: cut short, malformed, or it uses a feature that is off.
    #[error("{}: not a component this host can run: {cause}", .file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// What the engine said.
        cause: String,
    },
    /// A component, but no plugin.
    #[error("{}: not a plugin: expected the export `{EVENT_PROCEDURE}@{CONTRACT_VERSION}`, found \
        {found}", .file.display())]
    OtherWorld {
        /// The file.
        file: PathBuf,
        /// What it exports.
        found: String,
    },
    /// A plugin for another version of the contract.
    #[error("{}: built for contract version {found}, and this host speaks {CONTRACT_VERSION}: \
        {advice}", .file.display())]
    OtherVersion {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: String,
        /// What to do.
        advice: &'static str,
    },
    /// It imports what it may not.
    #[error("{}: it imports what it was not granted:{}", .file.display(), list(.missing))]
    NotGranted {
        /// The file.
        file: PathBuf,
        /// One sentence for each import.
        missing: Vec<String>,
    },
    /// Imports or exports have other types than the contract says.
    #[error("{}: does not fit the contract: {cause}", .file.display())]
    Mismatch {
        /// The file.
        file: PathBuf,
        /// What the engine said.
        cause: String,
    },
    /// It is not what it was.
    #[error("{}: {cause}", .file.display())]
    Changed {
        /// The file.
        file: PathBuf,
        /// What to do.
        cause: String,
    },
    /// The system refused what loading needs. It says nothing about the plugin.
    #[error("{}: {refused}", .file.display())]
    System {
        /// The file.
        file: PathBuf,
        /// What was refused, and in which step.
        refused: SystemRefused,
    },
    /// The trial instance failed.
    #[error("{}: its trial instance failed: {cause}", .file.display())]
    Trial {
        /// The file.
        file: PathBuf,
        /// The fault.
        cause: String,
    },
}

/// How the cause begins where it is not the start of the trial instance that failed.
pub(crate) const IN_ITS: &str = "in its `";

fn list(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}
