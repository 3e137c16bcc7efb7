//! From an engine error to a fault that says what it was, whose doing, and where in the plugin.

use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::engine::{is_out_of_room, says};
use super::guest::{Guest, Refused};
use crate::event::{EXCERPT_MAX_BYTES, Fault, FaultKind, NAME_MAX_BYTES, excerpt};

/// What the engine says when a host call carries too much. It has no type of its own.
const TOO_MUCH_COPIED: &str = "too much data is being copied between the host and the guest";
/// What it says of a component that is made of more core modules than it may be.
const TOO_MANY_MODULES: &str = "instance count too high";
/// Of an event that ran for too long.
const TOO_MUCH_WORK: &str = "it was interrupted in an endless loop, or in more work than";
/// What it says of too many handles; part of the message in both of its tables.
const TOO_MANY_HANDLES: [&str; 2] = ["store handle limit exceeded", "resource table has no free keys"];

/// Sorts an error of a call or an instantiation.
pub(super) fn fault(error: &wasmtime::Error, store: &mut wasmtime::Store<Guest>) -> Fault {
    let refused = std::mem::take(&mut store.data_mut().limiter.refused);
    let kind = kind(error, refused);
    let mut detail = match kind {
        FaultKind::Memory => {
            let max = store.data().context.limits.memory_max_bytes;
            format!("it trapped after the growth of its memory beyond {max} bytes, or of a table, was refused")
        }
        FaultKind::TenantMemory => {
            let max = store.data().context.account.seen().shares.memory_max_bytes;
            format!(
                "it trapped after a growth of its memory was refused: its tenant's instances may have {max} bytes together"
            )
        }
        FaultKind::Tables => {
            let max = store.data().context.limits.table_elements_max;
            format!("it trapped after the growth of its tables beyond {max} elements was refused")
        }
        FaultKind::Fuel => format!("{TOO_MUCH_WORK} `fuel` in the server's `budgets` allows one event"),
        FaultKind::CpuTime => format!("{TOO_MUCH_WORK} `cpu` in the server's `budgets` allows one event"),
        _ => excerpt(error.root_cause(), EXCERPT_MAX_BYTES),
    };
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        for (depth, frame) in backtrace.frames().iter().enumerate() {
            let name = excerpt(frame.func_name().unwrap_or("unknown").escape_debug(), NAME_MAX_BYTES);
            detail.push_str(&format!("\n  {depth}: {name}"));
        }
    }
    Fault::new(kind, detail)
}

fn kind(error: &wasmtime::Error, refused: Option<Refused>) -> FaultKind {
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return match trap {
            Trap::OutOfFuel => FaultKind::Fuel,
            Trap::Interrupt => FaultKind::CpuTime,
            _ if refused.is_some() => of_growth(refused),
            Trap::UnreachableCodeReached => FaultKind::Trap("unreachable"),
            Trap::StackOverflow => FaultKind::Trap("stack-overflow"),
            Trap::MemoryOutOfBounds => FaultKind::Trap("memory-out-of-bounds"),
            Trap::TableOutOfBounds => FaultKind::Trap("table-out-of-bounds"),
            Trap::IndirectCallToNull | Trap::BadSignature => FaultKind::Trap("bad-indirect-call"),
            Trap::IntegerOverflow | Trap::BadConversionToInteger => FaultKind::Trap("integer-overflow"),
            Trap::IntegerDivisionByZero => FaultKind::Trap("divide-by-zero"),
            Trap::CannotEnterComponent | Trap::CannotLeaveComponent => FaultKind::Trap("dead-instance"),
            _ => FaultKind::Trap("contract"),
        };
    }
    if error.is::<I32Exit>() {
        // Runtimes that find no memory exit (Go).
        return if refused.is_some() { of_growth(refused) } else { FaultKind::Exit };
    }
    if is_out_of_room(error) {
        return FaultKind::Capacity;
    }
    if says(error, TOO_MUCH_COPIED) {
        FaultKind::CopyLimit
    } else if TOO_MANY_HANDLES.iter().any(|words| says(error, words)) {
        FaultKind::HandleLimit
    } else if says(error, TOO_MANY_MODULES) {
        FaultKind::Modules
    } else if refused.is_some() {
        of_growth(refused)
    } else {
        // Bad pointers, strings that are none and values out of range: the guest broke the canonical ABI.
        FaultKind::Trap("contract")
    }
}

fn of_growth(refused: Option<Refused>) -> FaultKind {
    match refused {
        Some(Refused::Tenant) => FaultKind::TenantMemory,
        Some(Refused::Tables) => FaultKind::Tables,
        Some(Refused::Host) => FaultKind::Capacity,
        Some(Refused::Memory) | None => FaultKind::Memory,
    }
}
