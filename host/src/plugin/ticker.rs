//! The clock of running guests: a thread that moves the engine's epoch while somebody runs, and
//! sleeps otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

/// How often a running guest is interrupted to let others run and to have its time counted.
pub(super) const TICK: Duration = Duration::from_millis(1);
/// Ticks without any guest after which the thread sleeps.
const QUIET_TICKS: u32 = 100;

/// Wakes the clock. Cheap to call when it is awake: one load.
#[derive(Debug, Clone)]
pub(super) struct Ticker {
    active: Arc<AtomicBool>,
    thread: Thread,
}

impl Ticker {
    /// Starts the thread. It ends when the engine does.
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
                    // A wake-up between the swap and here is kept as a token, so none is lost. The
                    // time-out is for an engine that is gone.
                    thread::park_timeout(Duration::from_secs(1));
                }
            }
        };
        let handle = thread::Builder::new().name("wharf-epoch".into()).spawn(run)?;
        Ok(Self { active, thread: handle.thread().clone() })
    }

    /// A guest runs.
    pub(super) fn touch(&self) {
        if !self.active.load(Ordering::Relaxed) {
            self.active.store(true, Ordering::Release);
            self.thread.unpark();
        }
    }
}
