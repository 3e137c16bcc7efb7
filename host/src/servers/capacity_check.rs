//! Compares the demand of a plan with the capacity of the machine, and reports the arithmetic.

use super::Plan;
use crate::plugin::Capacity;
use crate::server::ServerBuilder;

/// Demand of all servers of a plan, as far as they have limits.
#[derive(Debug, Default, PartialEq, Eq)]
struct CapacityCheck {
    clients: usize,
    /// Instances of sessions that have one each.
    instances: usize,
    shards: usize,
    /// Number of servers with an instance per session and without `max_clients`.
    unlimited: usize,
    /// Memory of shards, which are few, live long and are meant to hold much.
    shard_bytes: u64,
}

impl CapacityCheck {
    fn add(&mut self, server: &ServerBuilder) {
        let clients = server.throttle.max_clients;
        self.clients = self.clients.saturating_add(clients);
        match server.shards {
            0 => {
                self.instances = self.instances.saturating_add(clients);
                self.unlimited += usize::from(clients == 0);
            }
            shards => {
                self.shards += shards;
                self.shard_bytes += shards as u64 * server.limits.memory_max_bytes as u64;
            }
        }
    }

    /// Says which limit the demand exceeds. `given` is the operator's `sessions_max`; 0 is none.
    fn problem(&self, given: usize, capacity: &Capacity) -> Option<String> {
        let instances = self.instances.saturating_add(self.shards);
        let mebibytes = self.shard_bytes.div_ceil(1 << 20);
        if given > 0 && self.shards > given {
            return Some(format!(
                "`shards` of all servers are {}, and `sessions_max` is {given}",
                self.shards
            ));
        }
        if given > 0 && instances > given {
            let (clients, shards) = (self.instances, self.shards);
            return Some(format!(
                "the servers together are promised {instances} instances ({clients} by \
                 `max_clients`, {shards} by `shards`), \
                 and `sessions_max` is {given}"
            ));
        }
        if given > 0 && instances == given && self.unlimited > 0 {
            return Some(format!(
                "the servers with `max_clients` or `shards` are promised all {given} instances \
                 (`sessions_max`), and \
                 {} without `max_clients` would have none",
                self.unlimited
            ));
        }
        let lower = if self.shards > 0 { "`max_clients` or `shards`" } else { "`max_clients`" };
        let (over, mend) = if self.clients > capacity.clients() {
            (
                format!("{} clients (`max_clients` of all servers)", self.clients),
                "lower `max_clients`, or raise `ulimit -n`".to_owned(),
            )
        } else if instances > capacity.instances() {
            (
                format!(
                    "{instances} instances (`max_clients` of servers with one for each session, \
                     and `shards`)"
                ),
                match capacity.scarcest() {
                    Some(limit) => format!("lower {lower}, or raise {limit}"),
                    None => format!("lower {lower}"),
                },
            )
        } else if self.shard_bytes > capacity.memory_bytes {
            (
                format!(
                    "{mebibytes} MiB of memory for {} shared instances (`limits.memory_max_bytes` \
                     each)",
                    self.shards
                ),
                "lower `shards` or `limits.memory_max_bytes`, or give the process more memory"
                    .to_owned(),
            )
        } else {
            return None;
        };
        Some(format!(
            "the servers together ask for {over}, which is more than this process has, \
             {capacity}: {mend}"
        ))
    }
}

impl Plan {
    /// Describes the excess if the servers together ask for more than this process has.
    #[must_use]
    pub fn excess(&self) -> Option<String> {
        let mut demand = CapacityCheck::default();
        self.servers.iter().for_each(|(_, server)| demand.add(server));
        demand.problem(self.host.sessions_max, &Capacity::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::InstanceLimits;
    use crate::server::Server;

    const SMALL: Capacity = Capacity {
        descriptors: 1_192,
        maps: 4_096 + 800,
        address_bytes: None,
        data_bytes: None,
        memory_bytes: 1 << 30,
    };

    fn asked(servers: &[ServerBuilder], given: usize) -> Option<String> {
        let mut demand = CapacityCheck::default();
        servers.iter().for_each(|server| demand.add(server));
        demand.problem(given, &SMALL)
    }

    #[test]
    fn excess_demand_is_refused_with_arithmetic() {
        let own = |clients| Server::builder().max_clients(clients);
        assert_eq!(asked(&[own(60), own(40)], 0), None);
        let refused = asked(&[own(60), own(41)], 0).expect("one too many");
        assert!(
            refused.contains("101 instances")
                && refused.contains("room for 100 instances by 4896 mappings"),
            "{refused}"
        );
        assert!(
            refused.ends_with(": lower `max_clients`, or raise `vm.max_map_count`"),
            "{refused}"
        );
        assert_eq!(asked(&[own(60), own(39)], 100), None, "one is left");
        assert_eq!(asked(&[own(60), own(40)], 100), None, "at the number that the operator gives");
        let refused = asked(&[own(60), own(41)], 100).expect("one too many");
        assert!(
            refused.contains("promised 101") && refused.contains("`sessions_max` is 100"),
            "{refused}"
        );
        assert_eq!(asked(&[own(60), own(39), own(0)], 100), None, "one is left for the last");
        assert!(
            asked(&[own(60), own(40), own(0)], 100)
                .expect("none is left")
                .contains("1 without `max_clients`")
        );
        assert_eq!(asked(&[own(0)], 0), None, "no limit is no demand");
    }

    #[test]
    fn shared_sessions_need_descriptor_and_no_instance() {
        let shared =
            |clients, shards| Server::builder().max_clients(clients).shared_instances(shards);
        assert_eq!(asked(&[shared(1_000, 1)], 0), None);
        let refused = asked(&[shared(1_001, 1)], 0).expect("one too many");
        assert!(
            refused.contains("1001 clients") && refused.contains("1192 descriptors"),
            "{refused}"
        );
        let large = InstanceLimits { memory_max_bytes: 256 << 20, ..InstanceLimits::default() };
        assert_eq!(asked(&[shared(10, 4).limits(large)], 0), None);
        let refused = asked(&[shared(10, 5).limits(large)], 0).expect("too much memory");
        assert!(refused.contains("1280 MiB"), "{refused}");
    }
}
