//! A session that leaves this process, packed for a new process or for the descriptor store.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::error::{FdStoreError, LeaveError, RestoreError};
use crate::session::{PackError, SessionSnapshot};

/// A packed session. If `verdict` is dropped, the session goes on here.
pub(crate) struct PackedSession {
    pub(crate) server: String,
    pub(crate) name: Option<String>,
    /// Sessions that begin later have numbers above this one.
    pub(crate) ids_above: u64,
    /// Whether the session is on the version that the next process starts with.
    pub(crate) starts_again: bool,
    /// Digest of the configured version, if another version is current and not recorded. The
    /// session must not go back to the configured version without a request.
    pub(crate) not_on: Option<String>,
    pub(crate) snapshot: SessionSnapshot,
    pub(crate) verdict: oneshot::Sender<bool>,
}

/// Sends a session away, or returns why it stays. Blocks.
pub(crate) type SendSession = dyn Fn(PackedSession) -> Result<(), LeaveError> + Send + Sync;

/// Outcome for the sessions of a process that gives its servers up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionsSent {
    /// Number of sessions that the new process or the descriptor store took.
    pub moved: usize,
    /// Number of sessions that the new process or the store did not take, by reason.
    pub stayed: BTreeMap<String, usize>,
}

impl SessionsSent {
    /// Returns every fixed reason of `stayed`, some of them twice. Other reasons are the names of
    /// [`Refusal`](crate::admission::Refusal) and the words of a fault or of the system.
    pub fn reasons() -> impl Iterator<Item = &'static str> {
        let here = PackError::NAMES.into_iter().chain(LeaveError::NAMES);
        here.chain(FdStoreError::NAMES).chain(RestoreError::NAMES)
    }
}
