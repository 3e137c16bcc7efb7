//! Answers of the control API as tables for people.

use serde_json::Value;

/// Columns of a list of servers: heading, and JSON pointer of the value.
const SERVERS: [(&str, &str); 9] = [
    ("NAME", "/name"),
    ("ADDRESS", "/address"),
    ("STATUS", "/status"),
    ("LOCKED", "/locked"),
    ("SESSIONS", "/sessions"),
    ("EVENTS", "/counters/events"),
    ("ACCEPTED", "/counters/accepted"),
    ("PRIORITY", "/priority"),
    ("PLUGIN", "/plugin/label"),
];

/// Columns of a list of sessions.
const SESSIONS: [(&str, &str); 13] = [
    ("ID", "/id"),
    ("NAME", "/name"),
    ("PEER", "/peer"),
    ("TLS", "/tls/protocol"),
    ("PRIORITY", "/priority"),
    ("EVENT", "/event"),
    ("ASLEEP", "/asleep"),
    ("AGE", "/age_seconds"),
    ("IDLE", "/idle_seconds"),
    ("IN", "/bytes_in"),
    ("OUT", "/bytes_out"),
    ("EVENTS", "/events"),
    ("FUEL", "/fuel"),
];

/// Columns of a list of limits.
const LIMITS: [(&str, &str); 4] =
    [("LIMIT", "/key"), ("VALUE", "/value"), ("UNIT", "/unit"), ("FROM", "/origin")];

/// Columns of a list of versions.
const REVISIONS: [(&str, &str); 8] = [
    ("NUMBER", "/number"),
    ("NAME", "/name"),
    ("VERSION", "/version"),
    ("STATE", "/state"),
    ("WHY", "/reason"),
    ("CAME BY", "/how"),
    ("SESSIONS", "/sessions"),
    ("DIGEST", "/digest"),
];

/// Columns of a list of tenants.
const TENANTS: [(&str, &str); 15] = [
    ("TENANT", "/name"),
    ("CLIENTS", "/clients"),
    ("MAX", "/max_clients"),
    ("CPU s", "/cpu_seconds"),
    ("CPUS MAX", "/cpus"),
    ("CPU WAITS", "/cpu_waits"),
    ("MEMORY", "/memory_bytes"),
    ("MEMORY MAX", "/memory_max_bytes"),
    ("MEM REFUSED", "/memory_refused"),
    ("MAIL", "/mail_bytes"),
    ("MAIL MAX", "/mail_max_bytes"),
    ("MAIL REFUSED", "/mail_refused"),
    ("BYTES", "/bytes"),
    ("BYTES/s MAX", "/bytes_per_second"),
    ("BYTE WAITS", "/bytes_waits"),
];

/// Columns of a tenant's limits, in which 0 is no limit.
const TENANT_LIMITS: [&str; 5] =
    ["/max_clients", "/cpus", "/memory_max_bytes", "/mail_max_bytes", "/bytes_per_second"];

/// Widest column, in characters. A longer cell sticks out, and widens no other row.
const WIDTH_MAX: usize = 256;

/// Renders a list as a table, and anything else as one line for each value.
pub(super) fn render(value: &Value) -> String {
    let list =
        |key: &str| value.get(key).and_then(Value::as_array).filter(|_| value.get("id").is_none());
    if let Some(servers) = list("servers") {
        return table(&SERVERS, servers);
    }
    if let Some(sessions) = list("sessions") {
        let more = if value["more"] == true { "\n(more: see --after and --limit)" } else { "" };
        return table(&SESSIONS, sessions) + more;
    }
    if let Some(revisions) = list("generations") {
        let canary = &value["canary"];
        let tried = match canary.is_object() {
            true => format!(
                "\ncanary: {} of new sessions, {} sessions, {} faulted, promoted in {} s",
                as_configured(&canary["share"]),
                cell(&canary["sessions"]),
                cell(&canary["faulted"]),
                cell(&canary["left_seconds"])
            ),
            false => String::new(),
        };
        let blamed: String = revisions.iter().filter_map(blamed).collect();
        return table(&REVISIONS, revisions) + &blamed + &tried;
    }
    for (key, columns) in [("limits", &LIMITS[..]), ("tenants", &TENANTS[..])] {
        if let Some(rows) = list(key) {
            return table(columns, rows);
        }
    }
    // The token of a lock stands alone, for the next command.
    if let Some(token) = value.get("token") {
        return cell(token);
    }
    let mut lines = Vec::new();
    flatten("", value, &mut lines);
    let widest = lines.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0);
    let width = widest.min(WIDTH_MAX);
    lines.iter().map(|(key, value)| format!("{key:width$}  {value}\n")).collect()
}

/// A line about a version that was rolled back because of faults.
fn blamed(revision: &Value) -> Option<String> {
    let of = |key: &str| revision.get("faults")?.get(key);
    let count = |key: &str| of(key).map_or("-".into(), cell);
    let rate =
        |key: &str| of(key).and_then(Value::as_f64).map_or("-".into(), |rate| format!("{rate:.3}"));
    of("faults")?;
    Some(format!(
        "\nnumber {}: {} faults, {} excused by {} replays, at {} of {} addresses; rate {}, before \
         {}",
        cell(&revision["number"]),
        count("faults"),
        count("excused"),
        count("replayed"),
        count("faulty_addresses"),
        count("addresses"),
        rate("rate"),
        rate("rate_before"),
    ))
}

pub(super) fn table(columns: &[(&str, &str)], rows: &[Value]) -> String {
    let mut cells: Vec<Vec<String>> =
        vec![columns.iter().map(|(heading, _)| (*heading).to_owned()).collect()];
    for row in rows {
        cells.push(
            columns
                .iter()
                .map(|(_, path)| row.pointer(path).map_or("-".into(), |value| cell_of(path, value)))
                .collect(),
        );
    }
    let width =
        |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns.len()).map(|column| width(column).min(WIDTH_MAX)).collect();
    let line = |row: &Vec<String>| {
        let padded: Vec<_> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    cells.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The cell of the column with the JSON pointer `path`.
fn cell_of(path: &str, value: &Value) -> String {
    let is_limit = TENANT_LIMITS.contains(&path);
    if is_limit && value.as_f64().is_some_and(|limit| limit <= 0.0) {
        return "-".into();
    }
    if is_limit || path == "/value" { as_configured(value) } else { cell(value) }
}

/// A value that an operator set. All its digits are shown, and measured values are rounded.
fn as_configured(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() => {
            let text = number.to_string();
            text.strip_suffix(".0").map_or_else(|| text.clone(), str::to_owned)
        }
        other => cell(other),
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        // Clients and plugins choose names. The escapes keep a name from breaking the table or
        // driving the terminal.
        Value::String(text) => super::text::in_one_line(text),
        Value::Number(number) if number.is_f64() => {
            format!("{:.1}", number.as_f64().unwrap_or_default())
        }
        other => other.to_string(),
    }
}

fn flatten(prefix: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, lines);
            }
        }
        Value::Object(_) => lines.push((prefix.to_owned(), "-".into())),
        Value::Array(items) => {
            let shown: Vec<_> = items.iter().map(cell).collect();
            lines.push((
                prefix.to_owned(),
                if shown.is_empty() { "-".into() } else { shown.join(", ") },
            ));
        }
        Value::Number(number) if number.is_f64() => {
            lines.push((prefix.to_owned(), number.to_string()));
        }
        other => lines.push((prefix.to_owned(), cell(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wide_cells_widen_no_other_row() {
        let wide = "x".repeat(100_000);
        for value in [
            json!({ "servers": [{ "name": wide, "status": "serving" }, { "name": "echo" }] }),
            json!({ "wide": { (wide.clone()): 1 }, "narrow": 2 }),
        ] {
            let shown = render(&value);
            assert!(shown.len() < 2 * wide.len(), "{} bytes", shown.len());
        }
    }

    #[test]
    fn configured_fractions_keep_their_digits() {
        let tenants = json!({ "tenants": [
            { "name": "a", "max_clients": 0, "cpus": 0.05, "cpu_seconds": 1.5 },
            { "name": "b", "max_clients": 3, "cpus": 0.0, "memory_refused": 0 },
            { "name": "c", "cpus": 2.0 },
        ] });
        let shown = render(&tenants);
        let columns = |row: usize| -> Vec<&str> {
            let line = shown.lines().nth(row).expect("a row");
            line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
        };
        assert_eq!(columns(0)[8], "MEM REFUSED", "{shown}");
        assert_eq!(columns(0)[11], "MAIL REFUSED", "{shown}");
        assert_eq!(columns(1)[..5], ["a", "-", "-", "1.5", "0.05"], "{shown}");
        assert_eq!(columns(2)[2..5], ["3", "-", "-"], "{shown}");
        assert_eq!(columns(2)[8], "0", "a count of refusals is no limit: {shown}");
        assert_eq!(columns(3)[4], "2", "{shown}");
        let limits = json!({ "limits": [{ "key": "accept_interval", "value": 0.01 }] });
        assert!(render(&limits).contains("0.01"), "{}", render(&limits));
    }

    #[test]
    fn lists_are_tables_and_single_things_are_lines() {
        let servers = json!({ "servers": [{ "name": "echo", "sessions": 3,
            "plugin": { "label": "echo 1" } }] });
        let shown = render(&servers);
        assert_eq!(shown.lines().count(), 2);
        assert!(shown.contains("NAME") && shown.contains("echo 1"), "{shown}");
        let sessions = render(&json!({ "sessions": [{ "id": 7, "asleep": true }] }));
        assert!(sessions.contains("ASLEEP") && sessions.contains("true"), "{sessions}");
        let faults = json!({ "faults": 12, "excused": 0, "replayed": 8, "addresses": 3,
            "faulty_addresses": 2, "rate": 0.5,
            "rate_before": 0.0 });
        let history =
            render(&json!({ "generations": [{ "number": 2, "faults": faults }, { "number": 3 }] }));
        let said = "number 2: 12 faults, 0 excused by 8 replays, at 2 of 3 addresses; rate 0.500, \
            before 0.000";
        assert!(history.ends_with(said), "{history}");
        let one =
            json!({ "name": "echo", "sessions": 3, "counters": { "ended": { "evicted": 1 } } });
        assert!(render(&one).contains("counters.ended.evicted  1"), "{}", render(&one));
    }
}
