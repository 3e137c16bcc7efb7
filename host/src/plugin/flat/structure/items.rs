//! The entries of a component's index spaces, and the components that only rename functions.

use std::collections::BTreeMap;

use wasmparser::{
    ComponentAlias, ComponentExternName, ComponentExternalKind as Kind, ComponentOuterAliasKind,
    ComponentTypeRef, Encoding, Parser, Payload,
};

use super::parts::{INVALID, NotFlat, Options, TOO_LARGE};

/// Entries that no index space may exceed.
pub(super) const ENTRIES_MAX: usize = 100_000;
/// Why a nested component is not flat.
pub(super) const NESTED: NotFlat = NotFlat("a nested component with code or instances of its own");

/// An export of a core instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CoreExport<'a> {
    /// Index of the core instance, which is made of a module.
    pub(super) instance: u32,
    /// Name of the export.
    pub(super) name: &'a str,
}

/// A member of an imported interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Imported<'a> {
    /// Name of the interface.
    pub(super) interface: &'a str,
    /// Name of the member.
    pub(super) name: &'a str,
}

/// A core function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CoreFunc<'a> {
    /// It is exported by a core instance.
    Export(CoreExport<'a>),
    /// It calls an imported function.
    Lower(Imported<'a>, Options),
    /// It drops a handle of an imported resource.
    Drop(Imported<'a>),
    /// No flat component uses it, for this reason.
    Other(NotFlat),
}

/// An item that a core instance exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CoreItem<'a> {
    /// A function.
    Func(CoreFunc<'a>),
    /// A memory.
    Memory(CoreExport<'a>),
    /// A table.
    Table(CoreExport<'a>),
    /// A global or a tag.
    Other,
}

/// A core instance.
pub(super) enum CoreInstance<'a> {
    /// It is made of a module.
    Made {
        /// Index of the module.
        module: u32,
        /// The core instances that its imports are taken from, by name.
        args: BTreeMap<&'a str, u32>,
    },
    /// It is a bag of items.
    Bag(BTreeMap<&'a str, CoreItem<'a>>),
}

/// A function of the component, made of a core function.
pub(super) struct Lift<'a> {
    /// The core function.
    pub(super) core: CoreExport<'a>,
    /// The core function that is called when the result has been read.
    pub(super) post_return: Option<CoreExport<'a>>,
    /// What the call may use.
    pub(super) options: Options,
}

/// A function of the component.
#[derive(Clone, Copy)]
pub(super) enum Func<'a> {
    /// It is imported.
    Imported(Imported<'a>),
    /// It is made of a core function, and this is the index of the lift.
    Lifted(usize),
    /// No flat component uses it.
    Other,
}

/// An instance of the component.
pub(super) enum Instance<'a> {
    /// It is an imported interface of this name.
    Imported(&'a str),
    /// It is a bag of functions and types.
    Bag(BTreeMap<&'a str, Func<'a>>),
    /// It is made of a nested component that only renames.
    Made {
        /// Index of the component.
        component: u32,
        /// The functions that its imports are taken from, by name.
        args: BTreeMap<&'a str, Func<'a>>,
    },
    /// No flat component uses it.
    Other,
}

/// A nested component that only gives imported functions other names: those of its exports, each
/// with that of the import.
pub(super) type Renames<'a> = BTreeMap<&'a str, &'a str>;

/// Reads a nested component.
///
/// # Errors
/// It does more than rename.
pub(super) fn renames(bytes: &[u8]) -> Result<Renames<'_>, NotFlat> {
    let mut funcs: Vec<&str> = Vec::new();
    let mut renames = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::Version { encoding: Encoding::Component, .. } => {}
            Payload::CustomSection(_) | Payload::ComponentTypeSection(_) | Payload::End(_) => {}
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    match alias? {
                        ComponentAlias::Outer { kind: ComponentOuterAliasKind::Type, .. } => {}
                        _ => return Err(NESTED),
                    }
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    let import = import?;
                    match import.ty {
                        ComponentTypeRef::Func(_) => push(&mut funcs, import.name.name)?,
                        ComponentTypeRef::Type(_) => {}
                        _ => return Err(NESTED),
                    }
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export?;
                    match export.kind {
                        Kind::Func if is_plain(&export.name) => {
                            let import = *at(&funcs, export.index)?;
                            push(&mut funcs, import)?;
                            renames.push(Ok((export.name.name, import)));
                        }
                        Kind::Type => {}
                        _ => return Err(NESTED),
                    }
                }
            }
            _ => return Err(NESTED),
        }
    }
    unique(renames.into_iter())
}

/// Whether a name is all that it says.
pub(super) fn is_plain(name: &ComponentExternName<'_>) -> bool {
    let ComponentExternName { name: _, implements, version_suffix, external_id } = name;
    implements.is_none() && version_suffix.is_none() && external_id.is_none()
}

/// A map of items that have different names.
///
/// # Errors
/// Two have the same name, or an item is an error.
pub(super) fn unique<'a, T>(
    items: impl Iterator<Item = Result<(&'a str, T), NotFlat>>,
) -> Result<BTreeMap<&'a str, T>, NotFlat> {
    let mut map = BTreeMap::new();
    for item in items {
        let (name, item) = item?;
        if map.insert(name, item).is_some() {
            return Err(INVALID);
        }
    }
    Ok(map)
}

/// The entry of an index.
///
/// # Errors
/// There is none.
pub(super) fn at<T>(space: &[T], index: u32) -> Result<&T, NotFlat> {
    space.get(index as usize).ok_or(INVALID)
}

/// Adds an entry.
///
/// # Errors
/// There are too many.
pub(super) fn push<T>(space: &mut Vec<T>, item: T) -> Result<(), NotFlat> {
    if space.len() >= ENTRIES_MAX {
        return Err(TOO_LARGE);
    }
    space.push(item);
    Ok(())
}
