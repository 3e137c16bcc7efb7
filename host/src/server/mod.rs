//! Servers: starting one, its handle, and the sessions it knows.
//!
//! `Server::builder()` takes what a server is made of, `start` returns a [`ServerHandle`] as soon
//! as it listens, and all interaction with clients happens in the plugin.

mod blame;
mod bound;
mod breaker;
mod builder;
mod census;
mod checks;
mod course;
mod demand;
mod exclusive;
mod fleet;
mod guard;
mod handle;
mod host;
mod limits;
mod listening;
mod lock;
mod means;
mod newcomer;
mod plan_error;
mod prepare;
mod procure;
mod registry;
mod room;
mod service;
mod sessions;
#[cfg(test)]
mod simulation;
mod succession;
mod swap;
mod tenants;
mod terms;
mod together;
mod versions;
mod workers;

pub(crate) use blame::Blamed;
pub use bound::{Bound, Prepared};
pub use breaker::{BreakerLimits, BreakerState};
pub use builder::{MIN_READ_RATE_DEFAULT, Server, ServerBuilder, StartError, Timeouts};
pub(crate) use census::Alive;
pub use checks::{
    COPY_RANGE, CORE_INSTANCES_RANGE, DEADLINE_RANGE, HANDLES_RANGE, HIGH_WATER_RANGE,
    MEMORY_RANGE, STATE_RANGE, TABLE_ELEMENTS_RANGE, TIMEOUT_DEFAULT, TIMEOUT_RANGE,
    TIMERS_DEFAULT, WATERMARKS_DEFAULT,
};
pub(crate) use course::{Call, Welcome};
pub use course::{Newcomers, Notice, Occurrence, Status};
pub use fleet::{BoundFleet, Fleet, Plan, Reloaded};
pub use handle::{DATA_MAX_BYTES, Ending, ServerHandle, SteerError};
pub use host::{Host, HostConfig, HostError, PoolSeen};
pub use limits::{Limit, Origin, Quantity};
pub(crate) use listening::Listening;
pub use lock::{LOCK_HOLD_MAX, LOCK_WAIT_MAX, Lock, LockError};
pub use plan_error::{PlanCause, PlanError};
pub use prepare::Verified;
pub use procure::ProcureError;
pub use room::Promised;
pub(crate) use service::Service;
pub use service::{FAREWELL_MAX, HostNotice};
pub use sessions::SessionView;
pub use succession::{
    Door, Heir, Inheritance, LeftSession, LeftSocket, Shelf, Succeeded, hand_over, leave,
};
pub use swap::{SWAP_DEADLINE, SwapError, SwapPolicy, SwapReport, SwapSeen, SwapStage};
pub use tenants::{TENANT_MAX_BYTES, TenantLimits, TenantSeen};
pub use versions::{
    CanaryRules, CanarySeen, CanaryWish, Generation, HISTORY_MAX, HeldUp, How, RecordError,
    Standing, StateFolder, SwapRules, VERSIONS_MAX,
};
