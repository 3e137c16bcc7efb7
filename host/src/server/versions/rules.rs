//! By which rules versions are tried and taken back.

use std::time::Duration;

use crate::server::SwapPolicy;

/// What a server does with a new version of its plugin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SwapRules {
    /// What becomes of live sessions where a swap does not say. Default: hand-off.
    pub policy: SwapPolicy,
    /// So many sessions that cannot move, and more than `failures_share` of those asked, and the
    /// version is taken back. Default 5.
    pub failures_min: u32,
    /// See `failures_min`. 0 to 1. Default 0.02.
    pub failures_share: f64,
    /// RevisionOrigin long a version is watched after its swap. Up to a day; zero: not at all. Default a
    /// minute.
    pub watch: Duration,
    /// So many of its sessions that fault meanwhile, and more than `faults_share` of those that are
    /// there, and it is taken back. Default 10.
    pub faults_min: u32,
    /// See `faults_min`. 0 to 1. Default 0.1.
    pub faults_share: f64,
    /// RevisionOrigin long sessions that prepare together may take. 10 ms to a minute. Default two seconds.
    pub prepare: Duration,
    /// What becomes of sessions that only their own peers keep from moving with the others.
    /// Default: the old version.
    pub held_up: HeldUp,
    /// RevisionOrigin a version is tried on some of the sessions.
    pub canary: CanaryRules,
}

/// What becomes of a session that is to move with others, and is not ready in time because an event
/// of it waits for its own peer. It never calls off the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeldUp {
    /// Its peer is given up, and it ends as `write-timeout` before the others move: none of them is
    /// on another version than the rest.
    End,
    /// It stays on the version that it has: none of them ends.
    #[default]
    OldVersion,
}

impl HeldUp {
    /// Every value.
    pub const ALL: [Self; 2] = [Self::End, Self::OldVersion];

    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::End => "end",
            Self::OldVersion => "old-version",
        }
    }
}

impl std::str::FromStr for HeldUp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(" or ");
        let found = Self::ALL.into_iter().find(|held_up| held_up.name() == text);
        found.ok_or_else(|| format!("expected {names}, found `{}`", text.escape_debug()))
    }
}

/// RevisionOrigin a version is tried on some of the sessions before all get it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CanaryRules {
    /// Share of newcomers that get it. Above 0, to 1. Default 0.1.
    pub share: f64,
    /// Whether the same share of live sessions moves to it. Default: no.
    pub live: bool,
    /// For how long; then it is promoted. A second to a week. Default five minutes.
    pub duration: Duration,
    /// Fewer sessions than this, and it is taken back at the end, because it was not tried. Default
    /// 10.
    pub sessions_min: u32,
    /// So many of its sessions that fault, and it is looked at by the two rates below. Default 3.
    pub faults_min: u32,
    /// Taken back where more of its sessions fault than this. 0 to 1. Default 0.01.
    pub faults_share: f64,
    /// And more than so many times the share of the version in force. 1 or more. Default 2.
    pub faults_ratio: f64,
    /// Taken back where the 99th percentile of how long its events take is more than so many times
    /// that of the version in force. 1 or more. Default 1.5.
    pub latency_ratio: f64,
    /// Events that both need to have had for that. Default 1,000.
    pub events_min: u64,
}

impl Default for SwapRules {
    fn default() -> Self {
        Self {
            policy: SwapPolicy::HandOff,
            failures_min: 5,
            failures_share: 0.02,
            watch: Duration::from_secs(60),
            faults_min: 10,
            faults_share: 0.1,
            prepare: Duration::from_secs(2),
            held_up: HeldUp::default(),
            canary: CanaryRules::default(),
        }
    }
}

impl Default for CanaryRules {
    fn default() -> Self {
        Self {
            share: 0.1,
            live: false,
            duration: Duration::from_secs(300),
            sessions_min: 10,
            faults_min: 3,
            faults_share: 0.01,
            faults_ratio: 2.0,
            latency_ratio: 1.5,
            events_min: 1_000,
        }
    }
}

const WATCH_MAX: Duration = Duration::from_secs(86_400);
const PREPARE_RANGE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));

impl SwapRules {
    /// What is wrong with them: the key and what was expected.
    pub(in crate::server) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let mut check = |good: bool, key, expected: &str, value: String| {
            if !good {
                found.push((key, format!("expected {expected}, found {value}")));
            }
        };
        check(
            share(self.failures_share),
            "swap.failures_share",
            "0 to 1",
            self.failures_share.to_string(),
        );
        check(
            share(self.faults_share),
            "swap.faults_share",
            "0 to 1",
            self.faults_share.to_string(),
        );
        check(self.watch <= WATCH_MAX, "swap.watch", "at most a day", format!("{:?}", self.watch));
        let (least, most) = PREPARE_RANGE;
        check(
            (least..=most).contains(&self.prepare),
            "swap.prepare",
            "10ms to a minute",
            format!("{:?}", self.prepare),
        );
        found.extend(self.canary.problems());
        found
    }
}

impl CanaryRules {
    /// As with [`SwapRules::problems`].
    pub(in crate::server) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let mut check = |good: bool, key, expected: &str, value: String| {
            if !good {
                found.push((key, format!("expected {expected}, found {value}")));
            }
        };
        let shared = self.share > 0.0 && self.share <= 1.0;
        check(shared, "swap.canary.share", "more than 0, to 1", self.share.to_string());
        let lasting =
            (Duration::from_secs(1)..=Duration::from_secs(7 * 86_400)).contains(&self.duration);
        check(
            lasting,
            "swap.canary.duration",
            "a second to a week",
            format!("{:?}", self.duration),
        );
        let part = (0.0..=1.0).contains(&self.faults_share);
        check(part, "swap.canary.faults_share", "0 to 1", self.faults_share.to_string());
        check(
            self.faults_ratio >= 1.0,
            "swap.canary.faults_ratio",
            "1 or more",
            self.faults_ratio.to_string(),
        );
        check(
            self.latency_ratio >= 1.0,
            "swap.canary.latency_ratio",
            "1 or more",
            self.latency_ratio.to_string(),
        );
        found
    }
}
