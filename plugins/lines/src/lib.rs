//! The plugin is `lines.rs`, which is also the source of a new Rust project. Here it gets the check
//! that no new project has.

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod lines;
