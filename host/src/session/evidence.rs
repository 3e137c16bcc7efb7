//! What is kept of an event that failed, so that it can be tried on another version of the plugin.

use std::sync::Arc;

use crate::event::{ClientInfo, KeptEvent, Priority};
use crate::sched::Quota;

/// Largest state that is kept beside a session's instance, in bytes.
pub(super) const SAVED_MAX_BYTES: usize = 16 << 10;

/// Whether a replay begins where the failed event did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fidelity {
    /// The event was the first one after the connection or after what was saved last.
    Exact,
    /// Other events came in between, or the instance served other sessions as well.
    Partial,
}

/// An event that failed, and the session that it failed in.
#[derive(Debug)]
pub struct FaultEvidence {
    /// Whose session it was.
    pub client: ClientInfo,
    /// The class of the event.
    pub class: Priority,
    /// The event. `None`: the start of the instance failed.
    pub event: Option<KeptEvent>,
    /// What the session was last saved as.
    pub saved: Option<Box<Saved>>,
    /// How near a replay comes to what happened.
    pub fidelity: Fidelity,
}

/// What a session was saved as, when it moved or slept. Its memory is its tenant's.
#[derive(Debug)]
pub struct Saved {
    state: Vec<u8>,
    version: String,
    /// Events of the session by then.
    pub(super) events: u64,
    quota: Arc<Quota>,
    taken: usize,
}

impl Saved {
    /// Copies a state. `None`: it is too large, or its tenant has no memory for it.
    pub(super) fn copy(
        state: &[u8],
        version: &str,
        events: u64,
        quota: &Arc<Quota>,
    ) -> Option<Box<Self>> {
        let taken = state.len();
        if taken > SAVED_MAX_BYTES || !quota.take_memory(taken) {
            return None;
        }
        let (version, quota) = (version.to_owned(), Arc::clone(quota));
        Some(Box::new(Self { state: state.to_vec(), version, events, quota, taken }))
    }

    /// The state, and the version that saved it.
    #[must_use]
    pub fn parts(mut self) -> (Vec<u8>, String) {
        (std::mem::take(&mut self.state), std::mem::take(&mut self.version))
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        self.quota.give_memory(self.taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::QuotaLimits;

    #[test]
    fn kept_states_are_bounded_and_charged() {
        let quota = Arc::new(Quota::default());
        quota.set(QuotaLimits { memory_max_bytes: SAVED_MAX_BYTES + 1, ..QuotaLimits::default() });
        let copy = |bytes: usize| Saved::copy(&vec![7; bytes], "1.0", 3, &quota);
        assert!(copy(SAVED_MAX_BYTES + 1).is_none(), "it is too large");
        let kept = copy(SAVED_MAX_BYTES).expect("there is room");
        assert_eq!(quota.seen().memory_bytes, SAVED_MAX_BYTES);
        assert!(copy(2).is_none(), "there is no room");
        assert_eq!((*kept).parts(), (vec![7; SAVED_MAX_BYTES], "1.0".to_owned()));
        assert_eq!(quota.seen().memory_bytes, 0);
    }
}
