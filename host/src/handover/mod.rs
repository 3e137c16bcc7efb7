//! What one process leaves to the next: listening sockets, control endpoints and sessions.
//!
//! They leave a process for a new process, by the messages of an upgrade, or for the descriptor
//! store. Nothing here knows a server.

mod detached;
mod error;
mod fd_store;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod listener;
mod messages;
mod packed;

pub use self::detached::DetachedSession;
pub use self::error::FdStoreError;
pub(crate) use self::error::{LeaveError, RestoreError};
pub use self::fd_store::FdStore;
pub(crate) use self::fd_store::detach;
pub use self::listener::InheritedListener;
pub(crate) use self::listener::OpenSocket;
pub use self::messages::ControlEndpoint;
pub(crate) use self::messages::{ToNew, ToOld, send_message};
pub use self::packed::SessionsSent;
pub(crate) use self::packed::{PackedSession, SendSession};
