//! Scheduling: lanes, between which the kernel decides; run permits inside a lane; and the budgets
//! of events.

mod budgets;
mod cpu;
mod fair_queue;
mod lane;
mod policy;
mod quota;
mod run_permit;
mod run_queue;
pub mod stalls;
mod work;

pub use budgets::{BudgetChange, Budgets};
pub(crate) use cpu::{Stretch, nanoseconds, thread_time};
pub use lane::{Lane, Placement};
pub use policy::{SchedParams, take, take_rescue};
pub use quota::{MAIL_MAX_BYTES, Quota, QuotaLimits, QuotaStatus};
pub use run_permit::RunPermit;
pub use run_queue::{RunQueue, RunQueueStatus, WorkerId, here};
pub use stalls::Moment;
pub(crate) use work::{ACCEPT_COST, CALL_COST, LOG_LINE_COST, Work, charged, sending};
