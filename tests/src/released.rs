//! Released contracts in `wit/released`: their promises, and a component that uses all of one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use wit_parser::{PackageId, Resolve, Type, TypeDef, TypeDefKind, TypeOwner, WorldItem, WorldKey};

use crate::contract::{signature, type_name};
use crate::guests::root;

/// The folder of a released contract's text.
#[must_use]
pub fn frozen(version: &str) -> PathBuf {
    root().join("wit/released").join(version)
}

/// The folder of the component that uses all of a released contract.
#[must_use]
pub fn samples(version: &str) -> PathBuf {
    root().join("tests/released").join(version)
}

/// The component that uses all of a released contract. It is built from the contract's text, in
/// the same way as by `wharf component`.
#[must_use]
pub fn every_call(version: &str) -> Vec<u8> {
    let (own, contract) = (samples(version), frozen(version));
    let folder = tempfile::tempdir().expect("a folder");
    let wit = folder.path();
    for (from, to) in [
        (own.join("world.wit"), "world.wit"),
        (contract.join("inet-event-proc.wit"), "deps/wharf-server/inet-event-proc.wit"),
        (contract.join("deps/wasi-config/store.wit"), "deps/wasi-config/store.wit"),
    ] {
        let to = wit.join(to);
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        std::fs::copy(&from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
    let component = wharf::authoring::component(&own.join("every-call.wat"), wit, None);
    component.unwrap_or_else(|error| panic!("{error}"))
}

/// The promises of a contract: each interface, function, type, import and export by its path, with
/// its signature.
pub type Promises = BTreeMap<String, String>;

/// The promises of the contract in a folder.
///
/// # Panics
/// If the folder has no contract.
#[must_use]
pub fn promises_in(folder: &Path) -> Promises {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(folder).expect("a contract");
    promises(&resolve, package)
}

/// The promises of a package.
#[must_use]
pub fn promises(resolve: &Resolve, package: PackageId) -> Promises {
    let mut all = Promises::new();
    let package = &resolve.packages[package];
    for (interface, id) in &package.interfaces {
        let content = &resolve.interfaces[*id];
        all.insert(format!("interface {interface}"), String::new());
        for (name, id) in &content.types {
            all.insert(
                format!("interface {interface}: type {name}"),
                definition(resolve, &resolve.types[*id]),
            );
        }
        for (name, function) in &content.functions {
            all.insert(
                format!("interface {interface}: function {name}"),
                signature(resolve, function),
            );
        }
    }
    for (world, id) in &package.worlds {
        let content = &resolve.worlds[*id];
        all.insert(format!("world {world}"), String::new());
        for (way, items) in [("import", &content.imports), ("export", &content.exports)] {
            for (key, item) in items {
                let what = match (item, key) {
                    (WorldItem::Interface { id, .. }, WorldKey::Interface(_)) => {
                        resolve.id_of(*id).unwrap_or_default()
                    }
                    other => unreachable!("no {other:?} in the contract yet"),
                };
                all.insert(format!("world {world}: {way} {what}"), String::new());
            }
        }
    }
    all
}

/// The promises of `released` that `now` breaks. An item breaks one if it changed or is gone. So
/// does an addition to an interface or to a world's exports: a plugin of the released contract
/// cannot have it.
#[must_use]
pub fn breaches(released: &Promises, now: &Promises) -> Vec<String> {
    let kept = released.iter().filter_map(|(name, shape)| match now.get(name) {
        Some(other) if other == shape => None,
        Some(other) => Some(format!("{name}: was `{shape}`, is `{other}`")),
        None => Some(format!("{name}: is gone")),
    });
    let added = now.keys().filter(|name| !released.contains_key(*name)).filter(|name| {
        let (owner, what) = name.split_once(": ").unwrap_or((name.as_str(), ""));
        !what.is_empty() && !what.starts_with("import ") && released.contains_key(owner)
    });
    kept.chain(added.map(|name| format!("{name}: was not there"))).collect()
}

fn definition(resolve: &Resolve, of: &TypeDef) -> String {
    match &of.kind {
        TypeDefKind::Record(record) => {
            let fields = record
                .fields
                .iter()
                .map(|field| format!("{}: {}", field.name, type_name(resolve, &field.ty)));
            format!("record {}", fields.collect::<Vec<_>>().join(", "))
        }
        TypeDefKind::Enum(all) => {
            format!(
                "enum {}",
                all.cases.iter().map(|case| case.name.as_str()).collect::<Vec<_>>().join(", ")
            )
        }
        // A type that is used from another interface.
        TypeDefKind::Type(Type::Id(id)) => {
            let used = &resolve.types[*id];
            let TypeOwner::Interface(owner) = used.owner else {
                unreachable!("no type of a world in the contract yet")
            };
            format!(
                "{} of {}",
                used.name.as_deref().unwrap_or_default(),
                resolve.id_of(owner).unwrap_or_default()
            )
        }
        other => unreachable!("no {} in the contract yet", other.as_str()),
    }
}
