//! The sums that must add up: clients of each server, by the API and by the metrics.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::load::api::Api;

/// Time that sessions may take to end once all clients have left.
const ENDING_TIME_MAX: Duration = Duration::from_secs(60);

/// Counts of what happened to the clients of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sums {
    accepted: u64,
    ended: u64,
    refused: u64,
    handshakes_failed: u64,
    live: u64,
}

impl Sums {
    /// Whether each accepted client has ended, was refused, failed in its handshake, or is live.
    pub(super) fn balance(self) -> bool {
        self.accepted == self.ended + self.refused + self.handshakes_failed + self.live
    }

    fn of(server: &Value) -> Self {
        let counters = &server["counters"];
        let sum = |name: &str| {
            let counts = counters[name].as_object().into_iter().flat_map(|counts| counts.values());
            counts.filter_map(Value::as_u64).sum()
        };
        Self {
            accepted: counters["accepted"].as_u64().unwrap_or(0),
            ended: sum("ended"),
            refused: sum("refused"),
            handshakes_failed: sum("handshakes_failed"),
            live: server["clients"].as_u64().unwrap_or(0),
        }
    }

    /// A row of a table.
    pub(super) fn row(self, name: &str) -> String {
        let Self { accepted, ended, refused, handshakes_failed, live } = self;
        let balance = if self.balance() { "yes" } else { "NO" };
        format!(
            "| {name} | {accepted} | {ended} | {refused} | {handshakes_failed} | {live} | \
             {balance} |"
        )
    }

    /// The head of the table that [`Self::row`] fills.
    pub(super) const HEAD: &str = "| server | accepted | ended | refused | handshakes failed | \
        live | adds up |\n\
                                   |---|---|---|---|---|---|---|";
}

/// A message if the sums in the API's answer about a server do not add up.
pub(super) fn unbalanced(server: &Value) -> Option<String> {
    let sums = Sums::of(server);
    (!sums.balance()).then(|| format!("{}: {sums:?}", server["name"]))
}

/// Waits until no server has a client any more. Returns the sums of each server by the API.
pub(super) async fn settled(api: &Api) -> Result<BTreeMap<String, Sums>> {
    let start = Instant::now();
    loop {
        let servers = api.ask("GET", "/v1/servers", &[]).await?.json();
        let servers = servers["servers"].as_array().cloned().unwrap_or_default();
        let live: Vec<_> = servers
            .iter()
            .filter(|server| server["clients"] != 0 || server["sessions"] != 0)
            .map(|server| {
                format!(
                    "{}: {} clients, {} sessions",
                    server["name"], server["clients"], server["sessions"]
                )
            })
            .collect();
        if live.is_empty() && !servers.is_empty() {
            let name = |server: &Value| server["name"].as_str().unwrap_or_default().to_owned();
            return Ok(servers.iter().map(|server| (name(server), Sums::of(server))).collect());
        }
        ensure!(start.elapsed() < ENDING_TIME_MAX, "clients are left: {}", live.join("; "));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The sums of each server by the metrics.
pub(super) async fn metrics(api: &Api) -> Result<BTreeMap<String, Sums>> {
    let text = String::from_utf8(api.ask("GET", "/metrics", &[]).await?.body)?;
    let mut all: BTreeMap<String, Sums> = BTreeMap::new();
    for line in text.lines() {
        let Some((name, rest)) = line.split_once('{') else { continue };
        let Some((labels, value)) = rest.rsplit_once("} ") else { continue };
        let server = labels.split("server=\"").nth(1).and_then(|rest| rest.split('"').next());
        let (Some(server), Ok(value)) = (server, value.trim().parse::<f64>()) else { continue };
        let sums = all.entry(server.to_owned()).or_default();
        let field = match name {
            "wharf_accepted_total" => &mut sums.accepted,
            "wharf_sessions_ended_total" => &mut sums.ended,
            "wharf_refused_total" => &mut sums.refused,
            "wharf_handshakes_failed_total" => &mut sums.handshakes_failed,
            "wharf_clients" => &mut sums.live,
            _ => continue,
        };
        *field += value as u64;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sums_that_do_not_add_up_are_told() {
        let counters = json!({ "accepted": 10, "ended": { "peer-closed": 3, "fuel": 2 },
            "refused": { "denied": 1 },
                               "handshakes_failed": { "handshake-tls": 2 } });
        let mut server = json!({ "name": "echo", "clients": 2, "counters": counters });
        assert_eq!(unbalanced(&server), None);
        for path in [
            "/clients",
            "/counters/accepted",
            "/counters/ended/fuel",
            "/counters/handshakes_failed/handshake-tls",
        ] {
            let one = server.pointer_mut(path).expect("it is there");
            let before = one.take();
            *one = (before.as_u64().expect("a number") + 1).into();
            assert!(unbalanced(&server).is_some(), "{path}");
            *server.pointer_mut(path).expect("it is there") = before;
        }
    }
}
