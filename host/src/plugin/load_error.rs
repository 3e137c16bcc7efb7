//! Errors of loading a plugin.

use std::path::PathBuf;

use super::bindings::CONTRACT_VERSION;
use super::loaded::EVENT_PROCEDURE;
use super::source::SourceError;
use crate::work::SystemRefused;

/// Why a plugin was not loaded. Each error names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The bytes of a component could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The engine refuses the component: it is cut short, malformed, or uses a feature that is off.
    #[error("{}: not a component this host can run: {cause}", .file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The engine's message.
        cause: String,
    },
    /// The component is no plugin.
    #[error("{}: not a plugin: expected the export `{EVENT_PROCEDURE}@{CONTRACT_VERSION}`, found \
        {found}", .file.display())]
    OtherWorld {
        /// The file.
        file: PathBuf,
        /// The exports of the component.
        found: String,
    },
    /// The plugin was built for another version of the contract.
    #[error("{}: built for contract version {found}, and this host speaks {CONTRACT_VERSION}: \
        {advice}", .file.display())]
    OtherVersion {
        /// The file.
        file: PathBuf,
        /// That version.
        found: String,
        /// What to do.
        advice: &'static str,
    },
    /// The plugin imports more than it is granted.
    #[error("{}: it imports what it was not granted:{}", .file.display(), list(.missing))]
    NotGranted {
        /// The file.
        file: PathBuf,
        /// One sentence for each import.
        missing: Vec<String>,
    },
    /// Imports or exports have other types than in the contract.
    #[error("{}: does not fit the contract: {cause}", .file.display())]
    Mismatch {
        /// The file.
        file: PathBuf,
        /// The engine's message.
        cause: String,
    },
    /// The file has changed since it was loaded, so it is another component.
    #[error("{}: {cause}", .file.display())]
    Changed {
        /// The file.
        file: PathBuf,
        /// What to do.
        cause: String,
    },
    /// The system refused something that loading needs. This says nothing about the plugin.
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

/// Start of the cause if another step of the trial failed than the start of its instance.
pub(crate) const IN_ITS: &str = "in its `";

fn list(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}
