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
    /// Bytes of memory that live instances have together.
    live: AtomicU64,
    data: Data,
}

/// What `ulimit -d` leaves. It counts private memory that can be written to, used or not.
#[derive(Debug, Default)]
struct Data {
    /// By what the system counts: growths wait.
    is_short: AtomicBool,
    is_critical: AtomicBool,
    /// By what live instances have: instances wait. Slots of instances that are gone count for the
    /// system until others use them, and that is no reason to let nothing in.
    is_full: AtomicBool,
    is_overfull: AtomicBool,
}

impl Data {
    /// By these bytes that the system counts, and these that are in use.
    fn judge(&self, most: Option<u64>, used: u64, lives: u64) {
        let most = most.unwrap_or(u64::MAX);
        let reserve = reserve_of(most);
        self.is_short.store(used > most - reserve, Ordering::Relaxed);
        self.is_critical.store(used > most - reserve / 2, Ordering::Relaxed);
        self.is_full.store(lives > most - reserve, Ordering::Relaxed);
        self.is_overfull.store(lives > most - reserve / 2, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Looked {
    at: Option<Instant>,
    limits_at: Option<Instant>,
    memory_bytes: u64,
    /// `ulimit -d`, and what the process last had of it.
    data_max_bytes: Option<u64>,
    data_bytes: u64,
    /// What it had of that for itself when it was first looked at.
    data_base_bytes: Option<u64>,
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
            live: AtomicU64::new(0),
            data: Data::default(),
        }
    }

    /// So much is given to a guest. It is seen in the memory of the process only once it is written
    /// to, so that much of this is a reason to look again.
    pub(super) fn grants(&self, bytes: usize) {
        self.granted.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The memory of an instance has grown by so much.
    pub(super) fn grew(&self, bytes: usize) {
        self.live.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// So much of it is gone again.
    pub(super) fn shrank(&self, bytes: usize) {
        self.live.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    /// Memory slots that the process has mappings and address space for, as of the last look.
    pub(super) fn memory_slots(&self) -> usize {
        self.memory_slots.load(Ordering::Relaxed)
    }

    /// Whether guests have what they may of the memory of the process.
    pub(super) fn is_short_of_memory(&self) -> bool {
        self.look();
        self.is_short.load(Ordering::Relaxed) || self.data.is_full.load(Ordering::Relaxed)
    }

    /// Whether promised instances, too, have all that they may, as of the last look.
    pub(super) fn is_critical(&self) -> bool {
        self.is_critical.load(Ordering::Relaxed) || self.data.is_overfull.load(Ordering::Relaxed)
    }

    /// Whether no memory of an instance beyond the promised may grow.
    pub(super) fn stops_growth(&self) -> bool {
        self.is_short_of_memory() || self.data.is_short.load(Ordering::Relaxed)
    }

    /// Whether none may grow at all, as of the last look.
    pub(super) fn stops_all_growth(&self) -> bool {
        self.is_critical() || self.data.is_critical.load(Ordering::Relaxed)
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
            looked.data_max_bytes = capacity.data_bytes;
            self.memory_slots.store(capacity.memory_slots(self.stacks), Ordering::Relaxed);
        }
        let most = looked.memory_bytes;
        let reserve = reserve_of(most);
        self.granted.store(0, Ordering::Relaxed);
        let data_reserve = looked.data_max_bytes.map_or(u64::MAX, reserve_of);
        self.granted_max.store(reserve.min(data_reserve) / 8, Ordering::Relaxed);
        self.look_at_data(&mut looked);
        let own = own_bytes().unwrap_or(0);
        self.is_short.store(own > most - reserve, Ordering::Relaxed);
        self.is_critical.store(own > most - reserve / 2, Ordering::Relaxed);
    }

    /// Keeps what was seen last where the system does not say.
    fn look_at_data(&self, looked: &mut Looked) {
        let live = self.live.load(Ordering::Relaxed);
        if looked.data_max_bytes.is_some() || looked.data_base_bytes.is_none() {
            looked.data_bytes = data_bytes().unwrap_or(looked.data_bytes);
        }
        let used = looked.data_bytes;
        let base = *looked.data_base_bytes.get_or_insert(used.saturating_sub(live));
        self.data.judge(looked.data_max_bytes, used, base.saturating_add(live));
    }
}

/// What guests leave of so much.
pub(super) fn reserve_of(most: u64) -> u64 {
    (most / 8).min(MEMORY_RESERVE_MAX_BYTES)
}

/// Bytes of private memory that can be written to, which `ulimit -d` limits.
fn data_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmData:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
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
        assert!(!pressure.is_short_of_memory() && !pressure.is_critical());
        assert!(pressure.memory_slots() > 0 && own_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn data_limit_leaves_a_reserve() {
        let data = Data::default();
        let seen = || {
            [&data.is_short, &data.is_critical, &data.is_full, &data.is_overfull].map(|is| is.load(Ordering::Relaxed))
        };
        for most in (1_u64 << 20..4 << 30).step_by((97 << 20) + 1) {
            let reserve = reserve_of(most);
            for (used, short, critical) in [
                (most - reserve, false, false),
                (most - reserve + 1, true, false),
                (most - reserve / 2, true, false),
                (most - reserve / 2 + 1, true, true),
                (most * 2, true, true),
            ] {
                data.judge(Some(most), used, 0);
                assert_eq!(seen(), [short, critical, false, false], "{used} of {most}");
                data.judge(Some(most), 0, used);
                assert_eq!(seen(), [false, false, short, critical], "{used} of {most}");
                data.judge(None, used, used);
                assert_eq!(seen(), [false; 4]);
            }
        }
        assert!(data_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
