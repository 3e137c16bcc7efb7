//! One accepted client from its first event to its last.
//!
//! [`machine`](Machine) decides what comes next and has no socket, no clock and no plugin; the driver around it owns
//! all three and decides nothing. The state that the plugin's host calls and other sessions reach is a [`Line`].

mod buffers;
mod driver;
mod line;
mod machine;
mod mailbox;
mod outbox;
mod timers;

pub use driver::{Ended, Session};
pub use line::{Line, LineConfig, Watermarks};
pub use machine::{Ending, How, Machine, Occasion, Step};
pub use timers::TIMERS_MAX;
