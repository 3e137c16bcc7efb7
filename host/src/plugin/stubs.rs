//! Stubs for interfaces that standard libraries of languages import and few plugins call.
//!
//! Stubs open nothing: there are no files, and every other call traps with the name of the called
//! function.

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, LinkerInstance, ResourceType, Val};
use wasmtime::{Engine, Result, bail};

use super::host_state::HostState;

/// Packages whose interfaces get stubs.
const PACKAGES: [&str; 2] = ["wasi:filesystem/", "wasi:sockets/"];
/// The function that a standard library calls at its first use of a path. The stub returns no
/// folder.
const PREOPENS: &str = "get-directories";

/// Defines the component's imports of these packages.
pub(super) fn define(
    linker: &mut Linker<HostState>,
    engine: &Engine,
    component: &Component,
) -> Result<()> {
    // An interface that uses another interface's resource names it again. Such resources are the
    // host's own.
    let mut known: Vec<ResourceType> = Vec::new();
    let kind = component.component_type();
    for (name, item) in kind.imports(engine) {
        let ComponentItem::ComponentInstance(interface) = item.ty else { continue };
        let stands_in = PACKAGES.iter().any(|package| name.starts_with(package));
        let mut stubs = if stands_in { Some(linker.instance(name)?) } else { None };
        for (item, export) in interface.exports(engine) {
            match (export.ty, &mut stubs) {
                (ComponentItem::Resource(resource), stubs) if !known.contains(&resource) => {
                    known.push(resource);
                    if let Some(stubs) = stubs {
                        stubs.resource(item, ResourceType::host::<Nothing>(), |_, _| Ok(()))?;
                    }
                }
                (ComponentItem::ComponentFunc(_), Some(stubs)) => function(stubs, name, item)?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// Type of a stub's resources. No handle of this type is ever made.
struct Nothing;

fn function(stubs: &mut LinkerInstance<'_, HostState>, interface: &str, name: &str) -> Result<()> {
    if name == PREOPENS {
        return stubs.func_new(name, |_, _, _, results| {
            results.fill(Val::List(Vec::new()));
            Ok(())
        });
    }
    let called = format!(
        "it called `{name}` of `{interface}`, which is a stub: this host has no files and no \
         sockets for it"
    );
    stubs.func_new(name, move |_, _, _, _| bail!("{called}"))
}
