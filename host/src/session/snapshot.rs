//! A session's snapshot for another process, and the request to leave.
//!
//! The session makes it between two events. Until the other process confirms that it has the
//! session, the session can go on here.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use tokio::sync::oneshot;

use super::procedure_slot::ProcedureSlot;

/// Largest number and counter of a session that are believed: what a session adds to them in a long
/// life does not overflow.
const COUNT_MAX: u64 = 1 << 60;

/// Reads a number that can still grow.
fn counted<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    match u64::deserialize(from)? {
        count @ 0..=COUNT_MAX => Ok(count),
        count => Err(D::Error::custom(format!("expected at most {COUNT_MAX}, found {count}"))),
    }
}

/// All values of a session besides its bytes. Times are ages in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionMeta {
    /// The session's number.
    #[serde(deserialize_with = "counted")]
    pub id: u64,
    /// The client's address.
    pub peer: SocketAddr,
    /// The local address that the client reached.
    pub local: SocketAddr,
    /// The number that the server chose for the session.
    pub parameter: i64,
    /// The version of the plugin that saved the session's state.
    pub version: String,
    /// The session's class, by number.
    pub priority: u8,
    /// Timers by number, with the milliseconds that are left.
    pub timers: Vec<(u32, u64)>,
    /// Whether the peer has finished sending.
    pub half_closed: bool,
    /// Whether the plugin waits for the send buffer to drain.
    pub filled: bool,
    /// The session's times.
    pub times: Times,
    /// Bytes from the peer.
    #[serde(deserialize_with = "counted")]
    pub bytes_in: u64,
    /// Bytes to the peer.
    #[serde(deserialize_with = "counted")]
    pub bytes_out: u64,
    /// Events that are done.
    #[serde(deserialize_with = "counted")]
    pub events: u64,
    /// Fuel that these events used.
    #[serde(deserialize_with = "counted")]
    pub fuel: u64,
    /// CPU time that these events used, in nanoseconds.
    #[serde(deserialize_with = "counted")]
    pub cpu_ns: u64,
}

/// Ages of a session's occurrences, in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Times {
    /// Since the session started.
    pub started: u64,
    /// Since the session began to wait for its first byte.
    pub heard_from: u64,
    /// Since bytes last moved.
    pub exchanged: u64,
    /// Since the idle period began.
    pub idle: u64,
    /// Since the first unanswered byte came, and how many bytes had come before it.
    pub unanswered: Option<(u64, u64)>,
}

impl SessionMeta {
    /// Adds the time that a session spent between two processes. The session is older and its
    /// timers ran on. The limits on its peer do not count that time, because no process watched the
    /// peer.
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

/// A session in a form that another process can restore.
#[derive(Debug)]
pub struct SessionSnapshot {
    /// All values besides bytes.
    pub meta: SessionMeta,
    /// The state that the plugin saved.
    pub state: Vec<u8>,
    /// The bytes that are to be sent to the peer first.
    pub queued: Vec<u8>,
    /// A second descriptor of the session's connection.
    pub socket: OwnedFd,
}

/// A snapshot and the sender of the verdict, or why the session stays. If the sender is dropped,
/// the session goes on.
pub type TransferReply = Result<(SessionSnapshot, oneshot::Sender<bool>), PackError>;

/// Why a session has no snapshot, so that it stays in its process. The text is a stable word for
/// reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// The connection is encrypted, and its keys cannot be moved.
    #[error("tls")]
    Encrypted,
    /// The plugin neither exports `handoff` nor is stateless, or the instance is shared.
    #[error("no-handoff")]
    NoHandoff,
    /// The saved state is larger than the limit.
    #[error("state-limit")]
    StateLimit,
    /// The plugin faulted in `save`, and the session ends.
    #[error("fault")]
    Fault,
    /// The session is about to end.
    #[error("ending")]
    Ending,
    /// The process has no descriptor left for the connection.
    #[error("no-descriptor")]
    NoDescriptor,
}

impl PackError {
    /// Every word.
    pub const NAMES: [&'static str; 6] =
        ["tls", "no-handoff", "state-limit", "fault", "ending", "no-descriptor"];
}

/// A request to a session to leave the process.
#[derive(Debug)]
pub(super) struct TransferRequest(pub(super) oneshot::Sender<TransferReply>);

impl<P> ProcedureSlot<P> {
    /// Requests a session to leave the process. The caller then has to call
    /// [`SessionHandle::look_at_slot`](super::SessionHandle::look_at_slot).
    pub fn ask_to_transfer(&self) -> oneshot::Receiver<TransferReply> {
        let (reply, packed) = oneshot::channel();
        self.put_transfer(TransferRequest(reply));
        packed
    }
}

pub(super) fn ago(then: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(then).as_millis()).unwrap_or(u64::MAX)
}

/// The instant `milliseconds` before `now`. Returns `now` if the machine started later than that.
pub(super) fn back(now: Instant, milliseconds: u64) -> Instant {
    now.checked_sub(Duration::from_millis(milliseconds)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transferred_session_ages_and_timers_run_on() {
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
