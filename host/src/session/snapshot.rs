//! What a session takes along to another process, and the way to ask it to leave. The session
//! decides between two events, and until it hears that the other process has it, it can go on where
//! it was.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::procedure_slot::ProcedureSlot;

/// Everything about a session that is not bytes. Times are how long ago, in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionMeta {
    /// Its number.
    pub id: u64,
    /// The client's address.
    pub peer: SocketAddr,
    /// The address that it reached.
    pub local: SocketAddr,
    /// The number that its server had for it.
    pub parameter: i64,
    /// The version of the plugin that saved its state.
    pub version: String,
    /// Its class, by number.
    pub priority: u8,
    /// Timers, with the milliseconds that are left.
    pub timers: Vec<(u32, u64)>,
    /// The peer has finished sending.
    pub half_closed: bool,
    /// The plugin waits for the send buffer to drain.
    pub filled: bool,
    /// Its times.
    pub times: Times,
    /// Bytes from the peer.
    pub bytes_in: u64,
    /// Bytes to the peer.
    pub bytes_out: u64,
    /// Events that are done.
    pub events: u64,
    /// Fuel that they used.
    pub fuel: u64,
    /// CPU time that they used, in nanoseconds.
    pub cpu_ns: u64,
}

/// How long ago, in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Times {
    /// It started.
    pub started: u64,
    /// The first byte was waited for since.
    pub heard_from: u64,
    /// Bytes last moved.
    pub exchanged: u64,
    /// The idle period began.
    pub idle: u64,
    /// The first byte that is not answered came, and what had come before it.
    pub unanswered: Option<(u64, u64)>,
}

impl SessionMeta {
    /// It was on its way for so long: it is older, and its timers went on. What its peer had to do
    /// meanwhile is not counted, since nobody was there to see it done.
    #[must_use]
    pub fn aged(mut self, by: Duration) -> Self {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.times.started = self.times.started.saturating_add(by);
        for (_, left) in &mut self.timers {
            *left = left.saturating_sub(by);
        }
        self
    }
}

/// A session on its way.
#[derive(Debug)]
pub struct SessionSnapshot {
    /// What is no bytes.
    pub meta: SessionMeta,
    /// What its plugin saved.
    pub state: Vec<u8>,
    /// What is to be sent to the peer first.
    pub queued: Vec<u8>,
    /// Another descriptor of its connection.
    pub socket: OwnedFd,
}

/// A session that is ready to leave and waits for the verdict, or why it stays. Whoever drops the
/// verdict lets it go on.
pub type TransferReply = Result<(SessionSnapshot, oneshot::Sender<bool>), String>;

/// A session is asked to leave.
#[derive(Debug)]
pub(super) struct TransferRequest(pub(super) oneshot::Sender<TransferReply>);

impl<P> ProcedureSlot<P> {
    /// Asks a session to leave the process. It has to be told to look.
    pub fn ask_to_leave(&self) -> oneshot::Receiver<TransferReply> {
        let (ready, closing) = oneshot::channel();
        self.put_departure(TransferRequest(ready));
        closing
    }
}

pub(super) fn ago(then: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(then).as_millis()).unwrap_or(u64::MAX)
}

/// The machine may have started later than that; then it is as long ago as can be told.
pub(super) fn back(now: Instant, milliseconds: u64) -> Instant {
    now.checked_sub(Duration::from_millis(milliseconds)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_gets_older_on_its_way_and_its_timers_go_on() {
        let times = Times {
            started: 5_000,
            heard_from: 4_000,
            exchanged: 3_000,
            idle: 2_000,
            unanswered: Some((10, 7)),
        };
        let meta = SessionMeta {
            id: 1,
            peer: SocketAddr::from(([192, 0, 2, 1], 1)),
            local: SocketAddr::from(([192, 0, 2, 2], 2)),
            parameter: 0,
            version: String::new(),
            priority: 0,
            timers: vec![(1, 400), (2, 1_500)],
            half_closed: false,
            filled: false,
            times,
            bytes_in: 0,
            bytes_out: 0,
            events: 0,
            fuel: 0,
            cpu_ns: 0,
        };
        let aged = meta.aged(Duration::from_secs(1));
        assert_eq!(aged.timers, [(1, 0), (2, 500)]);
        assert_eq!(
            (aged.times.started, aged.times.exchanged, aged.times.unanswered),
            (6_000, 3_000, Some((10, 7)))
        );
    }
}
