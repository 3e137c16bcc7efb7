//! Views of limits in the API: those of a server, and those of tenants.

use serde::Serialize;

use crate::server::{self, Quantity, TenantStatus};

/// One limit of a server.
#[derive(Serialize)]
pub(super) struct LimitBody {
    key: String,
    value: Value,
    unit: Option<&'static str>,
    origin: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Value {
    Whole(u64),
    Part(f64),
    Text(String),
}

impl LimitBody {
    pub(super) fn of(limit: server::Limit) -> Self {
        let (value, unit) = match limit.value {
            Quantity::Count(count) => (Value::Whole(count), None),
            Quantity::Bytes(bytes) => (Value::Whole(bytes), Some("bytes")),
            Quantity::Time(time) => {
                (Value::Text(humantime::format_duration(time).to_string()), None)
            }
            Quantity::Share(share) => (Value::Part(share), None),
        };
        Self { key: limit.key, value, unit, origin: limit.origin.name() }
    }
}

/// A tenant's use and its limits. A limit of 0 is none.
#[derive(Serialize)]
pub(super) struct TenantBody {
    name: String,
    clients: usize,
    max_clients: usize,
    cpus: f64,
    /// `None` if CPU time has no limit: then it is not counted. `bytes` likewise.
    cpu_seconds: Option<f64>,
    cpu_waits: u64,
    memory_bytes: usize,
    memory_max_bytes: usize,
    memory_refused: u64,
    mail_bytes: usize,
    mail_max_bytes: usize,
    mail_refused: u64,
    bytes: Option<u64>,
    bytes_per_second: u64,
    bytes_waits: u64,
}

impl TenantBody {
    pub(super) fn of(tenant: TenantStatus) -> Self {
        let quota = tenant.quota;
        Self {
            name: tenant.name.to_string(),
            clients: tenant.clients,
            max_clients: tenant.max_clients,
            cpus: quota.shares.cpus,
            cpu_seconds: (quota.shares.cpus > 0.0).then_some(quota.cpu.as_secs_f64()),
            cpu_waits: quota.cpu_waits,
            memory_bytes: quota.memory_bytes,
            memory_max_bytes: quota.shares.memory_max_bytes,
            memory_refused: quota.memory_refused,
            mail_bytes: quota.mail_bytes,
            mail_max_bytes: quota.shares.mail_max_bytes,
            mail_refused: quota.mail_refused,
            bytes: (quota.shares.bytes_per_second > 0).then_some(quota.bytes),
            bytes_per_second: quota.shares.bytes_per_second,
            bytes_waits: quota.bytes_waits,
        }
    }
}
