//! A room in which everybody reads what anybody writes.
//!
//! The first line is the client's name. Each line after it goes to everybody else as `NAME: line`; `/to NAME line` goes to one,
//! `/quit` leaves. What the room itself says begins with `* `. Lines end with LF or CRLF and have at most 512 bytes. Whoever does
//! not read what is said misses it: nobody is held up by somebody else.

use wharf_plugin::{Action, ClientInfo, DisconnectReason, EventProc, Handoff, NameError, Session};

const LINE_MAX_BYTES: usize = 512;
const NAME_MAX_BYTES: usize = 32;

#[derive(Default)]
struct Chat {
    /// Empty until the client has said it.
    name: String,
    partial: Vec<u8>,
}

impl EventProc for Chat {
    fn on_connect(&mut self, session: &Session, _client: ClientInfo) -> Action {
        session.write_or_close(b"* your name?\n")
    }

    fn on_read(&mut self, session: &Session, data: Vec<u8>) -> Action {
        for piece in data.split_inclusive(|&byte| byte == b'\n') {
            self.partial.extend_from_slice(piece);
            if !piece.ends_with(b"\n") {
                break;
            }
            let line = std::mem::take(&mut self.partial);
            let line = String::from_utf8_lossy(&line);
            let action = self.line(session, line.trim_end_matches(['\r', '\n']));
            if action != Action::Proceed {
                return action;
            }
        }
        if self.partial.len() > LINE_MAX_BYTES {
            let _ = session.write(format!("* a line may have {LINE_MAX_BYTES} bytes\n").as_bytes());
            return Action::Close;
        }
        Action::Proceed
    }

    fn on_disconnect(&mut self, _reason: DisconnectReason) {
        if !self.name.is_empty() {
            say(&Session::current(), &format!("* {} left", self.name));
        }
    }
}

impl Chat {
    fn line(&mut self, session: &Session, line: &str) -> Action {
        if line.len() > LINE_MAX_BYTES {
            let _ = session.write(format!("* a line may have {LINE_MAX_BYTES} bytes\n").as_bytes());
            return Action::Close;
        }
        if self.name.is_empty() {
            return self.enter(session, line);
        }
        match line.split_once(' ').unwrap_or((line, "")) {
            ("/quit", _) => return Action::Close,
            ("/to", rest) => return self.whisper(session, rest),
            (command, _) if command.starts_with('/') => {
                return session.write_or_close(b"* there are /to NAME line and /quit\n");
            }
            _ => say(session, &format!("{}: {line}", self.name)),
        }
        Action::Proceed
    }

    /// The client says who it is.
    fn enter(&mut self, session: &Session, name: &str) -> Action {
        let plain =
            (1..=NAME_MAX_BYTES).contains(&name.len()) && name.chars().all(|one| one.is_alphanumeric() || one == '-');
        let taken = if plain { session.server().set_name(name) } else { Err(NameError::TooLong) };
        match taken {
            Ok(()) => {
                self.name = name.to_owned();
                say(session, &format!("* {name} came"));
                let others = session.server().client_count().saturating_sub(1);
                session.write_or_close(format!("* welcome, {name}; others here: {others}\n").as_bytes())
            }
            Err(NameError::Taken) => session.write_or_close(b"* somebody else has that name; yours?\n"),
            Err(_) => {
                let what = format!("* a name has 1 to {NAME_MAX_BYTES} letters, digits and -; yours?\n");
                session.write_or_close(what.as_bytes())
            }
        }
    }

    fn whisper(&self, session: &Session, rest: &str) -> Action {
        let Some((name, line)) = rest.split_once(' ') else { return session.write_or_close(b"* /to NAME line\n") };
        let line = format!("{} (to you): {line}\n", self.name);
        let sent = session.server().find(name).map(|client| session.server().send_to(client, line.as_bytes()));
        match sent {
            Some(Ok(())) => Action::Proceed,
            Some(Err(_)) => session.write_or_close(format!("* {name} does not listen\n").as_bytes()),
            None => session.write_or_close(format!("* nobody is called {name}\n").as_bytes()),
        }
    }
}

/// Everybody else reads it.
fn say(session: &Session, line: &str) {
    session.server().broadcast(format!("{line}\n").as_bytes());
}

/// What a session is, between two events: its name, and the line that has not ended yet. A name has no end of line in it.
impl Handoff for Chat {
    fn save(&self, _session: &Session) -> Vec<u8> {
        [self.name.as_bytes(), b"\n", &self.partial].concat()
    }

    fn restore(_session: &Session, version: &str, state: &[u8]) -> Result<Self, String> {
        let end = state.iter().position(|&byte| byte == b'\n').filter(|end| *end <= NAME_MAX_BYTES);
        let end = end.ok_or_else(|| format!("version {version} saved something else"))?;
        let name = std::str::from_utf8(&state[..end]).map_err(|_| format!("version {version} saved something else"))?;
        Ok(Self { name: name.to_owned(), partial: state[end + 1..].to_vec() })
    }
}

wharf_plugin::export!(Chat, handoff);

#[cfg(test)]
mod tests {
    use super::{Chat, LINE_MAX_BYTES};
    use wharf_plugin::testing::Script;

    fn script() -> Script<Chat> {
        Script::<Chat>::new().connect().expect_write(b"* your name?\n")
    }

    #[test]
    fn a_name_that_is_none_is_asked_for_again() {
        let asks = b"* a name has 1 to 32 letters, digits and -; yours?\n";
        let script = script().read(b"\n").expect_write(asks).read(b"two words\r\n").expect_write(asks);
        let _ = script.read(b"ann\r\n").expect_open();
    }

    #[test]
    fn a_line_without_an_end_is_refused_before_it_is_kept() {
        script().read(&vec![b'x'; LINE_MAX_BYTES + 1]).expect_closed();
    }

    #[test]
    fn who_quits_is_closed_and_a_command_that_is_none_is_told() {
        let script = script().read(b"ann\n").expect_write(b"* welcome, ann; others here: 0\n");
        script
            .read(b"/dance\n")
            .expect_write(b"* there are /to NAME line and /quit\n")
            .read(b"/quit\n")
            .expect_closed();
    }

    #[test]
    fn a_name_and_half_a_line_go_on_in_another_version() {
        let script = Script::<Chat>::new().restore("0.1.0", b"ann\n/to bo");
        let script = script.read(b"b hello\n").expect_write(b"* nobody is called bob\n");
        assert_eq!(script.expect_refused("9.0.0", b"no end"), "version 9.0.0 saved something else");
        script.hand_over("0.1.0").read(b"/quit\n").expect_closed();
    }
}
