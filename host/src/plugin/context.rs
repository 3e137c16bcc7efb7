//! What a server gives its plugin: limits, settings, counters and a quota.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use wasmtime_wasi_config::WasiConfigVariables;

use super::ledger::Holding;
use super::pool_sizes::{
    CORE_INSTANCES_MAX, MEMORY_CEILING_BYTES, TABLE_ELEMENTS_MAX, TABLES_PER_INSTANCE_MAX,
};
use crate::sched::Quota;
use crate::telemetry::{Bucket, Counters};

/// What an instance may have. The operator sets these limits for each server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceLimits {
    /// Bytes of linear memory, all memories together. Up to 256 MiB. Default 32 MiB.
    pub memory_max_bytes: usize,
    /// Elements of all tables together. Each table may have 10,000. Default 20,000.
    pub table_elements_max: usize,
    /// Core modules that the component may be made of, each counted as often as it is instantiated.
    /// Default 32, which is also the maximum.
    pub core_instances_max: usize,
    /// Bytes that one host call may carry, in either direction. Default 1 MiB.
    pub copy_max_bytes: usize,
    /// Handles that an instance may hold. Default 1,024.
    pub handles_max: usize,
    /// Log lines per second of all instances of the server together, with bursts of twice as many.
    /// Default 100.
    pub log_lines_per_second: u32,
    /// Bytes that the plugin may save for one session. Default 256 KiB.
    pub state_max_bytes: usize,
}

impl InstanceLimits {
    /// The most memory and tables that any server may allow.
    #[must_use]
    pub fn most() -> Self {
        Self {
            memory_max_bytes: MEMORY_CEILING_BYTES,
            table_elements_max: TABLE_ELEMENTS_MAX * TABLES_PER_INSTANCE_MAX as usize,
            ..Self::default()
        }
    }
}

impl Default for InstanceLimits {
    fn default() -> Self {
        Self {
            memory_max_bytes: 32 << 20,
            table_elements_max: 20_000,
            core_instances_max: CORE_INSTANCES_MAX as usize,
            copy_max_bytes: 1 << 20,
            handles_max: 1_024,
            log_lines_per_second: 100,
            state_max_bytes: 256 << 10,
        }
    }
}

/// The values that bind a plugin to a server.
#[derive(Clone, Default)]
pub struct Binding {
    /// The server's name, for logs.
    pub server: String,
    /// Settings that the plugin can read with the grant `config`.
    pub settings: BTreeMap<String, String>,
    /// Limits of each instance.
    pub limits: InstanceLimits,
    /// Instances that all sessions share. 0: each session has its own.
    pub shards: usize,
    /// Counters for the plugin's output.
    pub counters: Arc<Counters>,
    /// Quota of the server's tenant.
    pub quota: Arc<Quota>,
    /// Holding from which instances take room. `None`: the engine's own holding, from the remainder
    /// of the pools.
    pub holding: Option<Arc<Holding>>,
    /// A value that lives as long as there may be instances.
    pub kept: Option<Arc<dyn Any + Send + Sync>>,
}

/// What a server gives every instance of its plugin.
pub(super) struct Context {
    pub(super) server: String,
    pub(super) settings: WasiConfigVariables,
    /// The same settings in a form that can be compared.
    pub(super) written: BTreeMap<String, String>,
    pub(super) limits: InstanceLimits,
    pub(super) bucket: Bucket,
    pub(super) counters: Arc<Counters>,
    pub(super) quota: Arc<Quota>,
    pub(super) holding: Arc<Holding>,
    pub(super) kept: Option<Arc<dyn Any + Send + Sync>>,
}

#[cfg(test)]
impl Context {
    /// A context without a plugin, with these limits.
    pub(super) fn of(limits: InstanceLimits, holding: Arc<Holding>) -> Self {
        Self {
            server: String::new(),
            settings: WasiConfigVariables::new(),
            written: BTreeMap::new(),
            bucket: Bucket::new(limits.log_lines_per_second),
            limits,
            counters: Arc::default(),
            quota: Arc::default(),
            holding,
            kept: None,
        }
    }
}
