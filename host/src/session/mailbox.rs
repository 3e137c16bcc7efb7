//! A session's mailbox: bytes from other sessions, and signals from the server.
//!
//! Other tasks put mail and signals into the mailbox, and requests into the procedure slot. Senders
//! never wait: a full mailbox refuses.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use futures_util::task::AtomicWaker;

use crate::event::SendError;
use crate::locks::lock;
use crate::sched::Quota;

/// The signals in a mailbox, as bits, because several may have come since the owner last looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signals(u8);

impl Signals {
    /// Bytes are waiting.
    pub(super) const MAIL: Self = Self(1);
    /// End the session gracefully, as evicted.
    pub(super) const EVICT: Self = Self(2);
    /// End the session gracefully, because the server stops.
    pub(super) const STOP: Self = Self(4);
    /// End the session now, even in the middle of an event.
    pub(super) const CANCEL: Self = Self(8);
    /// End the session now, for the operator.
    pub(super) const ABORT: Self = Self(16);
    /// Either [`Signals::CANCEL`] or [`Signals::ABORT`].
    pub(super) const NOW: Self = Self(8 | 16);
    /// Look at the session's state again: the class may have changed.
    pub(super) const LOOK: Self = Self(32);
    /// An event of another session destroyed the shared instance.
    pub(super) const LOST: Self = Self(64);
    /// Look at the procedure slot, for a migration or a transfer.
    pub(super) const MIGRATE: Self = Self(128);

    pub(super) fn contains(self, signal: Self) -> bool {
        self.0 & signal.0 != 0
    }
}

/// What a piece costs beside its bytes. Bounds many small pieces as well as few large ones.
pub(super) const PIECE_BYTES: usize = 64;

/// Waiting mail. Each piece takes its bytes and [`PIECE_BYTES`] of its tenant's mail quota.
///
/// Receivers of a broadcast share the bytes, but each counts them, because it copies them to its
/// own send buffer later.
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

    /// Takes all mail out and refuses further mail.
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

/// The mailbox of one session. It takes mail and signals from other tasks, and never waits.
#[derive(Debug)]
pub(super) struct Mailbox {
    signals: AtomicU8,
    mail: Mutex<Mail>,
    waker: AtomicWaker,
}

/// The mail that was in a mailbox when it was sealed.
#[derive(Debug)]
pub(super) struct Sealed(Mail);

impl Sealed {
    pub(super) fn pieces(&self) -> impl Iterator<Item = &Arc<[u8]>> {
        self.0.pieces.iter()
    }
}

impl Mailbox {
    /// Makes an empty mailbox of a tenant's session.
    pub(super) fn new(quota: Arc<Quota>) -> Self {
        let mail = Mutex::new(Mail::new(quota, false));
        Self { signals: AtomicU8::default(), mail, waker: AtomicWaker::default() }
    }

    /// Leaves a signal and wakes the owner.
    pub(super) fn signal(&self, signal: Signals) {
        self.signals.fetch_or(signal.0, Ordering::Release);
        self.waker.wake();
    }

    /// Leaves `data` for the owner. Never waits.
    ///
    /// # Errors
    /// - [`SendError::TooLarge`]: `data` is larger than `max` bytes.
    /// - [`SendError::Closed`]: the mailbox is sealed or shut.
    /// - [`SendError::Full`]: the mailbox would hold more than `max` bytes, or the tenant more mail
    ///   than its quota allows.
    pub(super) fn deliver(&self, data: &Arc<[u8]>, max: usize) -> Result<(), SendError> {
        if data.len() > max {
            return Err(SendError::TooLarge);
        }
        if data.is_empty() {
            return Ok(());
        }
        {
            let mut mail = lock(&self.mail);
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

    /// Takes the signals that came since the last call. If the owner cannot take the mail now, it
    /// has to remember [`Signals::MAIL`] and call [`Mailbox::next`] later.
    pub(super) fn signals(&self) -> Signals {
        // Nearly always empty, so a plain load comes before taking the cache line.
        match self.signals.load(Ordering::Relaxed) {
            0 => Signals(0),
            _ => Signals(self.signals.swap(0, Ordering::Acquire)),
        }
    }

    /// Registers the waker for the next signal. Returns true if a signal is there already.
    pub(super) fn watch(&self, waker: &Waker) -> bool {
        self.waker.register(waker);
        self.signals.load(Ordering::Acquire) != 0
    }

    /// Reads the signals without taking them.
    pub(super) fn pending(&self) -> Signals {
        Signals(self.signals.load(Ordering::Acquire))
    }

    /// Takes the next piece of mail. Its bytes stay charged to the tenant's mail quota until the
    /// caller gives them back.
    pub(super) fn next(&self) -> Option<Arc<[u8]>> {
        let mut mail = lock(&self.mail);
        let piece = mail.pieces.pop_front()?;
        mail.bytes -= piece.len();
        mail.quota.give_mail(PIECE_BYTES);
        Some(piece)
    }

    /// Takes all mail out and refuses further mail until [`Mailbox::unseal`].
    pub(super) fn seal(&self) -> Sealed {
        let mut mail = lock(&self.mail);
        Sealed(mail.close())
    }

    /// Puts the sealed mail back and accepts mail again.
    pub(super) fn unseal(&self, sealed: Sealed) {
        *lock(&self.mail) = sealed.0;
        self.signal(Signals::MAIL);
    }

    /// Refuses further mail and discards all that waits.
    pub(super) fn shut(&self) {
        drop(lock(&self.mail).close());
    }
}
