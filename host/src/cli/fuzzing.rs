//! Checks of what the command line shows and of names that systemd hands back: see
//! `crate::fuzzing`.

use serde_json::Value;

use super::text::{in_one_line, printable};
use super::{fd_store, progress, request, tables};
use crate::telemetry::drives_reader;

/// Characters that a table adds to each character of an answer, at most.
const GROWTH_MAX: usize = 1 << 12;

/// An answer of the control API is shown as a table that does not drive the terminal.
pub fn api_answer(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let one = in_one_line(&text);
    assert!(!one.contains(drives_reader), "{one:?}");
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return false };
    let shown = printable(&tables::render(&value));
    let drives = |one: char| drives_reader(one) && one != '\n';
    assert!(!shown.contains(drives), "{shown:?}");
    assert!(shown.len() <= GROWTH_MAX * (bytes.len() + 1), "{} bytes", shown.len());
    let line = progress::line(&value["under_way"]).unwrap_or_default();
    assert!(!line.contains(drives_reader), "{line:?}");
    true
}

/// The name of a server's socket in systemd's descriptor store reads as the same server again.
pub fn stored_name(bytes: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(bytes) else { return false };
    let Some(server) = fd_store::server_of(name) else { return false };
    let written = fd_store::listens(&server);
    assert_eq!(fd_store::server_of(&written).as_deref(), Some(&*server));
    assert!(written.ends_with(&request::encoded(&server)));
    true
}
