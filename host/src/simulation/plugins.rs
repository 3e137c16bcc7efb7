//! Plugins of the simulation. They are real components, so that loads and trials are real. Their
//! sessions are simulated.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::model::Number;
use crate::authoring;
use crate::plugin::{EventProcedure, InstanceLimits, Plugin};
use crate::server::{Host, HostConfig};

/// Number of good plugins, which come first. Five of them can save and restore sessions.
pub(super) const GOOD: u64 = 6;
pub(super) const ALL: u64 = 8;
/// Memory that an instance of a simulated server may have, in bytes. Plugin 6 wants more.
const MEMORY: usize = 1 << 20;

/// Host and plugins that all simulated servers share.
pub(super) struct SimHost {
    pub(super) host: Host,
    pub(super) folder: PathBuf,
    files: Vec<PathBuf>,
    /// Loaded plugins, kept in memory, so that loading one again costs nothing.
    loaded: Vec<Arc<Plugin>>,
}

/// Text of a plugin whose handlers do nothing.
fn text(mark: usize, hands_over: bool, pages: usize) -> String {
    let events = "wharf:server/inet-event-proc@0.1.0";
    let mut text = format!(
        "(module (memory (export \"memory\") {pages}) (global (export \"mark-{mark}\") i32 \
         (i32.const {mark}))
         (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
         (func (export \"{events}#on-connect\") (param i32) (result i32) (i32.const 0))
         (func (export \"{events}#on-read\") (param i32 i32) (result i32) (i32.const 0))
         (func (export \"{events}#on-write\") (result i32) (i32.const 0))
         (func (export \"{events}#on-timeout\") (param i64) (result i32) (i32.const 0))
         (func (export \"{events}#on-timer\") (param i32) (result i32) (i32.const 0))
         (func (export \"{events}#on-end\") (result i32) (i32.const 0))
         (func (export \"{events}#on-disconnect\") (param i32))"
    );
    if hands_over {
        text.push_str(
            "(func (export \"wharf:server/handoff@0.1.0#save\") (result i32) (i32.const 512))
             (func (export \"wharf:server/handoff@0.1.0#restore\") (param i32 i32 i32 i32) (result \
             i32) (i32.const 512))",
        );
    }
    text.push(')');
    text
}

impl SimHost {
    pub(super) fn shared() -> &'static Self {
        static SHARED: OnceLock<SimHost> = OnceLock::new();
        SHARED.get_or_init(Self::new)
    }

    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("wharf-simulation-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        let contract = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
        let file = |number: usize| {
            let (source, file) =
                (folder.join("source.wat"), folder.join(format!("p{number}.wasm")));
            let hands_over = number != 5;
            std::fs::write(&source, text(number, hands_over, if number == 6 { 32 } else { 1 }))
                .expect("kept");
            let world = if hands_over { "plugin-with-handoff" } else { "plugin" };
            let component =
                authoring::component(&source, &contract, Some(world)).expect("a component");
            // Plugin 7 is cut short.
            let length = if number == 7 { component.len() / 2 } else { component.len() };
            std::fs::write(&file, &component[..length]).expect("kept");
            file
        };
        let files: Vec<_> = (0..ALL as usize).map(file).collect();
        let state_dir = Some(folder.join("state"));
        let config =
            HostConfig { workers: 1, sessions_max: 128, state_dir, ..HostConfig::default() };
        let host = Host::new(&config).expect("a host");
        let load = |file: &PathBuf| {
            host.loader().share(file, &crate::plugin::Grants::none()).expect("it is good")
        };
        let loaded = files[..7].iter().map(load).collect();
        Self { host, folder, files, loaded }
    }

    pub(super) fn plugin(&self, number: Number) -> Arc<Plugin> {
        Arc::clone(&self.loaded[number])
    }

    pub(super) fn file(&self, number: Number) -> &PathBuf {
        &self.files[number]
    }

    /// Number of the plugin with this digest.
    pub(super) fn number(&self, digest: &str) -> Number {
        self.loaded.iter().position(|plugin| plugin.digest() == digest).expect("one of them")
    }

    pub(super) fn number_of(&self, procedure: &EventProcedure) -> Number {
        self.number(procedure.plugin().digest())
    }

    pub(super) fn limits() -> InstanceLimits {
        InstanceLimits { memory_max_bytes: MEMORY, ..InstanceLimits::default() }
    }
}
