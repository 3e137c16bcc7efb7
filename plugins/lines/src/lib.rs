//! Answers each line in upper case.
//!
//! A line ends with LF or CRLF and is answered with the same ending. What comes without an ending is kept until the
//! rest arrives, or answered as it stands when the peer finishes sending. A line longer than the setting
//! `line-max-bytes` (1 to 65,536, default 1,024, endings not counted) is refused with a message, and the session
//! closed: nothing a peer sends makes the plugin keep more than one line.

use wharf_plugin::{Action, ClientInfo, EventProc, Handoff, Session, settings};

const LINE_MAX_BYTES_DEFAULT: usize = 1_024;
const LINE_MAX_BYTES_CEILING: usize = 65_536;

#[derive(Default)]
struct Lines {
    line_max_bytes: usize,
    partial: Vec<u8>,
}

impl EventProc for Lines {
    fn on_connect(&mut self, _session: &Session, _client: ClientInfo) -> Action {
        self.line_max_bytes = line_max_bytes();
        Action::Proceed
    }

    fn on_read(&mut self, session: &Session, data: Vec<u8>) -> Action {
        let mut answers = Vec::with_capacity(data.len() + self.partial.len());
        for piece in data.split_inclusive(|&byte| byte == b'\n') {
            self.partial.extend_from_slice(piece);
            if self.content().len() > self.line_max_bytes {
                return self.refuse(session, answers);
            }
            if piece.ends_with(b"\n") {
                answers.extend(self.partial.iter().map(u8::to_ascii_uppercase));
                self.partial.clear();
            }
        }
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

/// What a session is, between two events: the line that has not ended yet.
impl Handoff for Lines {
    fn save(&self, _session: &Session) -> Vec<u8> {
        self.partial.clone()
    }

    fn restore(_session: &Session, _version: &str, state: &[u8]) -> Result<Self, String> {
        if state.len() > LINE_MAX_BYTES_CEILING + 1 {
            return Err(format!("a partial line of {} bytes is longer than any line may be", state.len()));
        }
        Ok(Self { line_max_bytes: line_max_bytes(), partial: state.to_vec() })
    }
}

fn line_max_bytes() -> usize {
    settings::get("line-max-bytes")
        .and_then(|text| text.parse().ok())
        .map_or(LINE_MAX_BYTES_DEFAULT, |bytes: usize| bytes.clamp(1, LINE_MAX_BYTES_CEILING))
}

impl Lines {
    /// The line so far without its ending. A CR that may turn out to be half of an ending does not count.
    fn content(&self) -> &[u8] {
        let line = self.partial.strip_suffix(b"\n").unwrap_or(&self.partial);
        line.strip_suffix(b"\r").unwrap_or(line)
    }

    fn refuse(&self, session: &Session, mut answers: Vec<u8>) -> Action {
        answers.extend_from_slice(format!("ERROR line longer than {} bytes\r\n", self.line_max_bytes).as_bytes());
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
    fn several_lines_in_one_read_are_answered_in_order_with_their_own_endings() {
        let _ =
            script().read(b"one\ntwo\r\n\nthr").expect_write(b"ONE\nTWO\r\n\n").read(b"ee\n").expect_write(b"THREE\n");
    }

    #[test]
    fn a_line_in_single_bytes_is_one_answer() {
        let _ = script().read_bytewise(b"slow\r\n").expect_write(b"SLOW\r\n").expect_open();
    }

    #[test]
    fn a_line_of_exactly_the_maximum_is_answered_whatever_its_ending() {
        let _ = script()
            .read(b"12345678\r\n")
            .expect_write(b"12345678\r\n")
            .read(b"abcdefgh\n")
            .expect_write(b"ABCDEFGH\n");
    }

    #[test]
    fn a_line_over_the_maximum_is_refused_before_its_end_arrives() {
        let script = script().read(b"ok\n123456789").expect_write(b"OK\nERROR line longer than 8 bytes\r\n");
        script.expect_closed();
    }

    #[test]
    fn the_last_line_needs_no_ending() {
        let script = script().read(b"last").expect_silence().end().expect_write(b"LAST");
        script.expect_closed();
    }

    #[test]
    fn without_a_setting_the_default_maximum_holds() {
        let line = vec![b'x'; LINE_MAX_BYTES_DEFAULT];
        let script = Script::<Lines>::new().connect().read(&line).expect_open();
        script.read(b"x").expect_closed();
    }

    #[test]
    fn bytes_that_are_no_text_pass_unchanged() {
        let _ = script().read(b"\xff\x00a\n").expect_write(b"\xff\x00A\n");
    }

    #[test]
    fn a_line_that_has_not_ended_goes_on_in_another_version() {
        let script = Script::<Lines>::new().connect().read(b"half a ").hand_over("0.1.0").read(b"line\r\nnext");
        let script = script.expect_write(b"HALF A LINE\r\n");
        assert_eq!(script.save(), b"next");
        let long = vec![b'x'; super::LINE_MAX_BYTES_CEILING + 2];
        assert!(script.expect_refused("9.0.0", &long).contains("longer than any line"));
        script.end().expect_write(b"NEXT").expect_closed();
    }
}
