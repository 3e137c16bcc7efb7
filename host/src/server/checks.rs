//! Ranges of a server's values, and the rules between values.

use std::time::Duration;

use super::builder::{ServerBuilder, StartError};
use crate::event::Priority;
use crate::service::NAME_CHARS_MAX;
use crate::session::Watermarks;

/// Default of [`ServerBuilder::timeout`].
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(20);
/// Least and greatest timeout.
pub const TIMEOUT_RANGE: (Duration, Duration) =
    (Duration::from_millis(10), Duration::from_secs(24 * 3_600));
/// Default send buffer.
pub const WATERMARKS_DEFAULT: Watermarks =
    Watermarks { high_bytes: 256 << 10, low_bytes: 64 << 10 };
/// Least and greatest high-water mark, in bytes.
pub const HIGH_WATER_RANGE: (usize, usize) = (1 << 10, 16 << 20);
/// Least and greatest memory of an instance, in bytes.
pub const MEMORY_RANGE: (usize, usize) = (64 << 10, 256 << 20);
/// Least and greatest bytes of one host call.
pub const COPY_RANGE: (usize, usize) = (64 << 10, 64 << 20);
/// Least and greatest handles of an instance.
pub const HANDLES_RANGE: (usize, usize) = (16, 100_000);
/// Least and greatest saved state of a session, in bytes.
pub const STATE_RANGE: (usize, usize) = (1, 16 << 20);
/// Least and greatest elements of an instance's tables together.
pub const TABLE_ELEMENTS_RANGE: (usize, usize) = (1, 80_000);
/// Least and greatest core modules of an instance.
pub const CORE_INSTANCES_RANGE: (usize, usize) = (1, 32);
/// Default number of timers of a session.
pub const TIMERS_DEFAULT: usize = 64;
const TIMERS_RANGE: (usize, usize) = (0, 1_024);
/// Most instances that a server's sessions share.
const SHARDS_MAX: usize = 64;
/// Least and greatest deadline of a session. Zero turns a deadline off.
pub const DEADLINE_RANGE: (Duration, Duration) =
    (Duration::from_millis(10), Duration::from_secs(30 * 24 * 3_600));
/// Most faults of [`ServerBuilder::breaker`].
const BREAKER_FAULTS_MAX: u32 = 10_000;
/// Least and greatest window and pause of a breaker.
const BREAKER_RANGE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(3_600));
/// Most networks in one list.
const NETWORKS_MAX: usize = 1_024;

/// Least and greatest idle time before a session sleeps. Zero turns sleep off.
const SLEEP_RANGE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(86_400));

impl ServerBuilder {
    /// Checks each value, by itself and beside the others.
    ///
    /// # Errors
    /// The first of [`ServerBuilder::problems`].
    pub(super) fn check(&self) -> Result<(), StartError> {
        self.problems().into_iter().next().map_or(Ok(()), Err)
    }

    /// Returns every invalid value, by itself or beside the others.
    #[must_use]
    pub fn problems(&self) -> Vec<StartError> {
        let (marks, limits) = (self.watermarks, self.limits);
        let (bytes, plain) =
            (|value: usize| format!("{value} bytes"), |value: usize| value.to_string());
        let span = |value: Duration| humantime::format_duration(value).to_string();
        let mut found: Vec<_> = [
            within("timeout", self.timeout, TIMEOUT_RANGE, span),
            within("limits.send_buffer_high_bytes", marks.high_bytes, HIGH_WATER_RANGE, bytes),
            within("limits.memory_max_bytes", limits.memory_max_bytes, MEMORY_RANGE, bytes),
            within("limits.copy_max_bytes", limits.copy_max_bytes, COPY_RANGE, bytes),
            within("limits.handles_max", limits.handles_max, HANDLES_RANGE, plain),
            within(
                "limits.table_elements_max",
                limits.table_elements_max,
                TABLE_ELEMENTS_RANGE,
                plain,
            ),
            within(
                "limits.core_instances_max",
                limits.core_instances_max,
                CORE_INSTANCES_RANGE,
                plain,
            ),
            within("limits.state_max_bytes", limits.state_max_bytes, STATE_RANGE, bytes),
            within("limits.timers_max", self.timers_max, TIMERS_RANGE, plain),
            within("limits.name_chars_max", self.name_chars_max, (1, NAME_CHARS_MAX), plain),
            within("shards", self.shards.max(1), (1, SHARDS_MAX), plain),
        ]
        .into_iter()
        .filter_map(Result::err)
        .chain(self.throttle.check().err().map(|error| argument(error.limit, error.problem())))
        .collect();
        found
            .extend(self.rules.problems().into_iter().map(|(key, problem)| argument(key, problem)));
        let sleep = Some(self.sleep_after).filter(|after| !after.is_zero());
        found.extend(sleep.and_then(|after| within("sleep_after", after, SLEEP_RANGE, span).err()));
        let optional = [
            ("timeouts.first_byte", self.timeouts.first_byte),
            ("timeouts.idle", self.timeouts.idle),
            ("timeouts.lifetime", self.timeouts.lifetime),
        ];
        let named = [
            ("timeouts.handshake", self.timeouts.handshake),
            ("timeouts.write", self.timeouts.write),
        ];
        let named = named.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let given = optional.into_iter().filter(|(_, value)| !value.is_zero()).chain(named);
        found.extend(
            given.filter_map(|(name, value)| within(name, value, DEADLINE_RANGE, span).err()),
        );
        let mut note = |wrong: bool, name, problem: String| {
            if wrong {
                found.push(argument(name, problem));
            }
        };
        let (high, low, copy) = (marks.high_bytes, marks.low_bytes, limits.copy_max_bytes);
        let problem =
            format!("expected less than `limits.send_buffer_high_bytes` ({high}), found {low}");
        note(low >= high, "limits.send_buffer_low_bytes", problem);
        // The host refuses a write of the whole send buffer by an error, so that write must not
        // be a fault.
        let problem =
            format!("expected at least `limits.send_buffer_high_bytes` ({high}), found {copy}");
        note(copy < high, "limits.copy_max_bytes", problem);
        let problem = format!("expected at least `priority` ({})", self.priority);
        note(self.priority_max.is_some_and(|max| max < self.priority), "priority_max", problem);
        let (least, most) = (self.instances_min, self.throttle.max_clients);
        let problem = format!("expected at most `max_clients` ({most}), found {least}");
        note(most > 0 && least > most, "instances_min", problem);
        let problem = "without effect: instances that are shared are reserved as they are";
        note(self.shards > 0 && least > 0, "instances_min", problem.into());
        let problem = "a secure server needs a certificate chain and a private key";
        note(self.secure && self.credentials.is_none(), "credentials", problem.into());
        for class in Priority::ALL {
            if let Some(problem) = self.budgets.change(class).problem() {
                note(true, "budgets", format!("{class}: {problem}"));
            }
        }
        let breaker = self.breaker;
        let problem = format!("expected at most {BREAKER_FAULTS_MAX}, found {}", breaker.faults);
        note(breaker.faults > BREAKER_FAULTS_MAX, "breaker.faults", problem);
        let times = [
            ("breaker.window", breaker.window),
            ("breaker.pause", breaker.pause),
            ("breaker.pause_max", breaker.pause_max),
        ];
        for (name, value) in times {
            let problem = format!("expected 10ms to 1h, found {}", span(value));
            note(!(BREAKER_RANGE.0..=BREAKER_RANGE.1).contains(&value), name, problem);
        }
        note(
            breaker.pause > breaker.pause_max,
            "breaker.pause_max",
            "expected at least `breaker.pause`".into(),
        );
        let lists = [
            ("allow", &self.networks.allow),
            ("deny", &self.networks.deny),
            ("proxies", &self.proxies),
        ];
        for (name, list) in lists {
            note(
                list.len() > NETWORKS_MAX,
                name,
                format!("expected at most {NETWORKS_MAX}, found {}", list.len()),
            );
        }
        let problem = "expected at most 64 bytes without control characters";
        note(
            self.name.chars().any(char::is_control) || self.name.len() > 64,
            "name",
            problem.into(),
        );
        found
    }
}

pub(super) fn argument(argument: &'static str, problem: impl Into<String>) -> StartError {
    StartError::Argument { argument, problem: problem.into() }
}

fn within<T: PartialOrd + Copy>(
    name: &'static str,
    value: T,
    (least, greatest): (T, T),
    show: impl Fn(T) -> String,
) -> Result<(), StartError> {
    if (least..=greatest).contains(&value) {
        return Ok(());
    }
    Err(argument(
        name,
        format!("expected {} to {}, found {}", show(least), show(greatest), show(value)),
    ))
}
