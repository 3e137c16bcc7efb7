//! Shows the progress of a swap on standard error until its answer comes: on a terminal one line
//! that changes, otherwise further lines.

use std::io::{IsTerminal, Write};
use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;

use super::request::Ask;
use crate::control::{Client, ClientError};

/// Interval between two requests for the progress.
const ASKED_EVERY: Duration = Duration::from_millis(200);
/// Time that such an answer may take. Without an answer nothing is shown.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Without a terminal, the least time between two lines about the same phase.
const SAID_EVERY: Duration = Duration::from_secs(1);

/// Sends a request, and shows the progress of the swap at `path` until the answer comes.
///
/// # Errors
/// [`ClientError`] of the request itself.
pub(super) async fn watched(client: &Client, ask: Ask, path: &str) -> Result<Bytes, ClientError> {
    let mut said = Said { terminal: std::io::stderr().is_terminal(), ..Said::default() };
    let mut asked = pin!(client.ask(ask.method, &ask.path, ask.body));
    let mut ticks = tokio::time::interval(ASKED_EVERY);
    loop {
        tokio::select! {
            biased;
            answer = &mut asked => {
                said.end();
                return answer;
            }
            _ = ticks.tick() => {
                // A process that does not answer this request goes on with the swap.
                let seen = tokio::time::timeout(ANSWER_MAX, client.ask("GET", path,
                    Vec::new())).await;
                if let Ok(Ok(seen)) = seen {
                    said.hear(&serde_json::from_slice(&seen).unwrap_or_default());
                }
            }
        }
    }
}

#[derive(Default)]
struct Said {
    terminal: bool,
    line: String,
    phase: String,
    at: Option<Instant>,
}

impl Said {
    fn hear(&mut self, seen: &Value) {
        let Some(line) = line(&seen["under_way"]).filter(|line| *line != self.line) else { return };
        let phase = seen["under_way"]["stage"].as_str().unwrap_or_default();
        let soon = self.at.is_some_and(|at| at.elapsed() < SAID_EVERY);
        if soon && !self.terminal && phase == self.phase {
            return;
        }
        (self.at, self.phase) = (Some(Instant::now()), phase.to_owned());
        let mut out = std::io::stderr();
        // A closed standard error is no reason to stop.
        let _ = match self.terminal {
            true => write!(out, "\r\x1b[K{line}"),
            false => writeln!(out, "{line}"),
        };
        self.line = line;
    }

    fn end(&self) {
        if self.terminal && !self.line.is_empty() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// The progress of a swap in one line. `None` if no swap is under way.
pub(super) fn line(under_way: &Value) -> Option<String> {
    let to = super::text::printable(under_way["to"].as_str()?);
    let count = |key: &str| under_way[key].as_u64().unwrap_or(0);
    let mut words = match under_way["stage"].as_str()? {
        "moving" => format!("moving to {to}: {} of {} sessions moved", count("moved"), count("of")),
        "moving-back" => {
            format!(
                "{to} is rolled back: {} of {} sessions moved back",
                count("moved"),
                count("of")
            )
        }
        _ => return Some(format!("trying {to}")),
    };
    for (key, what) in [("stayed", "stayed"), ("ended", "ended")] {
        if count(key) > 0 {
            words.push_str(&format!(", {} {what}", count(key)));
        }
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn progress_line_counts_sessions() {
        let mut seen = json!({ "to": "echo \
            2", "stage": "trying", "of": 0, "moved": 0, "stayed": 0, "ended": 0 });
        assert_eq!(line(&seen).as_deref(), Some("trying echo 2"));
        (seen["stage"], seen["of"], seen["moved"]) = (json!("moving"), json!(1_000), json!(120));
        assert_eq!(line(&seen).as_deref(), Some("moving to echo 2: 120 of 1000 sessions moved"));
        seen["stayed"] = json!(3);
        assert_eq!(
            line(&seen).as_deref(),
            Some("moving to echo 2: 120 of 1000 sessions moved, 3 stayed")
        );
        assert_eq!(line(&Value::Null), None);
    }
}
