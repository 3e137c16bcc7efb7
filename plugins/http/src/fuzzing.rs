//! The check of requests: `cargo test` runs it on bytes that proptest makes, and `fuzz/` on bytes
//! that libFuzzer makes. A check panics if a promise is broken, and returns whether the bytes were
//! taken.

use wharf_plugin::testing::Script;
use wharf_plugin::{Handoff, Session};

use crate::{BODY_MAX_BYTES, HEAD_MAX_BYTES, Http, request};

/// Bytes that are read one by one as well.
const BYTEWISE_MAX_BYTES: usize = 1 << 10;

/// A head is read the same with any bytes after it. Its beginning is neither a head nor a problem.
/// The answers do not depend on how the bytes arrive, and a session is restored as it was saved.
pub fn http_request(bytes: &[u8]) -> bool {
    let read = |bytes| request::parse(bytes, HEAD_MAX_BYTES, BODY_MAX_BYTES);
    let whole = read(bytes);
    if let Ok(Some(head)) = &whole {
        let length = head.length;
        assert!(length <= bytes.len() && head.body <= BODY_MAX_BYTES && head.path.starts_with('/'));
        assert_eq!(read(&bytes[..length]).as_ref(), Ok(&Some(*head)), "without what follows");
        for cut in [0, length / 2, length - 1] {
            assert_eq!(read(&bytes[..cut]), Ok(None), "{cut} of {length} bytes");
        }
    }
    let short = &bytes[..bytes.len().min(BYTEWISE_MAX_BYTES)];
    let script = || Script::<Http>::new().setting("body", "hi\n").connect();
    let at_once = script().read(short).drive().written();
    let one_by_one = script().read_bytewise(short).drive().written();
    assert!(at_once == one_by_one, "{}", String::from_utf8_lossy(&one_by_one));

    let session = Session::current();
    if let Ok(restored) = Http::restore(&session, "0.1.0", bytes) {
        assert!(restored.save(&session) == bytes, "another state than was restored");
    }
    matches!(whole, Ok(Some(_)))
}

#[cfg(test)]
#[path = "../../../fuzz/property.rs"]
#[macro_use]
mod property;

#[cfg(test)]
mod tests {
    properties! { http_request: requests_are_read_the_same_in_pieces, }
}
