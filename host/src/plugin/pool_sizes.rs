//! Sizes of the engine's pools, and the reserve that the host keeps of the machine.

/// Bytes of address space that one memory slot takes: loads and stores then need no bounds checks.
pub(super) const MEMORY_RESERVATION_BYTES: u64 = 4 << 30;
/// Inaccessible bytes behind it.
pub(super) const MEMORY_GUARD_BYTES: u64 = 32 << 20;
/// Address space of a slot.
pub(super) const MEMORY_SLOT_BYTES: u64 = MEMORY_RESERVATION_BYTES + MEMORY_GUARD_BYTES;
/// Memory slots that fit into one stretch of address space. Programs are loaded at two thirds of
/// the 128 TiB that a process has, so that the largest free stretch is about 85 TiB; this takes 64.
pub(super) const MEMORY_SLOTS_MAX: usize = 16_000;
/// Memories a component may have (QuickJS: 3).
pub(super) const MEMORIES_PER_INSTANCE_MAX: u32 = 4;
/// Tables a component may have.
pub(super) const TABLES_PER_INSTANCE_MAX: u32 = 8;
/// PluginStore instances a component may have (Python: 14).
pub(super) const CORE_INSTANCES_MAX: u32 = 32;
/// Elements a table may have (SpiderMonkey: 7,695).
pub(super) const TABLE_ELEMENTS_MAX: usize = 10_000;
/// Address space of a table slot.
pub(super) const TABLE_SLOT_BYTES: u64 = (TABLE_ELEMENTS_MAX * 2 * size_of::<usize>()) as u64;
/// Slots beyond the sessions', for trial instances and for two builds side by side.
pub(super) const SPARE_SLOTS: usize = 64;
/// Largest linear memory that any plugin may be allowed.
pub(super) const MEMORY_CEILING_BYTES: usize = 256 << 20;
/// Stack of a guest. Host calls run on what is left of the fiber's.
pub const WASM_STACK_BYTES: usize = 256 << 10;
pub(super) const FIBER_STACK_BYTES: usize = 512 << 10;
/// Bytes at the start of a slot that are wiped by copying and not by giving pages back, where the
/// kernel can say which of them are dirty. It costs nothing for pages that are not, so it reaches
/// past the megabyte of stack that compilers put first.
pub(super) const KEEP_DIRTY_BYTES: usize = 2 << 20;
/// The same where the kernel cannot, and all of them are wiped.
pub(super) const KEEP_BYTES: usize = 64 << 10;
/// All slots together keep one part in so many of the memory of the process, so that what is kept
/// of instances that are gone leaves room for others.
pub(super) const KEPT_PART: u64 = 4;
pub(super) const PAGE_BYTES: usize = 4 << 10;
/// Free slots that keep the image of the plugin that used them last.
pub(super) const WARM_SLOTS_MAX: u32 = 256;
/// Most sessions whatever the machine has: beyond it the memory slots run out.
pub(super) const SESSIONS_CEILING: usize = 15_000;
/// An engine that was to be as large as possible is tried smaller, down to this.
pub(super) const SESSIONS_FLOOR: usize = 64;

/// Kernel mappings of one memory slot, at most: the image of its data, the parts before and after
/// the image, the part that is not accessible, and two more. The two are parts of former users of
/// the slot that the kernel does not join again.
pub(super) const MAPS_PER_MEMORY: usize = 6;
/// Kernel mappings of one stack: the stack and its guard. They exist from the start of the engine.
pub(super) const MAPS_PER_STACK: usize = 2;

/// Memory that guests leave to the host: an eighth of what the process may have, at most this.
/// Instances that are promised leave half of it.
const MEMORY_RESERVE_MAX_BYTES: u64 = 128 << 20;

/// What guests leave of so much.
pub(super) fn reserve_of(most: u64) -> u64 {
    (most / 8).min(MEMORY_RESERVE_MAX_BYTES)
}
