//! Why a session stays in its process, and why one is not restored in another.

use std::io;

use crate::admission::Refusal;
use crate::event::Fault;
use crate::session::PackError;

/// Why a session stays in its process. The text is a stable word for reports, except where the
/// system or the new process says the reason.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaveError {
    /// The session has no snapshot.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// An event ran for too long, or the session has given up waiting.
    #[error("busy")]
    Busy,
    /// The session has ended.
    #[error("ended")]
    Ended,
    /// The time for all sessions is over.
    #[error("no-time")]
    NoTime,
    /// The process is stopping.
    #[error("stopping")]
    Stopping,
    /// The host failed, by a mistake of its own.
    #[error("host-fault")]
    HostFault,
    /// The next process starts with another version.
    #[error("other-version")]
    OtherVersion,
    /// The snapshot is larger than a message or a file may be.
    #[error("too-large")]
    TooLarge,
    /// The process has no descriptor left.
    #[error("no-descriptor")]
    NoDescriptor,
    /// The new process has ended or speaks out of turn.
    #[error("new-process-gone")]
    PeerGone,
    /// The new process is gone, after this process released the session to it.
    #[error("lost")]
    Lost,
    /// The new process refuses the session.
    #[error("{0}")]
    Refused(String),
    /// The descriptor store does not keep the session.
    #[error(transparent)]
    NotStored(#[from] FdStoreError),
    /// The system refused something.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Reason why a descriptor store does not keep a session. The text is a word for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FdStoreError {
    /// The store cannot be reached.
    #[error("store-gone")]
    Gone,
    /// The store has no room for the session's descriptors.
    #[error("store-full")]
    Full,
}

/// Why a session is not restored in this process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    /// No server here has the name of the session's server.
    #[error("no-such-server")]
    NoServer,
    /// The server has a version that the session must not go back to.
    #[error("other-version")]
    OtherVersion,
    /// The message has no descriptor.
    #[error("no-connection")]
    NoConnection,
    /// The state is shorter than the message says.
    #[error("no-state")]
    NoState,
    /// The server is stopping.
    #[error("stopping")]
    Stopping,
    /// The gate refuses the client.
    #[error("{}", .0.name())]
    NotAdmitted(Refusal),
    /// The plugin did not restore the session in time.
    #[error("restore-timeout")]
    TimedOut,
    /// Another session of the server has the session's number.
    #[error("number-taken")]
    NumberTaken,
    /// The plugin faulted or refused the state.
    #[error("{0}")]
    Fault(Fault),
    /// The connection or the snapshot cannot be used.
    #[error(transparent)]
    System(#[from] io::Error),
}
