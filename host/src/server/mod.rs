//! Servers: start, handle, and the registry of sessions.
//!
//! `Server::builder()` returns a specification, and its `start` returns a [`ServerHandle`] once the
//! server listens. All interaction with clients happens in the plugin.

mod bound;
mod breaker;
mod builder;
mod capacity_check;
mod checks;
mod config;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod handle;
mod host;
mod limits;
mod listening;
mod live_sessions;
mod lock;
mod new_session;
mod plan_error;
mod prepare;
mod registry;
mod room;
mod servers;
mod service;
mod sessions;
#[cfg(test)]
mod simulation;
mod state;
mod task_tracker;
mod tenants;
mod upgrade;
mod versions;
mod workers;

pub use bound::{Bound, Prepared};
pub use breaker::{BreakerLimits, BreakerState};
pub use builder::{MIN_READ_RATE_DEFAULT, Server, ServerBuilder, StartError, Timeouts};
pub use checks::{
    COPY_RANGE, CORE_INSTANCES_RANGE, DEADLINE_RANGE, HANDLES_RANGE, HIGH_WATER_RANGE,
    MEMORY_RANGE, STATE_RANGE, TABLE_ELEMENTS_RANGE, TIMEOUT_DEFAULT, TIMEOUT_RANGE,
    TIMERS_DEFAULT, WATERMARKS_DEFAULT,
};
pub use handle::{DATA_MAX_BYTES, ServerEnding, ServerHandle, SteerError};
pub use host::{Host, HostConfig, HostError, PoolStatus};
pub use limits::{Limit, LimitOrigin, Quantity};
pub(crate) use listening::Listening;
pub use lock::{LOCK_HOLD_MAX, LOCK_WAIT_MAX, Lock, LockError};
pub use plan_error::{PlanCause, PlanError};
pub use prepare::Verified;
pub use room::Promised;
pub use servers::{BoundServers, Plan, Reloaded, Servers};
pub(crate) use service::Service;
pub use service::{FAREWELL_MAX, HostNotice};
pub use sessions::SessionView;
pub(crate) use state::{AcceptMode, Directive};
pub use state::{NewConnections, Notice, Occurrence, Status};
pub(crate) use task_tracker::TaskGuard;
pub use tenants::{TENANT_MAX_BYTES, TenantLimits, TenantStatus};
pub use upgrade::{
    ControlEndpoint, DetachedSession, FdStore, InheritedListener, ReadyPeer, SessionsSent,
    UpgradeClient, leave, offer_sockets,
};

pub use crate::rollout::{
    CanaryOptions, CanaryRules, CanaryStatus, FetchError, HISTORY_MAX, HeldUp, RecordError,
    Revision, RevisionOrigin, RevisionState, SWAP_DEADLINE, StateFolder, SwapError, SwapPolicy,
    SwapProgress, SwapReport, SwapRules, SwapStage, VERSIONS_MAX,
};
