//! The layouts and signatures against those of the contract.

use wit_parser::abi::{AbiVariant, WasmType};
use wit_parser::{Resolve, SizeAlign, Type, TypeDefKind, TypeId};

use super::*;
use crate::plugin::flat::functions;

fn contract() -> (Resolve, SizeAlign) {
    let mut resolve = Resolve::default();
    resolve.push_path("../wit").expect("the contract");
    let mut sizes = SizeAlign::default();
    sizes.fill(&resolve);
    (resolve, sizes)
}

fn find(resolve: &Resolve, name: &str) -> TypeId {
    let is_it = |id: &TypeId| resolve.types[*id].name.as_deref() == Some(name);
    let found = resolve.types.iter().map(|(id, _)| id).find(is_it);
    found.unwrap_or_else(|| panic!("{name} is not in the contract"))
}

fn kebab(name: &str) -> String {
    let mut text = String::new();
    for character in name.chars() {
        if character.is_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(if character == '_' { '-' } else { character.to_ascii_lowercase() });
    }
    text
}

fn core(slots: &Slots) -> Vec<WasmType> {
    let of = |slot: &Slot| match slot {
        Slot::I32 => WasmType::I32,
        Slot::I64 => WasmType::I64,
    };
    slots.all().iter().map(of).collect()
}

/// The parts of each type in the order of its list above.
fn listed<T: Layout + Listed>(resolve: &Resolve, sizes: &SizeAlign) {
    let name = kebab(T::NAME);
    let id = find(resolve, &name);
    let of = Type::Id(id);
    assert_eq!(sizes.size(&of).size_wasm32(), T::SIZE, "{name}");
    assert_eq!(sizes.align(&of).align_wasm32(), T::ALIGN, "{name}");
    let parts: Vec<String> = match &resolve.types[id].kind {
        TypeDefKind::Record(record) => {
            record.fields.iter().map(|field| field.name.clone()).collect()
        }
        TypeDefKind::Enum(cases) => cases.cases.iter().map(|case| case.name.clone()).collect(),
        kind => panic!("{name}: {kind:?}"),
    };
    assert_eq!(T::PARTS.iter().map(|part| kebab(part)).collect::<Vec<_>>(), parts, "{name}");
}

#[test]
fn layouts_are_those_of_the_contract() {
    let (resolve, sizes) = contract();
    listed::<ClientInfo>(&resolve, &sizes);
    listed::<TlsInfo>(&resolve, &sizes);
    listed::<Priority>(&resolve, &sizes);
    listed::<Action>(&resolve, &sizes);
    listed::<DisconnectReason>(&resolve, &sizes);
    listed::<WriteError>(&resolve, &sizes);
    listed::<SendError>(&resolve, &sizes);
    listed::<NameError>(&resolve, &sizes);
}

#[test]
fn all_imports_have_the_contracts_signatures() {
    let (resolve, _) = contract();
    let mut seen = 0;
    for (id, interface) in resolve.interfaces.iter() {
        let Some(name) = resolve.id_of(id) else { continue };
        if !["session", "server"].contains(&interface.name.as_deref().unwrap_or_default())
            && !name.starts_with("wasi:config/store")
        {
            continue;
        }
        for (function, of) in &interface.functions {
            let expected = resolve.wasm_signature(AbiVariant::GuestImport, of);
            let types = functions()
                .signature(&name, function)
                .unwrap_or_else(|| panic!("{name} {function} is missing"));
            let pointers = |types: &[WasmType]| -> Vec<WasmType> {
                let plain = |kind: &WasmType| match kind {
                    WasmType::Pointer | WasmType::Length => WasmType::I32,
                    kind => *kind,
                };
                types.iter().map(plain).collect()
            };
            assert_eq!(core(&types.params), pointers(&expected.params), "{name} {function}");
            assert_eq!(core(&types.results), pointers(&expected.results), "{name} {function}");
            seen += 1;
        }
    }
    assert_eq!(seen, 13, "functions of the contract that flat instances may import");
}
