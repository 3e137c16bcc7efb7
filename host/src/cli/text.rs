//! Foreign text on a terminal.

use crate::telemetry::drives_reader;

/// Escapes control characters, except line breaks. Messages quote files that may come from others,
/// and must not drive the terminal.
pub(super) fn printable(text: &str) -> String {
    text.split('\n').map(in_one_line).collect::<Vec<_>>().join("\n")
}

/// Escapes foreign text, such as a name, for one line. The text cannot break the line, drive the
/// terminal or change the direction of the text beside it.
pub(super) fn in_one_line(text: &str) -> String {
    let escape = |one: char| {
        if drives_reader(one) { one.escape_default().to_string() } else { one.to_string() }
    };
    text.chars().map(escape).collect()
}
