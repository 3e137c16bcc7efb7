//! Pressure: how near the process is to the system's limits, which may be lowered after the start.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::capacity::Capacity;
use super::pool_sizes::reserve_of;

/// Least time between two looks at the memory of the process.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Least time between two reads of the system's limits.
const LIMITS_EVERY: Duration = Duration::from_secs(1);

/// Bytes of the process's status file that are read. The needed lines are within the first two
/// thousand.
const STATUS_BYTES: usize = 4 << 10;

/// The state of the process at the last look. A query looks again if the last look is old enough.
#[derive(Debug)]
pub(super) struct Pressure {
    /// Instances that the pools are made for, each with a stack.
    stacks: usize,
    /// Folder with the files of the system.
    root: PathBuf,
    looked: Mutex<Looked>,
    memory_slots: AtomicUsize,
    is_short: AtomicBool,
    is_critical: AtomicBool,
    /// Bytes that were granted to guests since the last look.
    granted: AtomicU64,
    /// Granted bytes that lead to another look before its time.
    granted_max: AtomicU64,
    /// Bytes of memory that live instances have together.
    live: AtomicU64,
    data: Data,
}

/// What `ulimit -d` leaves. The limit counts private writable memory, used or not.
#[derive(Debug, Default)]
struct Data {
    /// By the system's count, memory beyond the promised may not grow.
    is_short: AtomicBool,
    is_critical: AtomicBool,
    /// By the memory of live instances, there is no room for more than promised.
    ///
    /// The system counts the slots of ended instances until others use them. That alone is no
    /// reason to refuse new instances.
    is_full: AtomicBool,
    is_overfull: AtomicBool,
}

impl Data {
    /// Sets the flags from the bytes that the system counts (`used`), and those of the host and its
    /// live instances (`lives`).
    fn judge(&self, most: Option<u64>, used: u64, lives: u64) {
        let most = most.unwrap_or(u64::MAX);
        let reserve = reserve_of(most);
        self.is_short.store(used > most - reserve, Ordering::Relaxed);
        self.is_critical.store(used > most - reserve / 2, Ordering::Relaxed);
        self.is_full.store(lives > most - reserve, Ordering::Relaxed);
        self.is_overfull.store(lives > most - reserve / 2, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Looked {
    at: Option<Instant>,
    limits_at: Option<Instant>,
    capacity: Capacity,
    /// Open from the start, because there may be no descriptor for the file later.
    status: Option<File>,
    /// Memory of the process in bytes. An upper bound if the status file cannot be read.
    own_bytes: u64,
    /// Bytes that the process has of `ulimit -d`.
    data_bytes: u64,
    /// The host's own part of that, at the first look.
    data_base_bytes: Option<u64>,
}

impl Pressure {
    /// State for pools of `stacks` instances. The first query looks for the first time.
    pub(super) fn on_pool(stacks: usize) -> Self {
        Self::of_system(Path::new("/"), Capacity::now(), stacks)
    }

    fn of_system(root: &Path, capacity: Capacity, stacks: usize) -> Self {
        let status = open_status(root);
        let (own_bytes, data_bytes, data_base_bytes) = (0, 0, None);
        let (at, limits_at) = (None, None);
        let looked =
            Looked { at, limits_at, capacity, status, own_bytes, data_bytes, data_base_bytes };
        Self {
            stacks,
            root: root.to_owned(),
            looked: Mutex::new(looked),
            memory_slots: AtomicUsize::new(usize::MAX),
            is_short: AtomicBool::new(false),
            is_critical: AtomicBool::new(false),
            granted: AtomicU64::new(0),
            granted_max: AtomicU64::new(0),
            live: AtomicU64::new(0),
            data: Data::default(),
        }
    }

    /// Counts `bytes` as granted to a guest. The process's memory shows them only once the guest
    /// writes to them, so many granted bytes are a reason to look again.
    pub(super) fn grants(&self, bytes: usize) {
        self.granted.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts a growth of an instance's memory by `bytes`.
    pub(super) fn grew(&self, bytes: usize) {
        self.live.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts `bytes` of an instance's memory as free again.
    pub(super) fn shrank(&self, bytes: usize) {
        self.live.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    /// Memory slots that the process has mappings and address space for, as of the last look.
    pub(super) fn memory_slots(&self) -> usize {
        self.memory_slots.load(Ordering::Relaxed)
    }

    /// Whether guests have all that they may have of the process's memory.
    pub(super) fn is_short_of_memory(&self) -> bool {
        self.look(Instant::now());
        self.is_short.load(Ordering::Relaxed) || self.data.is_full.load(Ordering::Relaxed)
    }

    /// Whether promised instances, too, have all that they may have, as of the last look.
    pub(super) fn is_critical(&self) -> bool {
        self.is_critical.load(Ordering::Relaxed) || self.data.is_overfull.load(Ordering::Relaxed)
    }

    /// Whether the memory of an instance may not grow beyond the promised.
    pub(super) fn stops_growth(&self) -> bool {
        self.is_short_of_memory() || self.data.is_short.load(Ordering::Relaxed)
    }

    /// Whether no memory of an instance may grow at all, as of the last look.
    pub(super) fn stops_all_growth(&self) -> bool {
        self.is_critical() || self.data.is_critical.load(Ordering::Relaxed)
    }

    /// Looks at the process if the last look is old enough. If another thread is looking, this one
    /// uses the last result.
    fn look(&self, now: Instant) {
        let Ok(mut looked) = self.looked.try_lock() else { return };
        let is_old =
            |at: Option<Instant>, every| at.is_none_or(|at| now.duration_since(at) >= every);
        let granted =
            self.granted.load(Ordering::Relaxed) > self.granted_max.load(Ordering::Relaxed);
        if !granted && !is_old(looked.at, LOOK_EVERY) {
            return;
        }
        looked.at = Some(now);
        if is_old(looked.limits_at, LIMITS_EVERY) {
            looked.capacity = Capacity::read(&self.root, Some(looked.capacity));
            looked.limits_at = Some(now);
            self.memory_slots.store(looked.capacity.memory_slots(self.stacks), Ordering::Relaxed);
        }
        let (most, data_most) = (looked.capacity.memory_bytes, looked.capacity.data_bytes);
        let reserve = reserve_of(most);
        let granted = self.granted.swap(0, Ordering::Relaxed);
        let data_reserve = data_most.map_or(u64::MAX, reserve_of);
        self.granted_max.store(reserve.min(data_reserve) / 8, Ordering::Relaxed);
        if looked.status.is_none() {
            looked.status = open_status(&self.root);
        }
        // If the status cannot be read, all granted bytes count, and freed bytes are not
        // subtracted.
        let seen = looked.status.as_ref().and_then(Memory::of);
        let unseen = |before: u64| before.saturating_add(granted);
        looked.own_bytes = seen.map_or(unseen(looked.own_bytes), |seen| seen.own_bytes);
        looked.data_bytes = seen.map_or(unseen(looked.data_bytes), |seen| seen.data_bytes);
        let live = self.live.load(Ordering::Relaxed);
        let used = looked.data_bytes;
        let base = *looked.data_base_bytes.get_or_insert(used.saturating_sub(live));
        self.data.judge(data_most, used, base.saturating_add(live));
        let own = looked.own_bytes;
        self.is_short.store(own > most - reserve, Ordering::Relaxed);
        self.is_critical.store(own > most - reserve / 2, Ordering::Relaxed);
    }
}

fn open_status(root: &Path) -> Option<File> {
    File::open(root.join("proc/self/status")).ok()
}

/// Memory of the process.
#[derive(Debug, Clone, Copy)]
struct Memory {
    /// Resident pages now, and page tables.
    own_bytes: u64,
    /// Private writable memory, which `ulimit -d` limits.
    data_bytes: u64,
}

impl Memory {
    fn of(status: &File) -> Option<Self> {
        let mut bytes = [0; STATUS_BYTES];
        let length = status.read_at(&mut bytes, 0).ok()?;
        let text = String::from_utf8_lossy(&bytes[..length]);
        let of = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
        };
        let own_bytes = of("VmRSS:")? + of("VmPTE:").unwrap_or(0);
        Some(Self { own_bytes, data_bytes: of("VmData:").unwrap_or(0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::capacity::tests::Root;

    #[test]
    fn quiet_process_is_not_short() {
        let pressure = Pressure::on_pool(1);
        assert!(!pressure.is_short_of_memory() && !pressure.is_critical());
        let looked = pressure.looked.lock().expect("it");
        assert!(
            pressure.memory_slots() > 0
                && looked.own_bytes > 1 << 20
                && looked.data_bytes > 1 << 20
        );
    }

    /// A system with 1 GiB, of which the process has `own_mib` MiB.
    fn system(own_mib: u64) -> (Root, Pressure) {
        let folder = Root::new();
        let root = folder.path();
        std::fs::create_dir_all(root.join("proc/self")).expect("folders");
        std::fs::write(root.join("proc/meminfo"), "MemTotal: 1048576 kB\n").expect("a file");
        std::fs::write(root.join("proc/self/cgroup"), "0::/\n").expect("a file");
        let status = format!("Name:\twharf\nVmRSS:\t{} kB\nVmPTE:\t4 kB\n", own_mib << 10);
        std::fs::write(root.join("proc/self/status"), status).expect("a file");
        let pressure = Pressure::of_system(root, Capacity::read(root, None), 1);
        (folder, pressure)
    }

    /// Makes all files unreadable: open ones give nothing, and none can be opened.
    fn blind(root: &Path) {
        for file in ["proc/meminfo", "proc/self/cgroup", "proc/self/status"] {
            File::create(root.join(file)).expect("an empty file");
            std::fs::remove_file(root.join(file)).expect("removed");
            std::fs::create_dir(root.join(file)).expect("a folder");
        }
    }

    #[test]
    fn blindness_never_ends_a_shortage() {
        for own_mib in [100, 890, 900, 950, 970, 1_000] {
            let (folder, pressure) = system(own_mib);
            let seen = || {
                (
                    pressure.is_short.load(Ordering::Relaxed),
                    pressure.is_critical.load(Ordering::Relaxed),
                )
            };
            let start = Instant::now();
            pressure.look(start);
            let before = seen();
            assert_eq!(before, (own_mib >= 900, own_mib >= 970), "{own_mib}");
            blind(folder.path());
            for seconds in 2..6 {
                pressure.look(start + Duration::from_secs(seconds));
                assert_eq!(seen(), before, "{own_mib} MiB, after {seconds} seconds");
            }
        }
    }

    #[test]
    fn unseen_grants_count_in_full() {
        let (folder, pressure) = system(600);
        let start = Instant::now();
        pressure.look(start);
        blind(folder.path());
        for step in 1..=5_u64 {
            pressure.grants(70 << 20);
            pressure.look(start + Duration::from_millis(step * 100));
            let short = 600 + step * 70 > 896;
            assert_eq!(pressure.is_short.load(Ordering::Relaxed), short, "{step}");
        }
    }

    #[test]
    fn moved_file_is_read_as_it_is_open() {
        let (folder, pressure) = system(100);
        pressure.look(Instant::now());
        let status = folder.path().join("proc/self/status");
        std::fs::write(&status, "VmRSS:\t1000000 kB\n").expect("a file");
        std::fs::rename(&status, folder.path().join("elsewhere")).expect("moved");
        pressure.look(Instant::now() + LOOK_EVERY);
        assert!(pressure.is_critical.load(Ordering::Relaxed));
    }

    #[test]
    fn data_limit_leaves_a_reserve() {
        let data = Data::default();
        let seen = || {
            [&data.is_short, &data.is_critical, &data.is_full, &data.is_overfull]
                .map(|is| is.load(Ordering::Relaxed))
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
    }
}
