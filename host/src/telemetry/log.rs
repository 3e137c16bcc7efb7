//! A count of log lines that were dropped unread.

use std::sync::OnceLock;

type Count = Box<dyn Fn() -> usize + Send + Sync>;

static DROPPED: OnceLock<Count> = OnceLock::new();

/// Registers how the writer of the log counts the lines that it had to drop. Only the first call
/// counts.
pub fn count_dropped_lines(count: impl Fn() -> usize + Send + Sync + 'static) {
    let _ = DROPPED.set(Box::new(count));
}

/// Returns the lines that were dropped because the log's reader is too slow.
#[must_use]
pub fn dropped_lines() -> usize {
    DROPPED.get().map_or(0, |count| count())
}
