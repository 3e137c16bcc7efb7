//! The share of its tenant's memory that a session's send buffer holds.

use std::sync::Arc;

use crate::sched::Quota;

/// The bytes of one send buffer in its tenant's quota. Gives them back when dropped.
///
/// The tenant's quota took mail when it was delivered, so the buffer never refuses mail. The
/// watermarks bound what the plugin writes itself; those bytes count once the peer does not take
/// them.
#[derive(Debug)]
pub(super) struct HeldMemory {
    quota: Arc<Quota>,
    mail: usize,
    own: usize,
}

impl HeldMemory {
    pub(super) fn new(quota: Arc<Quota>) -> Self {
        Self { quota, mail: 0, own: 0 }
    }

    /// Records that `bytes` of mail moved from the mailbox to the buffer.
    pub(super) fn mail(&mut self, bytes: usize) {
        self.mail += bytes;
    }

    /// Records that `left` bytes remain in the buffer after a send.
    pub(super) fn settle(&mut self, left: usize) {
        let mail = self.mail.min(left);
        if mail < self.mail {
            self.quota.give_mail(self.mail - mail);
        }
        let own = left - mail;
        if own > self.own {
            self.quota.keep_memory(own - self.own);
        } else if own < self.own {
            self.quota.give_memory(self.own - own);
        }
        (self.mail, self.own) = (mail, own);
    }
}

impl Drop for HeldMemory {
    fn drop(&mut self) {
        self.settle(0);
    }
}
