//! Plugins: the engine, loading, instances and what guests may import.
//!
//! Only this module uses `wasmtime`. It knows neither sockets nor sessions: guests act on their
//! sessions through [`crate::event::Port`].

mod bindings;
mod build;
mod cache;
mod capacity;
mod compile;
mod compiler;
mod context;
mod deadline_io;
mod engine;
mod flat;
mod footprint;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod grants;
mod handoff;
mod handoff_exports;
mod host_state;
mod imports;
mod instance;
mod ledger;
mod load_error;
mod loaded;
mod loader;
mod manifest;
mod not_loaded;
mod null_scope;
mod output;
mod pool_sizes;
mod pressure;
mod read_only_port;
mod shared;
mod source;
mod store;
mod stubs;
mod ticker;
mod trap;
mod trial;

pub use build::BuildError;
pub use cache::digest;
pub use capacity::Capacity;
pub(crate) use compile::number;
pub use compiler::{Compiler, VERB as COMPILE_VERB, compile_for_another};
pub use context::{Binding, InstanceLimits};
pub(crate) use engine::prepare_thread;
pub use engine::{Engine, EngineConfig, EngineError};
pub use footprint::{Amounts, Footprint, Resource};
pub use grants::{Grant, Grants, UnknownGrantError};
pub use instance::{EventProcedure, PluginInstance};
pub use ledger::{Claim, Holding, Ledger, Promise, Shortage};
pub(crate) use load_error::IN_ITS;
pub use load_error::LoadError;
pub use loaded::{CacheUse, Known, Plugin};
pub use loader::Loader;
pub use manifest::{Build, MANIFEST_FILE, Manifest, ManifestContentError, ManifestError};
pub use pool_sizes::WASM_STACK_BYTES;
pub use source::{COMPONENT_MAX_BYTES, Source, SourceError, looks_like_wasm};
pub use trial::try_out;
