//! What authors of plugins need around a plugin: projects to start from in each language, and
//! components from what their compilers make, rehearsals without sockets, and advice.
//!
//! Nothing that serves needs any of it.

mod component;
mod diagnostics;
mod mock_session;
mod project;
mod replay;
mod templates;
mod transcript;

pub use component::{ComponentError, component};
pub use diagnostics::advice;
pub use project::{Language, ProjectError, create};
pub use replay::{Cost, Manner, Replay, START, rehearse};
pub use transcript::{Act, TRANSCRIPT_FILE, Transcript, TranscriptError};
