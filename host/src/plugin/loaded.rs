//! A plugin that passed every check, and what is known of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use wasmtime::component::InstancePre;

use super::Engine;
use super::bindings::PluginIndices;
use super::flat::FlatPlugin;
use super::footprint::Footprint;
use super::handoff_exports::Handoff;
use super::host_state::HostState;

/// The export that makes a component a plugin, without its version.
pub(super) const EVENT_PROCEDURE: &str = "wharf:server/inet-event-proc";

/// What a manifest said about a component.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Name.
    pub name: &'a str,
    /// Version.
    pub version: &'a str,
    /// Whether the plugin is stateless.
    pub stateless: bool,
}

/// Origin of the compiled code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheUse {
    /// Compiled now, and kept if there is a cache.
    Compiled,
    /// Found in the cache.
    Cached,
}

/// A plugin that passed every check and can be instantiated.
pub struct Plugin {
    pub(super) pre: InstancePre<HostState>,
    pub(super) indices: PluginIndices,
    pub(super) handoff: Option<Handoff>,
    /// How the plugin runs without the component layer, if it can.
    pub(super) flat: Option<FlatPlugin>,
    /// Why the plugin runs as a component.
    pub(super) not_flat: Option<String>,
    pub(super) stateless: bool,
    pub(super) footprint: Footprint,
    pub(super) engine: Engine,
    pub(super) file: PathBuf,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) digest: String,
    pub(super) imports: Vec<String>,
    pub(super) exports: Vec<String>,
    pub(super) cache_use: CacheUse,
    pub(super) loading: Duration,
}

impl Plugin {
    /// Name and version, for logs: `echo 0.1.0`.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
    /// What the manifest says.
    #[must_use]
    pub fn known(&self) -> Known<'_> {
        Known { name: &self.name, version: &self.version, stateless: self.stateless }
    }
    /// Name, from the manifest.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Version, from the manifest.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }
    /// Whether live sessions can migrate from this version to another, and from others to this one.
    #[must_use]
    pub fn has_handoff(&self) -> bool {
        self.handoff.is_some() || self.stateless
    }
    /// Why the plugin runs with the engine's component layer. `None`: it runs without.
    #[must_use]
    pub fn needs_component_layer(&self) -> Option<&str> {
        self.not_flat.as_deref()
    }
    /// Whether instances keep nothing in memory that a session needs later.
    #[must_use]
    pub fn is_stateless(&self) -> bool {
        self.stateless
    }
    /// Whether both have the same component, name, version and `stateless` mark.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        (self.digest(), self.name(), self.version(), self.is_stateless())
            == (other.digest(), other.name(), other.version(), other.is_stateless())
    }
    /// The component's file, or the reference by which it was pulled.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }
    /// SHA-256 of the component, in hexadecimal.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }
    /// Interfaces that the component imports.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        &self.imports
    }
    /// Interfaces that the component exports.
    #[must_use]
    pub fn exports(&self) -> &[String] {
        &self.exports
    }
    /// Whether the code came from the cache.
    #[must_use]
    pub fn cache_use(&self) -> CacheUse {
        self.cache_use
    }
    /// Time that loading took, with the trial.
    #[must_use]
    pub fn loading(&self) -> Duration {
        self.loading
    }
    /// What each instance takes, at most, of the pools.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        self.footprint
    }
    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }
}
