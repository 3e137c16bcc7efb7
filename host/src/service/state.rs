//! The state of a server, and what follows from it for new connections and for sessions.

use std::fmt;

use tokio::sync::watch;

/// Status of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Bound, and about to accept.
    Starting,
    /// Accepting.
    Listening,
    /// Not accepting until a resume. Sessions may go on.
    Suspended,
    /// Not accepting, suspended or not, because the server cannot listen. It tries again without
    /// end.
    Failed,
    /// Sessions end, and then the server accepts again.
    Restarting,
    /// Sessions end, and then the server is stopped.
    Draining,
    /// Nothing of the server runs, and its address is free.
    Stopped,
}

impl Status {
    /// All statuses.
    pub const ALL: [Self; 7] = [
        Self::Starting,
        Self::Listening,
        Self::Suspended,
        Self::Failed,
        Self::Restarting,
        Self::Draining,
        Self::Stopped,
    ];

    /// Stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        ["starting", "listening", "suspended", "failed", "restarting", "draining", "stopped"]
            [self as usize]
    }

    /// Whether the server never leaves this status for one that accepts.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Draining | Self::Stopped)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a suspended server treats new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NewConnections {
    /// Connections wait in the backlog, and the server accepts them in order after a resume.
    #[default]
    Queue,
    /// Connections are closed at once.
    Reject,
}

/// State of a server, which its tasks follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServerState {
    /// The requested status. Never [`Status::Failed`], which [`ServerState::seen`] adds.
    pub(crate) status: Status,
    pub(crate) new_connections: NewConnections,
    /// The server cannot listen.
    pub(crate) failed: bool,
    /// Grows with each request to try to listen at once.
    pub(crate) listen_asked: u64,
    /// Number of the last call that decided how sessions end. That call counts.
    pub(crate) ending_call: u64,
    /// Calls that are ending sessions now. A lock is refused meanwhile.
    pub(crate) ending: u32,
    /// A lock holds all sessions.
    pub(crate) locked: bool,
    /// Grows with every change.
    pub(crate) version: u64,
    /// The current epoch. Clients belong to the epoch in which they were accepted; clients of
    /// earlier epochs end.
    pub(crate) epoch: u64,
    /// Clients of epochs before this one end at once.
    pub(crate) cancelled: u64,
}

/// What the accepting task does with new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AcceptMode {
    Admit,
    Queue,
    Reject,
    /// Stop accepting.
    Close,
}

/// What a client of an epoch must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Directive {
    Stay,
    End,
    EndNow,
}

impl ServerState {
    pub(crate) fn new() -> Self {
        Self {
            status: Status::Starting,
            new_connections: NewConnections::Queue,
            failed: false,
            listen_asked: 0,
            ending_call: 0,
            ending: 0,
            locked: false,
            version: 0,
            epoch: 0,
            cancelled: 0,
        }
    }

    /// The status that operators see.
    pub(crate) fn seen(&self) -> Status {
        match self.status {
            Status::Starting | Status::Listening | Status::Suspended if self.failed => {
                Status::Failed
            }
            status => status,
        }
    }

    pub(crate) fn accept_mode(&self) -> AcceptMode {
        match (self.status, self.new_connections) {
            (Status::Draining | Status::Stopped, _) => AcceptMode::Close,
            _ if self.locked => AcceptMode::Queue,
            (Status::Starting | Status::Listening, _) => AcceptMode::Admit,
            (Status::Suspended, NewConnections::Reject) => AcceptMode::Reject,
            (Status::Suspended | Status::Restarting | Status::Failed, _) => AcceptMode::Queue,
        }
    }

    pub(crate) fn directive(&self, epoch: u64) -> Directive {
        match epoch {
            epoch if epoch < self.cancelled => Directive::EndNow,
            epoch if epoch < self.epoch => Directive::End,
            _ => Directive::Stay,
        }
    }
}

/// An occurrence at a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Occurrence {
    /// The server listens.
    Started,
    /// The server was suspended.
    Suspended,
    /// The server accepts again.
    Resumed,
    /// The server ended its sessions and accepts again.
    Restarted,
    /// The last client left. Not sent at a start or a stop.
    Idle,
    /// The plugin faulted again and again, so new connections wait for a while.
    Tripped,
    /// The plugin does well again.
    Recovered,
    /// The server cannot listen any more. It tries again without end.
    Failed,
    /// The server listens again after a failure.
    ListensAgain,
    /// The server ends its sessions to stop.
    Draining,
    /// Nothing of the server runs any more.
    Stopped,
}

impl Occurrence {
    /// Every occurrence.
    pub const ALL: [Self; 11] = [
        Self::Started,
        Self::Suspended,
        Self::Resumed,
        Self::Restarted,
        Self::Idle,
        Self::Tripped,
        Self::Recovered,
        Self::Failed,
        Self::ListensAgain,
        Self::Draining,
        Self::Stopped,
    ];

    /// Stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Suspended => "suspended",
            Self::Resumed => "resumed",
            Self::Restarted => "restarted",
            Self::Idle => "idle",
            Self::Tripped => "tripped",
            Self::Recovered => "recovered",
            Self::Failed => "failed",
            Self::ListensAgain => "listening-again",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

/// The last occurrence at a server, numbered from 1 so that a listener notices a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// Number of the notice.
    pub number: u64,
    /// The occurrence.
    pub occurrence: Occurrence,
    /// Status of the server since then.
    pub status: Status,
}

/// Waits until the listening socket is closed.
pub(crate) async fn closed(mut accepting: watch::Receiver<u64>) {
    while accepting.changed().await.is_ok() {}
}

/// Waits until the accepting task follows this version of the state, or is gone.
pub(crate) async fn followed(mut accepting: watch::Receiver<u64>, version: u64) {
    let _ = accepting.wait_for(|seen| *seen >= version).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_queues_connections_and_lets_server_close() {
        let state = ServerState { status: Status::Listening, locked: true, ..ServerState::new() };
        assert_eq!(state.accept_mode(), AcceptMode::Queue);
        assert_eq!(
            ServerState { status: Status::Draining, ..state }.accept_mode(),
            AcceptMode::Close
        );
        let suspended = ServerState {
            status: Status::Suspended,
            new_connections: NewConnections::Reject,
            ..state
        };
        assert_eq!(suspended.accept_mode(), AcceptMode::Queue);
        assert_eq!(ServerState { locked: false, ..suspended }.accept_mode(), AcceptMode::Reject);
    }

    #[test]
    fn failure_hides_no_end() {
        for status in Status::ALL {
            let state = ServerState { status, failed: true, ..ServerState::new() };
            let may_be = [Status::Failed, Status::Restarting, Status::Draining, Status::Stopped];
            assert!(may_be.contains(&state.seen()), "{status}");
            assert_eq!(state.seen().is_final(), status.is_final(), "{status}");
        }
    }

    #[test]
    fn epoch_ends_before_it_is_cancelled() {
        let state = ServerState { epoch: 3, cancelled: 2, ..ServerState::new() };
        assert_eq!(
            [1, 2, 3].map(|epoch| state.directive(epoch)),
            [Directive::EndNow, Directive::End, Directive::Stay]
        );
    }
}
