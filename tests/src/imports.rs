//! Guests that import more than their own session, and a table of all possible imports.

use std::sync::Arc;

use wharf::plugin::{Grant, Grants, Plugin};
use wit_component::StringEncoding;
use wit_parser::abi::{AbiVariant, WasmType};
use wit_parser::{Resolve, WorldItem};

use crate::guests::{component_in, contract, file, root};
use crate::servers::host;

/// The interfaces of `tests/guests/wasi.wit`.
const WASI: [&str; 12] = [
    "wasi:io/error@0.2.6",
    "wasi:io/poll@0.2.6",
    "wasi:io/streams@0.2.6",
    "wasi:clocks/monotonic-clock@0.2.6",
    "wasi:clocks/wall-clock@0.2.6",
    "wasi:random/random@0.2.6",
    "wasi:random/insecure@0.2.6",
    "wasi:cli/stdout@0.2.6",
    "wasi:cli/stdin@0.2.6",
    "wasi:cli/environment@0.2.6",
    "wasi:cli/exit@0.2.6",
    "wasi:config/store@0.2.0-rc.1",
];

/// The contract's text with WASI interfaces in its world.
#[must_use]
pub fn open_contract() -> String {
    let wasi =
        std::fs::read_to_string(root().join("tests/guests/wasi.wit")).expect("the interfaces");
    let imports: String = WASI.iter().map(|name| format!("import {name};\n")).collect();
    let (contract, world) = (contract(), "world plugin {\n");
    assert!(contract.contains(world), "the world is called as it was");
    format!("{}\n{wasi}", contract.replace(world, &format!("{world}{imports}")))
}

/// A guest of `tests/guests` with these grants, loaded.
#[must_use]
pub fn granted(name: &str, grants: &[Grant]) -> Arc<Plugin> {
    let handlers =
        std::fs::read_to_string(root().join(format!("tests/guests/{name}.wat"))).expect("a guest");
    open(name, &handlers, StringEncoding::UTF8, grants)
}

/// A guest from the text of its handlers, with its imports first, loaded.
#[must_use]
pub fn open(name: &str, handlers: &str, encoding: StringEncoding, grants: &[Grant]) -> Arc<Plugin> {
    let file = file(name, &component_in(handlers, &open_contract(), "0.1.0", encoding));
    let grants: Grants = grants.iter().copied().collect();
    Arc::new(host().loader().load(&file, &grants).unwrap_or_else(|error| panic!("{name}: {error}")))
}

/// A value type of a core module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// 32 bits, or a pointer, or a length.
    I32,
    /// 64 bits.
    I64,
}

impl Value {
    fn of(kind: WasmType) -> Self {
        match kind {
            WasmType::I32 | WasmType::Pointer | WasmType::Length => Self::I32,
            WasmType::I64 | WasmType::PointerOrI64 => Self::I64,
            WasmType::F32 | WasmType::F64 => unreachable!("no interface has floats"),
        }
    }

    /// The type's name in WebAssembly text.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::I32 => "i32",
            Self::I64 => "i64",
        }
    }
}

/// A function that a guest can import, as a core module sees it.
#[derive(Debug, Clone)]
pub struct Import {
    /// The interface's name with its version.
    pub interface: String,
    /// The function's name.
    pub name: String,
    /// The parameters. If the result does not fit into one value, the last parameter is the address
    /// for it.
    pub params: Vec<Value>,
    /// The results.
    pub results: Vec<Value>,
    /// The number of parameters that are pointers or lengths.
    pub pointers: usize,
}

impl Import {
    /// The WebAssembly text that imports the function under a name.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        let list = |values: &[Value]| {
            values.iter().map(|value| format!(" {}", value.name())).collect::<String>()
        };
        let Self { interface, name: function, params, results, .. } = self;
        let (params, results) = (list(params), list(results));
        format!(
            "(import \"{interface}\" \"{function}\" (func ${name} (param{params}) \
             (result{results})))\n"
        )
    }
}

/// All functions of interfaces whose names begin with `prefix`, read from the contract.
#[must_use]
pub fn imports(prefix: &str) -> Vec<Import> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("contract.wit", &open_contract()).expect("the contract");
    let world = resolve.select_world(&[package], Some("plugin")).expect("its world");
    let mut found = Vec::new();
    for item in resolve.worlds[world].imports.values() {
        let WorldItem::Interface { id, .. } = item else { continue };
        let interface = resolve.id_of(*id).expect("a name");
        for function in
            resolve.interfaces[*id].functions.values().filter(|_| interface.starts_with(prefix))
        {
            let signature = resolve.wasm_signature(AbiVariant::GuestImport, function);
            let pointer = |kind: &&WasmType| matches!(kind, WasmType::Pointer | WasmType::Length);
            found.push(Import {
                interface: interface.clone(),
                name: function.name.clone(),
                params: signature.params.iter().copied().map(Value::of).collect(),
                results: signature.results.iter().copied().map(Value::of).collect(),
                pointers: signature.params.iter().filter(pointer).count(),
            });
        }
    }
    found
}
