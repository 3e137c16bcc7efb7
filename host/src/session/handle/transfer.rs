//! The handle of a session that leaves for another process, or came from one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{HandleState, SessionConfig, SessionHandle};
use crate::event::{ClientInfo, Priority, Usage};
use crate::net::Stream;
use crate::sched::Placement;
use crate::session::snapshot::{SessionMeta, back};

impl SessionHandle {
    /// Makes the handle of a session from another process. `load` adds the bytes
    /// that were queued for its peer.
    #[must_use]
    pub fn resumed(
        info: ClientInfo,
        config: Arc<SessionConfig>,
        placement: Arc<Placement>,
        stream: Stream,
        meta: &SessionMeta,
    ) -> Arc<Self> {
        let (now, timers_max) = (Instant::now(), config.timers_max);
        let mut handle = Self::new(info, config, placement, stream);
        let resumed = Arc::get_mut(&mut handle).expect("no other task has it yet");
        resumed.started = back(now, meta.times.started);
        let class = Priority::ALL.get(usize::from(meta.priority)).copied().unwrap_or_default();
        *resumed.priority.get_mut() = class as u8;
        let usage = Usage { fuel: meta.fuel, memory_bytes: 0 };
        resumed.live_stats.resume(meta.events, usage, Duration::from_nanos(meta.cpu_ns));
        let mut state = resumed.state();
        for &(id, left) in &meta.timers {
            // A due timer fires at once. A value of 0 would cancel it.
            state.timers.set(id, left.max(1), timers_max, now);
        }
        state.last_exchange = back(now, meta.times.exchanged);
        (state.filled, state.bytes_in, state.bytes_out) =
            (meta.filled, meta.bytes_in, meta.bytes_out);
        drop(state);
        handle
    }

    /// Queues the bytes that the other process had queued for the peer. They are sent first.
    pub(in crate::session) fn load(&self, queued: &[u8]) {
        if !queued.is_empty() {
            self.state().send_buffer.push(queued);
        }
    }
}

impl HandleState {
    /// Drops this process's descriptor of a connection that another process owns now. Neither
    /// closes the connection nor writes to it.
    pub(in crate::session) fn let_go(&mut self) {
        self.close();
        self.stream = None;
    }
}
