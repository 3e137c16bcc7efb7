//! Flat instances: a component's main core module, run on the engine's core interface.
//!
//! A component layer costs an event more than the event itself. Most plugins are one core module
//! behind shims. Such a plugin is taken apart when it is loaded, and its main module is linked with
//! the same host functions. What the plugin can see and do stays the same.

mod abi;
mod core_call;
mod derive;
mod functions;
mod handles;
mod instance;
mod passing;
mod session;
mod slots;
mod state;
mod structure;
mod wasi;

use std::sync::{Arc, OnceLock};

use wasmtime::{InstancePre, Linker, Module, Result};

pub(super) use self::instance::FlatInstance;
pub(super) use self::state::FlatState;
pub(super) use self::structure::{NotFlat, Structure, read};

use self::functions::Functions;
use super::host_state::HostState;

/// Number of a component's section of exports.
const EXPORT_SECTION: u8 = 11;
/// The name under which a component exports its main module to the host.
pub(super) const MAIN_MODULE: &str = "wharf-main-module";

/// The same component, which also exports its main module under [`MAIN_MODULE`].
pub(super) fn with_main_module(mut bytes: Vec<u8>, structure: &Structure) -> Vec<u8> {
    // An export of a core module: the name, the sort, the index, and no type.
    let mut export = vec![1, 0, MAIN_MODULE.len() as u8];
    export.extend_from_slice(MAIN_MODULE.as_bytes());
    export.extend([0x00, 0x11]);
    number(&mut export, structure.main_index);
    export.push(0);
    bytes.push(EXPORT_SECTION);
    number(&mut bytes, export.len() as u32);
    bytes.extend(export);
    bytes
}

/// Adds a number in the binary format's variable length.
fn number(bytes: &mut Vec<u8>, mut number: u32) {
    while number > 0x7f {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// A plugin that can be made as flat instances.
pub(super) struct FlatPlugin {
    pre: InstancePre<HostState>,
    structure: Arc<Structure>,
}

impl FlatPlugin {
    /// Links the main module of a component of this structure.
    ///
    /// # Errors
    /// It imports something that flat instances do not have.
    pub(super) fn link(module: &Module, structure: Structure) -> Result<Self> {
        let mut linker = Linker::new(module.engine());
        for import in &structure.imports {
            let (module, field) = (import.module.as_str(), import.field.as_str());
            functions().define(&mut linker, &import.target, (module, field))?;
        }
        Ok(Self { pre: linker.instantiate_pre(module)?, structure: Arc::new(structure) })
    }
}

/// All functions that flat instances may import.
fn functions() -> &'static Functions {
    static FUNCTIONS: OnceLock<Functions> = OnceLock::new();
    FUNCTIONS.get_or_init(|| {
        let mut functions = Functions::default();
        session::add(&mut functions);
        wasi::add(&mut functions);
        functions
    })
}
