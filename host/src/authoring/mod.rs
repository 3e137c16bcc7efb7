//! What authors of plugins need around a plugin: projects to start from in each language, and
//! components from what their compilers make, rehearsals without sockets, and advice.
//!
//! Nothing that serves needs any of it.

mod advice;
mod component;
mod project;
mod rehearsal;
mod stage;
mod templates;
mod transcript;

pub use advice::advice;
pub use component::{ComponentError, component};
pub use project::{Language, ProjectError, create};
pub use rehearsal::{Cost, Manner, Rehearsal, START, rehearse};
pub use transcript::{Act, TRANSCRIPT_FILE, Transcript, TranscriptError};
