//! Entry of session endings: the counts that they go to, and the replays that they begin.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{
    Comparison, Fared, FaultRates, LiveAddresses, Mark, Rule, Source, Verdict, count, lock, replay,
};
use crate::admission::AddressGroup;
use crate::event::{FaultKind, Port};
use crate::plugin::EventProcedure;
use crate::server::env;
use crate::server::service::Service;
use crate::session::FaultEvidence;
use crate::telemetry::{FaultReplayed, KeptInputs};

/// Sessions that a walk looks at before it frees the registry.
const WALKED_AT_ONCE: usize = 256;

/// A fault of a plugin that ended a session.
#[derive(Debug)]
pub(crate) struct Blamed {
    /// Name of the event that failed.
    pub(crate) event: &'static str,
    /// Kind of the fault.
    pub(crate) kind: FaultKind,
    /// What a replay on another version needs, if it was kept.
    pub(crate) evidence: Option<Box<FaultEvidence>>,
}

impl Blamed {
    pub(super) fn fault(&self) -> (&'static str, FaultKind) {
        (self.event, self.kind)
    }
}

/// A new version that is compared with the one before. While this lives, sessions keep the inputs
/// of failed events.
#[derive(Debug)]
pub(in crate::server) struct Suspect {
    comparison: Arc<Mutex<Comparison>>,
    before: Arc<EventProcedure>,
    _kept: KeptInputs,
}

impl Suspect {
    /// Makes a suspect. `past` has the recent endings of the version before. Endings count for one
    /// to two times `length`.
    pub(in crate::server) fn new(
        rule: Rule,
        new: &EventProcedure,
        (before, past): (&Arc<EventProcedure>, FaultRates),
        length: Duration,
    ) -> Self {
        let comparison = Arc::new(Mutex::new(Comparison::new(rule, past, length)));
        Self { comparison, before: Arc::clone(before), _kept: new.metrics().keep_inputs() }
    }

    /// The version to roll back to if the new one is worse.
    pub(in crate::server) fn before(&self) -> &Arc<EventProcedure> {
        &self.before
    }

    /// Replaces the version before by itself with another configuration.
    pub(in crate::server) fn set_before(&mut self, before: Arc<EventProcedure>) {
        self.before = before;
    }

    /// Counts the end of a session of the version before.
    pub(in crate::server) fn hears_of_before(
        &self,
        source: Source,
        blamed: Option<&Blamed>,
        now: Instant,
    ) {
        count(lock(&self.comparison).version_before(), source, blamed, now);
    }

    /// Counts a session of the new version that ended well.
    pub(in crate::server) fn went_well(&self, source: Source, now: Instant) {
        lock(&self.comparison).new_version().well(source, now);
    }

    /// Counts a fault in a session of the new version. Returns the fault to replay, and whether the
    /// version may be worse now.
    pub(in crate::server) fn faulted(
        &self,
        source: Source,
        blamed: &Blamed,
        now: Instant,
    ) -> (Tried, bool) {
        let (mark, enough) = lock(&self.comparison).faulted(source, blamed.fault(), now);
        let before = Arc::clone(&self.before);
        (Tried { comparison: Arc::clone(&self.comparison), before, mark, source }, enough)
    }

    /// Decides. `live` has the live sessions of the new version and of the one before.
    pub(in crate::server) fn decide(&self, live: [&LiveAddresses; 2], now: Instant) -> Verdict {
        lock(&self.comparison).decide(live, now)
    }

    /// Whether there are enough faults for a decision.
    pub(in crate::server) fn has_enough(&self) -> bool {
        lock(&self.comparison).has_enough()
    }

    /// Whether the next decision may differ from the last, which waits for replays.
    pub(in crate::server) fn is_due(&self, now: Instant) -> bool {
        lock(&self.comparison).is_due(now)
    }

    /// Whether `comparison` is the suspect's comparison.
    pub(in crate::server) fn is(&self, comparison: &Arc<Mutex<Comparison>>) -> bool {
        Arc::ptr_eq(&self.comparison, comparison)
    }

    pub(in crate::server) fn comparison(&self) -> Arc<Mutex<Comparison>> {
        Arc::clone(&self.comparison)
    }
}

/// A fault of a new version, and the version to replay it on.
pub(in crate::server) struct Tried {
    pub(super) comparison: Arc<Mutex<Comparison>>,
    pub(super) before: Arc<EventProcedure>,
    pub(super) mark: Mark,
    source: Source,
}

impl Service {
    /// Counts the end of a session of this address, by a fault of its plugin or well.
    pub(crate) fn hears(
        self: &Arc<Self>,
        peer: IpAddr,
        procedure: &Arc<EventProcedure>,
        blamed: Option<Blamed>,
    ) {
        let source = Source::of(peer, &self.server_config().proxies);
        // The breaker ignores a version that new sessions do not get.
        if self.gets_new_sessions(procedure) {
            self.fared(source, if blamed.is_some() { Fared::Faulted } else { Fared::Well });
        }
        self.weighs(source, procedure, blamed);
    }

    /// [`Service::hears`] without the breaker.
    pub(in crate::server) fn weighs(
        self: &Arc<Self>,
        source: Source,
        procedure: &Arc<EventProcedure>,
        mut blamed: Option<Blamed>,
    ) {
        let now = env::now();
        self.blame.ended(procedure.metrics(), source, blamed.as_ref(), now);
        let canary = self.canary.load_full();
        let by_canary =
            canary.and_then(|canary| canary.hears(procedure, source, blamed.as_ref(), now));
        let by_probation = self.probation_hears(procedure, source, blamed.as_ref(), now);
        // A version is either a canary or on probation.
        let evidence =
            blamed.as_mut().and_then(|blamed| Some((blamed.evidence.take()?, blamed.fault())));
        if let (Some(tried), Some((evidence, fault))) = (by_probation.or(by_canary), evidence) {
            self.replays(tried, evidence, fault, now);
        }
    }

    /// Replays a fault on the version before, if the quota allows.
    fn replays(
        self: &Arc<Self>,
        tried: Tried,
        evidence: Box<FaultEvidence>,
        (event, kind): replay::Failure,
        now: Instant,
    ) {
        if self.blame.takes_replay(tried.source, now) {
            lock(&tried.comparison).begins(tried.mark);
            replay::begin(self, tried, evidence, (event, kind));
        } else {
            let (server, finding) = (&*self.name, "over-quota");
            FaultReplayed { server, event, kind, finding }.emit(&self.counters);
        }
    }

    /// Returns the sessions that are not ending, by address: those of versions for which `which`
    /// returns 0, and those for which it returns 1. This walks the registry once, a page at a time,
    /// so that others can use the registry in between.
    pub(in crate::server) fn live_on(
        &self,
        which: impl Fn(&Arc<EventProcedure>) -> Option<usize>,
    ) -> [LiveAddresses; 2] {
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

    /// The source of a client at this address.
    pub(in crate::server) fn source(&self, peer: IpAddr) -> Source {
        Source::of(peer, &self.server_config().proxies)
    }
}
