//! The port of a replay: the plugin sees the client that it failed, and reaches no session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use crate::event::{
    Broadcast, ClientInfo, NameError, Peers, Port, Priority, Scope, SendError, Unheard, WriteError,
};

/// The guest runs, or no event runs.
const RUNNING: u8 = 0;
/// The guest's slice is over.
const ENDED: u8 = 1;
/// The guest may begin its next slice.
const NEXT: u8 = 2;

/// The port of a replay. A write counts as sent at once.
pub(super) struct ReplayPort {
    client: ClientInfo,
    class: Priority,
    /// Size of the largest write, as in the session.
    write_max_bytes: usize,
    slice: AtomicU8,
}

impl ReplayPort {
    pub(super) fn new(client: ClientInfo, class: Priority, write_max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { client, class, write_max_bytes, slice: AtomicU8::new(RUNNING) })
    }

    /// Makes the scope of an instance. `peers` answers questions about other sessions.
    pub(super) fn scope(self: &Arc<Self>, peers: Arc<dyn Peers>) -> Scope {
        Scope { port: Arc::clone(self) as Arc<dyn Port>, peers: Arc::new(ReplayPeers(peers)) }
    }

    /// Whether the event stopped at the end of its slice. It goes on when it is polled again.
    pub(super) fn slice_ended(&self) -> bool {
        self.slice.compare_exchange(ENDED, NEXT, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Port for ReplayPort {
    fn info(&self) -> &ClientInfo {
        &self.client
    }

    fn poll_write(&self, _: &mut Context<'_>, data: &[u8]) -> Poll<Result<(), WriteError>> {
        Poll::Ready(if data.len() > self.write_max_bytes {
            Err(WriteError::TooLarge)
        } else {
            Ok(())
        })
    }

    fn write_capacity(&self) -> u32 {
        u32::try_from(self.write_max_bytes).unwrap_or(u32::MAX)
    }

    fn priority(&self) -> Priority {
        self.class
    }

    fn set_priority(&self, _: Priority) -> Priority {
        self.class
    }

    fn poll_slice(&self, _: &mut Context<'_>) -> Poll<()> {
        let may_go_on = self.slice.load(Ordering::Relaxed) == NEXT;
        self.slice.store(if may_go_on { RUNNING } else { ENDED }, Ordering::Relaxed);
        if may_go_on { Poll::Ready(()) } else { Poll::Pending }
    }

    fn set_timer(&self, _: u32, _: u64) -> bool {
        true
    }
}

/// The other sessions, which receive nothing.
struct ReplayPeers(Arc<dyn Peers>);

impl Peers for ReplayPeers {
    fn client_count(&self) -> u32 {
        self.0.client_count()
    }
    fn broadcast(&self, _: u64, _: &[u8]) -> Box<dyn Broadcast> {
        Box::new(Unheard(self.0.client_count()))
    }
    fn set_name(&self, _: u64, _: &str) -> Result<(), NameError> {
        Ok(())
    }
    fn find(&self, name: &str) -> Option<u64> {
        self.0.find(name)
    }
    fn send_to(&self, _: u64, _: &[u8]) -> Result<(), SendError> {
        Ok(())
    }
    fn disconnect(&self, _: u64, _: u64) -> bool {
        false
    }
}
