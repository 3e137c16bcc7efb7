//! What the host keeps for a flat instance beside the engine's store.

use wasmtime::{Caller, Memory, Result, TypedFunc, format_err};

use super::handles::Handles;
use crate::plugin::host_state::HostState;

/// The guest's allocator: old place, old size, alignment, new size.
pub(super) type Realloc = TypedFunc<(u32, u32, u32, u32), u32>;

/// The host's part of a flat instance.
pub(in crate::plugin) struct FlatState {
    pub(super) memory: Memory,
    pub(super) realloc: Option<Realloc>,
    pub(super) handles: Handles,
    /// Whether a call has begun and not ended well. Then the instance is not entered again.
    pub(super) entered: bool,
    /// Whether the guest may call the host. False in its allocator and after a return.
    pub(super) may_leave: bool,
}

impl FlatState {
    /// The state of the calling instance.
    pub(super) fn of<'a>(caller: &'a mut Caller<'_, HostState>) -> Result<&'a mut Self> {
        let state = caller.data_mut().flat.as_deref_mut();
        state.ok_or_else(|| format_err!("the instance is not made yet"))
    }
}
