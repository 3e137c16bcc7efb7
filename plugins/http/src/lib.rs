//! Answers GET and HEAD over HTTP/1.1, with keep-alive and pipelining.
//!
//! | setting | meaning | default |
//! |---|---|---|
//! | `body` | body of every resource | a greeting |
//! | `content-type` | its type | `text/plain; charset=utf-8` |
//! | `path` | the only path that exists | every path exists |

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod request;
mod response;

use std::time::Duration;

use request::{Head, Problem};
use wharf_plugin::slices::{Backlog, Left};
use wharf_plugin::{Action, ClientInfo, EventProc, Handoff, Session, settings};

/// Most bytes of a request's head, its first line and headers together. Beyond it, the status is
/// 431.
pub(crate) const HEAD_MAX_BYTES: usize = 16 << 10;
/// Most bytes of a request's body, which the plugin reads and drops to get to the next request.
/// Beyond it, the status is 413.
pub(crate) const BODY_MAX_BYTES: u64 = 1 << 20;

/// Requests that one event answers. The rest waits for the next event. The most expensive request
/// costs some 8,000 units of fuel, so an event uses less than half of what the lowest class may.
const REQUESTS_PER_EVENT: usize = 300;
/// Bytes of heads after which an event answers no more, for the same reason.
const HEADS_PER_EVENT_BYTES: usize = 16 << 10;
/// Bytes of answers after which an event answers no more, for the same reason.
const WRITTEN_PER_EVENT_BYTES: usize = 1 << 20;
/// Bytes of answers that are gathered before they are written.
const ANSWERS_BYTES: usize = 32 << 10;

const BODY_DEFAULT: &str = "Hello from Wharf.\n";
const TYPE_DEFAULT: &str = "text/plain; charset=utf-8";

#[derive(Default)]
struct Http {
    body: String,
    /// Heads of a 200 answer: for a kept connection, and for one that closes.
    found: [Vec<u8>; 2],
    path: Option<String>,
    /// Bytes that are not answered yet.
    backlog: Backlog,
    /// Bytes of a request's body that are still to be dropped.
    skip: u64,
}

impl EventProc for Http {
    fn on_connect(&mut self, _session: &Session, _client: ClientInfo) -> Action {
        *self = Self::configured();
        Action::Proceed
    }

    fn on_read(&mut self, session: &Session, data: Vec<u8>) -> Action {
        if self.backlog.push(&data).is_err() {
            let _ = session.write(&response::error(Problem::TooMany, false));
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

    /// Closes an idle connection. If a request is incomplete, the client first gets a 408.
    fn on_timeout(&mut self, session: &Session, _idle: Duration) -> Action {
        if !self.backlog.bytes().is_empty() || self.skip > 0 {
            let _ = session.write(&response::error(Problem::Timeout, false));
        }
        Action::Close
    }
}

/// Saves a session between two events: first the count of body bytes that are still to be dropped,
/// in eight bytes, then the bytes that are not answered yet.
impl Handoff for Http {
    fn save(&self, _session: &Session) -> Vec<u8> {
        [&self.skip.to_le_bytes()[..], self.backlog.bytes()].concat()
    }

    fn restore(_session: &Session, _version: &str, state: &[u8]) -> Result<Self, String> {
        let (skip, rest) =
            state.split_first_chunk().ok_or("expected eight bytes and a partial request")?;
        let backlog = Backlog::restored(rest).map_err(|_| "more requests than are kept")?;
        Ok(Self { skip: u64::from_le_bytes(*skip), backlog, ..Self::configured() })
    }
}

impl Http {
    /// State at the start of a session.
    fn configured() -> Self {
        // A header value must not contain line ends. So a setting is ignored if it has other
        // characters than printable ASCII.
        let plain = |text: &String| {
            !text.is_empty() && text.bytes().all(|byte| (b' '..0x7f).contains(&byte))
        };
        let body = settings::get("body").unwrap_or_else(|| BODY_DEFAULT.to_owned());
        let content_type =
            settings::get("content-type").filter(plain).unwrap_or_else(|| TYPE_DEFAULT.to_owned());
        let found =
            [true, false].map(|keep_alive| response::found(&content_type, body.len(), keep_alive));
        Self { body, found, path: settings::get("path"), ..Self::default() }
    }

    /// Answers as many requests as one event may.
    fn slice(&mut self, session: &Session) -> Action {
        let (mut answers, mut requests, mut heads, mut written) = (Vec::new(), 0, 0, 0);
        let mut left = Left::Nothing;
        let mut action = Action::Proceed;
        while action == Action::Proceed {
            let skipped = self.skip.min(self.backlog.bytes().len() as u64);
            self.backlog.advance(skipped as usize);
            self.skip -= skipped;
            if self.backlog.bytes().is_empty() {
                break;
            }
            let is_enough = requests == REQUESTS_PER_EVENT || heads >= HEADS_PER_EVENT_BYTES;
            if is_enough || written >= WRITTEN_PER_EVENT_BYTES {
                left = Left::More;
                break;
            }
            match request::parse(self.backlog.bytes(), HEAD_MAX_BYTES, BODY_MAX_BYTES) {
                Ok(None) => break,
                Ok(Some(head)) => {
                    (requests, self.skip) = (requests + 1, head.body);
                    self.answer(&head, &mut answers);
                    action = if head.keep_alive { Action::Proceed } else { Action::Close };
                    let length = head.length;
                    heads += length;
                    self.backlog.advance(length);
                }
                // The bytes after an unreadable request are unreadable too.
                Err(problem) => {
                    answers.extend(response::error(problem, false));
                    action = Action::Close;
                }
            }
            if answers.len() >= ANSWERS_BYTES {
                written += answers.len();
                if write_all(session, &std::mem::take(&mut answers)) == Action::Close {
                    action = Action::Close;
                }
            }
        }
        if write_all(session, &answers) == Action::Close || action == Action::Close {
            return Action::Close;
        }
        self.backlog.next(session, left)
    }

    fn answer(&self, head: &Head<'_>, answers: &mut Vec<u8>) {
        if head.method != "GET" && head.method != "HEAD" {
            answers.extend(response::error(Problem::Method, head.keep_alive));
        } else if self.path.as_ref().is_none_or(|path| path == head.path) {
            answers.extend_from_slice(&self.found[usize::from(!head.keep_alive)]);
            if head.method == "GET" {
                answers.extend_from_slice(self.body.as_bytes());
            }
        } else {
            let mut answer = response::error(Problem::NotFound, head.keep_alive);
            if head.method == "HEAD" {
                response::drop_body(&mut answer);
            }
            answers.extend(answer);
        }
    }
}

/// Writes in pieces that fit the send buffer, and waits for room as the peer reads.
fn write_all(session: &Session, mut data: &[u8]) -> Action {
    const PIECE_BYTES: usize = 64 << 10;
    while !data.is_empty() {
        // At the high-water mark there is no room. A write that fits into the empty buffer waits
        // for room.
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
