//! The check of lines: `cargo test` runs it on bytes that proptest makes, and `fuzz/` on bytes that
//! libFuzzer makes. A check panics if a promise is broken, and returns whether the bytes were
//! taken.

use wharf_plugin::testing::Script;
use wharf_plugin::{Handoff, Session};

use crate::lines::Lines;

/// Bytes that are read one by one as well.
const BYTEWISE_MAX_BYTES: usize = 4 << 10;

/// The answers do not depend on how the bytes arrive, for any longest line. They are the
/// same bytes in upper case, or end with a refusal. A session is restored as it was saved.
pub fn line_framing(bytes: &[u8]) -> bool {
    let short = &bytes[..bytes.len().min(BYTEWISE_MAX_BYTES)];
    let upper = short.to_ascii_uppercase();
    let mut refused = false;
    for longest in ["1", "8", "1024"] {
        let script = || Script::<Lines>::new().setting("line-max-bytes", longest).connect();
        let at_once = script().read(short).written();
        let one_by_one = script().read_bytewise(short).written();
        assert!(at_once == one_by_one, "{}", String::from_utf8_lossy(&one_by_one));
        let refusal = format!("ERROR line longer than {longest} bytes\r\n");
        refused = !upper.starts_with(&at_once);
        let answers = at_once.strip_suffix(refusal.as_bytes()).filter(|_| refused);
        assert!(upper.starts_with(answers.unwrap_or(&at_once)), "other bytes than came");
    }
    let session = Session::current();
    if let Ok(restored) = Lines::restore(&session, "0.1.0", bytes) {
        assert!(restored.save(&session) == bytes, "another state than was restored");
    }
    !refused
}

#[cfg(test)]
#[path = "../../../fuzz/property.rs"]
#[macro_use]
mod property;

#[cfg(test)]
mod tests {
    properties! { line_framing: lines_are_answered_the_same_in_pieces, }
}
