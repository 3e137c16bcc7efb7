//! Answers GET and HEAD over HTTP/1.1, with keep-alive and pipelining.
//!
//! Settings: `body` (what every resource is, default a greeting), `content-type` (default `text/plain; charset=utf-8`),
//! `path` (the one path that exists; default: every path does).

mod request;
mod response;

use std::time::Duration;

use request::{Head, Problem};
use wharf_plugin::{Action, ClientInfo, EventProc, Handoff, Session, settings};

/// Most bytes of a request's head, its first line and headers together. 431 beyond.
pub(crate) const HEAD_MAX_BYTES: usize = 16 << 10;
/// Most bytes of a request's body that are read and thrown away to get to the next request. 413 beyond.
pub(crate) const BODY_MAX_BYTES: u64 = 1 << 20;

/// Answers that are gathered before they are written.
const ANSWERS_BYTES: usize = 32 << 10;

const BODY_DEFAULT: &str = "Hello from Wharf.\n";
const TYPE_DEFAULT: &str = "text/plain; charset=utf-8";

#[derive(Default)]
struct Http {
    body: String,
    content_type: String,
    path: Option<String>,
    /// Of a request whose end has not arrived.
    partial: Vec<u8>,
    /// Bytes of a request's body still to be thrown away.
    skip: u64,
}

impl EventProc for Http {
    fn on_connect(&mut self, _session: &Session, _client: ClientInfo) -> Action {
        *self = Self::configured();
        Action::Proceed
    }

    fn on_read(&mut self, session: &Session, data: Vec<u8>) -> Action {
        self.partial.extend_from_slice(&data);
        // Taken out for the while, and what is left put back once, so that many requests in one read cost what they are.
        let input = std::mem::take(&mut self.partial);
        let (mut rest, mut answers) = (input.as_slice(), Vec::new());
        let mut action = Action::Proceed;
        while action == Action::Proceed {
            let skipped = self.skip.min(rest.len() as u64);
            rest = &rest[skipped as usize..];
            self.skip -= skipped;
            if self.skip > 0 {
                break;
            }
            match request::parse(rest, HEAD_MAX_BYTES, BODY_MAX_BYTES) {
                Ok(None) => break,
                Ok(Some(head)) => {
                    rest = &rest[head.length..];
                    self.skip = head.body;
                    answers.extend(self.answer(&head));
                    action = if head.keep_alive { Action::Proceed } else { Action::Close };
                }
                // What follows a request that cannot be read cannot be read either.
                Err(problem) => {
                    answers.extend(response::error(problem, false));
                    action = Action::Close;
                }
            }
            if answers.len() >= ANSWERS_BYTES && write_all(session, &std::mem::take(&mut answers)) == Action::Close {
                action = Action::Close;
            }
        }
        self.partial = rest.to_vec();
        if write_all(session, &answers) == Action::Close { Action::Close } else { action }
    }

    /// A client that keeps a connection and does not use it.
    fn on_timeout(&mut self, session: &Session, _idle: Duration) -> Action {
        if !self.partial.is_empty() || self.skip > 0 {
            let _ = session.write(&response::error(Problem::Timeout, false));
        }
        Action::Close
    }
}

/// What a session is, between two events: the bytes of a body that are still to be thrown away, eight of them, and what has come
/// of the next request.
impl Handoff for Http {
    fn save(&self, _session: &Session) -> Vec<u8> {
        [&self.skip.to_le_bytes()[..], &self.partial].concat()
    }

    fn restore(_session: &Session, _version: &str, state: &[u8]) -> Result<Self, String> {
        let (skip, partial) = state.split_first_chunk().ok_or("expected eight bytes and a partial request")?;
        Ok(Self { skip: u64::from_le_bytes(*skip), partial: partial.to_vec(), ..Self::configured() })
    }
}

impl Http {
    /// One at the start of a session.
    fn configured() -> Self {
        // A header's value has no line ends, whoever wrote the setting.
        let plain = |text: &String| !text.is_empty() && text.bytes().all(|byte| (b' '..0x7f).contains(&byte));
        Self {
            body: settings::get("body").unwrap_or_else(|| BODY_DEFAULT.to_owned()),
            content_type: settings::get("content-type").filter(plain).unwrap_or_else(|| TYPE_DEFAULT.to_owned()),
            path: settings::get("path"),
            ..Self::default()
        }
    }

    fn answer(&self, head: &Head) -> Vec<u8> {
        if head.method != "GET" && head.method != "HEAD" {
            return response::error(Problem::Method, head.keep_alive);
        }
        let found = self.path.as_ref().is_none_or(|path| *path == head.path);
        let mut answer = if found {
            response::found(&self.content_type, &self.body, head.keep_alive)
        } else {
            response::error(Problem::NotFound, head.keep_alive)
        };
        if head.method == "HEAD" {
            response::drop_body(&mut answer);
        }
        answer
    }
}

/// Writes in pieces that the send buffer takes, waiting for room as the peer reads.
fn write_all(session: &Session, mut data: &[u8]) -> Action {
    const PIECE_BYTES: usize = 64 << 10;
    while !data.is_empty() {
        // At the high-water mark there is no room, and a write of any size that fits the whole buffer waits for some.
        let (piece, rest) = data.split_at(data.len().min(PIECE_BYTES));
        if session.write(piece).is_err() {
            return Action::Close;
        }
        data = rest;
    }
    Action::Proceed
}

wharf_plugin::export!(Http, handoff);

#[cfg(test)]
mod tests;
