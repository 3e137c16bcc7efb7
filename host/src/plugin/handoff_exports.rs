//! The exports by which a session migrates, found in a component.

use wasmtime::component::{Component, ComponentExportIndex};

/// Name of the interface, without its version.
const HANDOFF: &str = "wharf:server/handoff";

/// Position of the two functions among a component's exports.
#[derive(Clone)]
pub(super) struct Handoff {
    pub(super) save: ComponentExportIndex,
    pub(super) restore: ComponentExportIndex,
}

impl Handoff {
    /// Finds the functions in a component, in any version of the contract that this host speaks.
    pub(super) fn find(component: &Component, exports: &[String]) -> Option<Self> {
        let fits = |name: &&String| {
            name.strip_prefix(HANDOFF)
                .and_then(|rest| rest.strip_prefix('@'))
                .is_some_and(|version| version.starts_with("0.1."))
        };
        let interface = component.get_export_index(None, exports.iter().find(fits)?)?;
        let function = |name: &str| component.get_export_index(Some(&interface), name);
        Some(Self { save: function("save")?, restore: function("restore")? })
    }
}
