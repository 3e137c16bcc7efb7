//! Turns an engine's error into a fault: its kind, its origin, and its place in the plugin.

use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::engine::is_out_of_room;
use super::host_state::{HostState, Refused};
use crate::event::{EXCERPT_MAX_BYTES, Fault, FaultKind, NAME_MAX_BYTES, excerpt};

/// The engine's message if a host call carries too much. That error has no type of its own.
const TOO_MUCH_COPIED: &str = "too much data is being copied between the host and the guest";
/// The engine's message about a component of too many core modules.
const TOO_MANY_MODULES: &str = "instance count too high";
/// Start of the detail for an event that ran too long.
const TOO_MUCH_WORK: &str = "it was interrupted in an endless loop, or in more work than";
/// The engine's messages about too many handles: a part of the message for each of its two tables.
const TOO_MANY_HANDLES: [&str; 2] =
    ["store handle limit exceeded", "resource table has no free keys"];

/// Sorts an error of a call or of an instantiation.
pub(super) fn fault(error: &wasmtime::Error, store: &mut wasmtime::Store<HostState>) -> Fault {
    let refused = std::mem::take(&mut store.data_mut().limiter.refused);
    let kind = kind(error, refused);
    let mut detail = match kind {
        FaultKind::Memory => {
            let max = store.data().context.limits.memory_max_bytes;
            format!(
                "it trapped after the growth of its memory beyond {max} bytes, or of a table, was \
                 refused"
            )
        }
        FaultKind::TenantMemory => {
            let max = store.data().context.quota.seen().shares.memory_max_bytes;
            format!(
                "it trapped after a growth of its memory was refused: its tenant's instances may \
                 have {max} bytes together"
            )
        }
        FaultKind::Tables => {
            let max = store.data().context.limits.table_elements_max;
            format!("it trapped after the growth of its tables beyond {max} elements was refused")
        }
        FaultKind::Fuel => {
            format!("{TOO_MUCH_WORK} `fuel` in the server's `budgets` allows one event")
        }
        FaultKind::CpuTime => {
            format!("{TOO_MUCH_WORK} `cpu` in the server's `budgets` allows one event")
        }
        _ => excerpt(error.root_cause(), EXCERPT_MAX_BYTES),
    };
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        for (depth, frame) in backtrace.frames().iter().enumerate() {
            let name =
                excerpt(frame.func_name().unwrap_or("unknown").escape_debug(), NAME_MAX_BYTES);
            detail.push_str(&format!("\n  {depth}: {name}"));
        }
    }
    Fault::new(kind, detail)
}

/// Whether the engine's own message contains `words`. Only the root cause is searched: the rest,
/// such as a backtrace, may contain names that a plugin chose.
fn says(error: &wasmtime::Error, words: &str) -> bool {
    excerpt(error.root_cause(), EXCERPT_MAX_BYTES).contains(words)
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
            Trap::IntegerOverflow | Trap::BadConversionToInteger => {
                FaultKind::Trap("integer-overflow")
            }
            Trap::IntegerDivisionByZero => FaultKind::Trap("divide-by-zero"),
            Trap::CannotEnterComponent | Trap::CannotLeaveComponent => {
                FaultKind::Trap("dead-instance")
            }
            _ => FaultKind::Trap("contract"),
        };
    }
    if error.is::<I32Exit>() {
        // Language runtimes that get no memory exit (Go).
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
        // Bad pointers, invalid strings and values out of range: the guest broke the canonical ABI.
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

#[cfg(test)]
mod tests {
    use std::io;

    use rustix::io::Errno;
    use wasmtime::component::{Component, Linker};
    use wasmtime::{Result, Store, bail};

    use super::*;
    use crate::plugin::engine::for_compiling;

    /// Messages that the system and the engine use for other kinds, or for faults that are not the
    /// plugin's.
    const NAMES: [&str; 6] = [
        "os error 12",
        "Cannot allocate memory (os error 12)",
        "mmap failed to allocate 0x1000 bytes: Cannot allocate memory (os error 12)",
        TOO_MUCH_COPIED,
        TOO_MANY_MODULES,
        TOO_MANY_HANDLES[0],
    ];
    /// Ways to fail, as exports of the component below, each with its fault kind.
    const WAYS: [(&str, FaultKind); 5] = [
        ("trap", FaultKind::Trap("unreachable")),
        ("out-of-bounds", FaultKind::Trap("memory-out-of-bounds")),
        ("bad-pointer", FaultKind::Trap("contract")),
        ("bad-call", FaultKind::Trap("contract")),
        ("bad-result", FaultKind::Trap("contract")),
    ];

    /// A component whose functions all have this name.
    fn component(name: &str) -> String {
        let exports: String = WAYS
            .iter()
            .map(|(way, _)| {
                format!(
                    "(func (export \"{way}\") (result char) (canon lift (core func \
                    $guest \"{way}\")))\n"
                )
            })
            .collect();
        let function = |way: &str, body: &str| {
            format!("(func (@name \"{name}\") (export \"{way}\") (result i32) {body})\n")
        };
        let functions = [
            function("trap", "unreachable"),
            function("out-of-bounds", "(i32.load (i32.const 0x7fff0000))"),
            function(
                "bad-pointer",
                "(call $say (i32.const 0x7fff0000) (i32.const 64)) (i32.const 0)",
            ),
            function("bad-call", "(call $say (i32.const 0) (i32.const 0)) (i32.const 0)"),
            function("bad-result", "(i32.const 0xd800)"),
        ];
        format!(
            "(component
               (import \"say\" (func $say (param \"text\" string)))
               (core module $memory (memory (export \"memory\") 1))
               (core instance $memory (instantiate $memory))
               (core func $lowered (canon lower (func $say) (memory (core memory \
               $memory \"memory\"))))
               (core module $module
                 (import \"host\" \"say\" (func $say (param i32 i32)))
                 (memory 1)
                 {})
               (core instance $guest (instantiate $module
                 (with \"host\" (instance (export \"say\" (func $lowered))))))
               {exports})",
            functions.concat()
        )
    }

    fn failed(engine: &wasmtime::Engine, component: &Component, way: &str) -> wasmtime::Error {
        let mut linker = Linker::new(engine);
        let say = |_: wasmtime::StoreContextMut<'_, ()>, (_,): (String,)| -> Result<()> {
            bail!("nothing was said")
        };
        linker.root().func_wrap("say", say).expect("an import");
        let mut store = Store::new(engine, ());
        store.set_fuel(1 << 20).expect("fuel");
        store.set_epoch_deadline(1 << 20);
        let instance = linker.instantiate(&mut store, component).expect("an instance");
        let function = instance.get_typed_func::<(), (char,)>(&mut store, way).expect("an export");
        function.call(&mut store, ()).expect_err("it fails")
    }

    #[test]
    fn names_of_functions_decide_no_kind() {
        let engine = for_compiling().expect("an engine");
        let mut named = 0;
        for name in NAMES {
            let bytes = wat::parse_str(component(name)).expect("a component");
            let component = Component::new(&engine, bytes).expect("it compiles");
            for (way, expected) in WAYS {
                let error = failed(&engine, &component, way);
                named += usize::from(format!("{error:?}").contains(name));
                assert_eq!(kind(&error, None), expected, "{way} in `{name}`: {error:?}");
            }
        }
        assert!(named >= NAMES.len() * 4, "backtraces have the names: {named}");
    }

    #[test]
    fn refused_memory_is_no_plugins_fault() {
        let by_io = || wasmtime::Error::from(io::Error::from_raw_os_error(12));
        for error in [by_io(), by_io().context("a step"), Errno::NOMEM.into()] {
            assert_eq!(kind(&error, None), FaultKind::Capacity, "{error:?}");
        }
        for error in [Errno::INVAL.into(), wasmtime::Error::msg("os error 12")] {
            assert_eq!(kind(&error, None), FaultKind::Trap("contract"), "{error:?}");
        }
    }
}
