//! Telemetry: each occurrence is one struct with one log line and one counter.
//!
//! Names of reasons are stable. Text of a peer or a plugin is escaped before it is logged. Bytes of
//! a session are never logged. Names of metrics are in `control/metrics.rs`.

mod bucket;
mod counters;
mod escape;
mod events;
mod latencies;
mod log;
mod revision_metrics;
mod swaps;

pub use bucket::Bucket;
pub use counters::{Counters, Snapshot};
pub use escape::drives_reader;
pub use events::{
    AcceptPaused, AcceptRepaired, AcceptStopped, BreakerTripped, ControlBroken, ControlOpened,
    ControlReopened, ControlRequest, CredentialsRenewed, Faulted, HandshakeFailed, LanesStarted,
    LockExpired, NotListening, PluginOutput, PluginPulled, Refused, ServerNotice, ServerStarted,
    SessionEnded, SessionNotRestored, SessionStarted,
};
pub use latencies::Latencies;
pub use log::{count_dropped_lines, dropped_lines};
pub use revision_metrics::{
    ClassStatus, KeptInputs, RevisionMetrics, RevisionMetricsStatus, Spent,
};
pub use swaps::{
    CanaryBegan, CanaryEnded, FaultFigures, FaultReplayed, MigrationFailed, NotRecorded,
    PluginSwapped, SessionsMoved, SwapRefused, SwapRolledBack,
};
