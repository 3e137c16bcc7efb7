//! Who runs when, where, and for how much: lanes between which the kernel decides, turns within a
//! lane, and the budgets of events.

mod account;
mod budgets;
mod cpu;
mod lane;
mod policy;
pub mod stalls;
mod turn;
mod turns;
mod turnstile;
mod work;

pub use account::{Account, AccountSeen, MAIL_MAX_BYTES, Shares};
pub use budgets::{BudgetChange, Budgets};
pub(crate) use cpu::{Stretch, nanoseconds, thread_time};
pub use lane::{Lane, Seat};
pub use policy::{Standing, take, take_usher};
pub use stalls::Moment;
pub use turn::Turn;
pub use turnstile::{Place, TurnsSeen, Turnstile, here};
pub(crate) use work::{ACCEPT_COST, CALL_COST, LOG_LINE_COST, Work, charged, sending};
