//! Moves mail from the mailbox to the peer between events, under a run permit if the thread is
//! busy.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::session::Session;
use crate::event::{Port, Procedure};
use crate::sched::{RunPermit, Stretch, here, sending};

/// The result of sending between two events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// All that the peer takes is sent.
    All,
    /// Mail waits for a run permit.
    Queued,
    /// The mail is sent, but on another thread than the one that the socket is bound to.
    Away,
}

impl<P: Procedure, M> Session<P, M> {
    /// Moves mail to the send buffer and sends what the peer takes, once the session may run.
    pub(super) fn send_mail(&mut self, cx: &mut Context<'_>) -> io::Result<Sent> {
        let handle = Arc::clone(&self.handle);
        if self.run_permit.poll_mail(handle.priority(), cx).is_pending() {
            let mut state = handle.state();
            state.mail_waits = true;
            return flushed(state.poll_flush(cx)).map(|()| Sent::Queued);
        }
        let held = self.run_permit.is_held().then(Instant::now);
        let stretch = held.map(|now| {
            self.run_permit.slice(Some(now));
            Stretch::begin(now)
        });
        let (outcome, sent) = {
            let mut state = handle.state();
            let before = state.bytes_out;
            state.move_mail(&handle.mailbox, handle.config().watermarks.high_bytes);
            (flushed(state.poll_flush(cx)), state.bytes_out - before)
        };
        match stretch {
            Some(stretch) => {
                self.run_permit.used(stretch.end());
                self.run_permit.slice(None);
            }
            None => carry(&mut self.run_permit, sent),
        }
        self.run_permit.rest();
        let away = self.home != here();
        outcome.map(|()| if away { Sent::Away } else { Sent::All })
    }
}

/// Charges bytes sent without a run permit to the session's next permit.
pub(super) fn carry(run_permit: &mut RunPermit, sent: u64) {
    if sent > 0 {
        run_permit.carry(sending(sent));
    }
}

/// Turns a pending flush into success, because a peer that takes no more for now is no error.
pub(super) fn flushed(outcome: Poll<io::Result<()>>) -> io::Result<()> {
    match outcome {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => Ok(()),
    }
}
