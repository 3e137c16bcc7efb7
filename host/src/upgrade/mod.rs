//! Upgrade: a new process takes the place of this one. It gets the listening sockets first, and
//! then the sessions that can move.
//!
//! The old process offers and the new process takes. Until the new process reports that it serves,
//! nothing has changed. The command line starts the new process and names the channel. A process
//! without a new one beside it leaves its sessions in the descriptor store.

mod detach_sessions;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod new_process;
mod old_process;
mod receive_sessions;
mod send_sessions;

pub use self::detach_sessions::detach_sessions;
pub use self::error::{OfferError, TakeOverError};
pub use self::new_process::UpgradeClient;
pub use self::old_process::{ReadyPeer, offer_sockets};
pub use crate::handover::{
    ControlEndpoint, DetachedSession, FdStore, FdStoreError, InheritedListener, SessionsSent,
};
