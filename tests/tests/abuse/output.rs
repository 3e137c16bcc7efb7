//! Guests that flood or forge the log.

use std::time::Duration;

use serde_json::Value;
use wharf::event::Priority;
use wharf::plugin::{Grant, InstanceLimits};
use wharf::sched::BudgetChange;
use wharf_tests::clients::Client;
use wharf_tests::guests::{component_in, root};
use wharf_tests::imports::{granted, open_contract};
use wharf_tests::oracle::{alone, judge, only_ends, only_faults};
use wharf_tests::ports::free_port;
use wharf_tests::process::Wharf;
use wharf_tests::servers::describe;
use wit_component::StringEncoding;

use crate::say;

/// A larger CPU budget, because a host built for tests is slow at counting lines.
fn plenty() -> BudgetChange {
    BudgetChange { cpu: Some(Duration::from_secs(1)), ..BudgetChange::default() }
}

#[test]
fn million_lines_are_dropped_counted_and_charged() {
    let limits = InstanceLimits { log_lines_per_second: 10, ..InstanceLimits::default() };
    let server = || {
        describe(granted("line-flood", &[Grant::Stdio]))
            .limits(limits)
            .budget(Priority::Normal, plenty())
    };
    let counters = judge(server, |server| say(server, "x").expect_gone());
    only_faults(&counters, &["fuel", "cpu-time"], 1);
    assert!(counters.lines_dropped > 100_000, "{} lines were dropped", counters.lines_dropped);
}

#[test]
fn line_of_ten_megabytes_is_cut() {
    let counters = judge(
        || describe(granted("endless-line", &[Grant::Stdio])).budget(Priority::Normal, plenty()),
        |server| {
            let mut client = say(server, "x");
            client.expect("k").send("x").expect("k").finish().expect_closed();
        },
    );
    only_ends(&counters, "peer-closed", 1);
}

#[test]
fn call_that_prints_too_much_is_a_trap() {
    let counters = judge(
        || describe(granted("million-lines-in-a-call", &[Grant::Stdio])),
        |server| say(server, "x").expect_gone(),
    );
    only_faults(&counters, &["trap:contract"], 1);
    assert_eq!(counters.lines_dropped, 0);
}

/// Output of a guest that imitates lines of the host.
const FORGERIES: [&str; 6] = [
    "\n{\"level\":\"ERROR\",\"fields\":{\"message\":\"forged\"}}\n",
    "\"},\"level\":\"ERROR\",\"fields\":{\"message\":\"forged\n",
    "2026-01-01T00:00:00Z ERROR wharf: forged\r\n2026-01-01T00:00:00Z ERROR wharf: forged\n",
    "\u{1b}[2J\u{1b}[31mforged\u{7}\u{8}\u{0}\n",
    "\u{202e}forged\u{2028}forged\u{85}\n",
    "\r\rforged\u{b}\u{c}\n",
];

fn lines_of_a_forger(format: &str) -> Vec<String> {
    let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
    let guest = std::fs::read_to_string(root().join("tests/guests/scribe.wat")).expect("the guest");
    let bytes = component_in(&guest, &open_contract(), "0.1.0", StringEncoding::UTF8);
    std::fs::write(folder.path().join("scribe.wasm"), bytes).expect("kept");
    let text = format!(
        "[host]\nsessions_max = 64\n[[server]]\nname = 'scribe'\nhost = '127.0.0.1'\nport = \
         {port}\n\
         plugin = 'scribe.wasm'\ngrants = ['stdio']\n"
    );
    std::fs::write(folder.path().join("wharf.toml"), text).expect("kept");
    let mut wharf = Wharf::run(&["serve", "--log-format", format], folder.path());
    wharf.says("server started");
    let mut client = Client::connect(([127, 0, 0, 1], port).into());
    for forgery in FORGERIES {
        client.send(forgery).expect("k");
    }
    client.send("the last line\n").expect("k");
    let mut lines = wharf.lines_until("the last line");
    lines.push(format!(
        "still runs: {:?}",
        wharf.child.try_wait().expect("it can be asked").is_none()
    ));
    lines
}

#[test]
fn json_log_line_is_always_one_object() {
    let _alone = alone();
    let mut lines = lines_of_a_forger("json");
    assert_eq!(lines.pop().as_deref(), Some("still runs: true"));
    let mut printed = 0;
    for line in &lines {
        let object: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_ne!(object["level"], "ERROR", "{line}");
        printed += usize::from(line.contains("forged"));
    }
    assert!(printed >= FORGERIES.len(), "{lines:?}");
}

#[test]
fn empty_lines_of_plugins_are_not_logged() {
    let _alone = alone();
    let lines = lines_of_a_forger("json");
    let printed: Vec<Value> = lines
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|object| object["stream"].is_string())
        .collect();
    assert!(printed.len() >= FORGERIES.len(), "{lines:?}");
    assert!(printed.iter().all(|object| object["message"] != ""), "{printed:?}");
}

#[test]
fn text_log_line_carries_no_control_characters() {
    let _alone = alone();
    let mut lines = lines_of_a_forger("text");
    assert_eq!(lines.pop().as_deref(), Some("still runs: true"));
    for line in &lines {
        assert!(
            !line.contains(['\u{1b}', '\r', '\u{7}', '\u{0}', '\u{202e}', '\u{2028}', '\u{85}']),
            "{line:?}"
        );
        // Every line names its level before any text that a guest could choose.
        let level = line.split_whitespace().nth(1).unwrap_or_default();
        assert!(["INFO", "WARN"].contains(&level), "{line:?}");
    }
}
