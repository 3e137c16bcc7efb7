//! The check of what a member says: `cargo test` runs it on bytes that proptest makes, and `fuzz/`
//! on bytes that libFuzzer makes. A check panics if a promise is broken, and returns whether the
//! bytes were taken.

use wharf_plugin::testing::Script;
use wharf_plugin::{Handoff, Session};

use crate::Chat;

/// Bytes that are read one by one as well.
const BYTEWISE_MAX_BYTES: usize = 4 << 10;

/// The answers do not depend on how the bytes arrive. A session is restored as it was saved.
pub fn chat_lines(bytes: &[u8]) -> bool {
    let short = &bytes[..bytes.len().min(BYTEWISE_MAX_BYTES)];
    let script = || Script::<Chat>::new().connect();
    let at_once = script().read(short).drive().written();
    let one_by_one = script().read_bytewise(short).drive().written();
    assert!(at_once == one_by_one, "{}", String::from_utf8_lossy(&one_by_one));

    let session = Session::current();
    if let Ok(restored) = Chat::restore(&session, "0.1.0", bytes) {
        assert!(restored.save(&session) == bytes, "another state than was restored");
    }
    at_once.windows(8).any(|part| part == b"welcome,")
}

#[cfg(test)]
#[path = "../../../fuzz/property.rs"]
#[macro_use]
mod property;

#[cfg(test)]
mod tests {
    properties! { chat_lines: members_are_heard_the_same_in_pieces, }
}
