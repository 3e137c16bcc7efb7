//! The state of a running server, which its tasks share. Connections, sessions, operators and the
//! rollout of versions meet here. Starting and steering a server is in [`server`](crate::server).

mod breaker;
mod config;
mod listening;
mod live_sessions;
mod lock;
mod new_session;
mod registry;
mod shared;
mod state;
mod task_tracker;
mod tenants;
mod workers;

pub(crate) use self::breaker::Breaker;
pub use self::breaker::{BreakerLimits, BreakerState};
pub(crate) use self::config::ServerConfig;
pub(crate) use self::listening::Listening;
pub(crate) use self::lock::Holder;
pub use self::lock::{LOCK_HOLD_MAX, LOCK_WAIT_MAX, Lock, LockError};
pub(crate) use self::registry::{Member, NAME_CHARS_MAX, Registry};
pub(crate) use self::shared::Service;
pub use self::shared::{FAREWELL_MAX, HostNotice};
pub(crate) use self::state::{AcceptMode, Directive, ServerState, closed, followed};
pub use self::state::{NewConnections, Notice, Occurrence, Status};
pub(crate) use self::task_tracker::{TaskGuard, TaskTracker};
pub use self::tenants::{TENANT_MAX_BYTES, TenantLimits, TenantStatus};
pub(crate) use self::tenants::{Tenant, Tenants};
pub(crate) use self::workers::Workers;
