//! Tools for authors of plugins. Serving needs none of them.
//!
//! - Projects to start from, in each language.
//! - Components, made from the output of compilers.
//! - Replays of transcripts without sockets.
//! - Advice about components that are no plugins.

mod component;
mod diagnostics;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
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
