//! Why an upgrade did not take place, on either side.

use std::io;

use crate::server::VersionsBusyError;
use crate::work::WorkError;

/// Why no new process serves. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError {
    /// Servers are being swapped.
    #[error(transparent)]
    Swaps(#[from] VersionsBusyError),
    /// The process is stopping.
    #[error("the process is stopping")]
    Stopping,
    /// A step of the offer was not done.
    #[error(transparent)]
    Work(#[from] WorkError),
    /// The new process ended before it served.
    #[error("the new process ended before it served")]
    PeerEnded,
    /// The new process ended right after it said that it serves.
    #[error("the new process said that it serves, and ended")]
    PeerLeft,
    /// The new process took too long.
    #[error("the new process did not serve in time")]
    PeerLate,
    /// The new process failed, and said why.
    #[error("{0}")]
    PeerFailed(String),
    /// The new process sent another message than an answer.
    #[error("the new process sent a message that this program does not know")]
    PeerForeign,
    /// The system refused something, or the channel failed.
    #[error(transparent)]
    System(io::Error),
}

impl From<io::Error> for OfferError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as K;
        match error.kind() {
            K::UnexpectedEof | K::BrokenPipe | K::ConnectionReset => Self::PeerEnded,
            K::WouldBlock | K::TimedOut => Self::PeerLate,
            _ => Self::System(error),
        }
    }
}

/// Why a new process did not take over. The old process serves on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TakeOverError {
    /// The channel to the old process failed, or no thread could be started.
    #[error(transparent)]
    System(#[from] io::Error),
    /// A message is none that this program knows.
    #[error(transparent)]
    Message(#[from] serde_json::Error),
    /// A message came where sockets were expected.
    #[error("expected sockets, found {0}")]
    NoSocket(String),
    /// More sockets came than a process may have.
    #[error("expected at most {0} sockets")]
    TooMany(usize),
}
