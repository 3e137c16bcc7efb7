//! Servers: start, handle, and the registry of sessions.
//!
//! `Server::builder()` returns a specification, and its `start` returns a [`ServerHandle`] once the
//! server listens. All interaction with clients happens in the plugin.

mod attach;
mod bound;
mod builder;
mod checks;
mod handle;
mod host;
mod limits;
mod prepare;
mod room;
mod sessions;
mod versions;

pub use bound::{Bound, Prepared};
pub use builder::{MIN_READ_RATE_DEFAULT, Server, ServerBuilder, StartError, Timeouts};
pub use checks::{
    COPY_RANGE, CORE_INSTANCES_RANGE, DEADLINE_RANGE, HANDLES_RANGE, HIGH_WATER_RANGE,
    MEMORY_RANGE, STATE_RANGE, TABLE_ELEMENTS_RANGE, TIMEOUT_DEFAULT, TIMEOUT_RANGE,
    TIMERS_DEFAULT, WATERMARKS_DEFAULT,
};
pub use handle::{DATA_MAX_BYTES, ServerEnding, ServerHandle, SteerError, VersionsBusyError};
pub use host::{Host, HostConfig, HostError, PoolStatus};
pub use limits::{Limit, LimitOrigin, Quantity};
pub(crate) use prepare::Preloaded;
pub use prepare::Verified;
pub use room::Promised;
pub use sessions::SessionView;

pub use crate::rollout::{
    CanaryOptions, CanaryRules, CanaryStatus, FetchError, HISTORY_MAX, HeldUp, RecordError,
    Revision, RevisionOrigin, RevisionState, SWAP_DEADLINE, StateDir, SwapError, SwapPhase,
    SwapPolicy, SwapProgress, SwapReport, SwapRules, TooManyWaitingError, UnknownHeldUpError,
    UnknownSwapPolicyError, VERSIONS_MAX,
};
pub use crate::service::{
    BreakerLimits, BreakerState, FAREWELL_MAX, HostNotice, LOCK_HOLD_MAX, LOCK_WAIT_MAX, Lock,
    LockError, NewConnections, Notice, Occurrence, Status, TENANT_MAX_BYTES, TenantLimits,
    TenantStatus,
};
