//! The shape of `wharf.toml`, as serde reads it. Unknown keys are mistakes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::span::Span;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) host: HostTable,
    pub(super) control: Option<ControlTable>,
    #[serde(default)]
    pub(super) registry: RegistryTable,
    #[serde(default)]
    pub(super) tenant: Vec<TenantTable>,
    #[serde(default)]
    pub(super) server: Vec<ServerTable>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HostTable {
    pub(super) workers: usize,
    pub(super) sessions_max: usize,
    pub(super) cache_dir: Option<PathBuf>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) compile_memory_max_bytes: Option<u64>,
    pub(super) compile_timeout: Option<Span>,
    pub(super) stop_grace: Option<Span>,
    pub(super) core_modules: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ControlTable {
    pub(super) socket: Option<PathBuf>,
    pub(super) listen: Option<String>,
    pub(super) token_file: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RegistryTable {
    pub(super) pull: Option<String>,
    pub(super) store_dir: Option<PathBuf>,
    pub(super) store_max_bytes: Option<u64>,
    pub(super) component_max_bytes: Option<u64>,
    pub(super) timeout: Option<Span>,
    pub(super) credentials_file: Option<PathBuf>,
    pub(super) plain_http: Option<Vec<String>>,
    pub(super) authority: Option<PathBuf>,
    pub(super) signature: Option<String>,
    pub(super) trust: Vec<TrustTable>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TrustTable {
    pub(super) prefix: String,
    pub(super) keys: Vec<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TenantTable {
    pub(super) name: String,
    pub(super) max_clients: usize,
    pub(super) cpus: f64,
    pub(super) memory_max_bytes: usize,
    pub(super) mail_max_bytes: usize,
    pub(super) bytes_per_second: u64,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ServerTable {
    pub(super) name: String,
    pub(super) host: String,
    pub(super) port: Option<i64>,
    pub(super) backlog: u32,
    pub(super) max_clients: usize,
    pub(super) max_per_address: usize,
    pub(super) accept_interval: Option<Span>,
    pub(super) rate_per_address: f64,
    pub(super) burst_per_address: u32,
    pub(super) allow: Vec<String>,
    pub(super) deny: Vec<String>,
    pub(super) proxies: Vec<String>,
    pub(super) timeout: Option<Span>,
    pub(super) timeouts: TimeoutsTable,
    pub(super) sleep_after: Option<Span>,
    pub(super) priority: Option<String>,
    pub(super) priority_max: Option<String>,
    pub(super) tenant: Option<String>,
    pub(super) options: Vec<String>,
    pub(super) plugin: Option<PathBuf>,
    pub(super) instance: Option<String>,
    pub(super) shards: Option<usize>,
    pub(super) instances_min: usize,
    pub(super) parameter: i64,
    pub(super) grants: Vec<String>,
    pub(super) settings: BTreeMap<String, toml::Value>,
    pub(super) credentials: Option<CredentialsTable>,
    pub(super) limits: LimitsTable,
    pub(super) budgets: BTreeMap<String, BudgetTable>,
    pub(super) breaker: BreakerTable,
    pub(super) swap: SwapTable,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SwapTable {
    pub(super) policy: Option<String>,
    pub(super) failures_min: Option<u32>,
    pub(super) failures_share: Option<f64>,
    pub(super) watch: Option<Span>,
    pub(super) faults_min: Option<u32>,
    pub(super) faults_share: Option<f64>,
    pub(super) prepare: Option<Span>,
    pub(super) held_up: Option<String>,
    pub(super) canary: CanaryTable,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CanaryTable {
    pub(super) share: Option<f64>,
    pub(super) live: Option<bool>,
    pub(super) duration: Option<Span>,
    pub(super) sessions_min: Option<u32>,
    pub(super) faults_min: Option<u32>,
    pub(super) faults_share: Option<f64>,
    pub(super) faults_ratio: Option<f64>,
    pub(super) latency_ratio: Option<f64>,
    pub(super) events_min: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BreakerTable {
    pub(super) faults: Option<u32>,
    pub(super) window: Option<Span>,
    pub(super) pause: Option<Span>,
    pub(super) pause_max: Option<Span>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BudgetTable {
    pub(super) fuel: Option<u64>,
    pub(super) cpu: Option<Span>,
    pub(super) wall: Option<Span>,
    pub(super) start_fuel: Option<u64>,
    pub(super) start_cpu: Option<Span>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CredentialsTable {
    pub(super) certificate_chain: PathBuf,
    pub(super) private_key: PathBuf,
    #[serde(default)]
    pub(super) protocol_min: Option<String>,
    #[serde(default)]
    pub(super) alpn: Vec<String>,
    #[serde(default)]
    pub(super) client_authority: Option<PathBuf>,
    #[serde(default)]
    pub(super) client_certificate: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LimitsTable {
    pub(super) send_buffer_high_bytes: Option<usize>,
    pub(super) send_buffer_low_bytes: Option<usize>,
    pub(super) memory_max_bytes: Option<usize>,
    pub(super) copy_max_bytes: Option<usize>,
    pub(super) table_elements_max: Option<usize>,
    pub(super) core_instances_max: Option<usize>,
    pub(super) handles_max: Option<usize>,
    pub(super) timers_max: Option<usize>,
    pub(super) name_chars_max: Option<usize>,
    pub(super) state_max_bytes: Option<usize>,
    pub(super) log_lines_per_second: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TimeoutsTable {
    pub(super) handshake: Option<Span>,
    pub(super) write: Option<Span>,
    pub(super) first_byte: Option<Span>,
    pub(super) idle: Option<Span>,
    pub(super) lifetime: Option<Span>,
    pub(super) min_rate_bytes_per_second: u32,
    pub(super) min_read_rate_bytes_per_second: Option<u32>,
}
