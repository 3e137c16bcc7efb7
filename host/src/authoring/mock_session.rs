//! A session without a socket. It keeps what its plugin writes. Its timers fire when a transcript
//! waits for them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use crate::event::{ClientInfo, NoPeers, Port, Priority, Scope, WriteError};
use crate::locks::lock;

/// Room in the send buffer, in bytes: the default of a server.
const CAPACITY_BYTES: usize = 256 << 10;
/// Largest number of written bytes that wait for a line of the transcript to expect them.
pub(super) const WRITTEN_MAX_BYTES: usize = 64 << 20;
/// How many timers may run at a time: the default of a server.
const TIMERS_MAX: usize = 64;

/// The session that a transcript is played against.
pub(super) struct MockSession {
    info: ClientInfo,
    state: Mutex<State>,
}

struct State {
    written: Vec<u8>,
    /// The plugin wrote more than [`WRITTEN_MAX_BYTES`].
    overflowed: bool,
    open: bool,
    priority: Priority,
    now_ms: u64,
    /// When each timer fires, in milliseconds, by its id.
    timers: BTreeMap<u32, u64>,
}

impl MockSession {
    pub(super) fn new(id: u64) -> Arc<Self> {
        let address = |last, port| SocketAddr::from(([192, 0, 2, last], port));
        let info = ClientInfo {
            id,
            server: "test".into(),
            peer: address(1, 50_000),
            local: address(2, 7_000),
            tls: None,
            parameter: 0,
        };
        let state = State {
            written: Vec::new(),
            overflowed: false,
            open: true,
            priority: Priority::Normal,
            now_ms: 0,
            timers: BTreeMap::new(),
        };
        Arc::new(Self { info, state: Mutex::new(state) })
    }

    /// Makes the scope of an instance for this session.
    pub(super) fn scope(self: &Arc<Self>) -> Scope {
        Scope { port: Arc::clone(self) as Arc<dyn Port>, peers: Arc::new(NoPeers) }
    }

    /// Takes the first `length` written bytes, or all if there are fewer.
    pub(super) fn take(&self, length: usize) -> Vec<u8> {
        let written = &mut self.state().written;
        let length = length.min(written.len());
        written.drain(..length).collect()
    }

    /// How many bytes were written and not taken.
    pub(super) fn waiting(&self) -> usize {
        self.state().written.len()
    }

    /// Whether the plugin wrote more than [`WRITTEN_MAX_BYTES`]. From then on its writes time out,
    /// as with a peer that reads nothing.
    pub(super) fn overflowed(&self) -> bool {
        self.state().overflowed
    }

    /// Takes the timer that fires next, and moves the clock to its time.
    pub(super) fn next_timer(&self) -> Option<u32> {
        let mut state = self.state();
        let (id, at) = state.timers.iter().map(|(id, at)| (*id, *at)).min_by_key(|(_, at)| *at)?;
        state.timers.remove(&id);
        state.now_ms = state.now_ms.max(at);
        Some(id)
    }

    /// Closes the session, so that every further write fails.
    pub(super) fn close(&self) {
        self.state().open = false;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Port for MockSession {
    fn info(&self) -> &ClientInfo {
        &self.info
    }

    fn poll_write(&self, _: &mut Context<'_>, data: &[u8]) -> Poll<Result<(), WriteError>> {
        let mut state = self.state();
        Poll::Ready(match (state.open, data.len() > CAPACITY_BYTES) {
            (false, _) => Err(WriteError::Closed),
            (true, true) => Err(WriteError::TooLarge),
            // The peer of a transcript reads at once, so there is always room, up to the limit for
            // bytes that no line expects.
            (true, false)
                if state.overflowed || state.written.len() + data.len() > WRITTEN_MAX_BYTES =>
            {
                state.overflowed = true;
                Err(WriteError::TimedOut)
            }
            (true, false) => {
                state.written.extend_from_slice(data);
                Ok(())
            }
        })
    }

    fn write_capacity(&self) -> u32 {
        if self.state().open { CAPACITY_BYTES as u32 } else { 0 }
    }

    fn priority(&self) -> Priority {
        self.state().priority
    }

    fn set_priority(&self, priority: Priority) -> Priority {
        self.state().priority = priority;
        priority
    }

    fn set_timer(&self, id: u32, after_ms: u64) -> bool {
        let mut state = self.state();
        if after_ms == 0 {
            state.timers.remove(&id);
            return true;
        }
        if state.timers.len() >= TIMERS_MAX && !state.timers.contains_key(&id) {
            return false;
        }
        let at = state.now_ms.saturating_add(after_ms);
        state.timers.insert(id, at);
        true
    }
}
