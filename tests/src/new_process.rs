//! The new process of an upgrade, which ends with its test.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The new process. Dropping this kills it.
#[derive(Debug)]
pub struct NewProcess(pub Pid);

impl NewProcess {
    /// The process that the answer to an upgrade names.
    ///
    /// # Panics
    /// If the answer names none.
    #[must_use]
    pub fn of(answer: &Value) -> Self {
        let id = answer["process"].as_i64().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw).unwrap_or_else(|| panic!("a process in {answer}")))
    }
}

impl Drop for NewProcess {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}
