//! How many instances and clients this machine has room for, with the arithmetic for those who ask for more.

use std::fmt;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::engine::{
    FIBER_STACK_BYTES, MEMORIES_PER_INSTANCE_MAX, MEMORY_SLOT_BYTES, MEMORY_SLOTS_MAX, SESSIONS_CEILING, SPARE_SLOTS,
    TABLE_SLOT_BYTES, TABLES_PER_INSTANCE_MAX,
};
use super::footprint::{MAPS_PER_MEMORY, MAPS_PER_STACK};
use super::pressure::reserve_of;

/// Kernel mappings of an instance with one memory, at most.
const MAPS_PER_INSTANCE: usize = MAPS_PER_STACK + MAPS_PER_MEMORY;
/// Mappings and descriptors that the process needs for itself, and for spare instances.
const MAPS_RESERVE: usize = 4_096;
const DESCRIPTORS_RESERVE: usize = 192;
/// Address space that the process needs for itself, where that is limited.
const ADDRESS_RESERVE_BYTES: u64 = 8 << 30;
/// Least memory of a session with an instance, all told.
const SESSION_BYTES: u64 = 48 << 10;
/// Private memory that the pools keep for an instance from the start: its stack and its tables.
const POOLED_BYTES: u64 = FIBER_STACK_BYTES as u64 + TABLES_PER_INSTANCE_MAX as u64 * TABLE_SLOT_BYTES;
/// Private memory that the process needs for itself, where that is limited: threads and their heaps.
const DATA_OWN_BYTES: u64 = 96 << 20;
/// Stack, tables and a megabyte of memory, where private memory is limited.
const DATA_BYTES: u64 = POOLED_BYTES + (1 << 20);
/// Mappings that a process may have where the system does not say.
const MAPS_DEFAULT: usize = 65_530;

/// What this process may use, as the system says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// `ulimit -n`.
    pub descriptors: usize,
    /// `vm.max_map_count`.
    pub maps: usize,
    /// `ulimit -v`, where it is limited.
    pub address_bytes: Option<u64>,
    /// `ulimit -d`, where it is limited.
    pub data_bytes: Option<u64>,
    /// The machine's or the control group's, whichever is less.
    pub memory_bytes: u64,
}

impl Capacity {
    /// Of this process, now.
    #[must_use]
    pub fn now() -> Self {
        let maps = std::fs::read_to_string("/proc/sys/vm/max_map_count");
        Self {
            descriptors: getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize),
            maps: maps.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(MAPS_DEFAULT),
            address_bytes: getrlimit(Resource::As).current,
            data_bytes: getrlimit(Resource::Data).current,
            memory_bytes: memory(),
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
    /// Memory slots at once, in pools with so many stacks. With all of them in their worst state,
    /// the mappings of the process leave its reserve alone.
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

/// Instances whose memories fit into so much address space. Each may have several, as long as there are slots at all.
fn by_address(bytes: u64) -> usize {
    let slots = usize::try_from(bytes.saturating_sub(ADDRESS_RESERVE_BYTES) / MEMORY_SLOT_BYTES).unwrap_or(usize::MAX);
    match slots < MEMORY_SLOTS_MAX {
        true => (slots / MEMORIES_PER_INSTANCE_MAX as usize).saturating_sub(SPARE_SLOTS),
        false => usize::MAX,
    }
}

/// What is kept back of so much private memory: what guests leave alone, the process's own, and
/// the spare instances'.
fn data_reserve(bytes: u64) -> u64 {
    reserve_of(bytes) + DATA_OWN_BYTES + SPARE_SLOTS as u64 * POOLED_BYTES
}

/// Instances whose stacks, tables and memories fit into so much private memory.
fn by_data(bytes: u64) -> u64 {
    bytes.saturating_sub(data_reserve(bytes)) / DATA_BYTES
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { descriptors, maps, address_bytes, data_bytes, memory_bytes } = *self;
        write!(
            f,
            "{} clients by {descriptors} descriptors (`ulimit -n`) less {DESCRIPTORS_RESERVE}; {} instances by the least of \
             {} by {maps} mappings (`vm.max_map_count`) less {MAPS_RESERVE}, {MAPS_PER_INSTANCE} each, {} by {} MiB of \
             memory, {} KiB each, ",
            self.clients(),
            self.instances(),
            maps.saturating_sub(MAPS_RESERVE) / MAPS_PER_INSTANCE,
            memory_bytes / SESSION_BYTES,
            memory_bytes >> 20,
            SESSION_BYTES >> 10,
        )?;
        if let Some(bytes) = address_bytes {
            write!(
                f,
                "{} by {} GiB of address space (`ulimit -v`) less {}, {MEMORIES_PER_INSTANCE_MAX} times {} MiB each and \
                 {SPARE_SLOTS} kept back, ",
                by_address(bytes).min(SESSIONS_CEILING),
                bytes >> 30,
                ADDRESS_RESERVE_BYTES >> 30,
                MEMORY_SLOT_BYTES >> 20
            )?;
        }
        if let Some(bytes) = data_bytes {
            write!(
                f,
                "{} by {} MiB of private memory (`ulimit -d`) less {}, {} KiB each, ",
                by_data(bytes).min(SESSIONS_CEILING as u64),
                bytes >> 20,
                data_reserve(bytes) >> 20,
                DATA_BYTES >> 10,
            )?;
        }
        write!(f, "and {SESSIONS_CEILING} memory slots")
    }
}

/// Bytes of memory that this process may have.
fn memory() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    });
    let machine = machine.map_or(u64::MAX, |kib| kib << 10);
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // Each group is within those above it.
    let least = |root: &str, path: &str, file: &str| {
        let (root, path) = (Path::new(root), path.trim_start_matches('/'));
        let own = root.join(path);
        let groups = own.ancestors().take_while(|folder| folder.starts_with(root));
        groups.filter_map(|folder| std::fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok()).min()
    };
    let group = own.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        match controllers {
            "" => least("/sys/fs/cgroup", path, "memory.max"),
            "memory" => least("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes"),
            _ => None,
        }
    });
    group.min().map_or(machine, |group| group.min(machine))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: Capacity =
        Capacity { descriptors: 1 << 20, maps: 1 << 20, address_bytes: None, data_bytes: None, memory_bytes: 1 << 40 };

    #[test]
    fn the_scarcest_of_them_decides_and_is_named() {
        assert_eq!(PLENTY.instances(), SESSIONS_CEILING);
        let few = Capacity { maps: 4_096 + 80, ..PLENTY };
        assert_eq!(few.instances(), 10);
        assert!(few.to_string().contains("10 by 4176 mappings"), "{few}");
        let narrow = Capacity { address_bytes: Some((8 << 30) + (64 + 3) * 4 * MEMORY_SLOT_BYTES), ..PLENTY };
        assert_eq!(narrow.instances(), 3);
        assert!(narrow.to_string().contains("3 by 1088 GiB"), "{narrow}");
        for count in [400_u64, 1_000, 14_999] {
            // From a gigabyte on the reserve is 128 MiB.
            let fit = (128 << 20) + DATA_OWN_BYTES + SPARE_SLOTS as u64 * POOLED_BYTES + count * DATA_BYTES;
            for (bytes, fits) in [(fit - 1, count - 1), (fit, count), (fit + DATA_BYTES - 1, count)] {
                let private = Capacity { data_bytes: Some(bytes), ..PLENTY };
                assert_eq!(private.instances() as u64, fits, "{private}");
                assert!(private.to_string().contains("of private memory (`ulimit -d`)"), "{private}");
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
            assert!(memories >= stacks || memories == MEMORY_SLOTS_MAX, "{maps}: {memories} of {stacks}");
            let most = stacks * MAPS_PER_STACK + memories * MAPS_PER_MEMORY;
            assert!(most + MAPS_RESERVE - SPARE_SLOTS * MAPS_PER_INSTANCE <= maps, "{maps}: {most}");
        }
    }

    #[test]
    fn a_process_has_room_for_something() {
        let now = Capacity::now();
        assert!(now.clients() > 0 && now.instances() > 0, "{now}");
    }
}
