//! One accepted client from its first event to its last.
//!
//! - [`machine`](Machine) decides what comes next. It has no socket, no clock and no plugin.
//! - The driver around it owns all three and decides nothing.
//! - [`SessionHandle`] is the state that the plugin's host calls and other sessions reach.

mod alarm;
mod buffers;
mod deadlines;
mod driver;
mod evidence;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod handle;
mod held;
mod live_stats;
mod machine;
mod mailbox;
mod pause_gate;
mod procedure_slot;
mod run;
mod send_buffer;
#[cfg(test)]
mod simulation;
mod snapshot;
#[cfg(test)]
pub(crate) mod test_support;
mod timers;

pub use deadlines::{Deadlines, MIN_RATE_WINDOW};
pub use driver::{Ended, Session};
pub use evidence::{FaultEvidence, Fidelity, Saved};
pub use handle::{SessionConfig, SessionHandle, SessionStats, Watermarks};
pub use machine::{Ending, How, Machine, Occasion, Step};
pub use pause_gate::PauseGate;
pub use procedure_slot::{MigrateOutcome, ProcedureSlot};
pub use snapshot::{PackError, SessionMeta, SessionSnapshot, Times, TransferReply};
