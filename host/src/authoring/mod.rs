//! What authors of plugins need around a plugin: projects to start from in each language, and components from what their
//! compilers make.
//!
//! Nothing here runs a guest, and nothing that serves needs it.

mod component;
mod project;
mod templates;
mod transcript;

pub use component::{ComponentError, component};
pub use project::{Language, ProjectError, create};
pub use transcript::{Act, TRANSCRIPT_FILE, Transcript, TranscriptError};
