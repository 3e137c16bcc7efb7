//! The bodies and queries of requests. Unknown keys are errors, as in the configuration file.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};

use super::answer::Problem;
use crate::admission::Change;
use crate::event::Priority;
use crate::server::{
    CanaryOptions, LOCK_HOLD_MAX, LOCK_WAIT_MAX, NewConnections, ServerEnding, SwapPolicy,
};
use crate::span::Span;

/// Most bytes of a path, as for the system.
const PATH_MAX_BYTES: usize = 4_096;
/// Longest time that a request may give to sessions to end.
const DEADLINE_MAX: Duration = Duration::from_secs(3_600);
/// Default time that sessions may take to end on a stop.
const STOP_GRACE_DEFAULT: Duration = Duration::from_secs(10);
/// Default time to wait for a lock, and default time to hold it.
const LOCK_WAIT_DEFAULT: Duration = Duration::from_secs(5);
const LOCK_HOLD_DEFAULT: Duration = Duration::from_secs(10);

/// Time that a new process may take until it serves: the default, and the most that a request may
/// give.
const UPGRADE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(120);
const UPGRADE_TIMEOUT_MAX: Duration = Duration::from_secs(1_800);
/// Longest time that sessions may go on in the old process.
const UPGRADE_DRAIN_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Reads a path or a registry reference of at most [`PATH_MAX_BYTES`].
fn path<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    let text = String::deserialize(from)?;
    match text.len() {
        0..=PATH_MAX_BYTES => Ok(text.into()),
        bytes => {
            Err(D::Error::custom(format!("expected at most {PATH_MAX_BYTES} bytes, found {bytes}")))
        }
    }
}

/// Reads a body. An empty body counts as an empty object.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    // serde would take a list for an object's values in their order.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Problem::bad("bad-json", "expected an object"));
    }
    let mut values = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut values).map_err(|error| {
        let (key, error) = (error.path().to_string(), error.into_inner());
        Problem::bad("bad-json", described(&key, &error))
    })?;
    values.end().map_err(|error| Problem::bad("bad-json", error.to_string()))?;
    Ok(read)
}

/// Describes an error. If a value is wrong, its key stands for the position. A key that the error
/// names stands there once.
fn described(key: &str, error: &serde_json::Error) -> String {
    let text = error.to_string();
    if key == "." {
        return text;
    }
    let position = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&position).filter(|_| error.is_data()).unwrap_or(&text);
    match text.starts_with(&format!("unknown field `{key}`")) {
        true => text.to_owned(),
        false => format!("`{key}`: {text}"),
    }
}

/// A request without keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
pub(super) enum NewConnectionsOption {
    #[default]
    Queue,
    Reject,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
pub(super) enum SessionsOption {
    #[default]
    Keep,
    Drain,
    Disconnect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Suspend {
    #[serde(default, rename = "newcomers")]
    new_connections: NewConnectionsOption,
    #[serde(default)]
    sessions: SessionsOption,
    deadline: Option<Span>,
}

fn beyond(key: &str, max: Duration, found: Span) -> Problem {
    let (max, found) = (humantime::format_duration(max), humantime::format_duration(found.0));
    Problem::bad("bad-value", format!("`{key}`: expected at most {max}, found {found}"))
}

fn ending(drain: bool, deadline: Option<Span>) -> Result<ServerEnding, Problem> {
    match (drain, deadline) {
        (true, Some(Span(time))) if time <= DEADLINE_MAX => Ok(ServerEnding::Drain(time)),
        (true, Some(span)) => Err(beyond("deadline", DEADLINE_MAX, span)),
        (true, None) => Err(Problem::bad(
            "bad-value",
            "`deadline`: draining needs one, up to an hour, as \"30s\"",
        )),
        (false, None) => Ok(ServerEnding::AtOnce),
        (false, Some(_)) => {
            Err(Problem::bad("bad-value", "`deadline`: goes with `sessions` = drain only"))
        }
    }
}

impl Suspend {
    pub(super) fn read(&self) -> Result<(NewConnections, Option<ServerEnding>), Problem> {
        let new_connections = match self.new_connections {
            NewConnectionsOption::Queue => NewConnections::Queue,
            NewConnectionsOption::Reject => NewConnections::Reject,
        };
        let sessions = match self.sessions {
            SessionsOption::Keep if self.deadline.is_none() => None,
            SessionsOption::Drain => Some(ending(true, self.deadline)?),
            SessionsOption::Keep | SessionsOption::Disconnect => {
                Some(ending(false, self.deadline)?)
            }
        };
        Ok((new_connections, sessions))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Restart {
    #[serde(default)]
    sessions: RestartSessions,
    deadline: Option<Span>,
    /// Whether to read the configuration again before the restart.
    #[serde(default)]
    pub(super) reload: bool,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum RestartSessions {
    #[default]
    Disconnect,
    Drain,
}

impl Restart {
    pub(super) fn read(&self) -> Result<ServerEnding, Problem> {
        ending(self.sessions == RestartSessions::Drain, self.deadline)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stop {
    drain: Option<Span>,
    grace: Option<Span>,
}

impl Stop {
    /// The time that sessions may finish by themselves, and the time that they may then take to
    /// end.
    pub(super) fn read(&self) -> Result<(Duration, Duration), Problem> {
        let drain = self.drain.map_or(Duration::ZERO, |span| span.0);
        let grace = self.grace.map_or(STOP_GRACE_DEFAULT, |span| span.0);
        for (key, given) in [("drain", self.drain), ("grace", self.grace)] {
            if let Some(span) = given.filter(|span| span.0 > DEADLINE_MAX) {
                return Err(beyond(key, DEADLINE_MAX, span));
            }
        }
        Ok((drain, grace))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Throttle {
    max_clients: Option<usize>,
    max_per_address: Option<usize>,
    accept_interval: Option<Span>,
    rate_per_address: Option<f64>,
    burst_per_address: Option<u32>,
}

impl Throttle {
    pub(super) fn read(&self) -> Change {
        Change {
            max_clients: self.max_clients,
            max_per_address: self.max_per_address,
            accept_interval: self.accept_interval.map(|span| span.0),
            rate_per_address: self.rate_per_address,
            burst_per_address: self.burst_per_address,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Swap {
    /// A path as the process sees it, or a registry reference.
    #[serde(deserialize_with = "path")]
    pub(super) file: PathBuf,
    /// `None`: the server's own policy.
    pub(super) policy: Option<Policy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Canary {
    /// A path as the process sees it, or a registry reference.
    #[serde(deserialize_with = "path")]
    pub(super) file: PathBuf,
    share: Option<f64>,
    live: Option<bool>,
    duration: Option<Span>,
}

impl Canary {
    pub(super) fn options(&self) -> CanaryOptions {
        let duration = self.duration.map(|Span(duration)| duration);
        CanaryOptions { share: self.share, live: self.live, duration }
    }
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Policy {
    HandOff,
    AllOrNothing,
    Pin,
    Disconnect,
}

impl From<Policy> for SwapPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::HandOff => Self::HandOff,
            Policy::AllOrNothing => Self::AllOrNothing,
            Policy::Pin => Self::Pin,
            Policy::Disconnect => Self::Disconnect,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lock {
    wait: Option<Span>,
    hold: Option<Span>,
}

impl Lock {
    pub(super) fn read(&self) -> Result<(Duration, Duration), Problem> {
        for (key, given, max) in
            [("wait", self.wait, LOCK_WAIT_MAX), ("hold", self.hold, LOCK_HOLD_MAX)]
        {
            if let Some(span) = given.filter(|span| span.0 > max) {
                return Err(beyond(key, max, span));
            }
        }
        let given = |span: Option<Span>, default| span.map_or(default, |span| span.0);
        Ok((given(self.wait, LOCK_WAIT_DEFAULT), given(self.hold, LOCK_HOLD_DEFAULT)))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Upgrade {
    pub(super) program: Option<PathBuf>,
    timeout: Option<Span>,
    drain: Option<Span>,
}

impl Upgrade {
    /// The time that the new process may take, and the time that sessions which cannot move may go
    /// on. `None`: as for any stop.
    pub(super) fn read(&self) -> Result<(Duration, Option<Duration>), Problem> {
        for (key, given, max) in [
            ("timeout", self.timeout, UPGRADE_TIMEOUT_MAX),
            ("drain", self.drain, UPGRADE_DRAIN_MAX),
        ] {
            if let Some(span) = given.filter(|span| span.0 > max) {
                return Err(beyond(key, max, span));
            }
        }
        let timeout = self.timeout.map_or(UPGRADE_TIMEOUT_DEFAULT, |span| span.0);
        if timeout.is_zero() {
            return Err(Problem::bad("bad-value", "`timeout`: expected more than nothing"));
        }
        if self.program.as_ref().is_some_and(|program| program.as_os_str().len() > PATH_MAX_BYTES) {
            return Err(Problem::bad(
                "bad-value",
                format!("`program`: expected at most {PATH_MAX_BYTES} bytes"),
            ));
        }
        if self.program.as_ref().is_some_and(|program| !program.is_absolute()) {
            return Err(Problem::bad("bad-value", "`program`: expected an absolute path"));
        }
        Ok((timeout, self.drain.map(|span| span.0)))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unlock {
    pub(super) token: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Class {
    priority: String,
}

impl Class {
    pub(super) fn read(&self) -> Result<Priority, Problem> {
        self.priority
            .parse()
            .map_err(|error| Problem::bad("bad-value", format!("`priority`: {error}")))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Data {
    pub(super) data: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Name {
    pub(super) name: String,
}

/// Selects the sessions of a list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    #[serde(default)]
    pub(super) after: u64,
    pub(super) limit: Option<usize>,
    pub(super) name: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistake_in_body_names_key_once() {
        let said = |body: &str| match parse::<Throttle>(body.as_bytes()) {
            Ok(_) => panic!("a body with a mistake: {body}"),
            Err(problem) => problem.message,
        };
        let unknown = said(r#"{"max_client": 3}"#);
        assert!(unknown.starts_with("unknown field `max_client`, expected"), "{unknown}");
        let wrong = said(r#"{"max_clients": "many"}"#);
        assert!(wrong.starts_with("`max_clients`: invalid type"), "{wrong}");
        assert!(!wrong.contains("column") && !unknown.contains("column"), "{wrong}\n{unknown}");
        let torn = said(r#"{"max_clients": 3"#);
        assert!(torn.contains("column"), "{torn}");
    }
}
