//! Canary: a version that a share of the sessions tries, and the judge that promotes it or rolls it
//! back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::CanaryRules;
use crate::plugin::EventProcedure;
use crate::server::blame::{Blamed, FaultRates, PAST, Rule, Source, Suspect, Tried, Verdict};
use crate::server::env;
use crate::server::exclusive::Rank;
use crate::server::service::Service;
use crate::server::swap::{self, Outcome, SwapError, SwapReport, migrate, on};
use crate::telemetry::{CanaryEnded, FaultFigures, Latencies};

/// Interval between two looks of the judge, at most.
const JUDGED_EVERY: Duration = Duration::from_secs(1);
/// Interval of the judge when the canary's time is over and replays are still running.
const JUDGED_AGAIN: Duration = Duration::from_millis(50);

/// Values of one canary that override the server's rules.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CanaryOptions {
    /// See [`CanaryRules::share`].
    pub share: Option<f64>,
    /// See [`CanaryRules::live`].
    pub live: Option<bool>,
    /// See [`CanaryRules::duration`].
    pub duration: Option<Duration>,
}

impl CanaryOptions {
    pub(in crate::server) fn over(self, rules: CanaryRules) -> CanaryRules {
        CanaryRules {
            share: self.share.unwrap_or(rules.share),
            live: self.live.unwrap_or(rules.live),
            duration: self.duration.unwrap_or(rules.duration),
            ..rules
        }
    }
}

/// Status of a canary at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct CanaryStatus {
    /// Number of the canary's revision.
    pub generation: u64,
    /// Name and version.
    pub plugin: String,
    /// Share of new sessions that get the canary.
    pub share: f64,
    /// Number of sessions that the canary has had.
    pub sessions: u64,
    /// Number of these sessions that faulted.
    pub faulted: u64,
    /// Time until the canary is promoted.
    pub left: Duration,
}

/// A canary that runs.
#[derive(Debug)]
pub(in crate::server) struct Canary {
    pub(in crate::server) procedure: Arc<EventProcedure>,
    number: u64,
    rules: CanaryRules,
    until: Instant,
    new_sessions: AtomicU64,
    sessions: AtomicU64,
    faulted: AtomicU64,
    /// Faults of the canary against those of the current version.
    suspect: Suspect,
    /// Faults that the canary is rolled back for, if faults are the reason.
    figures: OnceLock<FaultFigures>,
    /// Latencies of both versions before the canary began, the canary first.
    before: [Latencies; 2],
}

/// Figures that the judge decides by.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Figures {
    sessions: u64,
    /// Number of events and their 99th percentile, of the canary and of the current version.
    events: [(u64, Duration); 2],
}

impl Canary {
    /// Creates a canary. `past` has the recent fault rates of the current version.
    pub(in crate::server) fn new(
        procedure: Arc<EventProcedure>,
        (current, past): (&Arc<EventProcedure>, FaultRates),
        number: u64,
        rules: CanaryRules,
    ) -> Self {
        let before = [procedure.metrics().latencies(), current.metrics().latencies()];
        let zero = || AtomicU64::new(0);
        let (new_sessions, sessions, faulted) = (zero(), zero(), zero());
        let until = env::now() + rules.duration;
        let CanaryRules { faults_min, faults_share, faults_ratio, .. } = rules;
        let rule = Rule::Canary { faults_min, share: faults_share, ratio: faults_ratio };
        let suspect = Suspect::new(rule, &procedure, (current, past), rules.duration.max(PAST));
        let figures = OnceLock::new();
        Self {
            procedure,
            number,
            rules,
            until,
            new_sessions,
            sessions,
            faulted,
            suspect,
            figures,
            before,
        }
    }

    /// Returns whether the next new session gets the canary. The choice is spread evenly, and the
    /// share is exact.
    pub(in crate::server) fn takes(&self) -> bool {
        let before = self.new_sessions.fetch_add(1, Ordering::Relaxed) as f64;
        let takes =
            ((before + 1.0) * self.rules.share).floor() > (before * self.rules.share).floor();
        if takes {
            self.has(1);
        }
        takes
    }

    /// Counts this many more sessions of the canary.
    pub(in crate::server) fn has(&self, more: u64) {
        self.sessions.fetch_add(more, Ordering::Relaxed);
    }

    /// Records the end of a session. Returns the fault to replay if the canary caused one.
    pub(in crate::server) fn hears(
        &self,
        of: &Arc<EventProcedure>,
        source: Source,
        blamed: Option<&Blamed>,
        now: Instant,
    ) -> Option<Tried> {
        match (Arc::ptr_eq(of, &self.procedure), blamed) {
            (true, Some(blamed)) => {
                self.faulted.fetch_add(1, Ordering::Relaxed);
                return Some(self.suspect.faulted(source, blamed, now).0);
            }
            (true, None) => self.suspect.went_well(source, now),
            (false, blamed) => self.suspect.hears_of_before(source, blamed, now),
        }
        None
    }

    /// Decides whether the canary is rolled back for its faults.
    fn faults(&self, service: &Service) -> Verdict {
        if !self.suspect.has_enough() {
            return Verdict::Keep;
        }
        if !self.suspect.is_due(env::now()) {
            return Verdict::NotYet;
        }
        let [own, others] =
            service.live_on(|version| Some(usize::from(!Arc::ptr_eq(version, &self.procedure))));
        self.suspect.decide([&own, &others], env::now())
    }

    /// Number of the canary's revision.
    pub(in crate::server) fn number(&self) -> u64 {
        self.number
    }

    pub(in crate::server) fn seen(&self) -> CanaryStatus {
        CanaryStatus {
            generation: self.number,
            plugin: self.procedure.plugin().label(),
            share: self.rules.share,
            sessions: self.sessions.load(Ordering::Relaxed),
            faulted: self.faulted.load(Ordering::Relaxed),
            left: self.until.saturating_duration_since(env::now()),
        }
    }

    /// Creates the report of the canary's end, with nothing counted yet.
    fn report(&self, service: &Service) -> SwapReport {
        let (from, to) = (service.procedure().plugin().label(), self.procedure.plugin().label());
        SwapReport { from, to, ..SwapReport::default() }
    }

    /// Logs and counts how the canary ended.
    fn ended(&self, service: &Service, outcome: &str) {
        let CanaryStatus { plugin, sessions, faulted, .. } = self.seen();
        let (server, figures) = (&*service.name, self.figures.get());
        CanaryEnded { server, plugin: &plugin, outcome, sessions, faulted, figures }
            .emit(&service.counters);
    }

    fn figures(&self) -> Figures {
        let events = |at: usize, of: &EventProcedure| {
            let since = of.metrics().latencies().since(&self.before[at]);
            (since.count(), since.quantile(0.99).unwrap_or_default())
        };
        let sessions = self.sessions.load(Ordering::Relaxed);
        Figures { sessions, events: [events(0, &self.procedure), events(1, self.suspect.before())] }
    }
}

impl Figures {
    /// Returns whether the canary must be rolled back because its events take longer.
    fn is_slower(&self, rules: &CanaryRules) -> bool {
        let [(events, p99), (others_events, others_p99)] = self.events;
        let enough = events.min(others_events) >= rules.events_min;
        enough && p99.as_secs_f64() > rules.latency_ratio * others_p99.as_secs_f64()
    }
}

/// Watches a canary until it is promoted or rolled back.
pub(in crate::server) async fn judge(service: std::sync::Weak<Service>, canary: Arc<Canary>) {
    loop {
        let left = canary.until.saturating_duration_since(env::now());
        env::sleep(left.clamp(JUDGED_AGAIN, JUDGED_EVERY)).await;
        let Some(service) = service.upgrade().filter(|service| service.has_canary(&canary)) else {
            return;
        };
        let slower = canary.figures().is_slower(&canary.rules).then_some("latency");
        let against = match canary.faults(&service) {
            Verdict::TakeBack(figures) => {
                let _ = canary.figures.set(figures);
                Some("faults")
            }
            // The canary is not promoted before its replays are done.
            Verdict::NotYet if slower.is_none() => continue,
            Verdict::NotYet | Verdict::Keep => slower,
        };
        let over = env::now() >= canary.until;
        if against.is_none() && !over {
            continue;
        }
        let _alone = service.swapping.lock(Rank::Next).await;
        if !service.has_canary(&canary) {
            return;
        }
        // Live sessions may have come to the canary while the judge waited.
        let sessions = canary.figures().sessions;
        let few =
            || (sessions < u64::from(canary.rules.sessions_min)).then_some("too-few-sessions");
        let why = against.or_else(few);
        let _under_way = match why {
            Some(_) => service.begins(service.procedure().plugin()),
            None => service.begins(canary.procedure.plugin()),
        };
        match why {
            Some(why) => drop(take_back(&service, &canary, why).await),
            // No caller waits for an answer, but the version must be the one that starts after a
            // crash.
            None => match promote(&service, &canary).await {
                Ok(_) => service.record_quietly().await,
                Err(SwapError::Stopping) => {}
                Err(_) => drop(take_back(&service, &canary, "no-room").await),
            },
        }
        return;
    }
}

/// Gives a running canary to all sessions. The caller holds the lock of swaps. If all sessions were
/// to move together and one could not, the canary is rolled back.
///
/// # Errors
/// - [`SwapError::NoRoom`]; the canary runs on.
/// - [`SwapError::Stopping`]; the server has stopped, and nothing changed.
pub(in crate::server) async fn promote(
    service: &Arc<Service>,
    canary: &Arc<Canary>,
) -> Result<SwapReport, SwapError> {
    let mut report = canary.report(service);
    let publish = || {
        service.procedure.store(Arc::clone(&canary.procedure));
        service.canary.store(None);
        service.history().put_in_force(&canary.procedure);
        canary.ended(service, "promoted");
        swap::published(service, &canary.procedure);
        canary.number
    };
    let (policy, before) = (service.server_config().rules.policy, service.procedure());
    if swap::introduce(service, &canary.procedure, policy, &mut report, publish).await?
        == Outcome::CalledOff
    {
        take_back(service, canary, "called-off").await;
        return Ok(report);
    }
    swap::outlasts(service, &before, &canary.procedure)?;
    Ok(report)
}

/// Rolls back a running canary, and migrates its sessions back. The caller holds the lock of swaps.
pub(in crate::server) async fn take_back(
    service: &Arc<Service>,
    canary: &Arc<Canary>,
    why: &str,
) -> SwapReport {
    let mut report = canary.report(service);
    std::mem::swap(&mut report.from, &mut report.to);
    service.canary.store(None);
    service.history().take_back(&canary.procedure, why, canary.figures.get());
    canary.ended(service, why);
    let before = service.procedure();
    if before.hands_over() && canary.procedure.hands_over() {
        migrate(service, &before, on(service, &canary.procedure), &mut report).await;
    }
    (report.rolled_back, report.generation) = (true, canary.number);
    service.record_quietly().await;
    report
}

impl Service {
    /// Returns whether this canary is the one that runs.
    pub(in crate::server) fn has_canary(&self, canary: &Arc<Canary>) -> bool {
        self.canary.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, canary))
    }

    /// Returns whether this procedure is the canary that runs.
    pub(crate) fn tries(&self, procedure: &Arc<EventProcedure>) -> bool {
        self.canary.load().as_ref().is_some_and(|canary| Arc::ptr_eq(&canary.procedure, procedure))
    }

    /// Returns the procedure for the next new session, and whether that is a canary.
    pub(crate) fn procedure_for_new_session(&self) -> (Arc<EventProcedure>, bool) {
        match &*self.canary.load() {
            Some(canary) if canary.takes() => (Arc::clone(&canary.procedure), true),
            _ => (self.procedure(), false),
        }
    }

    /// Ends the canary because of a reload: the version it was compared with is not current any
    /// more. Returns the procedure of its sessions, which [`Service::bring_back`] migrates back.
    pub(in crate::server) fn forget_canary(&self) -> Option<Arc<EventProcedure>> {
        let canary = self.canary.swap(None)?;
        self.history().take_back(&canary.procedure, "reload", None);
        canary.ended(self, "reload");
        Some(Arc::clone(&canary.procedure))
    }

    /// Migrates the sessions of a former canary to the current version. The caller holds the lock
    /// of swaps.
    pub(in crate::server) async fn bring_back(&self, from: &Arc<EventProcedure>) {
        let to = self.procedure();
        if to.hands_over() && from.hands_over() {
            migrate(self, &to, on(self, from), &mut SwapReport::default()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canary_with_slower_events_is_taken_back() {
        let (rules, us) = (CanaryRules::default(), Duration::from_micros);
        let is_slower = |events| Figures { sessions: 10, events }.is_slower(&rules);
        assert!(is_slower([(1_000, us(151)), (9_000, us(100))]));
        assert!(!is_slower([(1_000, us(149)), (9_000, us(100))]));
        assert!(!is_slower([(999, us(900)), (9_000, us(100))]));
        assert!(!is_slower([(9_000, us(900)), (999, us(100))]));
    }
}
