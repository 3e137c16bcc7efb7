//! All limits in force for a server's new connections and sessions, with the origin of each.

use std::time::Duration;

use super::handle::ServerHandle;
use crate::admission::Throttle;
use crate::event::{Budget, Priority, READ_MAX_BYTES};
use crate::plugin::{COMPONENT_MAX_BYTES, Resource, WASM_STACK_BYTES};
use crate::sched::{MAIL_MAX_BYTES, QuotaLimits};
use crate::service::ServerConfig;

/// The value of a limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Quantity {
    /// A count. 0 is no limit, if the limit may be absent.
    Count(u64),
    /// A number of bytes.
    Bytes(u64),
    /// A time. Zero is no limit, if the limit may be absent.
    Time(Duration),
    /// A number that may be a fraction: a rate per second, or CPUs.
    Share(f64),
}

/// The origin of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitOrigin {
    /// The default; the value was not configured.
    Default,
    /// The configuration file, the command line or the program that embeds the server.
    Configured,
    /// A change while the server ran.
    Changed,
    /// The limits of the server's tenant.
    Tenant,
    /// The capacity of the machine.
    Machine,
    /// A constant of the host.
    Fixed,
}

impl LimitOrigin {
    /// Stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Configured => "configured",
            Self::Changed => "changed",
            Self::Tenant => "tenant",
            Self::Machine => "machine",
            Self::Fixed => "fixed",
        }
    }
}

/// One limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// Key in the configuration, below the server's table.
    pub key: String,
    /// The value in force.
    pub value: Quantity,
    /// Where the value comes from.
    pub origin: LimitOrigin,
}

type OfThrottle = fn(&Throttle) -> Quantity;

/// A list of limits while it is built.
struct List<'a> {
    server_config: &'a ServerConfig,
    limits: Vec<Limit>,
}

impl List<'_> {
    fn add(&mut self, key: impl Into<String>, value: Quantity) {
        let key = key.into();
        let origin = if self.server_config.given.contains(&key) {
            LimitOrigin::Configured
        } else {
            LimitOrigin::Default
        };
        self.limits.push(Limit { key, value, origin });
    }

    fn put(&mut self, key: &str, value: Quantity, origin: LimitOrigin) {
        self.limits.push(Limit { key: key.into(), value, origin });
    }
}

impl ServerHandle {
    /// Returns all limits in force for the server's next client, with the origin of each.
    #[must_use]
    pub fn limits(&self) -> Vec<Limit> {
        let server_config = self.service.server_config();
        let mut list = List { server_config: &server_config, limits: Vec::new() };
        self.of_new_connections(&mut list);
        self.of_sessions(&mut list);
        self.of_instances(&mut list);
        for class in Priority::ALL {
            of_class(&mut list, class);
        }
        self.of_others(&mut list);
        list.limits
    }

    fn of_new_connections(&self, list: &mut List) {
        let (now, described) = (self.throttle(), list.server_config.throttle);
        let all: [(&str, OfThrottle); 5] = [
            ("max_clients", |of| Quantity::Count(of.max_clients as u64)),
            ("max_per_address", |of| Quantity::Count(of.max_per_address as u64)),
            ("accept_interval", |of| Quantity::Time(of.accept_interval)),
            ("rate_per_address", |of| Quantity::Share(of.rate_per_address)),
            ("burst_per_address", |of| Quantity::Count(of.burst_per_address.into())),
        ];
        for (key, value) in all {
            match value(&now) == value(&described) {
                true => list.add(key, value(&now)),
                false => list.put(key, value(&now), LimitOrigin::Changed),
            }
        }
        list.add("instances_min", Quantity::Count(self.service.holding.instances_min() as u64));
    }

    fn of_sessions(&self, list: &mut List) {
        let (config, handshake) =
            (list.server_config.session_config.clone(), list.server_config.handshake);
        let deadlines = config.deadlines;
        list.add("timeout", Quantity::Time(config.timeout));
        list.add("timeouts.handshake", Quantity::Time(handshake));
        list.add("timeouts.write", Quantity::Time(deadlines.write));
        list.add("timeouts.first_byte", Quantity::Time(deadlines.first_byte));
        list.add("timeouts.idle", Quantity::Time(deadlines.idle));
        list.add("timeouts.lifetime", Quantity::Time(deadlines.lifetime));
        list.add("timeouts.min_rate_bytes_per_second", Quantity::Bytes(deadlines.min_rate.into()));
        list.add(
            "timeouts.min_read_rate_bytes_per_second",
            Quantity::Bytes(deadlines.min_read_rate.into()),
        );
        list.add(
            "limits.send_buffer_high_bytes",
            Quantity::Bytes(config.watermarks.high_bytes as u64),
        );
        list.add(
            "limits.send_buffer_low_bytes",
            Quantity::Bytes(config.watermarks.low_bytes as u64),
        );
        list.add("limits.timers_max", Quantity::Count(config.timers_max as u64));
        list.add(
            "limits.name_chars_max",
            Quantity::Count(self.service.registry.name_chars_max() as u64),
        );
    }

    fn of_instances(&self, list: &mut List) {
        let procedure = self.service.procedure();
        let limits = procedure.limits();
        list.add("shards", Quantity::Count(procedure.shards() as u64));
        list.add("limits.memory_max_bytes", Quantity::Bytes(limits.memory_max_bytes as u64));
        list.add("limits.table_elements_max", Quantity::Count(limits.table_elements_max as u64));
        list.add("limits.core_instances_max", Quantity::Count(limits.core_instances_max as u64));
        list.add("limits.copy_max_bytes", Quantity::Bytes(limits.copy_max_bytes as u64));
        list.add("limits.handles_max", Quantity::Count(limits.handles_max as u64));
        list.add("limits.state_max_bytes", Quantity::Bytes(limits.state_max_bytes as u64));
        list.add(
            "limits.log_lines_per_second",
            Quantity::Count(limits.log_lines_per_second.into()),
        );
    }

    fn of_others(&self, list: &mut List) {
        let seen = list.server_config.tenant.quota.seen();
        let QuotaLimits { cpus, memory_max_bytes, mail_max_bytes, bytes_per_second } = seen.shares;
        let clients = list.server_config.tenant.clients.max();
        let origin =
            |limited: bool| if limited { LimitOrigin::Tenant } else { LimitOrigin::Default };
        list.put("tenant.max_clients", Quantity::Count(clients as u64), origin(clients > 0));
        list.put("tenant.cpus", Quantity::Share(cpus), origin(cpus > 0.0));
        list.put(
            "tenant.memory_max_bytes",
            Quantity::Bytes(memory_max_bytes as u64),
            origin(memory_max_bytes > 0),
        );
        let mail_origin = origin(mail_max_bytes != MAIL_MAX_BYTES);
        list.put("tenant.mail_max_bytes", Quantity::Bytes(mail_max_bytes as u64), mail_origin);
        list.put(
            "tenant.bytes_per_second",
            Quantity::Bytes(bytes_per_second),
            origin(bytes_per_second > 0),
        );
        let (instances, asked) = self.host().instances();
        list.put(
            "host.sessions_max",
            Quantity::Count(instances as u64),
            if asked { LimitOrigin::Configured } else { LimitOrigin::Machine },
        );
        let (ledger, footprint) =
            (self.host().engine().ledger(), self.service.procedure().plugin().footprint());
        let slots = ledger.offered().of(Resource::Memories);
        list.put("host.memories", Quantity::Count(slots as u64), LimitOrigin::Machine);
        list.put(
            "instance.memories",
            Quantity::Count(footprint.memories as u64),
            LimitOrigin::Fixed,
        );
        list.put(
            "instance.mappings",
            Quantity::Count(footprint.mappings as u64),
            LimitOrigin::Fixed,
        );
        list.put(
            "host.clients",
            Quantity::Count(self.host().clients().max() as u64),
            LimitOrigin::Machine,
        );
        list.put("read_max_bytes", Quantity::Bytes(READ_MAX_BYTES as u64), LimitOrigin::Fixed);
        list.put("guest_stack_bytes", Quantity::Bytes(WASM_STACK_BYTES as u64), LimitOrigin::Fixed);
        list.put("component_max_bytes", Quantity::Bytes(COMPONENT_MAX_BYTES), LimitOrigin::Fixed);
    }
}

fn of_class(list: &mut List, class: Priority) {
    let budgets = list.server_config.session_config.budgets;
    let Budget { fuel, cpu, wall } = budgets.event(class);
    let start = budgets.start(class);
    list.add(format!("budgets.{class}.fuel"), Quantity::Count(fuel));
    list.add(format!("budgets.{class}.cpu"), Quantity::Time(cpu));
    list.add(format!("budgets.{class}.wall"), Quantity::Time(wall));
    list.add(format!("budgets.{class}.start_fuel"), Quantity::Count(start.fuel));
    list.add(format!("budgets.{class}.start_cpu"), Quantity::Time(start.cpu));
}
