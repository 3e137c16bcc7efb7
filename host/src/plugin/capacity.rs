//! Capacity: how many instances and clients this machine has room for. [`Capacity`] prints the
//! arithmetic, for operators who ask for more.

use std::fmt;
use std::fs::read_to_string;
use std::io;
use std::path::Path;
use std::sync::Mutex;

use rustix::process::{Resource, getrlimit};

use super::pool_sizes::{
    FIBER_STACK_BYTES, MAPS_PER_MEMORY, MAPS_PER_STACK, MEMORIES_PER_INSTANCE_MAX,
    MEMORY_SLOT_BYTES, MEMORY_SLOTS_MAX, SESSIONS_CEILING, SPARE_SLOTS, TABLE_SLOT_BYTES,
    TABLES_PER_INSTANCE_MAX, reserve_of,
};
use crate::locks::lock;

/// Kernel mappings of an instance with one memory, at most.
const MAPS_PER_INSTANCE: usize = MAPS_PER_STACK + MAPS_PER_MEMORY;
/// Mappings and descriptors that the process needs for itself and for spare instances.
const MAPS_RESERVE: usize = 4_096;
const DESCRIPTORS_RESERVE: usize = 192;
/// Address space that the process needs for itself. Counts if address space is limited.
const ADDRESS_RESERVE_BYTES: u64 = 8 << 30;
/// Least memory of a session with an instance, all parts together.
const SESSION_BYTES: u64 = 48 << 10;
/// Private memory that the pools keep for an instance from the start: its stack and its tables.
const POOLED_BYTES: u64 =
    FIBER_STACK_BYTES as u64 + TABLES_PER_INSTANCE_MAX as u64 * TABLE_SLOT_BYTES;
/// Private memory that the process needs for itself: threads and their heaps. Counts if private
/// memory is limited.
const DATA_OWN_BYTES: u64 = 96 << 20;
/// Private memory of an instance: stack, tables and a megabyte of linear memory. Counts if private
/// memory is limited.
const DATA_BYTES: u64 = POOLED_BYTES + (1 << 20);
/// Mappings that a process may have if the system does not say.
const MAPS_DEFAULT: usize = 65_530;

/// The capacity that this process read last.
static KNOWN: Mutex<Option<Capacity>> = Mutex::new(None);

/// What this process may use, as the system says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// `ulimit -n`.
    pub descriptors: usize,
    /// `vm.max_map_count`.
    pub maps: usize,
    /// `ulimit -v`, if set.
    pub address_bytes: Option<u64>,
    /// `ulimit -d`, if set.
    pub data_bytes: Option<u64>,
    /// Memory of the machine or of the control group: the lesser of the two.
    pub memory_bytes: u64,
}

impl Capacity {
    /// Capacity of this process now. A value that cannot be read keeps its last known value, as
    /// when descriptors are short.
    #[must_use]
    pub fn now() -> Self {
        let mut known = lock(&KNOWN);
        let now = Self::read(Path::new("/"), *known);
        *known.insert(now)
    }

    /// Capacity of the system with its files below `root`. A value that cannot be read is as in
    /// `before`.
    pub(super) fn read(root: &Path, before: Option<Self>) -> Self {
        let maps = read_to_string(root.join("proc/sys/vm/max_map_count")).ok();
        let maps =
            maps.and_then(|text| text.trim().parse().ok()).or(before.map(|before| before.maps));
        let memory = memory(root);
        let memory_before = before.map(|before| before.memory_bytes).filter(|_| memory.missed);
        Self {
            descriptors: getrlimit(Resource::Nofile)
                .current
                .map_or(usize::MAX, |limit| limit as usize),
            maps: maps.unwrap_or(MAPS_DEFAULT),
            address_bytes: getrlimit(Resource::As).current,
            data_bytes: getrlimit(Resource::Data).current,
            memory_bytes: memory.bytes.min(memory_before.unwrap_or(u64::MAX)),
        }
    }

    /// Clients at once: one descriptor each.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.descriptors.saturating_sub(DESCRIPTORS_RESERVE)
    }

    /// Instances at once.
    #[must_use]
    pub fn instances(&self) -> usize {
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let by_maps = self.maps.saturating_sub(MAPS_RESERVE) / MAPS_PER_INSTANCE;
        let by_address = self.address_bytes.map_or(usize::MAX, by_address);
        let by_data = self.data_bytes.map_or(usize::MAX, |bytes| count(by_data(bytes)));
        let by_memory = count(self.memory_bytes / SESSION_BYTES);
        by_maps.min(by_address).min(by_data).min(by_memory).min(SESSIONS_CEILING)
    }
}

impl Capacity {
    /// Memory slots at once, in pools with this many stacks. If all of them are in their worst
    /// state, the mappings of the process still leave its reserve alone.
    pub(super) fn memory_slots(&self, stacks: usize) -> usize {
        let spare = SPARE_SLOTS * MAPS_PER_INSTANCE;
        let maps = self.maps.saturating_sub(MAPS_RESERVE - spare);
        let by_maps = maps.saturating_sub(stacks * MAPS_PER_STACK) / MAPS_PER_MEMORY;
        let by_address = self.address_bytes.map_or(usize::MAX, |bytes| {
            let slots = bytes.saturating_sub(ADDRESS_RESERVE_BYTES) / MEMORY_SLOT_BYTES;
            usize::try_from(slots).unwrap_or(usize::MAX)
        });
        by_maps.min(by_address).min(MEMORY_SLOTS_MAX)
    }
}

/// Instances whose memories fit into `bytes` of address space, if each has as many memories as it
/// may. No limit if the address space has room for all memory slots of a pool.
fn by_address(bytes: u64) -> usize {
    let slots = usize::try_from(bytes.saturating_sub(ADDRESS_RESERVE_BYTES) / MEMORY_SLOT_BYTES)
        .unwrap_or(usize::MAX);
    match slots < MEMORY_SLOTS_MAX {
        true => (slots / MEMORIES_PER_INSTANCE_MAX as usize).saturating_sub(SPARE_SLOTS),
        false => usize::MAX,
    }
}

/// The part of `bytes` of private memory that is kept back: the guests' reserve, the process's own
/// memory, and the spare instances.
fn data_reserve(bytes: u64) -> u64 {
    reserve_of(bytes) + DATA_OWN_BYTES + SPARE_SLOTS as u64 * POOLED_BYTES
}

/// Instances whose stacks, tables and memories fit into `bytes` of private memory.
fn by_data(bytes: u64) -> u64 {
    bytes.saturating_sub(data_reserve(bytes)) / DATA_BYTES
}

/// The instances that one resource has room for.
struct Room {
    instances: usize,
    /// The arithmetic.
    by: String,
    /// The name of the limit. `None`: no setting of the system raises the limit.
    limit: Option<&'static str>,
}

impl Capacity {
    /// The limit that allows the fewest instances. `None`: Wharf's own limit allows no more.
    pub(crate) fn scarcest(&self) -> Option<&'static str> {
        self.rooms().first().and_then(|room| room.limit)
    }

    /// What each resource has room for, the scarcest first.
    fn rooms(&self) -> Vec<Room> {
        let Self { maps, address_bytes, data_bytes, memory_bytes, .. } = *self;
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let mut rooms = vec![
            Room {
                instances: SESSIONS_CEILING,
                by: "the memory slots of a process".into(),
                limit: None,
            },
            Room {
                instances: maps.saturating_sub(MAPS_RESERVE) / MAPS_PER_INSTANCE,
                by: format!(
                    "{maps} mappings (`vm.max_map_count`) less {MAPS_RESERVE}, \
                     {MAPS_PER_INSTANCE} each"
                ),
                limit: Some("`vm.max_map_count`"),
            },
            Room {
                instances: count(memory_bytes / SESSION_BYTES),
                by: format!(
                    "{} MiB of memory, {} KiB each",
                    memory_bytes >> 20,
                    SESSION_BYTES >> 10
                ),
                limit: Some("the memory of the machine or of the control group"),
            },
        ];
        if let Some(bytes) = address_bytes {
            rooms.push(Room {
                instances: by_address(bytes).min(SESSIONS_CEILING),
                by: format!(
                    "{} GiB of address space (`ulimit -v`) less {}, {MEMORIES_PER_INSTANCE_MAX} \
                     times {} MiB each and {SPARE_SLOTS} kept back",
                    bytes >> 30,
                    ADDRESS_RESERVE_BYTES >> 30,
                    MEMORY_SLOT_BYTES.div_ceil(1 << 20)
                ),
                limit: Some("`ulimit -v`"),
            });
        }
        if let Some(bytes) = data_bytes {
            rooms.push(Room {
                instances: count(by_data(bytes)).min(SESSIONS_CEILING),
                by: format!(
                    "{} MiB of private memory (`ulimit -d`) less {}, {} KiB each",
                    bytes >> 20,
                    data_reserve(bytes) >> 20,
                    DATA_BYTES >> 10
                ),
                limit: Some("`ulimit -d`"),
            });
        }
        // The sort is stable, so at the same number Wharf's own limit comes first.
        rooms.sort_by_key(|room| room.instances);
        rooms
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "room for ";
        for (index, Room { instances, by, .. }) in self.rooms().into_iter().enumerate() {
            match index {
                0 => write!(f, "{separator}{instances} instances by {by}")?,
                _ => write!(f, "{separator}{instances} by {by}")?,
            }
            separator = if index == 0 { " (other limits: " } else { "; " };
        }
        write!(
            f,
            "), and for {} clients by {} descriptors (`ulimit -n`) less {DESCRIPTORS_RESERVE}",
            self.clients(),
            self.descriptors
        )
    }
}

/// Memory that this process may have.
struct Memory {
    /// Bytes, by the files that were read.
    bytes: u64,
    /// Whether a file exists, or should exist, and could not be read.
    missed: bool,
}

fn memory(root: &Path) -> Memory {
    let machine = read_to_string(root.join("proc/meminfo")).ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    });
    let mut memory =
        Memory { bytes: machine.map_or(u64::MAX, |kib| kib << 10), missed: machine.is_none() };
    let mut read = |file: &Path| match read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            memory.missed |= error.kind() != io::ErrorKind::NotFound;
            String::new()
        }
    };
    let own = read(&root.join("proc/self/cgroup"));
    for line in own.lines() {
        let Some((controllers, path)) =
            line.split_once(':').and_then(|(_, rest)| rest.split_once(':'))
        else {
            continue;
        };
        let (top, file) = match controllers {
            "" => (root.join("sys/fs/cgroup"), "memory.max"),
            "memory" => (root.join("sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        // A control group is limited by the groups above it as well.
        let own = top.join(path.trim_start_matches('/'));
        for group in own.ancestors().take_while(|folder| folder.starts_with(&top)) {
            let limit = read(&group.join(file)).trim().parse().unwrap_or(u64::MAX);
            memory.bytes = memory.bytes.min(limit);
        }
    }
    memory
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    static ROOTS: AtomicUsize = AtomicUsize::new(0);

    /// A temporary folder that stands for the system's files. Removed when dropped.
    pub(in crate::plugin) struct Root(PathBuf);

    impl Root {
        pub(in crate::plugin) fn new() -> Self {
            let number = ROOTS.fetch_add(1, Ordering::Relaxed);
            let folder =
                std::env::temp_dir().join(format!("wharf-system-{}-{number}", std::process::id()));
            std::fs::create_dir_all(&folder).expect("a folder");
            Self(folder)
        }

        pub(in crate::plugin) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const PLENTY: Capacity = Capacity {
        descriptors: 1 << 20,
        maps: 1 << 20,
        address_bytes: None,
        data_bytes: None,
        memory_bytes: 1 << 40,
    };

    #[test]
    fn scarcest_resource_decides_and_is_named() {
        assert_eq!(PLENTY.instances(), SESSIONS_CEILING);
        let few = Capacity { maps: 4_096 + 80, ..PLENTY };
        assert_eq!((few.instances(), few.scarcest()), (10, Some("`vm.max_map_count`")));
        assert_eq!(PLENTY.scarcest(), None);
        assert!(few.to_string().starts_with("room for 10 instances by 4176 mappings"), "{few}");
        let narrow = Capacity {
            address_bytes: Some((8 << 30) + (64 + 3) * 4 * MEMORY_SLOT_BYTES),
            ..PLENTY
        };
        assert_eq!(narrow.instances(), 3);
        assert!(narrow.to_string().starts_with("room for 3 instances by 1088 GiB"), "{narrow}");
        for count in [400_u64, 1_000, 14_999] {
            // From a gigabyte on, the reserve is 128 MiB.
            let fit = (128 << 20)
                + DATA_OWN_BYTES
                + SPARE_SLOTS as u64 * POOLED_BYTES
                + count * DATA_BYTES;
            for (bytes, fits) in [(fit - 1, count - 1), (fit, count), (fit + DATA_BYTES - 1, count)]
            {
                let private = Capacity { data_bytes: Some(bytes), ..PLENTY };
                assert_eq!(private.instances() as u64, fits, "{private}");
                assert!(
                    private.to_string().contains("of private memory (`ulimit -d`)"),
                    "{private}"
                );
            }
        }
        let small = Capacity { memory_bytes: 480 << 10, ..PLENTY };
        assert_eq!(small.instances(), 10);
        assert_eq!(Capacity { descriptors: 200, ..PLENTY }.clients(), 8);
    }

    #[test]
    fn slots_in_use_leave_the_reserve_alone() {
        for maps in (5_000..200_000).step_by(777) {
            let capacity = Capacity { maps, ..PLENTY };
            let stacks = capacity.instances() + SPARE_SLOTS;
            let memories = capacity.memory_slots(stacks);
            assert!(
                memories >= stacks || memories == MEMORY_SLOTS_MAX,
                "{maps}: {memories} of {stacks}"
            );
            let most = stacks * MAPS_PER_STACK + memories * MAPS_PER_MEMORY;
            assert!(
                most + MAPS_RESERVE - SPARE_SLOTS * MAPS_PER_INSTANCE <= maps,
                "{maps}: {most}"
            );
        }
    }

    #[test]
    fn process_has_room_for_an_instance() {
        let now = Capacity::now();
        assert!(now.clients() > 0 && now.instances() > 0, "{now}");
    }

    #[test]
    fn unreadable_files_keep_the_former_values() {
        let files = [
            "proc/meminfo",
            "proc/self/cgroup",
            "sys/fs/cgroup/a/memory.max",
            "proc/sys/vm/max_map_count",
        ];
        // Every set of unreadable files.
        for missed in 0..1_usize << files.len() {
            let folder = Root::new();
            let root = folder.path();
            let texts = ["MemTotal: 4096 kB\n", "0::/a/b\n", "1048576\n", "5000\n"];
            for (file, text) in files.iter().zip(texts) {
                std::fs::create_dir_all(root.join(file).parent().expect("a folder"))
                    .expect("folders");
                std::fs::write(root.join(file), text).expect("a file");
            }
            let before = Capacity::read(root, None);
            assert_eq!((before.memory_bytes, before.maps), (1 << 20, 5_000));
            let missed = files.iter().enumerate().filter(|(index, _)| missed >> index & 1 == 1);
            for (_, file) in missed {
                // The file exists, and cannot be read.
                std::fs::remove_file(root.join(file)).expect("removed");
                std::fs::create_dir(root.join(file)).expect("a folder");
            }
            assert_eq!(Capacity::read(root, Some(before)), before);
        }
    }

    #[test]
    fn lifted_limit_is_seen() {
        let folder = Root::new();
        let root = folder.path();
        for (file, text) in
            [("proc/meminfo", "MemTotal: 4096 kB\n"), ("proc/self/cgroup", "0::/\n")]
        {
            std::fs::create_dir_all(root.join(file).parent().expect("a folder")).expect("folders");
            std::fs::write(root.join(file), text).expect("a file");
        }
        let low = Capacity { memory_bytes: 1 << 20, ..PLENTY };
        assert_eq!(Capacity::read(root, Some(low)).memory_bytes, 4 << 20);
    }
}
