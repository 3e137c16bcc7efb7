//! Footprint: what one instance of a plugin takes, at most, of the pools that all instances share.
//!
//! The loader derives a footprint once, from the structure of the component and the limits of the
//! engine. The footprint bounds every instance, in every slot, new or used.

use super::pool_sizes::{
    CORE_INSTANCES_MAX, FIBER_STACK_BYTES, MAPS_PER_MEMORY, MAPS_PER_STACK,
    MEMORIES_PER_INSTANCE_MAX, MEMORY_SLOT_BYTES, TABLE_SLOT_BYTES, TABLES_PER_INSTANCE_MAX,
};
use std::fmt;

use wasmtime::Module;
use wasmtime::component::Component;

/// What one instance takes at most. In addition, each instance has one stack and one instance slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Memory slots: 0 to 4.
    pub memories: usize,
    /// Table slots: 0 to 8.
    pub tables: usize,
    /// Core instances. The engine counts them and reserves nothing for them: always 32, its limit.
    pub core_instances: usize,
    /// Kernel mappings.
    pub mappings: usize,
    /// Bytes of address space.
    pub address_bytes: u64,
}

impl Footprint {
    /// The most that the engine lets any component take.
    pub const MOST: Self =
        Self::with(MEMORIES_PER_INSTANCE_MAX as usize, TABLES_PER_INSTANCE_MAX as usize);

    /// Footprint of a component. If the component imports modules, the footprint is
    /// [`Footprint::MOST`].
    pub(super) fn of(component: &Component) -> Self {
        component.resources_required().map_or(Self::MOST, |required| {
            Self::with(required.num_memories as usize, required.num_tables as usize)
        })
    }

    /// Footprint of a core module that runs alone.
    pub(super) fn of_module(module: &Module) -> Self {
        let required = module.resources_required();
        Self::with(required.num_memories as usize, required.num_tables as usize)
    }

    /// Footprint of a component with this many memories and tables.
    #[must_use]
    pub const fn with(memories: usize, tables: usize) -> Self {
        Self {
            memories,
            tables,
            core_instances: CORE_INSTANCES_MAX as usize,
            mappings: MAPS_PER_STACK + memories * MAPS_PER_MEMORY,
            address_bytes: memories as u64 * MEMORY_SLOT_BYTES
                + tables as u64 * TABLE_SLOT_BYTES
                + FIBER_STACK_BYTES as u64,
        }
    }

    /// The amounts that the ledger counts.
    pub(super) fn amounts(self) -> Amounts {
        Amounts([1, self.memories])
    }
}

/// A resource that instances can run out of. Stacks, tables and core instances are none: the engine
/// has as many for each instance as an instance may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Instances, each with its stack.
    Instances,
    /// Memory slots, and with them mappings and address space.
    Memories,
}

impl Resource {
    /// Every resource.
    pub const ALL: [Self; 2] = [Self::Instances, Self::Memories];

    /// Stable name for metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Instances => "instances",
            Self::Memories => "memories",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Instances => "instances",
            Self::Memories => "memory slots",
        })
    }
}

/// An amount of each [`Resource`], in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amounts(pub [usize; 2]);

impl Amounts {
    /// The amount of one resource.
    #[must_use]
    pub fn of(self, resource: Resource) -> usize {
        self.0[resource as usize]
    }

    fn each(self, other: Self, pick: impl Fn(usize, usize) -> usize) -> Self {
        Self(std::array::from_fn(|at| pick(self.0[at], other.0[at])))
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.each(other, usize::saturating_add)
    }

    /// The difference, by resource; 0 if the other is greater.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        self.each(other, usize::saturating_sub)
    }

    /// The greater of both, by resource.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        self.each(other, usize::max)
    }

    /// The lesser of both, by resource.
    #[must_use]
    pub fn capped(self, other: Self) -> Self {
        self.each(other, usize::min)
    }

    /// The amounts times `count`.
    #[must_use]
    pub fn times(self, count: usize) -> Self {
        Self(self.0.map(|amount| amount.saturating_mul(count)))
    }
}
