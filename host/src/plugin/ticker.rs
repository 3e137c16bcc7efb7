//! The clock of running guests: a thread that moves the engine's epoch while guests run, and sleeps
//! otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

/// Interval at which a running guest is interrupted, so that others can run and its time is
/// counted.
pub(super) const TICK: Duration = Duration::from_millis(1);
/// Ticks without any guest after which the thread goes to sleep.
const QUIET_TICKS: u32 = 100;

/// Wakes the ticker's thread. If the thread is awake, a call costs one load.
#[derive(Debug, Clone)]
pub(super) struct Ticker {
    active: Arc<AtomicBool>,
    thread: Thread,
}

impl Ticker {
    /// Starts the thread, which ends with the engine.
    pub(super) fn start(engine: &wasmtime::Engine) -> std::io::Result<Self> {
        let active = Arc::new(AtomicBool::new(false));
        let (weak, seen) = (engine.weak(), Arc::clone(&active));
        let run = move || {
            loop {
                for _ in 0..QUIET_TICKS {
                    thread::sleep(TICK);
                    let Some(engine) = weak.upgrade() else { return };
                    engine.increment_epoch();
                }
                if !seen.swap(false, Ordering::AcqRel) {
                    // If `touch` wakes the thread between the swap and here, the token makes `park`
                    // return at once. The timeout lets the thread notice that its engine is gone.
                    thread::park_timeout(Duration::from_secs(1));
                }
            }
        };
        let handle = thread::Builder::new().name("wharf-epoch".into()).spawn(run)?;
        Ok(Self { active, thread: handle.thread().clone() })
    }

    /// Reports that a guest runs.
    pub(super) fn touch(&self) {
        if !self.active.load(Ordering::Relaxed) {
            self.active.store(true, Ordering::Release);
            self.thread.unpark();
        }
    }
}
