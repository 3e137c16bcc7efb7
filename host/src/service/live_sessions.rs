//! The server as its rollout sees it, and the entry of session endings.

use std::net::IpAddr;
use std::sync::Arc;

use super::shared::Service;
use crate::admission::AddressGroup;
use crate::event::{Peers, Port};
use crate::oci::Registries;
use crate::plugin::{EventProcedure, Grants, Holding, Loader};
use crate::rollout::blame::{Blamed, ClientSource, EndKind, LiveAddresses};
use crate::rollout::{
    IdleTask, LiveSession, LiveSessions, Rollout, SwapRules, VersionedServer, count_session_end,
};
use crate::sched::{Lane, Quota};
use crate::session::SessionConfig;
use crate::telemetry::{Bucket, Counters};
use crate::work::{WorkKind, WorkQueue};

/// Sessions that a walk looks at before it frees the registry.
const WALKED_AT_ONCE: usize = 256;

impl VersionedServer for Service {
    fn rollout(&self) -> &Rollout {
        &self.rollout
    }
}

impl LiveSessions for Service {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn is_ending(&self) -> bool {
        self.status().is_final()
    }

    fn live(&self) -> Vec<LiveSession> {
        self.registry.handled()
    }

    fn live_on(&self, which: &dyn Fn(&Arc<EventProcedure>) -> Option<usize>) -> [LiveAddresses; 2] {
        let (mut live, mut after) = (<[LiveAddresses; 2]>::default(), 0);
        loop {
            let page = self.registry.page(after, WALKED_AT_ONCE, |id, member| {
                let group = AddressGroup::of(member.handle.info().peer.ip());
                (id, which(&member.slot.current()), group)
            });
            for (_, which, group) in &page {
                if let Some(live) = which.and_then(|which| live.get_mut(which)) {
                    live.add(*group);
                }
            }
            let Some((last, ..)) = page.last().filter(|_| page.len() == WALKED_AT_ONCE) else {
                return live;
            };
            after = *last;
        }
    }

    fn source(&self, peer: IpAddr) -> ClientSource {
        ClientSource::of(peer, &self.server_config().proxies)
    }

    fn peers(&self) -> Arc<dyn Peers> {
        self.registry.clone()
    }

    fn rules(&self) -> SwapRules {
        self.server_config().rules
    }

    fn grants(&self) -> Grants {
        self.server_config().grants.clone()
    }

    fn registries(&self) -> Arc<Registries> {
        Arc::clone(&self.server_config().registries)
    }

    fn session_config(&self) -> Arc<SessionConfig> {
        Arc::clone(&self.server_config().session_config)
    }

    fn quota(&self) -> Arc<Quota> {
        Self::quota(self)
    }

    fn work(&self, kind: WorkKind) -> WorkQueue {
        Self::work(self, kind)
    }

    fn runtime(&self) -> &tokio::runtime::Handle {
        &self.runtime
    }

    fn spawn_idle(&self, task: IdleTask) {
        self.workers.spawn(Lane::Idle, Self::quota(self), task);
    }

    fn loader(&self) -> Loader {
        self.loader.on_behalf_of(Self::quota(self))
    }

    fn holding(&self) -> &Arc<Holding> {
        &self.holding
    }

    fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    fn fault_lines(&self) -> &Bucket {
        &self.fault_lines
    }

    fn forget_faults(&self) {
        Self::forget_faults(self);
    }
}

impl Service {
    /// The server as its rollout sees it.
    pub(crate) fn versioned(self: &Arc<Self>) -> Arc<dyn VersionedServer> {
        Arc::clone(self) as _
    }

    /// Counts the end of a session of this address, by a fault of its plugin or well.
    pub(crate) fn count_session_end(
        self: &Arc<Self>,
        peer: IpAddr,
        procedure: &Arc<EventProcedure>,
        blamed: Option<Blamed>,
    ) {
        let source = self.source(peer);
        // The breaker ignores a version that new sessions do not get.
        if self.rollout.gets_new_sessions(procedure) {
            self.report_to_breaker(
                source,
                if blamed.is_some() { EndKind::Faulted } else { EndKind::Well },
            );
        }
        count_session_end(self, source, procedure, blamed);
    }
}
