//! What others want of a session: bytes from its peers, and orders from the server.
//!
//! The only part of a session that other tasks write to. Nobody waits here: a full box refuses.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use futures_util::task::AtomicWaker;

use crate::event::SendError;
use crate::sched::Quota;

/// What the owner of a session finds in its mailbox, as bits, since several may have come since it
/// looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signals(u8);

impl Signals {
    /// Bytes are waiting.
    pub(super) const MAIL: Self = Self(1);
    /// End the session gracefully: evicted.
    pub(super) const EVICT: Self = Self(2);
    /// End the session gracefully: the server stops.
    pub(super) const STOP: Self = Self(4);
    /// End the session now, whatever it is doing.
    pub(super) const CANCEL: Self = Self(8);
    /// The same, wanted by the operator.
    pub(super) const ABORT: Self = Self(16);
    /// Either of the two.
    pub(super) const NOW: Self = Self(8 | 16);
    /// Nothing to do but to look around: the class may have changed.
    pub(super) const LOOK: Self = Self(32);
    /// The instance is gone, by an event of another session.
    pub(super) const LOST: Self = Self(64);
    /// Another procedure is to take the session over.
    pub(super) const MIGRATE: Self = Self(128);

    pub(super) fn contains(self, signal: Self) -> bool {
        self.0 & signal.0 != 0
    }
}

/// What a piece costs beside its bytes, so that many small ones are as bounded as few large ones.
pub(super) const PIECE_BYTES: usize = 64;

/// Mail that waits. Each piece holds its bytes and [`PIECE_BYTES`] of its tenant's mail. Receivers
/// of a broadcast share the bytes, but each counts them: it copies them to its own send buffer
/// later.
#[derive(Debug)]
struct Mail {
    quota: Arc<Quota>,
    pieces: VecDeque<Arc<[u8]>>,
    bytes: usize,
    shut: bool,
}

impl Mail {
    fn new(quota: Arc<Quota>, shut: bool) -> Self {
        Self { quota, pieces: VecDeque::new(), bytes: 0, shut }
    }

    /// What is there; nothing stays, and no more is taken.
    fn close(&mut self) -> Self {
        let closed = Self::new(Arc::clone(&self.quota), true);
        std::mem::replace(self, closed)
    }
}

impl Drop for Mail {
    fn drop(&mut self) {
        let held = self.bytes + PIECE_BYTES * self.pieces.len();
        if held > 0 {
            self.quota.give_mail(held);
        }
    }
}

#[derive(Debug)]
pub(super) struct Mailbox {
    signals: AtomicU8,
    mail: Mutex<Mail>,
    waker: AtomicWaker,
}

/// What was in a mailbox when it was sealed.
#[derive(Debug)]
pub(super) struct Sealed(Mail);

impl Sealed {
    pub(super) fn pieces(&self) -> impl Iterator<Item = &Arc<[u8]>> {
        self.0.pieces.iter()
    }
}

impl Mailbox {
    /// An empty one of a tenant's session.
    pub(super) fn new(quota: Arc<Quota>) -> Self {
        let mail = Mutex::new(Mail::new(quota, false));
        Self { signals: AtomicU8::default(), mail, waker: AtomicWaker::default() }
    }

    /// Leaves an order and wakes the owner.
    pub(super) fn signal(&self, signal: Signals) {
        self.signals.fetch_or(signal.0, Ordering::Release);
        self.waker.wake();
    }

    /// Leaves `data`, unless more than `max` bytes would be waiting here, or more than the tenant
    /// may have waiting in all.
    pub(super) fn deliver(&self, data: &Arc<[u8]>, max: usize) -> Result<(), SendError> {
        if data.len() > max {
            return Err(SendError::TooLarge);
        }
        if data.is_empty() {
            return Ok(());
        }
        {
            let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
            if mail.shut {
                return Err(SendError::Closed);
            }
            if mail.bytes + data.len() + PIECE_BYTES * mail.pieces.len() > max {
                return Err(SendError::Full);
            }
            if !mail.quota.take_mail(data.len() + PIECE_BYTES) {
                return Err(SendError::Full);
            }
            mail.bytes += data.len();
            mail.pieces.push_back(Arc::clone(data));
        }
        self.signal(Signals::MAIL);
        Ok(())
    }

    /// What was ordered since the last call. Bytes that could not be taken must be asked for again
    /// with [`Mailbox::next`].
    pub(super) fn signals(&self) -> Signals {
        // Nearly always nothing: look before taking the cache line.
        match self.signals.load(Ordering::Relaxed) {
            0 => Signals(0),
            _ => Signals(self.signals.swap(0, Ordering::Acquire)),
        }
    }

    /// Wakes this waker at the next order. True where one has come already.
    pub(super) fn watch(&self, waker: &Waker) -> bool {
        self.waker.register(waker);
        self.signals.load(Ordering::Acquire) != 0
    }

    /// What was ordered and not seen yet, without seeing it.
    pub(super) fn pending(&self) -> Signals {
        Signals(self.signals.load(Ordering::Acquire))
    }

    /// The next piece of mail. Its bytes stay taken from the tenant's mail: the caller gives them
    /// back.
    pub(super) fn next(&self) -> Option<Arc<[u8]>> {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        let piece = mail.pieces.pop_front()?;
        mail.bytes -= piece.len();
        mail.quota.give_mail(PIECE_BYTES);
        Some(piece)
    }

    /// Takes no more mail until it is unsealed. What was there.
    pub(super) fn seal(&self) -> Sealed {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        Sealed(mail.close())
    }

    /// Takes mail again, and has what was there.
    pub(super) fn unseal(&self, sealed: Sealed) {
        *self.mail.lock().unwrap_or_else(PoisonError::into_inner) = sealed.0;
        self.signal(Signals::MAIL);
    }

    /// Takes no more mail and forgets what is there.
    pub(super) fn shut(&self) {
        drop(self.mail.lock().unwrap_or_else(PoisonError::into_inner).close());
    }
}
