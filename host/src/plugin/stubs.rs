//! Stand-ins for interfaces that languages' standard libraries import and few plugins call. They
//! open nothing: there are no files, and any other call traps and says what was called.

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, LinkerInstance, ResourceType, Val};
use wasmtime::{Engine, Result, bail};

use super::host_state::HostState;

/// Packages whose interfaces are stood in for.
const PACKAGES: [&str; 2] = ["wasi:filesystem/", "wasi:sockets/"];
/// What a standard library asks at its first use of a path. The answer is that there is nothing.
const PREOPENS: &str = "get-directories";

/// Defines what `component` imports of these packages.
pub(super) fn define(
    linker: &mut Linker<HostState>,
    engine: &Engine,
    component: &Component,
) -> Result<()> {
    // Resources of other interfaces are named again by those that use them, and are the host's own.
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

/// What no handle of a stub ever stands for.
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
