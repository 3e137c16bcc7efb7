//! Answering in bounded slices, so that no packet is more work than one event may spend.
//!
//! A [`Backlog`] keeps the bytes that have arrived. Each event handles a slice of them, as large as
//! the plugin decides. While something is left, a timer brings the next event:
//!
//! ```
//! use wharf_plugin::slices::{Backlog, Left};
//! use wharf_plugin::{Action, EventProc, Session};
//!
//! /// Lines that one event answers.
//! const LINES_PER_EVENT: usize = 500;
//!
//! #[derive(Default)]
//! struct Counting {
//!     backlog: Backlog,
//! }
//!
//! impl Counting {
//!     fn slice(&mut self, session: &Session) -> Action {
//!         for _ in 0..LINES_PER_EVENT {
//!             let Some(end) = self.backlog.bytes().iter().position(|&byte| byte == b'\n') else {
//!                 return self.backlog.next(session, Left::Nothing);
//!             };
//!             self.backlog.advance(end + 1);
//!             if session.write(format!("{end}\n").as_bytes()).is_err() {
//!                 return Action::Close;
//!             }
//!         }
//!         self.backlog.next(session, Left::More)
//!     }
//! }
//!
//! impl EventProc for Counting {
//!     fn on_read(&mut self, session: &Session, data: Vec<u8>) -> Action {
//!         if self.backlog.push(&data).is_err() {
//!             return Action::Close;
//!         }
//!         self.slice(session)
//!     }
//!
//!     fn on_timer(&mut self, session: &Session, id: u32) -> Action {
//!         if self.backlog.fired(id) { self.slice(session) } else { Action::Proceed }
//!     }
//!
//!     fn on_end(&mut self, session: &Session) -> Action {
//!         self.backlog.end();
//!         self.slice(session)
//!     }
//! }
//! # use wharf_plugin::testing::Script;
//! # let script = Script::<Counting>::new().connect().read(&b"\n".repeat(501));
//! # let script = script.expect_write(&b"0\n".repeat(500)).drive();
//! # script.expect_write(b"0\n").expect_open().end().expect_closed();
//! ```

use std::time::Duration;

use crate::{Action, Session};

/// Most bytes that a backlog keeps: twice the bytes of one event, and half of what `save` may
/// return.
pub const KEPT_MAX_BYTES: usize = 128 << 10;

/// Id of the timer that brings the next slice.
pub const MORE: u32 = u32::MAX;
/// Id of the same timer after the peer has finished sending. The id tells this to the version that
/// restores the session.
pub const LAST: u32 = u32::MAX - 1;

/// Delay of the shortest timer.
const AT_ONCE: Duration = Duration::from_millis(1);

/// The peer sent more bytes than a backlog keeps: it sends faster than the plugin answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Rest of the backlog after a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Nothing that can be handled before more bytes arrive.
    Nothing,
    /// Something that the next event has to handle.
    More,
}

/// Bytes that have arrived and are not handled yet.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: Vec<u8>,
    /// Position of the first unhandled byte in `bytes`.
    start: usize,
    /// Whether the peer has finished sending.
    ended: bool,
    /// Whether a timer is set.
    waits: bool,
}

impl Backlog {
    /// Makes a backlog from the bytes that another version saved with [`Backlog::bytes`]. The
    /// session's timers keep running.
    ///
    /// # Errors
    /// [`Full`]: the bytes are more than a backlog keeps.
    pub fn restored(bytes: &[u8]) -> Result<Self, Full> {
        let mut backlog = Self::default();
        backlog.push(bytes)?;
        Ok(backlog)
    }

    /// Adds the bytes that arrived.
    ///
    /// # Errors
    /// [`Full`], and nothing was added. Close the session then, because nothing else slows such a
    /// peer down.
    pub fn push(&mut self, data: &[u8]) -> Result<(), Full> {
        if self.bytes().len() + data.len() > KEPT_MAX_BYTES {
            return Err(Full);
        }
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// The bytes that are not handled yet.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Drops the first `count` of these bytes as handled, or all of them if there are fewer.
    pub fn advance(&mut self, count: usize) {
        self.start = (self.start + count).min(self.bytes.len());
    }

    /// Notes that the peer has finished sending. The session closes once everything is handled.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether a fired timer is the backlog's own, so that the next slice is due.
    #[must_use]
    pub fn fired(&mut self, id: u32) -> bool {
        let own = id == MORE || id == LAST;
        self.waits &= !own;
        self.ended |= id == LAST;
        own
    }

    /// Ends a slice, as the last expression of it:
    ///
    /// - With [`Left::More`], the timer is set for the next slice. If the session may have no more
    ///   timers, the session is closed.
    /// - With [`Left::Nothing`], the session is closed if the peer has finished sending.
    #[must_use]
    pub fn next(&mut self, session: &Session, left: Left) -> Action {
        match left {
            Left::Nothing if self.ended => Action::Close,
            Left::Nothing => Action::Proceed,
            // Setting the timer again would delay it.
            Left::More if self.waits && !self.ended => Action::Proceed,
            Left::More => {
                self.waits = session.set_timer(if self.ended { LAST } else { MORE }, AT_ONCE);
                if self.waits { Action::Proceed } else { Action::Close }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backlog_keeps_its_limit_exactly() {
        let mut backlog = Backlog::default();
        assert_eq!(backlog.push(&vec![1; KEPT_MAX_BYTES]), Ok(()));
        assert_eq!(backlog.push(&[2]), Err(Full));
        backlog.advance(1);
        assert_eq!((backlog.push(&[2]), backlog.push(&[3])), (Ok(()), Err(Full)));
        assert_eq!((backlog.bytes().len(), backlog.bytes().last()), (KEPT_MAX_BYTES, Some(&2)));
        backlog.advance(usize::MAX / 2);
        assert!(backlog.bytes().is_empty());
        assert!(Backlog::restored(&vec![1; KEPT_MAX_BYTES + 1]).is_err());
    }

    #[test]
    fn foreign_timers_are_not_its_own() {
        let mut backlog = Backlog::default();
        assert!(
            !backlog.fired(0)
                && !backlog.fired(LAST - 1)
                && backlog.fired(MORE)
                && backlog.fired(LAST)
        );
    }
}
