//! Rules by which versions are tried and rolled back.

use std::str::FromStr;
use std::time::Duration;

/// Number of versions of a server's plugin in memory at once, a canary included.
pub const VERSIONS_MAX: usize = 3;

/// Policy of a swap: what happens to live sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SwapPolicy {
    /// Each session migrates at its next event boundary, with its state. A session that cannot
    /// migrate stays on its version.
    #[default]
    HandOff,
    /// All sessions migrate at one moment, or none does. Each prepares, and new sessions wait
    /// meanwhile.
    AllOrNothing,
    /// Sessions end on the version they have.
    Pin,
    /// Sessions are ended gracefully, with the reason `server-stopped`.
    Disconnect,
}

impl SwapPolicy {
    /// Every policy.
    pub const ALL: [Self; 4] = [Self::HandOff, Self::AllOrNothing, Self::Pin, Self::Disconnect];

    /// Name of the policy in requests and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HandOff => "hand-off",
            Self::AllOrNothing => "all-or-nothing",
            Self::Pin => "pin",
            Self::Disconnect => "disconnect",
        }
    }
}

/// Word that names no [`SwapPolicy`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected one of {}, found `{}`", SwapPolicy::ALL.map(SwapPolicy::name).join(", "),
    .found.escape_debug()
)]
pub struct UnknownSwapPolicyError {
    /// The word.
    pub found: String,
}

impl FromStr for SwapPolicy {
    type Err = UnknownSwapPolicyError;

    fn from_str(text: &str) -> Result<Self, UnknownSwapPolicyError> {
        let known = Self::ALL.into_iter().find(|policy| policy.name() == text);
        known.ok_or_else(|| UnknownSwapPolicyError { found: text.to_owned() })
    }
}

/// Rules of a server for a new version of its plugin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SwapRules {
    /// Policy of swaps that name none. Default: hand-off.
    pub policy: SwapPolicy,
    /// The version is rolled back if at least this many sessions cannot migrate, and more than
    /// `failures_share` of those asked. Default 5.
    pub failures_min: u32,
    /// See `failures_min`. 0 to 1. Default 0.02.
    pub failures_share: f64,
    /// Length of the probation after a swap. Up to a day; zero turns the probation off. Default: a
    /// minute.
    pub watch: Duration,
    /// The version is rolled back if at least this many sessions fault during the probation, at a
    /// rate higher than that of the version before by more than `faults_share`. Default 10.
    pub faults_min: u32,
    /// See `faults_min`. 0 to 1. Default 0.1.
    pub faults_share: f64,
    /// Time that the sessions of an atomic migration may take to prepare. 10 ms to a minute.
    /// Default: two seconds.
    pub prepare: Duration,
    /// What happens to sessions that only their own peers keep from moving with the others.
    /// Default: the old version.
    pub held_up: HeldUp,
    /// Rules of a canary.
    pub canary: CanaryRules,
}

/// What happens to a session of an atomic migration that is not ready in time because an event of
/// it waits for its own peer. Such a session never calls off the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeldUp {
    /// The host gives up the peer, and the session ends as `write-timeout` before the others move.
    /// So all sessions are on one version.
    End,
    /// The session stays on its version. So no session ends.
    #[default]
    OldVersion,
}

impl HeldUp {
    /// Every value.
    pub const ALL: [Self; 2] = [Self::End, Self::OldVersion];

    /// Name of the value in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::End => "end",
            Self::OldVersion => "old-version",
        }
    }
}

/// Word that names no [`HeldUp`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected {}, found `{}`", HeldUp::ALL.map(HeldUp::name).join(" or "), .found.escape_debug()
)]
pub struct UnknownHeldUpError {
    /// The word.
    pub found: String,
}

impl FromStr for HeldUp {
    type Err = UnknownHeldUpError;

    fn from_str(text: &str) -> Result<Self, UnknownHeldUpError> {
        let known = Self::ALL.into_iter().find(|held_up| held_up.name() == text);
        known.ok_or_else(|| UnknownHeldUpError { found: text.to_owned() })
    }
}

/// Rules by which a share of the sessions tries a version before all sessions get it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CanaryRules {
    /// Share of new sessions that get the canary. Above 0, up to 1. Default 0.1.
    pub share: f64,
    /// Whether the same share of live sessions moves to the canary. Default: no.
    pub live: bool,
    /// Time until the canary is promoted. A second to a week. Default: five minutes.
    pub duration: Duration,
    /// Number of sessions that the canary needs. With fewer, it is rolled back at its end, because
    /// it was not tried enough. Default 10.
    pub sessions_min: u32,
    /// Number of faulted sessions from which on the two rates below count. Default 3.
    pub faults_min: u32,
    /// Share of faulted sessions above which the canary is rolled back, if `faults_ratio` is
    /// exceeded too. 0 to 1. Default 0.01.
    pub faults_share: f64,
    /// Ratio of the canary's share of faulted sessions to that of the current version. The canary
    /// is rolled back above this ratio, if `faults_share` is exceeded too. 1 or more. Default 2.
    pub faults_ratio: f64,
    /// Ratio of the canary's 99th percentile of event times to that of the current version. The
    /// canary is rolled back above this ratio. 1 or more. Default 1.5.
    pub latency_ratio: f64,
    /// Number of events that both versions need before `latency_ratio` counts. Default 1,000.
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
    /// Returns the invalid values: each key and what was expected.
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
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
    /// Returns the invalid values, as [`SwapRules::problems`] does.
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
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
