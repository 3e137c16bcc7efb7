//! Advice about a component that is no plugin, by the engine's message. Covers the usual mistakes
//! of each language's tools.

use crate::plugin::{IN_ITS, LoadError};

/// Advice for a file that ends too early.
const CUT_SHORT: &str = "the file is cut short: build it again, or copy all of it";
/// Parts of the engine's messages, each with the advice to the author. The first that fits is
/// given.
const ADVICE: [(&str, &str); 14] = [
    (
        "component model async feature",
        "it uses asynchronous functions, and the contract has none: build it with a synchronous \
         runtime (componentize-qjs: `--sync`), \
         and write handlers that are no `async` functions",
    ),
    ("unexpected end", CUT_SHORT),
    ("is out of bounds (bound =", CUT_SHORT),
    (
        "without the gc feature",
        "garbage-collected types are off here: the language has to bring a collector of its own",
    ),
    ("memory64 must be enabled", "64-bit memories are off here: build it for wasm32"),
    ("threads must be enabled", "threads are off here: build it without them (C: no `-pthread`)"),
    (
        "exceptions proposal not enabled",
        "exceptions of WebAssembly are off here: build it without them (C++: `-fno-exceptions`; C: \
         no `setjmp`)",
    ),
    (
        "linear memories, which exceeds",
        "no key raises this: it has to be made of fewer parts with a memory each",
    ),
    (
        "core module instances, which exceeds",
        "no key raises this: it has to be made of fewer core modules",
    ),
    ("defined memories count", "a core module may have one memory: link it without a second one"),
    (
        "module memory does not fit",
        "no instance may have more than 256 MiB, and none has more than the server's \
         `limits.memory_max_bytes`, 32 MiB by default: \
         link it with a smaller memory (a smaller stack, fewer static arrays)",
    ),
    (
        "module table does not fit",
        "no key raises this: 10,000 elements are the most of a table; link it with fewer functions",
    ),
    (
        "limit-tables",
        "its tables are larger than `limits.table_elements_max` of the server allows: raise that",
    ),
    (
        "limit-modules",
        "it is made of more core modules than `limits.core_instances_max` of the server allows: \
         raise that",
    ),
];

/// Advice on why a plugin was not loaded, if there is more to say than the error does.
#[must_use]
pub fn advice(error: &LoadError) -> Option<&'static str> {
    match error {
        LoadError::OtherWorld { .. } => Some(
            "the world that it is built for has to say `export wharf:server/inet-event-proc@0.1.0` \
             (`wharf new` writes such a one into \
             wit/world.wit)",
        ),
        LoadError::Mismatch { .. } => Some(
            "its functions have other types than those of the contract: build it against wit/ as \
             `wharf new` writes it, and regenerate \
             bindings",
        ),
        LoadError::Trial { cause, .. } if cause.starts_with(IN_ITS) => Some(
            "its `restore` has to take what its own `save` gives, each within the budget of one \
             event",
        ),
        LoadError::Trial { cause, .. } if cause.contains("fuel") || cause.contains("cpu-time") => {
            Some(
                "its start does too much: move work to the first event that needs it, or raise \
                 `start_fuel` and `start_cpu` in the server's \
             `budgets`",
            )
        }
        error => {
            let text = error.to_string();
            ADVICE.into_iter().find(|(said, _)| text.contains(said)).map(|(_, advice)| advice)
        }
    }
}
