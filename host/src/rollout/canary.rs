//! Canary: a version that a share of the sessions tries, and its figures against those of the
//! current version.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::blame::{
    Blamed, ClientSource, Decision, FaultRates, PAST, PendingReplay, Rule, Suspect,
};
use super::env;
use super::live::LiveSessions;
use super::rules::CanaryRules;
use crate::plugin::EventProcedure;
use crate::telemetry::{CanaryEnded, FaultFigures, Latencies};

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
    pub(crate) fn applied_to(self, rules: CanaryRules) -> CanaryRules {
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
    pub revision: u64,
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
pub(crate) struct Canary {
    pub(crate) procedure: Arc<EventProcedure>,
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
    pub(crate) fn new(
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
    pub(crate) fn takes(&self) -> bool {
        let before = self.new_sessions.fetch_add(1, Ordering::Relaxed) as f64;
        let takes =
            ((before + 1.0) * self.rules.share).floor() > (before * self.rules.share).floor();
        if takes {
            self.has(1);
        }
        takes
    }

    /// Counts this many more sessions of the canary.
    pub(crate) fn has(&self, more: u64) {
        self.sessions.fetch_add(more, Ordering::Relaxed);
    }

    /// Records the end of a session. Returns the fault to replay if the canary caused one.
    pub(crate) fn count_session_end(
        &self,
        of: &Arc<EventProcedure>,
        source: ClientSource,
        blamed: Option<&Blamed>,
        now: Instant,
    ) -> Option<PendingReplay> {
        match (Arc::ptr_eq(of, &self.procedure), blamed) {
            (true, Some(blamed)) => {
                self.faulted.fetch_add(1, Ordering::Relaxed);
                return Some(self.suspect.faulted(source, blamed, now).0);
            }
            (true, None) => self.suspect.went_well(source, now),
            (false, blamed) => self.suspect.count_before(source, blamed, now),
        }
        None
    }

    /// Decides whether the canary is rolled back for its faults.
    pub(super) fn faults(&self, server: &dyn LiveSessions) -> Decision {
        if !self.suspect.has_enough() {
            return Decision::Keep;
        }
        if !self.suspect.is_due(env::now()) {
            return Decision::NotYet;
        }
        let [own, others] =
            server.live_on(&|version| Some(usize::from(!Arc::ptr_eq(version, &self.procedure))));
        self.suspect.decide([&own, &others], env::now())
    }

    /// Number of the canary's revision.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn seen(&self) -> CanaryStatus {
        CanaryStatus {
            revision: self.number,
            plugin: self.procedure.plugin().label(),
            share: self.rules.share,
            sessions: self.sessions.load(Ordering::Relaxed),
            faulted: self.faulted.load(Ordering::Relaxed),
            left: self.left(),
        }
    }

    /// Faults that the canary is rolled back for, if faults are the reason.
    pub(super) fn fault_figures(&self) -> Option<&FaultFigures> {
        self.figures.get()
    }

    /// Logs and counts how the canary ended.
    pub(super) fn ended(&self, server: &dyn LiveSessions, outcome: &str) {
        let CanaryStatus { plugin, sessions, faulted, .. } = self.seen();
        let (name, figures) = (server.name(), self.figures.get());
        CanaryEnded { server: name, plugin: &plugin, outcome, sessions, faulted, figures }
            .emit(server.counters());
    }

    /// Time until the canary is promoted.
    pub(super) fn left(&self) -> Duration {
        self.until.saturating_duration_since(env::now())
    }

    /// Whether the canary must be rolled back because its events take longer.
    pub(super) fn is_slower(&self) -> bool {
        self.figures().is_slower(&self.rules)
    }

    /// Whether the canary had too few sessions for a promotion.
    pub(super) fn has_few_sessions(&self) -> bool {
        self.figures().sessions < u64::from(self.rules.sessions_min)
    }

    /// Sets the faults that the canary is rolled back for.
    pub(super) fn fails(&self, figures: FaultFigures) {
        let _ = self.figures.set(figures);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canary_with_slower_events_is_rolled_back() {
        let (rules, us) = (CanaryRules::default(), Duration::from_micros);
        let is_slower = |events| Figures { sessions: 10, events }.is_slower(&rules);
        assert!(is_slower([(1_000, us(151)), (9_000, us(100))]));
        assert!(!is_slower([(1_000, us(149)), (9_000, us(100))]));
        assert!(!is_slower([(999, us(900)), (9_000, us(100))]));
        assert!(!is_slower([(9_000, us(900)), (999, us(100))]));
    }
}
