//! Evidence of a failed event: a copy of it, to try it on another version of the plugin.

use std::sync::Arc;

use crate::event::{ClientInfo, KeptEvent, Priority};
use crate::sched::Quota;

/// Largest saved state that a session keeps beside its instance, in bytes.
pub(super) const SAVED_MAX_BYTES: usize = 16 << 10;

/// Whether a replay begins where the failed event did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fidelity {
    /// The failed event was the first one after the connection or after the last save.
    Exact,
    /// Other events came in between, or the instance served other sessions as well.
    Partial,
}

/// A failed event, and the session that it failed in.
#[derive(Debug)]
pub struct FaultEvidence {
    /// The client of the session.
    pub client: ClientInfo,
    /// The class of the event.
    pub class: Priority,
    /// The event. `None` if the start of the instance failed.
    pub event: Option<KeptEvent>,
    /// The state that the session was last saved as.
    pub saved: Option<Box<Saved>>,
    /// How close a replay comes to the failure.
    pub fidelity: Fidelity,
}

/// The state that a session was saved as, when it migrated or fell asleep. Its memory counts
/// against its tenant.
#[derive(Debug)]
pub struct Saved {
    state: Vec<u8>,
    version: String,
    /// How many events the session had had when it was saved.
    pub(super) events: u64,
    quota: Arc<Quota>,
    taken: usize,
}

impl Saved {
    /// Copies a state. Returns `None` if it is too large, or if its tenant has no memory for it.
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

    /// Takes out the state, and the version that saved it.
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
