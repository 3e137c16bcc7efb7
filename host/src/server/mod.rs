//! Servers: starting one, its handle, and the sessions it knows.
//!
//! `Server::builder()` takes what a server is made of, `start` returns a [`ServerHandle`] as soon as it listens, and
//! all interaction with clients happens in the plugin.

mod bound;
mod breaker;
mod builder;
mod census;
mod checks;
mod course;
mod fleet;
mod handle;
mod host;
mod lanes;
mod lock;
mod registry;
mod service;
mod sessions;

pub use bound::{Bound, Prepared};
pub use breaker::{BreakerLimits, BreakerState};
pub use builder::{Server, ServerBuilder, StartError, Timeouts};
pub(crate) use census::Alive;
pub use checks::{
    COPY_RANGE, DEADLINE_RANGE, HANDLES_RANGE, HIGH_WATER_RANGE, MEMORY_RANGE, TIMEOUT_DEFAULT, TIMEOUT_RANGE,
    WATERMARKS_DEFAULT,
};
pub(crate) use course::{Call, Welcome};
pub use course::{Newcomers, Notice, Occurrence, Status};
pub use fleet::{Fleet, Plan, PlanError, Reloaded};
pub use handle::{DATA_MAX_BYTES, Ending, ServerHandle, SteerError};
pub use host::{Host, HostConfig, HostError};
pub use lock::{LOCK_HOLD_MAX, LOCK_WAIT_MAX, Lock, LockError};
pub(crate) use service::Service;
pub use service::{FAREWELL_MAX, HostNotice};
pub use sessions::SessionView;
