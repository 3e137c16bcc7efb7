//! A room in which every member reads the lines of every other member.
//!
//! - The first line is the client's name.
//! - Each later line goes to all other members as `NAME: line`.
//! - `/to NAME line` goes to one member, and `/quit` leaves.
//! - Lines of the room itself begin with `* `.
//! - Lines end with LF or CRLF and have at most 512 bytes. An empty line is ignored.
//!
//! A member that does not read misses lines, and holds up no other member.

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;

use wharf_plugin::slices::{Backlog, Left};
use wharf_plugin::{Action, ClientInfo, DisconnectReason, EventProc, Handoff, NameError, Session};

const LINE_MAX_BYTES: usize = 512;
const NAME_MAX_BYTES: usize = 32;

/// Lines that one event handles. The rest waits for the next event. This many of the most expensive
/// lines cost less than half of the fuel that an event of the lowest class may use.
const LINES_PER_EVENT: usize = 500;
/// Bytes for the room after which an event handles no more lines.
const SAID_PER_EVENT_BYTES: usize = 16 << 10;

#[derive(Default)]
struct Chat {
    /// Empty until the client has named itself.
    name: String,
    /// Bytes that are not handled yet.
    backlog: Backlog,
}

/// Output of one event. It is sent after the event's lines are handled, so that many lines cost
/// only two host calls.
#[derive(Default)]
struct Words {
    /// Answers to the client itself.
    own: Vec<u8>,
    /// Lines for all other members.
    said: Vec<u8>,
}

impl EventProc for Chat {
    fn on_connect(&mut self, session: &Session, _client: ClientInfo) -> Action {
        session.write_or_close(b"* your name?\n")
    }

    fn on_read(&mut self, session: &Session, data: Vec<u8>) -> Action {
        if self.backlog.push(&data).is_err() {
            let _ = session.write(b"* that is too much at once\n");
            return Action::Close;
        }
        self.slice(session)
    }

    fn on_timer(&mut self, session: &Session, id: u32) -> Action {
        if self.backlog.fired(id) { self.slice(session) } else { Action::Proceed }
    }

    fn on_end(&mut self, session: &Session) -> Action {
        self.backlog.end();
        self.slice(session)
    }

    fn on_disconnect(&mut self, _reason: DisconnectReason) {
        if !self.name.is_empty() {
            Session::current().server().broadcast(format!("* {} left\n", self.name).as_bytes());
        }
    }
}

impl Chat {
    /// Handles as many lines as one event may.
    fn slice(&mut self, session: &Session) -> Action {
        let (mut words, mut lines) = (Words::default(), 0);
        let (left, action) = loop {
            let Some(line) = self.next_line() else { break (Left::Nothing, Action::Proceed) };
            let whispers = matches!(&line, Ok((line, _)) if line.starts_with("/to "));
            // Lines for the room go out before a whisper, and an event sends to the room once.
            let is_full = lines == LINES_PER_EVENT || words.said.len() >= SAID_PER_EVENT_BYTES;
            if is_full || whispers && !words.said.is_empty() {
                break (Left::More, Action::Proceed);
            }
            lines += 1;
            let action = match line {
                Ok((line, length)) => {
                    self.backlog.advance(length);
                    self.line(session, &line, &mut words)
                }
                Err(TooLong) => words.too_long(),
            };
            if action != Action::Proceed {
                break (Left::Nothing, action);
            }
        };
        if !words.said.is_empty() {
            session.server().broadcast(&words.said);
        }
        let written = words.own.is_empty() || session.write(&words.own).is_ok();
        if action == Action::Proceed && written {
            self.backlog.next(session, left)
        } else {
            Action::Close
        }
    }

    /// The next line without its ending, and its length with the ending, if the whole line has
    /// arrived.
    fn next_line(&self) -> Option<Result<(String, usize), TooLong>> {
        // Bytes beyond the longest line are not searched.
        let bytes = self.backlog.bytes();
        let bytes = &bytes[..bytes.len().min(LINE_MAX_BYTES + 2)];
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let mut line = &bytes[..end.unwrap_or(bytes.len())];
        while let Some(rest) = line.strip_suffix(b"\r") {
            line = rest;
        }
        if line.len() > LINE_MAX_BYTES || end.is_none() && bytes.len() > LINE_MAX_BYTES + 1 {
            return Some(Err(TooLong));
        }
        end.map(|end| Ok((String::from_utf8_lossy(line).into_owned(), end + 1)))
    }

    fn line(&mut self, session: &Session, line: &str, words: &mut Words) -> Action {
        if self.name.is_empty() {
            self.enter(session, line, words);
            return Action::Proceed;
        }
        match line.split_once(' ').unwrap_or((line, "")) {
            ("/quit", _) => return Action::Close,
            ("/to", rest) => self.whisper(session, rest, words),
            (command, _) if command.starts_with('/') => {
                words.answer("there are /to NAME line and /quit");
            }
            _ if line.is_empty() => {}
            _ => words.say(&[&self.name, ": ", line]),
        }
        Action::Proceed
    }

    /// Takes the client's name.
    fn enter(&mut self, session: &Session, name: &str, words: &mut Words) {
        let plain = (1..=NAME_MAX_BYTES).contains(&name.len())
            && name.chars().all(|one| one.is_alphanumeric() || one == '-');
        let taken = if plain { session.server().set_name(name) } else { Err(NameError::TooLong) };
        match taken {
            Ok(()) => {
                self.name = name.to_owned();
                words.say(&["* ", name, " came"]);
                let others = session.server().client_count().saturating_sub(1);
                words.answer(&format!("welcome, {name}; others here: {others}"));
            }
            Err(NameError::Taken) => words.answer("somebody else has that name; yours?"),
            Err(_) => words
                .answer(&format!("a name has 1 to {NAME_MAX_BYTES} letters, digits and -; yours?")),
        }
    }

    fn whisper(&self, session: &Session, rest: &str, words: &mut Words) {
        let Some((name, line)) = rest.split_once(' ') else { return words.answer("/to NAME line") };
        let line = format!("{} (to you): {line}\n", self.name);
        let sent = session
            .server()
            .find(name)
            .map(|client| session.server().send_to(client, line.as_bytes()));
        match sent {
            Some(Ok(())) => {}
            Some(Err(_)) => words.answer(&format!("{name} does not listen")),
            None => words.answer(&format!("nobody is called {name}")),
        }
    }
}

/// A line has more bytes than allowed.
#[derive(Debug)]
struct TooLong;

impl Words {
    fn answer(&mut self, words: &str) {
        for part in ["* ", words, "\n"] {
            self.own.extend_from_slice(part.as_bytes());
        }
    }

    fn say(&mut self, parts: &[&str]) {
        for part in parts.iter().chain(&["\n"]) {
            self.said.extend_from_slice(part.as_bytes());
        }
    }

    fn too_long(&mut self) -> Action {
        self.answer(&format!("a line may have {LINE_MAX_BYTES} bytes"));
        Action::Close
    }
}

/// Saves a session between two events: its name, and the bytes that are not handled yet. A name
/// contains no line end.
impl Handoff for Chat {
    fn save(&self, _session: &Session) -> Vec<u8> {
        [self.name.as_bytes(), b"\n", self.backlog.bytes()].concat()
    }

    fn restore(_session: &Session, version: &str, state: &[u8]) -> Result<Self, String> {
        let end = state.iter().position(|&byte| byte == b'\n').filter(|end| *end <= NAME_MAX_BYTES);
        let end = end.ok_or_else(|| format!("version {version} saved something else"))?;
        let name = std::str::from_utf8(&state[..end])
            .map_err(|_| format!("version {version} saved something else"))?;
        let backlog =
            Backlog::restored(&state[end + 1..]).map_err(|_| "more lines than are kept")?;
        Ok(Self { name: name.to_owned(), backlog })
    }
}

wharf_plugin::export!(Chat, handoff);

#[cfg(test)]
mod tests {
    use super::{Chat, LINE_MAX_BYTES, LINES_PER_EVENT};
    use wharf_plugin::slices::MORE;
    use wharf_plugin::testing::Script;

    fn script() -> Script<Chat> {
        Script::<Chat>::new().connect().expect_write(b"* your name?\n")
    }

    #[test]
    fn bad_name_is_asked_for_again() {
        let asks = b"* a name has 1 to 32 letters, digits and -; yours?\n";
        let script =
            script().read(b"\n").expect_write(asks).read(b"two words\r\n").expect_write(asks);
        let _ = script.read(b"ann\r\n").expect_open();
    }

    #[test]
    fn unended_line_is_refused_before_it_is_kept() {
        script().read(&vec![b'x'; LINE_MAX_BYTES + 1]).expect_closed();
    }

    #[test]
    fn quit_closes_and_unknown_command_is_answered() {
        let script = script().read(b"ann\n").expect_write(b"* welcome, ann; others here: 0\n");
        script
            .read(b"/dance\n")
            .expect_write(b"* there are /to NAME line and /quit\n")
            .read(b"/quit\n")
            .expect_closed();
    }

    #[test]
    fn thousands_of_lines_are_handled_in_slices() {
        let lines = b"/x\n".repeat(LINES_PER_EVENT * 2 + 1);
        let answer = b"* there are /to NAME line and /quit\n";
        let script = Script::<Chat>::new().restore("0.1.0", b"ann\n").read(&lines);
        let script =
            script.expect_write(&answer.repeat(LINES_PER_EVENT)).timer(MORE).hand_over("0.1.0");
        // All lines are answered before the session closes.
        let script =
            script.expect_write(&answer.repeat(LINES_PER_EVENT)).end().expect_write(answer);
        script.expect_closed();
    }

    #[test]
    fn excess_input_closes_the_session() {
        let script = Script::<Chat>::new().restore("0.1.0", b"ann\n");
        let script =
            script.read(&b"/x\n".repeat(21_000)).read(&b"/x\n".repeat(21_000)).expect_open();
        script.read(&b"/x\n".repeat(21_000)).expect_closed();
    }

    #[test]
    fn name_and_partial_line_survive_a_swap() {
        let script = Script::<Chat>::new().restore("0.1.0", b"ann\n/to bo");
        let script = script.read(b"b hello\n").expect_write(b"* nobody is called bob\n");
        assert_eq!(script.expect_refused("9.0.0", b"no end"), "version 9.0.0 saved something else");
        script.hand_over("0.1.0").read(b"/quit\n").expect_closed();
    }
}
