//! What a component is made of: whether one core module is all its code, and what links it has.
//!
//! A component is flat if it has one main core module, and else only the shims of `wit-component`:
//!
//! - A core module whose functions only call what is in its table. With it, the main module can be
//!   made before the functions that need its memory.
//! - A core module that then fills the table.
//! - A component per exported interface that gives its functions their names.
//!
//! The bytes may be invalid: what is said here holds if the engine finds the component valid.

mod items;
mod parts;
mod shim;
mod spaces;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use wasmparser::{Parser, Payload, TypeRef};

pub(in crate::plugin) use self::parts::NotFlat;

use self::items::{CoreExport, CoreFunc, CoreInstance, CoreItem};
use self::parts::{
    FUNCTIONS_MAX, INITIALISES, INVALID, NAME_MAX, OTHER_MODULE, Options, TOO_LARGE,
};
use self::shim::{Fixup, Shim};
use self::spaces::Spaces;

/// The main module of a flat component, and what it is linked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::plugin) struct Structure {
    /// Index of the main module among the component's core modules.
    pub(super) main_index: u32,
    /// For each import of the main module, in its order. No two have the same names.
    pub(super) imports: Vec<Import>,
    /// For each function that the component exports in an interface.
    pub(super) exports: Vec<Export>,
    /// Name of the main module's memory that all calls use, if any uses one.
    pub(super) memory: Option<String>,
    /// Name of the main module's function that allocates for all calls, if any allocates.
    pub(super) realloc: Option<String>,
}

/// An import of the main module. It is a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Import {
    /// Name of the module that it is imported from.
    pub(super) module: String,
    /// Its own name.
    pub(super) field: String,
    /// The host function that it is linked to.
    pub(super) target: Target,
}

/// A host function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// A function of an imported interface.
    Call {
        /// Name of the interface, with its version: `wasi:io/streams@0.2.6`.
        interface: String,
        /// Name of the function: `[method]output-stream.write`.
        function: String,
        /// What it may use of the main module.
        options: Options,
    },
    /// Drops a handle of a resource of an imported interface.
    Drop {
        /// Name of the interface, with its version.
        interface: String,
        /// Name of the resource.
        resource: String,
    },
}

/// A function that the component exports in an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Export {
    /// Name of the interface, with its version.
    pub(super) interface: String,
    /// Name of the function in the interface.
    pub(super) function: String,
    /// Name of the main module's export that it is.
    pub(super) core: String,
    /// Name of the main module's export that is called when the result has been read.
    pub(super) post_return: Option<String>,
    /// What its call may use of the main module.
    pub(super) options: Options,
}

/// Takes a component apart.
///
/// # Errors
/// It is not flat, or not valid.
pub(in crate::plugin) fn read(bytes: &[u8]) -> Result<Structure, NotFlat> {
    let spaces = Spaces::read(bytes)?;
    let main = main_instance(&spaces)?;
    let CoreInstance::Made { module, .. } = *spaces.core_instance(main)? else {
        return Err(INVALID);
    };
    let structure = Structure {
        main_index: module,
        imports: imports(bytes, &spaces, main)?,
        exports: exports(&spaces)?,
        memory: spaces.memory.map(|memory| name(memory.name)).transpose()?,
        realloc: spaces.realloc.map(|realloc| name(realloc.name)).transpose()?,
    };
    Ok(structure)
}

/// The core instance that all exported functions are in, with all that their calls use.
fn main_instance(spaces: &Spaces<'_>) -> Result<u32, NotFlat> {
    let first = spaces.lifts.first().ok_or(NotFlat("no exported function"))?;
    let main = first.core.instance;
    for lift in &spaces.lifts {
        if lift.core.instance != main {
            return Err(NotFlat("exported functions of several core modules"));
        }
        if lift.post_return.is_some_and(|function| function.instance != main) {
            return Err(NotFlat("a `post-return` outside of the main module"));
        }
    }
    let elsewhere = |used: Option<CoreExport<'_>>| used.is_some_and(|used| used.instance != main);
    if elsewhere(spaces.memory) {
        return Err(NotFlat("a memory outside of the main module"));
    }
    if elsewhere(spaces.realloc) {
        return Err(NotFlat("a `realloc` outside of the main module"));
    }
    Ok(main)
}

fn exports(spaces: &Spaces<'_>) -> Result<Vec<Export>, NotFlat> {
    let mut exports = Vec::new();
    for &(interface, function, lift) in &spaces.exports {
        let lift = spaces.lifts.get(lift).ok_or(INVALID)?;
        exports.push(Export {
            interface: name(interface)?,
            function: name(function)?,
            core: name(lift.core.name)?,
            post_return: lift.post_return.map(|function| name(function.name)).transpose()?,
            options: lift.options,
        });
    }
    Ok(exports)
}

/// What the main module's imports are linked to.
fn imports(bytes: &[u8], spaces: &Spaces<'_>, main: u32) -> Result<Vec<Import>, NotFlat> {
    let CoreInstance::Made { module, args } = spaces.core_instance(main)? else {
        return Err(INVALID);
    };
    let shims = Shims::read(bytes, spaces, main)?;
    let mut imports = Vec::new();
    let mut seen = BTreeSet::new();
    for (from, field) in main_imports(core(bytes, spaces, *module)?)? {
        if imports.len() == FUNCTIONS_MAX {
            return Err(TOO_LARGE);
        }
        if !seen.insert((from, field)) {
            return Err(NotFlat("two imports of the same name"));
        }
        let from_instance = *args.get(from).ok_or(INVALID)?;
        let linked = match spaces.core_instance(from_instance)? {
            CoreInstance::Made { .. } => {
                CoreFunc::Export(CoreExport { instance: from_instance, name: field })
            }
            CoreInstance::Bag(items) => function(items.get(field))?,
        };
        let linked = match (linked, &shims) {
            (CoreFunc::Export(export), Some(shims)) => shims.behind(export)?,
            (linked, _) => linked,
        };
        let target = match linked {
            CoreFunc::Lower(of, options) => {
                Target::Call { interface: name(of.interface)?, function: name(of.name)?, options }
            }
            CoreFunc::Drop(of) => {
                Target::Drop { interface: name(of.interface)?, resource: name(of.name)? }
            }
            CoreFunc::Export(_) => return Err(OTHER_MODULE),
            CoreFunc::Other(reason) => return Err(reason),
        };
        imports.push(Import { module: name(from)?, field: name(field)?, target });
    }
    Ok(imports)
}

/// The names of the main module's imports, which are all functions.
fn main_imports(module: &[u8]) -> Result<Vec<(&str, &str)>, NotFlat> {
    let mut imports = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import?;
                    if !matches!(import.ty, TypeRef::Func(_)) {
                        return Err(NotFlat("a main module that imports more than functions"));
                    }
                    if imports.len() == FUNCTIONS_MAX {
                        return Err(TOO_LARGE);
                    }
                    imports.push((import.module, import.name));
                }
            }
            Payload::StartSection { .. } => return Err(INITIALISES),
            _ => {}
        }
    }
    Ok(imports)
}

/// The two modules that stand between the main module and functions that need its memory.
struct Shims<'a> {
    shim: Shim<'a>,
    shim_instance: u32,
    fixup: Fixup<'a>,
    /// The core instance that the second module's imports are of.
    links: &'a CoreInstance<'a>,
}

impl<'a> Shims<'a> {
    /// Finds them. Any other core instance of a module, but `main`, makes the component not flat.
    fn read(bytes: &'a [u8], spaces: &'a Spaces<'a>, main: u32) -> Result<Option<Self>, NotFlat> {
        let (mut before, mut after) = (None, None);
        for (at, instance) in (0..).zip(&spaces.core_instances) {
            let CoreInstance::Made { module, args } = instance else { continue };
            if at < main && before.is_none() {
                before = Some((at, Shim::read(core(bytes, spaces, *module)?)?));
            } else if at > main {
                let fixup = Fixup::read(core(bytes, spaces, *module)?)?;
                if after.is_some() {
                    return Err(OTHER_MODULE);
                }
                after = Some((args, fixup));
            } else if at != main {
                return Err(OTHER_MODULE);
            }
        }
        let ((shim_instance, shim), (args, fixup)) = match (before, after) {
            (Some(before), Some(after)) => (before, after),
            (None, None) => return Ok(None),
            _ => return Err(NotFlat("a shim that stays empty")),
        };
        let links = spaces.core_instance(*args.get(fixup.module).ok_or(INVALID)?)?;
        let CoreInstance::Bag(items) = links else { return Err(OTHER_MODULE) };
        let shims_table = CoreExport { instance: shim_instance, name: shim.table };
        if items.get(fixup.table) != Some(&CoreItem::Table(shims_table)) {
            return Err(NotFlat("a table that is not the shim's"));
        }
        if fixup.slots.len() as u64 != shim.size {
            return Err(NotFlat("a shim that is not filled"));
        }
        Ok(Some(Self { shim, shim_instance, fixup, links }))
    }

    /// The function that the shim's export calls.
    fn behind(&self, export: CoreExport<'_>) -> Result<CoreFunc<'a>, NotFlat> {
        if export.instance != self.shim_instance {
            return Err(OTHER_MODULE);
        }
        let (slot, shim_type) = self.shim.functions.get(export.name).ok_or(INVALID)?;
        let (field, linked_type) = self.fixup.slots.get(*slot).ok_or(OTHER_MODULE)?;
        if shim_type != linked_type {
            return Err(NotFlat("a shim of another type than its function"));
        }
        let CoreInstance::Bag(items) = self.links else { return Err(INVALID) };
        function(items.get(field))
    }
}

/// The bytes of a core module.
fn core<'a>(bytes: &'a [u8], spaces: &Spaces<'_>, module: u32) -> Result<&'a [u8], NotFlat> {
    bytes.get(spaces.module(module)?).ok_or(INVALID)
}

fn function<'a>(item: Option<&CoreItem<'a>>) -> Result<CoreFunc<'a>, NotFlat> {
    match item {
        Some(CoreItem::Func(function)) => Ok(*function),
        _ => Err(INVALID),
    }
}

/// A name of bounded length, so that a name which is used often cannot fill the memory.
fn name(name: &str) -> Result<String, NotFlat> {
    if name.len() > NAME_MAX { Err(TOO_LARGE) } else { Ok(name.to_owned()) }
}
