//! A server's share of the engine's pools: its holding at the gate, and its promise.

use std::sync::Arc;

use super::builder::{ServerBuilder, StartError};
use super::checks::argument;
use super::host::Host;
use crate::admission::InstanceRoom;
use crate::plugin::{Amounts, Capacity, Footprint, Holding, Plugin, Promise, Resource};

impl InstanceRoom for Holding {
    fn claim(&self) -> Option<usize> {
        Holding::claim(self).ok()
    }

    fn give(&self, claimed: usize) {
        self.unclaim(claimed);
    }
}

impl ServerBuilder {
    /// The server's promise of the pools. Shared instances are no part of it, because they are
    /// claimed.
    pub(crate) fn promise(&self) -> Promise {
        match self.shards {
            0 => Promise { sessions: self.throttle.max_clients, instances: self.instances_min },
            _ => Promise::default(),
        }
    }

    /// Opens the holding of a server that starts beside the running ones.
    ///
    /// # Errors
    /// The promise is more than the pools have left.
    pub(super) fn open(
        &self,
        host: &Host,
        tenant: &str,
        plugin: &Plugin,
    ) -> Result<Arc<Holding>, StartError> {
        let (promise, footprint, ledger) =
            (self.promise(), plugin.footprint(), host.engine().ledger());
        let (own, others, offered) = (promise.of(footprint), ledger.promised(), ledger.offered());
        let source = PoolSource::of(host);
        if let Some((key, problem)) = excess(promise, footprint, own, others, offered, source) {
            return Err(argument(key, problem));
        }
        Ok(ledger.open(tenant, promise, footprint))
    }
}

/// The sum of all promises of a plan.
#[derive(Debug)]
pub struct Promised {
    offered: Amounts,
    source: PoolSource,
    so_far: Amounts,
}

impl Promised {
    /// Starts with no promises, of the pools of this host.
    #[must_use]
    pub fn none(host: &Host) -> Self {
        Self {
            offered: host.engine().ledger().offered(),
            source: PoolSource::of(host),
            so_far: Amounts::default(),
        }
    }

    /// Adds the promise of a server with this plugin. Returns a mistake if the promises together
    /// are more than the pools have.
    pub fn add(&mut self, server: &ServerBuilder, plugin: &Plugin) -> Option<StartError> {
        let (promise, footprint) = (server.promise(), plugin.footprint());
        let own = promise.of(footprint);
        let found = excess(promise, footprint, own, self.so_far, self.offered, self.source);
        self.so_far = self.so_far.plus(own);
        found.map(|(key, problem)| argument(key, problem))
    }
}

/// What decided how many sessions the pools have room for.
#[derive(Debug, Clone, Copy)]
enum PoolSource {
    /// The operator.
    Configured,
    /// The machine, by its limit of this name if one is known.
    Machine(Option<&'static str>),
}

impl PoolSource {
    fn of(host: &Host) -> Self {
        let (sessions, is_configured) = host.instances();
        if is_configured {
            return Self::Configured;
        }
        let capacity = Capacity::now();
        // If the engine got less than the capacity, no limit that is known here was the cause.
        Self::Machine(if sessions == capacity.instances() {
            capacity.scarcest()
        } else if sessions == capacity.clients() {
            Some("`ulimit -n`")
        } else {
            None
        })
    }

    /// Names the source, and says what to do if `key` asks for too much.
    fn explain(self, key: &str) -> String {
        match self {
            Self::Configured => {
                format!("(`sessions_max`): lower `{key}`, or raise `sessions_max`")
            }
            Self::Machine(Some(limit)) => {
                format!("(room of the machine, by {limit}): lower `{key}`, or raise {limit}")
            }
            Self::Machine(None) => format!("(room of the machine): lower `{key}`"),
        }
    }
}

/// Returns the key that asks for more than the pools have, with the arithmetic.
fn excess(
    promise: Promise,
    footprint: Footprint,
    own: Amounts,
    others: Amounts,
    offered: Amounts,
    source: PoolSource,
) -> Option<(&'static str, String)> {
    let is_short = |resource: &Resource| {
        own.of(*resource) > 0 && own.of(*resource) + others.of(*resource) > offered.of(*resource)
    };
    let resource = Resource::ALL.into_iter().find(is_short)?;
    let (wanted, taken, most) = (own.of(resource), others.of(resource), offered.of(resource));
    Some(match resource {
        Resource::Instances => {
            let key =
                if promise.sessions >= promise.instances { "max_clients" } else { "instances_min" };
            (
                key,
                format!(
                    "{wanted} sessions are promised, and {taken} to other servers, of {most} {}",
                    source.explain(key)
                ),
            )
        }
        Resource::Memories => (
            "instances_min",
            format!(
                "{} instances with {} memories each are {wanted} memory slots, and {taken} are \
                 promised to \
                 other servers, of {most}",
                promise.instances, footprint.memories
            ),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overpromise_names_the_limit_to_raise() {
        let said = |source| {
            let promise = Promise { sessions: 11, instances: 0 };
            let footprint = Footprint::with(1, 1);
            let own = promise.of(footprint);
            let offered = Amounts([10, usize::MAX]);
            let found = excess(promise, footprint, own, Amounts([0, 0]), offered, source);
            found.expect("one session too many")
        };
        let (key, by_machine) = said(PoolSource::Machine(Some("`vm.max_map_count`")));
        assert_eq!(key, "max_clients");
        let mend = "(room of the machine, by `vm.max_map_count`): lower `max_clients`, or raise \
                    `vm.max_map_count`";
        assert!(by_machine.ends_with(mend), "{by_machine}");
        let (_, configured) = said(PoolSource::Configured);
        assert!(configured.ends_with("or raise `sessions_max`"), "{configured}");
        let (_, unknown) = said(PoolSource::Machine(None));
        assert!(unknown.ends_with("(room of the machine): lower `max_clients`"), "{unknown}");
    }

    #[test]
    fn overpromise_is_refused_with_arithmetic() {
        for case in 0..2_000_usize {
            let footprint = Footprint::with(1 + case % 4, case % 9);
            let promise = Promise { sessions: 1 + case % 47, instances: 1 + case % 53 };
            let (own, others) = (promise.of(footprint), Amounts([case % 91, case % 97]));
            let [instances, memories] = own.plus(others).0;
            let source = PoolSource::Configured;
            let with = |offered| excess(promise, footprint, own, others, Amounts(offered), source);
            assert_eq!(with([instances, memories]), None, "{case}: at the limit");
            assert_eq!(with([instances + 1, memories + 1]), None, "{case}: below");
            let (key, problem) = with([instances - 1, memories]).expect("one session too many");
            let words = format!("{} sessions", own.of(Resource::Instances));
            assert!(problem.contains(&words) && key != "shards", "{case}: {problem}");
            let (key, problem) = with([instances, memories - 1]).expect("one slot too many");
            let words = format!("{} memory slots", own.of(Resource::Memories));
            assert!(problem.contains(&words) && key == "instances_min", "{case}: {problem}");
        }
    }
}
