//! One accepted client from its first event to its last.
//!
//! [`machine`](Machine) decides what comes next and has no socket, no clock and no plugin; the
//! driver around it owns all three and decides nothing. The state that the plugin's host calls and
//! other sessions reach is a [`Line`].

mod alarm;
mod baggage;
mod buffers;
mod clock;
mod driver;
mod evidence;
mod held;
mod latch;
mod line;
mod machine;
mod mailbox;
mod outbox;
mod pulse;
mod run;
#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod stand_in;
mod successor;
mod timers;

pub use baggage::{Baggage, Parting, Times, Traveller};
pub use clock::{Deadlines, MIN_RATE_WINDOW};
pub use driver::{Ended, Session};
pub use evidence::{Evidence, Fidelity, Saved};
pub use latch::Latch;
pub use line::{Glance, Line, LineConfig, Watermarks};
pub use machine::{Ending, How, Machine, Occasion, Step};
pub use successor::{Handed, Successor};
