//! Sizes of the engine's pools, and the reserve that the host keeps of the machine.

/// Address space that one memory slot reserves. With it, loads and stores need no bounds checks.
pub(super) const MEMORY_RESERVATION_BYTES: u64 = 4 << 30;
/// Inaccessible bytes behind the reservation. The odd pages spread the slots over the sets of the
/// processor's address caches. Otherwise the same page of all slots would fall into few sets.
pub(super) const MEMORY_GUARD_BYTES: u64 = (32 << 20) + 17 * PAGE_BYTES as u64;
/// Address space of one memory slot.
pub(super) const MEMORY_SLOT_BYTES: u64 = MEMORY_RESERVATION_BYTES + MEMORY_GUARD_BYTES;
/// Memory slots that fit into one free stretch of address space. A process has 128 TiB, and
/// programs are loaded at two thirds of it, so the largest free stretch is about 85 TiB. These
/// slots take 64.
pub(super) const MEMORY_SLOTS_MAX: usize = 16_000;
/// Memories that a component may have (QuickJS: 3).
pub(super) const MEMORIES_PER_INSTANCE_MAX: u32 = 4;
/// Tables that a component may have.
pub(super) const TABLES_PER_INSTANCE_MAX: u32 = 8;
/// Core instances that a component may have (Python: 14).
pub(super) const CORE_INSTANCES_MAX: u32 = 32;
/// Elements that a table may have (SpiderMonkey: 7,695).
pub(super) const TABLE_ELEMENTS_MAX: usize = 10_000;
/// Address space of one table slot.
pub(super) const TABLE_SLOT_BYTES: u64 = (TABLE_ELEMENTS_MAX * 2 * size_of::<usize>()) as u64;
/// Slots beyond the sessions', for trial instances and for two versions side by side.
pub(super) const SPARE_SLOTS: usize = 64;
/// Largest linear memory that a server may allow a plugin.
pub(super) const MEMORY_CEILING_BYTES: usize = 256 << 20;
/// Stack of a guest. Host calls run on the rest of the fiber's stack.
pub const WASM_STACK_BYTES: usize = 256 << 10;
pub(super) const FIBER_STACK_BYTES: usize = 512 << 10;
/// Bytes at the start of a memory slot that the engine wipes by copying, instead of giving the
/// pages back. Applies if the kernel can say which pages are dirty.
///
/// Clean pages cost nothing, so the range reaches past the megabyte of stack that compilers put
/// first.
pub(super) const KEEP_DIRTY_BYTES: usize = 2 << 20;
/// The same if the kernel cannot say that, so that the engine wipes all of these bytes.
pub(super) const KEEP_BYTES: usize = 64 << 10;
/// All slots together keep at most one part in this many of the memory of the process. So the
/// memory that ended instances leave behind does not crowd out live ones.
pub(super) const KEPT_PART: u64 = 4;
pub(super) const PAGE_BYTES: usize = 4 << 10;
/// Free slots that keep the image of the plugin that used them last.
pub(super) const WARM_SLOTS_MAX: u32 = 256;
/// Most sessions on any machine. Beyond that, the memory slots run out.
pub(super) const SESSIONS_CEILING: usize = 15_000;
/// If the largest possible engine does not start, smaller ones are tried, down to this many
/// sessions.
pub(super) const SESSIONS_FLOOR: usize = 64;

/// Kernel mappings of one memory slot, at most:
///
/// - the image of its data,
/// - the parts before and after the image,
/// - the inaccessible part,
/// - two parts that former users of the slot left, and that the kernel does not join again.
pub(super) const MAPS_PER_MEMORY: usize = 6;
/// Kernel mappings of one stack: the stack and its guard pages. Both exist from the engine's start.
pub(super) const MAPS_PER_STACK: usize = 2;

/// Memory that guests leave to the host: an eighth of what the process may have, at most this.
/// Promised instances leave half of it.
const MEMORY_RESERVE_MAX_BYTES: u64 = 128 << 20;

/// The part of `most` bytes that guests leave to the host.
pub(super) fn reserve_of(most: u64) -> u64 {
    (most / 8).min(MEMORY_RESERVE_MAX_BYTES)
}
