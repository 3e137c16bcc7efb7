//! The two core modules of `wit-component` that let the main module call what needs its memory.

use std::collections::BTreeMap;

use wasmparser::{
    CompositeInnerType, ElementItems, ElementKind, ExternalKind, FuncType, FunctionBody, Operator,
    Parser, Payload, RefType, TableInit, TypeRef, TypeSectionReader,
};

use super::parts::{FUNCTIONS_MAX, INITIALISES, INVALID, NotFlat, OTHER_MODULE, TOO_LARGE};

/// A core module whose functions each call one entry of its table, with their own parameters.
pub(super) struct Shim<'a> {
    /// Name of its table.
    pub(super) table: &'a str,
    /// Entries of its table.
    pub(super) size: u64,
    /// Its exported functions by name: the called entry of the table, and the type.
    pub(super) functions: BTreeMap<&'a str, (usize, FuncType)>,
}

impl<'a> Shim<'a> {
    /// Reads a core module.
    ///
    /// # Errors
    /// It is not a shim.
    pub(super) fn read(module: &'a [u8]) -> Result<Self, NotFlat> {
        let (mut types, mut functions, mut calls) = (Vec::new(), Vec::new(), Vec::new());
        let (mut size, mut exports) = (None, Vec::new());
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::Version { .. } | Payload::CustomSection(_) | Payload::End(_) => {}
                Payload::CodeSectionStart { .. } => {}
                Payload::TypeSection(section) => types = func_types(section)?,
                Payload::FunctionSection(section) => {
                    few(section.count())?;
                    functions = section.into_iter().collect::<Result<Vec<u32>, _>>()?;
                }
                Payload::TableSection(section) => {
                    for table in section {
                        let table = table?;
                        let fixed = table.ty.maximum == Some(table.ty.initial);
                        let plain = !table.ty.table64 && !table.ty.shared;
                        let funcs = table.ty.element_type == RefType::FUNCREF;
                        let null = matches!(table.init, TableInit::RefNull);
                        if !(fixed && plain && funcs && null && size.is_none()) {
                            return Err(OTHER_MODULE);
                        }
                        size = Some(table.ty.initial);
                    }
                }
                Payload::ExportSection(section) => {
                    few(section.count())?;
                    exports = section.into_iter().collect::<Result<Vec<_>, _>>()?;
                }
                Payload::CodeSectionEntry(body) => {
                    let of = *functions.get(calls.len()).ok_or(INVALID)?;
                    let func_type: &FuncType = types.get(of as usize).ok_or(INVALID)?;
                    calls.push((called(&body, func_type, of)?, func_type.clone()));
                }
                Payload::StartSection { .. } => return Err(INITIALISES),
                _ => return Err(OTHER_MODULE),
            }
        }
        let mut table = None;
        let mut functions = BTreeMap::new();
        for export in exports {
            match export.kind {
                ExternalKind::Func => {
                    let call = calls.get(export.index as usize).ok_or(INVALID)?;
                    functions.insert(export.name, call.clone());
                }
                ExternalKind::Table if export.index == 0 && table.is_none() => {
                    table = Some(export.name);
                }
                _ => return Err(OTHER_MODULE),
            }
        }
        match (table, size) {
            (Some(table), Some(size)) => Ok(Self { table, size, functions }),
            _ => Err(OTHER_MODULE),
        }
    }
}

/// The entry of the table that a function calls, if it does nothing else.
fn called(body: &FunctionBody<'_>, func_type: &FuncType, of: u32) -> Result<usize, NotFlat> {
    if body.get_locals_reader()?.get_count() != 0 {
        return Err(OTHER_MODULE);
    }
    let mut operators = body.get_operators_reader()?;
    for (local, _) in (0..).zip(func_type.params()) {
        match operators.read()? {
            Operator::LocalGet { local_index } if local_index == local => {}
            _ => return Err(OTHER_MODULE),
        }
    }
    let Operator::I32Const { value } = operators.read()? else { return Err(OTHER_MODULE) };
    match operators.read()? {
        Operator::CallIndirect { type_index, table_index: 0 } if type_index == of => {}
        _ => return Err(OTHER_MODULE),
    }
    match operators.read()? {
        Operator::End if operators.eof() => {}
        _ => return Err(OTHER_MODULE),
    }
    usize::try_from(value).map_err(|_| OTHER_MODULE)
}

/// A core module that only fills an imported table with imported functions, from its start on.
pub(super) struct Fixup<'a> {
    /// Name of the module that it imports all from.
    pub(super) module: &'a str,
    /// Name of the table.
    pub(super) table: &'a str,
    /// The functions in the table's order: the name of the import, and the type.
    pub(super) slots: Vec<(&'a str, FuncType)>,
}

impl<'a> Fixup<'a> {
    /// Reads a core module.
    ///
    /// # Errors
    /// It is not such a module.
    pub(super) fn read(module: &'a [u8]) -> Result<Self, NotFlat> {
        let (mut types, mut functions, mut slots) = (Vec::new(), Vec::new(), None);
        let (mut from, mut table) = (None, None);
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::Version { .. } | Payload::CustomSection(_) | Payload::End(_) => {}
                Payload::TypeSection(section) => types = func_types(section)?,
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        if *from.get_or_insert(import.module) != import.module {
                            return Err(OTHER_MODULE);
                        }
                        match import.ty {
                            TypeRef::Func(of) => {
                                few(functions.len() as u32)?;
                                let func_type = types.get(of as usize).ok_or(INVALID)?;
                                functions.push((import.name, FuncType::clone(func_type)));
                            }
                            TypeRef::Table(_) if table.is_none() => table = Some(import.name),
                            _ => return Err(OTHER_MODULE),
                        }
                    }
                }
                Payload::ElementSection(section) => {
                    for element in section {
                        if slots.is_some() {
                            return Err(OTHER_MODULE);
                        }
                        slots = Some(filled(element?, &functions)?);
                    }
                }
                Payload::StartSection { .. } => return Err(INITIALISES),
                _ => return Err(OTHER_MODULE),
            }
        }
        match (from, table, slots) {
            (Some(module), Some(table), Some(slots)) => Ok(Self { module, table, slots }),
            _ => Err(OTHER_MODULE),
        }
    }
}

/// What an element segment puts into the first table, from its first entry on.
fn filled<'a>(
    element: wasmparser::Element<'a>,
    functions: &[(&'a str, FuncType)],
) -> Result<Vec<(&'a str, FuncType)>, NotFlat> {
    let ElementKind::Active { table_index: None | Some(0), offset_expr } = element.kind else {
        return Err(OTHER_MODULE);
    };
    let mut offset = offset_expr.get_operators_reader();
    let zero = matches!(offset.read()?, Operator::I32Const { value: 0 });
    if !zero || !matches!(offset.read()?, Operator::End) || !offset.eof() {
        return Err(OTHER_MODULE);
    }
    let ElementItems::Functions(items) = element.items else { return Err(OTHER_MODULE) };
    few(items.count())?;
    let mut slots = Vec::new();
    for item in items {
        slots.push(functions.get(item? as usize).ok_or(INVALID)?.clone());
    }
    Ok(slots)
}

/// Refuses more functions than a flat component has, each of which may have a large type.
fn few(count: u32) -> Result<(), NotFlat> {
    if count as usize > FUNCTIONS_MAX { Err(TOO_LARGE) } else { Ok(()) }
}

/// The types of a core module, if all are functions that stand alone.
fn func_types(section: TypeSectionReader<'_>) -> Result<Vec<FuncType>, NotFlat> {
    few(section.count())?;
    let mut types = Vec::new();
    for group in section {
        let group = group?;
        if group.is_explicit_rec_group() {
            return Err(OTHER_MODULE);
        }
        for single in group.into_types() {
            let alone = single.is_final && single.supertype_idx.is_none();
            match single.composite_type.inner {
                CompositeInnerType::Func(func_type) if alone && !single.composite_type.shared => {
                    types.push(func_type);
                }
                _ => return Err(OTHER_MODULE),
            }
        }
    }
    Ok(types)
}
