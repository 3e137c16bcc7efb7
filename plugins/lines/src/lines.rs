//! Answers each line in upper case.
//!
//! A line ends with LF or CRLF, and its answer has the same ending. A line without an ending is
//! kept until the rest arrives. If the peer finishes sending first, the line is answered as it is.
//!
//! The setting `line-max-bytes` limits a line: 1 to 65,536 bytes, default 1,024, endings not
//! counted. A longer line is refused with a message, and the session closes. So the plugin never
//! keeps more than one line.

use wharf_plugin::{Action, ClientInfo, EventProc, Handoff, Session, settings};

const LINE_MAX_BYTES_DEFAULT: usize = 1_024;
const LINE_MAX_BYTES_CEILING: usize = 65_536;

#[derive(Default)]
pub(crate) struct Lines {
    line_max_bytes: usize,
    partial: Vec<u8>,
}

impl EventProc for Lines {
    fn on_connect(&mut self, _session: &Session, _client: ClientInfo) -> Action {
        self.line_max_bytes = line_max_bytes();
        Action::Proceed
    }

    fn on_read(&mut self, session: &Session, data: Vec<u8>) -> Action {
        self.partial.extend_from_slice(&data);
        if let Some(start) = too_long(&self.partial, self.line_max_bytes) {
            return self.refuse(session, start);
        }
        let end = self.partial.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let rest = self.partial.split_off(end);
        let mut answers = std::mem::replace(&mut self.partial, rest);
        answers.make_ascii_uppercase();
        if answers.is_empty() { Action::Proceed } else { session.write_or_close(&answers) }
    }

    fn on_end(&mut self, session: &Session) -> Action {
        if !self.partial.is_empty() {
            // The session closes either way.
            let _ = session.write(&self.partial.to_ascii_uppercase());
        }
        Action::Close
    }
}

/// Saves a session between two events: the line that has not ended yet.
impl Handoff for Lines {
    fn save(&self, _session: &Session) -> Vec<u8> {
        self.partial.clone()
    }

    fn restore(_session: &Session, _version: &str, state: &[u8]) -> Result<Self, String> {
        if state.len() > LINE_MAX_BYTES_CEILING + 1 {
            return Err(format!(
                "a partial line of {} bytes is longer than any line may be",
                state.len()
            ));
        }
        Ok(Self { line_max_bytes: line_max_bytes(), partial: state.to_vec() })
    }
}

fn line_max_bytes() -> usize {
    settings::get("line-max-bytes")
        .and_then(|text| text.parse().ok())
        .map_or(LINE_MAX_BYTES_DEFAULT, |bytes: usize| bytes.clamp(1, LINE_MAX_BYTES_CEILING))
}

/// Position of the first line that is too long.
///
/// Each step leaps over as many lines as fit into the longest one. So 64 KiB of any bytes fit the
/// budget of the lowest class, and no rest has to wait. A CR at the end may be half of an ending,
/// so it does not count.
fn too_long(all: &[u8], max: usize) -> Option<usize> {
    let mut start = 0;
    while all.len() - start > max {
        match all[start..=start + max].iter().rposition(|&byte| byte == b'\n') {
            Some(end) => start += end + 1,
            None if matches!(all[start + max..], [b'\r'] | [b'\r', b'\n', ..]) => {
                start = all.len().min(start + max + 2);
            }
            None => return Some(start),
        }
    }
    None
}

impl Lines {
    /// Answers the lines before the overlong one, which begins at `start`, and refuses that one.
    fn refuse(&self, session: &Session, start: usize) -> Action {
        let mut answers = self.partial[..start].to_ascii_uppercase();
        answers.extend_from_slice(
            format!("ERROR line longer than {} bytes\r\n", self.line_max_bytes).as_bytes(),
        );
        let _ = session.write(&answers);
        Action::Close
    }
}

wharf_plugin::export!(Lines, handoff);

#[cfg(test)]
mod tests {
    use super::{LINE_MAX_BYTES_DEFAULT, Lines};
    use wharf_plugin::testing::Script;

    fn script() -> Script<Lines> {
        Script::<Lines>::new().setting("line-max-bytes", "8").connect()
    }

    #[test]
    fn lines_are_answered_in_order_with_own_endings() {
        let _ = script()
            .read(b"one\ntwo\r\n\nthr")
            .expect_write(b"ONE\nTWO\r\n\n")
            .read(b"ee\n")
            .expect_write(b"THREE\n");
    }

    #[test]
    fn line_in_single_bytes_is_one_answer() {
        let _ = script().read_bytewise(b"slow\r\n").expect_write(b"SLOW\r\n").expect_open();
    }

    #[test]
    fn longest_line_is_answered_with_either_ending() {
        let _ = script()
            .read(b"12345678\r\n")
            .expect_write(b"12345678\r\n")
            .read(b"abcdefgh\n")
            .expect_write(b"ABCDEFGH\n");
    }

    #[test]
    fn overlong_line_is_refused_before_it_ends() {
        let script =
            script().read(b"ok\n123456789").expect_write(b"OK\nERROR line longer than 8 bytes\r\n");
        script.expect_closed();
    }

    #[test]
    fn last_line_needs_no_ending() {
        let script = script().read(b"last").expect_silence().end().expect_write(b"LAST");
        script.expect_closed();
    }

    #[test]
    fn default_maximum_holds_without_a_setting() {
        let line = vec![b'x'; LINE_MAX_BYTES_DEFAULT];
        let script = Script::<Lines>::new().connect().read(&line).expect_open();
        script.read(b"x").expect_closed();
    }

    #[test]
    fn bytes_that_are_no_text_pass_unchanged() {
        let _ = script().read(b"\xff\x00a\n").expect_write(b"\xff\x00A\n");
    }

    #[test]
    fn partial_line_survives_a_swap() {
        let script = Script::<Lines>::new()
            .connect()
            .read(b"half a ")
            .hand_over("0.1.0")
            .read(b"line\r\nnext");
        let script = script.expect_write(b"HALF A LINE\r\n");
        assert_eq!(script.save(), b"next");
        let long = vec![b'x'; super::LINE_MAX_BYTES_CEILING + 2];
        assert!(script.expect_refused("9.0.0", &long).contains("longer than any line"));
        script.end().expect_write(b"NEXT").expect_closed();
    }
}
