//! What a server is up to, and what follows from it for newcomers and for sessions.

use std::fmt;

use tokio::sync::watch;

/// What a server is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Bound, and about to accept.
    Starting,
    /// Accepting.
    Listening,
    /// Not accepting until it is resumed. Sessions may go on.
    Suspended,
    /// Not accepting, suspended or not: it cannot listen. Tried again without end.
    Failed,
    /// Its sessions end, and then it accepts again.
    Restarting,
    /// Its sessions end, and then it is stopped.
    Draining,
    /// Nothing of it runs, and its address is free.
    Stopped,
}

impl Status {
    /// Every status.
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

    /// Whether there is no way back from it.
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

/// What becomes of newcomers while a server is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NewConnections {
    /// They wait in the backlog and are served after it is resumed, in order.
    #[default]
    Queue,
    /// They are closed at once.
    Reject,
}

/// What a server's tasks steer by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServerState {
    /// What was asked for. Never [`Status::Failed`], which [`ServerState::seen`] adds.
    pub(crate) status: Status,
    pub(crate) newcomers: NewConnections,
    /// The listening socket cannot be made to listen.
    pub(crate) failed: bool,
    /// Grows with each call that wants that tried at once.
    pub(crate) listen_asked: u64,
    /// Grows with each call that says what becomes of sessions; the last one counts.
    pub(crate) plan: u64,
    /// Calls that end sessions and are not done. Nobody gets a lock meanwhile.
    pub(crate) ending: u32,
    /// All sessions are held by a lock.
    pub(crate) locked: bool,
    /// Grows with every change.
    pub(crate) version: u64,
    /// Clients belong to the round in which they were accepted. Those of earlier rounds are to
    /// end...
    pub(crate) epoch: u64,
    /// ...and those of rounds before this one at once.
    pub(crate) cancelled: u64,
}

/// What the accepting task does with the next newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AcceptMode {
    Admit,
    Queue,
    Reject,
    /// No more accepting.
    Close,
}

/// What a client of some round is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Directive {
    Stay,
    End,
    EndNow,
}

impl ServerState {
    pub(super) fn new() -> Self {
        Self {
            status: Status::Starting,
            newcomers: NewConnections::Queue,
            failed: false,
            listen_asked: 0,
            plan: 0,
            ending: 0,
            locked: false,
            version: 0,
            epoch: 0,
            cancelled: 0,
        }
    }

    /// What the server is doing, as anybody may see it.
    pub(super) fn seen(&self) -> Status {
        match self.status {
            Status::Starting | Status::Listening | Status::Suspended if self.failed => {
                Status::Failed
            }
            status => status,
        }
    }

    pub(crate) fn welcome(&self) -> AcceptMode {
        match (self.status, self.newcomers) {
            (Status::Draining | Status::Stopped, _) => AcceptMode::Close,
            _ if self.locked => AcceptMode::Queue,
            (Status::Starting | Status::Listening, _) => AcceptMode::Admit,
            (Status::Suspended, NewConnections::Reject) => AcceptMode::Reject,
            (Status::Suspended | Status::Restarting | Status::Failed, _) => AcceptMode::Queue,
        }
    }

    pub(crate) fn call(&self, epoch: u64) -> Directive {
        match epoch {
            epoch if epoch < self.cancelled => Directive::EndNow,
            epoch if epoch < self.epoch => Directive::End,
            _ => Directive::Stay,
        }
    }
}

/// Something that happened to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Occurrence {
    /// It listens.
    Started,
    /// It was suspended.
    Suspended,
    /// It accepts again.
    Resumed,
    /// It ended its sessions and accepts again.
    Restarted,
    /// Its last client left. Not said at its start nor at its stop.
    Idle,
    /// Its plugin faulted again and again: newcomers wait for a while.
    Tripped,
    /// Its plugin does well again.
    Recovered,
    /// It cannot listen any more. It tries again without end.
    Failed,
    /// It listens again after that.
    ListensAgain,
    /// It ends its sessions to stop.
    Draining,
    /// Nothing of it runs any more.
    Stopped,
}

impl Occurrence {
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

/// The last thing that happened to a server, numbered from 1 so that a missed one can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// Its number.
    pub number: u64,
    /// What happened.
    pub occurrence: Occurrence,
    /// What the server is doing since.
    pub status: Status,
}

/// Waits until the listening socket is closed.
pub(super) async fn closed(mut accepting: watch::Receiver<u64>) {
    while accepting.changed().await.is_ok() {}
}

/// Waits until the accepting task follows this version of the course, or is gone.
pub(super) async fn followed(mut accepting: watch::Receiver<u64>, version: u64) {
    let _ = accepting.wait_for(|seen| *seen >= version).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_queues_newcomers_but_does_not_keep_a_stopped_server_open() {
        let course = ServerState { status: Status::Listening, locked: true, ..ServerState::new() };
        assert_eq!(course.welcome(), AcceptMode::Queue);
        assert_eq!(ServerState { status: Status::Draining, ..course }.welcome(), AcceptMode::Close);
        let suspended =
            ServerState { status: Status::Suspended, newcomers: NewConnections::Reject, ..course };
        assert_eq!(suspended.welcome(), AcceptMode::Queue);
        assert_eq!(ServerState { locked: false, ..suspended }.welcome(), AcceptMode::Reject);
    }

    #[test]
    fn failure_hides_no_end() {
        for status in Status::ALL {
            let course = ServerState { status, failed: true, ..ServerState::new() };
            let may_be = [Status::Failed, Status::Restarting, Status::Draining, Status::Stopped];
            assert!(may_be.contains(&course.seen()), "{status}");
            assert_eq!(course.seen().is_final(), status.is_final(), "{status}");
        }
    }

    #[test]
    fn a_round_ends_before_it_is_cancelled() {
        let course = ServerState { epoch: 3, cancelled: 2, ..ServerState::new() };
        assert_eq!(
            [1, 2, 3].map(|epoch| course.call(epoch)),
            [Directive::EndNow, Directive::End, Directive::Stay]
        );
    }
}
