//! What the system leaves to the process while it runs: its limits may be lowered after the start.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::capacity::Capacity;

/// How often the memory of the process is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often the limits of the system are read, at most.
const LIMITS_EVERY: Duration = Duration::from_secs(1);
/// Memory that guests leave to the host: an eighth of what the process may have, at most this.
/// Instances that are promised leave half of it.
const MEMORY_RESERVE_MAX_BYTES: u64 = 128 << 20;

/// What was seen last. Each question looks again where the last look is old enough.
#[derive(Debug)]
pub(super) struct Pressure {
    /// Instances that the pools are made for, each with a stack.
    stacks: usize,
    looked: Mutex<Looked>,
    memory_slots: AtomicUsize,
    is_short: AtomicBool,
    is_critical: AtomicBool,
    /// Bytes that were granted to guests since the last look.
    granted: AtomicU64,
    /// So many of them are the reason for another look.
    granted_max: AtomicU64,
}

#[derive(Debug, Default)]
struct Looked {
    at: Option<Instant>,
    limits_at: Option<Instant>,
    memory_bytes: u64,
}

impl Pressure {
    /// For pools of so many instances. Looks for the first time when it is asked.
    pub(super) fn on_pool(stacks: usize) -> Self {
        Self {
            stacks,
            looked: Mutex::default(),
            memory_slots: AtomicUsize::new(usize::MAX),
            is_short: AtomicBool::new(false),
            is_critical: AtomicBool::new(false),
            granted: AtomicU64::new(0),
            granted_max: AtomicU64::new(0),
        }
    }

    /// So much is given to a guest. It is seen in the memory of the process only once it is written
    /// to, so that much of this is a reason to look again.
    pub(super) fn grants(&self, bytes: usize) {
        self.granted.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Memory slots that the process has mappings and address space for, as of the last look.
    pub(super) fn memory_slots(&self) -> usize {
        self.memory_slots.load(Ordering::Relaxed)
    }

    /// Whether guests have what they may of the memory of the process.
    pub(super) fn is_short_of_memory(&self) -> bool {
        self.look();
        self.is_short.load(Ordering::Relaxed)
    }

    /// Whether promised instances, too, have all that they may, as of the last look.
    pub(super) fn is_critical(&self) -> bool {
        self.is_critical.load(Ordering::Relaxed)
    }

    /// A thread that finds another one looking goes on with what is known.
    fn look(&self) {
        let Ok(mut looked) = self.looked.try_lock() else { return };
        let now = Instant::now();
        let is_old = |at: Option<Instant>, every| at.is_none_or(|at| now.duration_since(at) >= every);
        let granted = self.granted.load(Ordering::Relaxed) > self.granted_max.load(Ordering::Relaxed);
        if !granted && !is_old(looked.at, LOOK_EVERY) {
            return;
        }
        looked.at = Some(now);
        if is_old(looked.limits_at, LIMITS_EVERY) {
            let capacity = Capacity::now();
            looked.limits_at = Some(now);
            looked.memory_bytes = capacity.memory_bytes;
            self.memory_slots.store(capacity.memory_slots(self.stacks), Ordering::Relaxed);
        }
        let most = looked.memory_bytes;
        let reserve = (most / 8).min(MEMORY_RESERVE_MAX_BYTES);
        self.granted.store(0, Ordering::Relaxed);
        self.granted_max.store(reserve / 8, Ordering::Relaxed);
        let own = own_bytes().unwrap_or(0);
        self.is_short.store(own > most - reserve, Ordering::Relaxed);
        self.is_critical.store(own > most - reserve / 2, Ordering::Relaxed);
    }
}

/// Bytes of memory that the process has now, page tables included.
fn own_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let of = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    };
    Some((of("VmRSS:")? + of("VmPTE:").unwrap_or(0)) << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_process_is_not_short() {
        let pressure = Pressure::on_pool(1);
        assert!(!pressure.is_short_of_memory());
        assert!(pressure.memory_slots() > 0 && own_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
