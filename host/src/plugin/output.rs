//! Standard output and error of a plugin as lines of the log.
//!
//! Each line is whole, bounded, escaped and tagged, and a bucket limits the lines over time. Empty
//! lines are left out. The stream is not the engine's default one, because that one queues empty
//! writes without a limit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use super::context::Context;
use crate::locks::lock;
use crate::sched::LOG_LINE_COST;
use crate::telemetry::{PluginOutput, drives_reader};

/// Bytes of a line that are kept. The rest is cut.
const LINE_MAX_BYTES: usize = 1_024;
/// Bytes that one call may write.
const WRITE_MAX_BYTES: usize = 64 << 10;

/// Tells the two streams apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhichStream {
    Stdout,
    Stderr,
}

/// One stream of one instance. All copies share the unfinished line.
#[derive(Clone)]
pub(super) struct Tap {
    context: Arc<Context>,
    /// Number of the session whose event the instance runs.
    session: Arc<AtomicU64>,
    stream: WhichStream,
    line: Arc<Mutex<Line>>,
}

#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    cut: bool,
    /// Number of the session that wrote the line.
    session: u64,
}

impl Tap {
    pub(super) fn new(context: Arc<Context>, session: Arc<AtomicU64>, stream: WhichStream) -> Self {
        Self { context, session, stream, line: Arc::default() }
    }

    fn push(&self, data: &[u8]) {
        let mut line = lock(&self.line);
        let session = self.session.load(Ordering::Relaxed);
        // An unfinished line of another session is not joined to this session's bytes.
        if line.session != session && !line.bytes.is_empty() {
            self.say(&mut line);
        }
        line.session = session;
        for piece in data.split_inclusive(|&byte| byte == b'\n') {
            let (content, ended) = match piece.strip_suffix(b"\n") {
                Some(content) => (content, true),
                None => (piece, false),
            };
            let room = LINE_MAX_BYTES - line.bytes.len();
            line.cut |= content.len() > room;
            line.bytes.extend_from_slice(&content[..content.len().min(room)]);
            if ended {
                self.say(&mut line);
            }
        }
    }

    fn say(&self, line: &mut Line) {
        let Line { bytes, cut, session } = std::mem::take(line);
        line.session = session;
        // An empty line says nothing. A panic of Rust begins with one.
        if is_empty(&bytes) {
            return;
        }
        let counters = &self.context.counters;
        let Some(suppressed) = self.context.bucket.pass(Instant::now()) else {
            counters.output_dropped();
            return;
        };
        let stream = match self.stream {
            WhichStream::Stdout => "stdout",
            WhichStream::Stderr => "stderr",
        };
        let text = escape(&bytes, cut);
        let server = &self.context.server;
        PluginOutput { server, session, stream, line: &text, suppressed }.emit();
        self.context.quota.charge(LOG_LINE_COST);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // The last copy logs a line that never got its end.
        if Arc::strong_count(&self.line) == 1 {
            let mut line = lock(&self.line);
            if !line.bytes.is_empty() {
                self.say(&mut line);
            }
        }
    }
}

/// Whether a line has no text before its end.
fn is_empty(line: &[u8]) -> bool {
    matches!(line, b"" | b"\r")
}

/// Turns bytes into text for a log. Control characters are escaped, so that a line can neither
/// forge another line nor drive a terminal.
pub(super) fn escape(bytes: &[u8], cut: bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for character in String::from_utf8_lossy(bytes.strip_suffix(b"\r").unwrap_or(bytes)).chars() {
        if drives_reader(character) && character != '\t' {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    if cut {
        text.push_str(" [cut]");
    }
    text
}

impl IsTerminal for Tap {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Tap {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only the engine's other WASI generations call this, and the host does not link them.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Tap {
    async fn ready(&mut self) {}
}

impl OutputStream for Tap {
    fn write(&mut self, data: bytes::Bytes) -> StreamResult<()> {
        // A megabyte of line ends would block the thread for longer than a slice. This guest did
        // not heed `check_write`.
        if data.len() > WRITE_MAX_BYTES {
            return Err(StreamError::trap("it printed more in one call than `check-write` allows"));
        }
        self.push(&data);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_MAX_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_without_text_is_empty() {
        assert!(is_empty(b"") && is_empty(b"\r"));
        assert!(!is_empty(b" ") && !is_empty(b"\r\r") && !is_empty(b"a\r"));
    }

    #[test]
    fn escaped_line_cannot_forge_or_drive_terminals() {
        assert_eq!(escape(b"\x1b[31mred\r\x07\x00\r", false), "\\u{1b}[31mred\\r\\u{7}\\u{0}");
        assert_eq!(escape("a\u{202e}b\u{2028}c".as_bytes(), false), "a\\u{202e}b\\u{2028}c");
        assert_eq!(escape(b"\xff tab\tstays", true), "\u{fffd} tab\tstays [cut]");
    }
}
