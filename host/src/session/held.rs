//! What a session's send buffer holds of its tenant's memory.

use std::sync::Arc;

use crate::sched::Quota;

/// Bytes of one send buffer in its tenant's account. Given back when dropped.
///
/// Mail was taken from the account when it was delivered, so it is never refused here. What the
/// plugin wrote itself is bounded by the water marks, and counts once the peer does not take it.
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

    /// So many bytes of mail moved from the mailbox to the buffer.
    pub(super) fn mail(&mut self, bytes: usize) {
        self.mail += bytes;
    }

    /// So many bytes are left in the buffer after as much as possible was sent.
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
