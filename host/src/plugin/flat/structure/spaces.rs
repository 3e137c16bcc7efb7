//! The index spaces of a component, as far as they say what is linked to what.
//!
//! Entries are resolved as they are read, because an entry refers only to earlier ones. An import,
//! an alias and an export each add an entry. What is of no use to a flat component is an entry that
//! says so, and matters only if the main module uses it.

use std::collections::BTreeMap;
use std::ops::Range;

use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentAlias, ComponentExport,
    ComponentExternalKind as Kind, ComponentImport, ComponentInstance, ComponentOuterAliasKind,
    ComponentTypeRef, Encoding, ExternalKind, Instance as CoreInstanceItem, Parser, Payload,
    TypeBounds,
};

use super::items::{
    CoreExport, CoreFunc, CoreInstance, CoreItem, ENTRIES_MAX, Func, Imported, Instance, Lift,
    NESTED, Renames, at, is_plain, push, renames, unique,
};
use super::parts::{FUNCTIONS_MAX, INVALID, NotFlat, Options, TOO_LARGE};

/// Names of core instances by which an adapter module and its main module are linked.
const ADAPTERS: [&str; 3] = ["wasi_snapshot_preview1", "wasi_unstable", "__main_module__"];

const ADAPTER: NotFlat = NotFlat("an adapter module of WASI preview 1");
const VALUE: NotFlat = NotFlat("a component value");
const OWN_RESOURCE: NotFlat = NotFlat("a resource type that is not imported in an interface");
const OWN_CALL: NotFlat = NotFlat("a call of a function that is not imported in an interface");
const BUILT_IN: NotFlat = NotFlat("a built-in function of the component model");

/// The index spaces of a component.
#[derive(Default)]
pub(super) struct Spaces<'a> {
    /// The core instances.
    pub(super) core_instances: Vec<CoreInstance<'a>>,
    /// All functions that are made of core functions.
    pub(super) lifts: Vec<Lift<'a>>,
    /// The exported functions: interface, name, and index of the lift.
    pub(super) exports: Vec<(&'a str, &'a str, usize)>,
    /// The memory of all calls.
    pub(super) memory: Option<CoreExport<'a>>,
    /// The allocating function of all calls.
    pub(super) realloc: Option<CoreExport<'a>>,
    modules: Vec<Option<Range<usize>>>,
    core_funcs: Vec<CoreFunc<'a>>,
    core_memories: Vec<CoreExport<'a>>,
    core_tables: Vec<CoreExport<'a>>,
    funcs: Vec<Func<'a>>,
    instances: Vec<Instance<'a>>,
    components: Vec<Result<Renames<'a>, NotFlat>>,
    /// The types of imported interfaces. No other type is kept.
    types: BTreeMap<u32, Imported<'a>>,
    types_len: u32,
}

impl<'a> Spaces<'a> {
    /// Reads a component.
    ///
    /// # Errors
    /// It has what no flat component has, or is not valid.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, NotFlat> {
        let mut spaces = Self::default();
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload?;
            match &payload {
                Payload::Version { encoding, .. } => {
                    if depth == 0 && *encoding != Encoding::Component {
                        return Err(NotFlat("a core module without a component"));
                    }
                    depth += 1;
                }
                Payload::End(_) => depth = depth.saturating_sub(1),
                _ if depth == 1 => spaces.section(bytes, payload)?,
                _ => {}
            }
        }
        Ok(spaces)
    }

    /// The core instance of an index.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn core_instance(&self, index: u32) -> Result<&CoreInstance<'a>, NotFlat> {
        at(&self.core_instances, index)
    }

    /// Where a core module lies in the component's bytes.
    ///
    /// # Errors
    /// It is imported or exported by another component, or there is none.
    pub(super) fn module(&self, index: u32) -> Result<Range<usize>, NotFlat> {
        at(&self.modules, index)?.clone().ok_or(NotFlat("a core module from elsewhere"))
    }

    fn section(&mut self, bytes: &'a [u8], payload: Payload<'a>) -> Result<(), NotFlat> {
        match payload {
            Payload::CustomSection(_) | Payload::CoreTypeSection(_) => {}
            Payload::ModuleSection { unchecked_range, .. } => {
                push(&mut self.modules, Some(unchecked_range))?;
            }
            Payload::ComponentSection { unchecked_range, .. } => {
                let nested = bytes.get(unchecked_range).ok_or(INVALID)?;
                push(&mut self.components, renames(nested))?;
            }
            // Types are counted and not read, because nested types would take a deep stack.
            Payload::ComponentTypeSection(section) => self.add_types(section.count())?,
            Payload::InstanceSection(section) => {
                for instance in section {
                    let instance = self.made_core_instance(instance?)?;
                    push(&mut self.core_instances, instance)?;
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section {
                    let instance = self.made_instance(instance?)?;
                    push(&mut self.instances, instance)?;
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    self.alias(alias?)?;
                }
            }
            Payload::ComponentCanonicalSection(section) => {
                for function in section {
                    self.canonical(function?)?;
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    self.import(import?)?;
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    self.export(export?)?;
                }
            }
            Payload::ComponentStartSection { .. } => {
                return Err(NotFlat("a start function of the component"));
            }
            _ => return Err(INVALID),
        }
        Ok(())
    }

    fn add_types(&mut self, count: u32) -> Result<(), NotFlat> {
        self.types_len = self.types_len.checked_add(count).ok_or(INVALID)?;
        Ok(())
    }

    /// Adds a type, of which only its imported interface is of interest.
    fn add_type(&mut self, imported: Option<Imported<'a>>) -> Result<(), NotFlat> {
        if let Some(imported) = imported {
            if self.types.len() == ENTRIES_MAX {
                return Err(TOO_LARGE);
            }
            self.types.insert(self.types_len, imported);
        }
        self.add_types(1)
    }

    fn made_core_instance(
        &self,
        instance: CoreInstanceItem<'a>,
    ) -> Result<CoreInstance<'a>, NotFlat> {
        match instance {
            CoreInstanceItem::Instantiate { module_index: module, args } => {
                if args.iter().any(|arg| ADAPTERS.contains(&arg.name)) {
                    return Err(ADAPTER);
                }
                let args = unique(args.iter().map(|arg| Ok((arg.name, arg.index))))?;
                Ok(CoreInstance::Made { module, args })
            }
            CoreInstanceItem::FromExports(exports) => {
                let items = exports.iter().map(|export| {
                    let index = export.index;
                    let item = match export.kind {
                        ExternalKind::Func => CoreItem::Func(*at(&self.core_funcs, index)?),
                        ExternalKind::Memory => CoreItem::Memory(*at(&self.core_memories, index)?),
                        ExternalKind::Table => CoreItem::Table(*at(&self.core_tables, index)?),
                        ExternalKind::Global | ExternalKind::Tag => CoreItem::Other,
                        ExternalKind::FuncExact => return Err(INVALID),
                    };
                    Ok((export.name, item))
                });
                Ok(CoreInstance::Bag(unique(items)?))
            }
        }
    }

    fn made_instance(&self, instance: ComponentInstance<'a>) -> Result<Instance<'a>, NotFlat> {
        match instance {
            ComponentInstance::Instantiate { component_index: component, args } => {
                // Another component could run code of its own when it is made.
                if at(&self.components, component)?.is_err() {
                    return Err(NESTED);
                }
                let funcs = args.iter().filter(|arg| arg.kind == Kind::Func);
                let args = unique(funcs.map(|arg| Ok((arg.name, *at(&self.funcs, arg.index)?))))?;
                Ok(Instance::Made { component, args })
            }
            ComponentInstance::FromExports(exports) => {
                let simple = |export: &ComponentExport<'_>| {
                    matches!(export.kind, Kind::Func | Kind::Type) && is_plain(&export.name)
                };
                if !exports.iter().all(simple) {
                    return Ok(Instance::Other);
                }
                let funcs = exports.iter().filter(|export| export.kind == Kind::Func);
                let funcs =
                    funcs.map(|export| Ok((export.name.name, *at(&self.funcs, export.index)?)));
                Ok(Instance::Bag(unique(funcs)?))
            }
        }
    }

    fn alias(&mut self, alias: ComponentAlias<'a>) -> Result<(), NotFlat> {
        match alias {
            ComponentAlias::CoreInstanceExport { kind, instance_index: instance, name } => {
                let export = CoreExport { instance, name };
                let item = match (self.core_instance(instance)?, kind) {
                    (CoreInstance::Bag(items), _) => *items.get(name).ok_or(INVALID)?,
                    (_, ExternalKind::Func) => CoreItem::Func(CoreFunc::Export(export)),
                    (_, ExternalKind::Memory) => CoreItem::Memory(export),
                    (_, ExternalKind::Table) => CoreItem::Table(export),
                    _ => CoreItem::Other,
                };
                match (kind, item) {
                    (ExternalKind::Func, CoreItem::Func(func)) => push(&mut self.core_funcs, func),
                    (ExternalKind::Memory, CoreItem::Memory(memory)) => {
                        push(&mut self.core_memories, memory)
                    }
                    (ExternalKind::Table, CoreItem::Table(table)) => {
                        push(&mut self.core_tables, table)
                    }
                    // No flat component uses a global or a tag, so they have no index space here.
                    (ExternalKind::Global | ExternalKind::Tag, CoreItem::Other) => Ok(()),
                    _ => Err(INVALID),
                }
            }
            ComponentAlias::InstanceExport { kind, instance_index, name } => match kind {
                Kind::Func => {
                    let func = self.member(at(&self.instances, instance_index)?, name);
                    push(&mut self.funcs, func)
                }
                Kind::Type => match at(&self.instances, instance_index)? {
                    Instance::Imported(interface) => {
                        let interface: &'a str = interface;
                        self.add_type(Some(Imported { interface, name }))
                    }
                    _ => self.add_type(None),
                },
                Kind::Instance => push(&mut self.instances, Instance::Other),
                Kind::Component => push(&mut self.components, Err(NESTED)),
                Kind::Module => push(&mut self.modules, None),
                Kind::Value => Err(VALUE),
            },
            ComponentAlias::Outer { kind, .. } => match kind {
                ComponentOuterAliasKind::CoreModule => push(&mut self.modules, None),
                ComponentOuterAliasKind::CoreType => Ok(()),
                ComponentOuterAliasKind::Type => self.add_type(None),
                ComponentOuterAliasKind::Component => push(&mut self.components, Err(NESTED)),
            },
        }
    }

    /// A function that an instance exports.
    fn member(&self, instance: &Instance<'a>, name: &'a str) -> Func<'a> {
        let found = match instance {
            Instance::Imported(interface) => Some(Func::Imported(Imported { interface, name })),
            Instance::Bag(funcs) => funcs.get(name).copied(),
            Instance::Made { component, args } => match at(&self.components, *component) {
                Ok(Ok(renames)) => renames.get(name).and_then(|import| args.get(import)).copied(),
                _ => None,
            },
            Instance::Other => None,
        };
        found.unwrap_or(Func::Other)
    }

    fn canonical(&mut self, function: CanonicalFunction) -> Result<(), NotFlat> {
        let core = match function {
            CanonicalFunction::Lift { core_func_index, options, .. } => {
                let CoreFunc::Export(core) = *at(&self.core_funcs, core_func_index)? else {
                    return Err(NotFlat("an exported function without code of its own"));
                };
                let (options, post_return) = self.options(&options)?;
                push(&mut self.funcs, Func::Lifted(self.lifts.len()))?;
                return push(&mut self.lifts, Lift { core, post_return, options });
            }
            CanonicalFunction::Lower { func_index, options } => {
                let func = *at(&self.funcs, func_index)?;
                let (options, post_return) = self.options(&options)?;
                match (func, post_return) {
                    (Func::Imported(imported), None) => CoreFunc::Lower(imported, options),
                    (_, None) => CoreFunc::Other(OWN_CALL),
                    (_, Some(_)) => return Err(INVALID),
                }
            }
            CanonicalFunction::ResourceDrop { resource } => {
                if resource >= self.types_len {
                    return Err(INVALID);
                }
                match self.types.get(&resource) {
                    Some(imported) => CoreFunc::Drop(*imported),
                    None => CoreFunc::Other(OWN_RESOURCE),
                }
            }
            CanonicalFunction::ResourceNew { .. } | CanonicalFunction::ResourceRep { .. } => {
                CoreFunc::Other(OWN_RESOURCE)
            }
            // All the others make a core function too.
            _ => CoreFunc::Other(BUILT_IN),
        };
        push(&mut self.core_funcs, core)
    }

    /// The options of a call, and its `post-return`.
    fn options(
        &mut self,
        given: &[CanonicalOption],
    ) -> Result<(Options, Option<CoreExport<'a>>), NotFlat> {
        let mut options = Options::default();
        let mut post_return = None;
        for option in given {
            match *option {
                CanonicalOption::UTF8 => {}
                CanonicalOption::UTF16 | CanonicalOption::CompactUTF16 => {
                    return Err(NotFlat("strings that are not UTF-8"));
                }
                CanonicalOption::Memory(index) if !options.memory => {
                    options.memory = true;
                    let memory = *at(&self.core_memories, index)?;
                    if *self.memory.get_or_insert(memory) != memory {
                        return Err(NotFlat("calls that use different memories"));
                    }
                }
                CanonicalOption::Realloc(index) if !options.realloc => {
                    options.realloc = true;
                    let realloc = self.core_export(index)?;
                    if *self.realloc.get_or_insert(realloc) != realloc {
                        return Err(NotFlat("calls that use different `realloc` functions"));
                    }
                }
                CanonicalOption::PostReturn(index) if post_return.is_none() => {
                    post_return = Some(self.core_export(index)?);
                }
                CanonicalOption::Memory(_)
                | CanonicalOption::Realloc(_)
                | CanonicalOption::PostReturn(_) => return Err(INVALID),
                CanonicalOption::Async | CanonicalOption::Callback(_) => {
                    return Err(NotFlat("an asynchronous call"));
                }
                CanonicalOption::CoreType(_) | CanonicalOption::Gc => {
                    return Err(NotFlat("a call with garbage-collected types"));
                }
            }
        }
        Ok((options, post_return))
    }

    /// A core function that a core instance exports.
    fn core_export(&self, index: u32) -> Result<CoreExport<'a>, NotFlat> {
        match *at(&self.core_funcs, index)? {
            CoreFunc::Export(export) => Ok(export),
            _ => Err(NotFlat("a `realloc` or `post-return` outside of the main module")),
        }
    }

    fn import(&mut self, import: ComponentImport<'a>) -> Result<(), NotFlat> {
        match import.ty {
            ComponentTypeRef::Instance(_) if is_plain(&import.name) => {
                push(&mut self.instances, Instance::Imported(import.name.name))
            }
            ComponentTypeRef::Instance(_) => push(&mut self.instances, Instance::Other),
            ComponentTypeRef::Func(_) => push(&mut self.funcs, Func::Other),
            ComponentTypeRef::Type(_) => self.add_type(None),
            ComponentTypeRef::Module(_) => Err(NotFlat("an imported core module")),
            ComponentTypeRef::Component(_) => Err(NotFlat("an imported component")),
            ComponentTypeRef::Value(_) => Err(VALUE),
        }
    }

    fn export(&mut self, export: ComponentExport<'a>) -> Result<(), NotFlat> {
        let index = export.index;
        match export.kind {
            Kind::Instance => {
                if export.ty.is_some() || !is_plain(&export.name) {
                    return Err(NotFlat("an exported interface with a type of its own"));
                }
                let mut exports = Vec::new();
                let instance = at(&self.instances, index)?;
                let names: Vec<&'a str> = match instance {
                    Instance::Bag(funcs) => funcs.keys().copied().collect(),
                    Instance::Made { component, .. } => match at(&self.components, *component)? {
                        Ok(renames) => renames.keys().copied().collect(),
                        Err(reason) => return Err(*reason),
                    },
                    Instance::Imported(_) => return Err(NotFlat("an exported import")),
                    Instance::Other => return Err(NESTED),
                };
                for name in names {
                    let Func::Lifted(lift) = self.member(instance, name) else {
                        return Err(NotFlat("an exported function without code of its own"));
                    };
                    exports.push((export.name.name, name, lift));
                }
                self.exports.extend(exports);
                if self.exports.len() > FUNCTIONS_MAX {
                    return Err(TOO_LARGE);
                }
                push(&mut self.instances, Instance::Other)
            }
            Kind::Func => {
                let func = *at(&self.funcs, index)?;
                push(&mut self.funcs, func)
            }
            Kind::Type => {
                if index >= self.types_len {
                    return Err(INVALID);
                }
                // A type that the export gives a new type is not kept.
                let same =
                    matches!(export.ty, None | Some(ComponentTypeRef::Type(TypeBounds::Eq(_))));
                let imported = self.types.get(&index).copied().filter(|_| same);
                self.add_type(imported)
            }
            Kind::Module => {
                let module = at(&self.modules, index)?.clone();
                push(&mut self.modules, module)
            }
            Kind::Component => push(&mut self.components, Err(NESTED)),
            Kind::Value => Err(VALUE),
        }
    }
}
