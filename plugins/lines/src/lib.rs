//! Answers each line in upper case.
//!
//! A line ends with LF or CRLF and is answered with the same ending. What comes without an ending
//! is kept until the rest arrives, or answered as it stands when the peer finishes sending. A line
//! longer than the setting `line-max-bytes` (1 to 65,536, default 1,024, endings not counted) is
//! refused with a message, and the session closed: nothing a peer sends makes the plugin keep more
//! than one line.

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

/// What a session is, between two events: the line that has not ended yet.
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

/// Where the first line begins that is too long. Each step leaps over as many lines as fit into the
/// longest one, so that 64 KiB of anything fit the lowest class's budget and no rest has to wait. A
/// CR that may turn out to be half of an ending does not count.
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
    /// Answers the lines before the one that is too long and begins at `start`.
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
    fn several_lines_in_one_read_are_answered_in_order_with_their_own_endings() {
        let _ = script()
            .read(b"one\ntwo\r\n\nthr")
            .expect_write(b"ONE\nTWO\r\n\n")
            .read(b"ee\n")
            .expect_write(b"THREE\n");
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
        let script =
            script().read(b"ok\n123456789").expect_write(b"OK\nERROR line longer than 8 bytes\r\n");
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
