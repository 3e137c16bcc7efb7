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

impl LeaveError {
    /// Every word that does not come from another error.
    pub(super) const NAMES: [&'static str; 10] = [
        "busy",
        "ended",
        "no-time",
        "stopping",
        "host-fault",
        "other-version",
        "too-large",
        "no-descriptor",
        "new-process-gone",
        "lost",
    ];
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

impl FdStoreError {
    /// Every word.
    pub const NAMES: [&'static str; 2] = ["store-gone", "store-full"];
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

impl RestoreError {
    /// Every word that does not come from another error.
    pub(super) const NAMES: [&'static str; 7] = [
        "no-such-server",
        "number-taken",
        "other-version",
        "no-connection",
        "no-state",
        "stopping",
        "restore-timeout",
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    // Each match below names every variant, so that a new variant asks for its word.

    #[test]
    fn pack_error_lists_its_words() {
        use PackError as E;
        let all = [E::Encrypted, E::NoHandoff, E::StateLimit, E::Fault, E::Ending, E::NoDescriptor];
        for error in all {
            match error {
                E::Encrypted | E::NoHandoff | E::StateLimit => {}
                E::Fault | E::Ending | E::NoDescriptor => {}
            }
        }
        assert_eq!(all.map(|error| error.to_string()), E::NAMES);
    }

    #[test]
    fn leave_error_lists_its_words() {
        use LeaveError as E;
        let is_word = |error: &E| match error {
            E::Busy | E::Ended | E::NoTime | E::Stopping | E::HostFault => true,
            E::OtherVersion | E::TooLarge | E::NoDescriptor | E::PeerGone | E::Lost => true,
            E::Pack(_) | E::Refused(_) | E::NotStored(_) | E::System(_) => false,
        };
        let all = [
            E::Busy,
            E::Ended,
            E::NoTime,
            E::Stopping,
            E::HostFault,
            E::OtherVersion,
            E::TooLarge,
            E::NoDescriptor,
            E::PeerGone,
            E::Lost,
        ];
        assert!(all.iter().all(is_word));
        assert_eq!(all.map(|error| error.to_string()), E::NAMES);
    }

    #[test]
    fn store_error_lists_its_words() {
        use FdStoreError as E;
        let all = [E::Gone, E::Full];
        for error in all {
            match error {
                E::Gone | E::Full => {}
            }
        }
        assert_eq!(all.map(|error| error.to_string()), E::NAMES);
    }

    #[test]
    fn restore_error_lists_its_words() {
        use RestoreError as E;
        let is_word = |error: &E| match error {
            E::NoServer | E::OtherVersion | E::NoConnection | E::NoState => true,
            E::Stopping | E::TimedOut | E::NumberTaken => true,
            E::NotAdmitted(_) | E::Fault(_) | E::System(_) => false,
        };
        let all = [
            E::NoServer,
            E::NumberTaken,
            E::OtherVersion,
            E::NoConnection,
            E::NoState,
            E::Stopping,
            E::TimedOut,
        ];
        assert!(all.iter().all(is_word));
        assert_eq!(all.map(|error| error.to_string()), E::NAMES);
    }
}
