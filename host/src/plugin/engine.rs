//! The engine's configuration, with the reason beside each number.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, OperatorCost, OptLevel, PoolConcurrencyLimitError,
    PoolingAllocationConfig, Strategy,
};

use super::capacity::Capacity;
use super::footprint::{Amounts, Resource};
use super::ledger::{Holding, Ledger};
use super::pool_sizes::{
    CORE_INSTANCES_MAX, FIBER_STACK_BYTES, KEEP_BYTES, KEEP_DIRTY_BYTES, KEPT_PART,
    MAPS_PER_MEMORY, MAPS_PER_STACK, MEMORIES_PER_INSTANCE_MAX, MEMORY_CEILING_BYTES,
    MEMORY_GUARD_BYTES, MEMORY_RESERVATION_BYTES, PAGE_BYTES, SESSIONS_FLOOR, SPARE_SLOTS,
    TABLE_ELEMENTS_MAX, TABLES_PER_INSTANCE_MAX, WARM_SLOTS_MAX, WASM_STACK_BYTES,
};
use super::pressure::Pressure;
use super::ticker::Ticker;

/// Values that the engine is built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineConfig {
    /// Sessions, and so instances, alive at once in this process. 0: as many as descriptors and
    /// mappings allow, at most 15,000.
    pub sessions_max: usize,
    /// Whether the memory of ended instances goes back to the system at once.
    pub release_memory: bool,
}

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// More sessions than this machine can hold.
    #[error("`sessions_max` = {asked}: this process can hold {possible}: {capacity}")]
    TooManySessions {
        /// Sessions that were asked for.
        asked: usize,
        /// Sessions that are possible.
        possible: usize,
        /// The limits that lead to that number.
        capacity: Capacity,
    },
    /// This process can hold no session at all.
    #[error("this process can hold no session: {0}")]
    NoRoom(Capacity),
    /// The engine refused.
    #[error("cannot start the WebAssembly engine with {sessions} instance slots: {cause}")]
    Engine {
        /// Slots that were asked for.
        sessions: usize,
        /// The engine's message.
        cause: String,
    },
}

/// The WebAssembly engine, its pools of slots and its ticker. Cheap to clone. One per process is
/// the rule.
#[derive(Clone)]
pub struct Engine {
    pub(super) inner: wasmtime::Engine,
    pub(super) ticker: Ticker,
    ledger: Ledger,
    trials: Arc<Holding>,
    own: Arc<Holding>,
    live: Arc<AtomicU64>,
    sessions_max: usize,
}

impl Engine {
    /// Builds the engine and reserves the address space of all slots.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn new(config: EngineConfig) -> Result<Self, EngineError> {
        let mut sessions_max = sessions(config.sessions_max)?;
        let inner = loop {
            match wasmtime::Engine::new(&settings(sessions_max, config.release_memory)) {
                Ok(engine) => break engine,
                // Some containers have little address space. The configuration names no number
                // here, so the engine takes what there is.
                Err(error) if config.sessions_max == 0 && sessions_max > SESSIONS_FLOOR => {
                    let smaller = (sessions_max / 2).max(SESSIONS_FLOOR);
                    tracing::warn!(
                        tried = sessions_max,
                        next = smaller,
                        "no room for so many instances: {error:#}"
                    );
                    sessions_max = smaller;
                }
                Err(error) => {
                    return Err(EngineError::Engine {
                        sessions: sessions_max,
                        cause: format!("{error:#}"),
                    });
                }
            }
        };
        let failed = |cause: String| EngineError::Engine { sessions: sessions_max, cause };
        let ticker = Ticker::start(&inner).map_err(|error| failed(error.to_string()))?;
        let slots = sessions_max + SPARE_SLOTS;
        let ledger = Ledger::new(Amounts([slots, memory_slots(slots)]), Pressure::on_pool(slots));
        let (trials, own) = (ledger.trials(), ledger.own());
        Ok(Self { inner, ticker, ledger, trials, own, live: Arc::default(), sessions_max })
    }

    /// Sessions that this engine has slots for.
    #[must_use]
    pub fn sessions_max(&self) -> usize {
        self.sessions_max
    }

    /// The ledger of this engine's pools.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The holding of trial instances.
    pub(super) fn trials(&self) -> &Arc<Holding> {
        &self.trials
    }

    /// The holding of instances that belong neither to a server nor to a trial.
    pub(super) fn own(&self) -> &Arc<Holding> {
        &self.own
    }

    /// Name, use and size of each pool.
    ///
    /// Instances and memories that sessions have claimed count as in use. Mappings count as the
    /// most that all stacks and the used memories can need.
    #[must_use]
    pub fn pools(&self) -> [(&'static str, u64, u64); 6] {
        let (used, total) = (self.ledger.used(), self.ledger.total());
        let [instances, memories] =
            Resource::ALL.map(|resource| (used.of(resource) as u64, total.of(resource) as u64));
        let pool = self.inner.pooling_allocator_metrics();
        let (cores, tables, stacks) = pool.map_or((0, 0, 0), |pool| {
            (pool.core_instances(), pool.tables() as u64, pool.stacks() as u64)
        });
        let maps = |memories: u64| {
            let (slots, each) = (instances.1, MAPS_PER_MEMORY as u64);
            slots * MAPS_PER_STACK as u64 + memories * each
        };
        [
            (Resource::Instances.name(), instances.0, instances.1),
            (Resource::Memories.name(), memories.0, memories.1),
            ("core-instances", cores, instances.1 * u64::from(CORE_INSTANCES_MAX)),
            ("tables", tables, instances.1 * u64::from(TABLES_PER_INSTANCE_MAX)),
            ("stacks", stacks, instances.1),
            ("mappings", maps(memories.0), maps(memories.1)),
        ]
    }

    /// Live instances, trial instances included.
    #[must_use]
    pub fn instances(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Counts an instance for as long as the result lives.
    pub(super) fn lives(&self) -> Live {
        self.live.fetch_add(1, Ordering::Relaxed);
        Live(Arc::clone(&self.live))
    }
}

/// A live instance, for the engine's count.
pub(super) struct Live(Arc<AtomicU64>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether an error means that the pool or the system has no room for another instance.
///
/// Only error types decide. A plugin chooses the names of its functions, and the text of an error
/// contains them.
pub(super) fn is_out_of_room(error: &wasmtime::Error) -> bool {
    let no_memory = |cause: &(dyn std::error::Error + 'static)| {
        let by_io = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        let by_number = cause.downcast_ref::<Errno>().map(|errno| errno.raw_os_error());
        by_io.or(by_number) == Some(Errno::NOMEM.raw_os_error())
    };
    error.is::<PoolConcurrencyLimitError>() || error.chain().any(no_memory)
}

fn sessions(asked: usize) -> Result<usize, EngineError> {
    let capacity = Capacity::now();
    // With almost no descriptors, the process can still serve one client after the other.
    let possible = capacity.instances().min(capacity.clients().max(1));
    match asked {
        0 if possible > 0 => Ok(possible),
        0 => Err(EngineError::NoRoom(capacity)),
        asked if asked <= possible => Ok(asked),
        asked => Err(EngineError::TooManySessions { asked, possible, capacity }),
    }
}

/// An engine that only compiles, for engines that run guests.
pub(super) fn for_compiling() -> wasmtime::Result<wasmtime::Engine> {
    wasmtime::Engine::new(&code())
}

/// Memory slots of a pool with `slots` instances: as many as the instances may have. If all slots
/// are in their worst state, they need no more mappings and address space than the process has.
fn memory_slots(slots: usize) -> usize {
    let most = slots.saturating_mul(MEMORIES_PER_INSTANCE_MAX as usize);
    most.min(Capacity::now().memory_slots(slots))
}

/// Bytes that a memory slot keeps when its instance ends: `most`, or the slot's share of what all
/// slots together may keep.
fn kept(most: usize, memories: usize) -> usize {
    let share = Capacity::now().memory_bytes / KEPT_PART / memories.max(1) as u64;
    most.min(usize::try_from(share).unwrap_or(usize::MAX)) & !(PAGE_BYTES - 1)
}

fn settings(sessions: usize, release_memory: bool) -> Config {
    let slots = sessions + SPARE_SLOTS;
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let memories = memory_slots(slots);

    let tells_dirty = PoolingAllocationConfig::is_pagemap_scan_available() && swap_is_off();
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(count(slots))
        .total_core_instances(count(slots.saturating_mul(CORE_INSTANCES_MAX as usize)))
        .total_memories(count(memories))
        // As many tables as the instances may have, so that tables do not run out before instances.
        .total_tables(count(slots.saturating_mul(TABLES_PER_INSTANCE_MAX as usize)))
        .total_stacks(count(slots))
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_PER_INSTANCE_MAX)
        .max_tables_per_component(TABLES_PER_INSTANCE_MAX)
        .max_memory_size(MEMORY_CEILING_BYTES)
        .table_elements(TABLE_ELEMENTS_MAX)
        .linear_memory_keep_resident(kept(
            if tells_dirty { KEEP_DIRTY_BYTES } else { KEEP_BYTES },
            memories,
        ))
        .pagemap_scan(if tells_dirty { Enabled::Yes } else { Enabled::No })
        .table_keep_resident(4 << 10)
        .async_stack_keep_resident(16 << 10)
        .decommit_batch_size(16)
        .max_unused_warm_slots(WARM_SLOTS_MAX);
    if Capacity::now().data_bytes.is_some() {
        // Free slots count as private memory until they are used again, so those are used first.
        pool.max_unused_warm_slots(0);
    }
    if release_memory {
        pool.linear_memory_keep_resident(0)
            .table_keep_resident(0)
            .async_stack_keep_resident(0)
            .max_unused_warm_slots(0);
    }
    let mut config = code();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// The settings that decide the machine code.
fn code() -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        // The contract has plain sync functions only. With this off, a call is 3 to 4 times
        // cheaper, and most of the engine's security advisories do not apply. The features below
        // are off for the latter reason.
        .concurrency_support(false)
        .gc_support(false)
        .wasm_gc(false)
        .wasm_function_references(false)
        // Tags are on by default, and registering their type needs the garbage collector, which is
        // off.
        .wasm_exceptions(false)
        .wasm_threads(false)
        .wasm_memory64(false)
        .wasm_relaxed_simd(false)
        .consume_fuel(true)
        .operator_cost(costs())
        .epoch_interruption(true)
        .memory_reservation(MEMORY_RESERVATION_BYTES)
        .memory_guard_size(MEMORY_GUARD_BYTES)
        .memory_reservation_for_growth(0)
        .guard_before_linear_memory(false)
        .memory_may_move(false)
        .memory_init_cow(true)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES)
        // With many plugins, registering unwind tables gets slow. Backtraces of guests do not need
        // them.
        .native_unwind_info(false)
        .wasm_backtrace_max_frames(NonZeroUsize::new(20));
    config
}

/// Whether the system has no swap space. The kernel does not report a swapped-out page as dirty, so
/// the next instance would get the page unwiped.
fn swap_is_off() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() <= 1)
}

/// Costs in fuel. By default, growing memory burns almost none, although each page takes a
/// microsecond or more.
fn costs() -> OperatorCost {
    let mut costs = OperatorCost::new();
    costs.variable.memory_grow_per_page = u8::MAX;
    costs
}
/// Gives this thread what it needs to run guests. Otherwise the engine does this at the thread's
/// first guest, and panics if the system has no memory then.
///
/// # Panics
/// The system refuses some pages.
pub(crate) fn prepare_thread() {
    wasmtime::Engine::tls_eager_initialize();
}
