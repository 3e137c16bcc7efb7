//! Lines of the log that nobody will read.

use std::sync::OnceLock;

type Count = Box<dyn Fn() -> usize + Send + Sync>;

static DROPPED: OnceLock<Count> = OnceLock::new();

/// Whoever writes the log says how it knows of lines that it had to drop. The first to say so is
/// believed.
pub fn count_dropped_lines(count: impl Fn() -> usize + Send + Sync + 'static) {
    let _ = DROPPED.set(Box::new(count));
}

/// Lines that were dropped because the log's reader is too slow.
#[must_use]
pub fn dropped_lines() -> usize {
    DROPPED.get().map_or(0, |count| count())
}
