//! Every import, called with every combination of values at which something could overflow. The
//! test derives the calls from the contract, so a new import is tried too. Each call ends as an
//! answer or as a trap of its session.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use wharf::event::Priority;
use wharf::plugin::{Grant, Plugin};
use wharf::sched::BudgetChange;
use wharf::server::{BreakerLimits, ServerHandle};
use wharf_tests::clients::Client;
use wharf_tests::guests::root;
use wharf_tests::imports::{Import, Value, imports, open};
use wharf_tests::oracle::judge;
use wharf_tests::servers::{describe, eventually};
use wit_component::StringEncoding;

/// Values for calls with few, with three, and with many parameters. A guest has 131,072 bytes of
/// memory, and its handles begin at 1.
const MANY: [i64; 11] = [
    0,
    1,
    2,
    3,
    -1,
    65_535,
    131_064,
    131_071,
    i32::MAX as i64,
    i32::MIN as i64,
    u32::MAX as i64 + 1,
];
const SOME: [i64; 6] = [0, 1, 2, -1, 131_064, 131_071];
const FEW: [i64; 4] = [0, 1, -1, 131_064];
/// Threads that make calls.
const CALLERS: usize = 4;

/// A guest that makes one call and then closes. The first byte selects the call, and the values
/// begin at the eighth byte. `before` runs before each call.
fn caller(name: &str, calls: &[Import], before: &str, grants: &[Grant]) -> Arc<Plugin> {
    let prelude =
        std::fs::read_to_string(root().join("tests/guests/prelude.wat")).expect("the prelude");
    let mut text = String::new();
    let mut body = String::new();
    for (number, call) in calls.iter().enumerate() {
        // The prelude has imported some of the calls already.
        let known = prelude.contains(&format!("\"{}\" \"{}\"", call.interface, call.name));
        let function = if known { call.name.clone() } else { format!("call-{number}") };
        if !known {
            text.push_str(&call.text(&function));
        }
        let argument = |(at, kind): (usize, &Value)| {
            let load = format!("(i64.load offset={} (local.get $data))", 8 + 8 * at);
            if *kind == Value::I32 { format!("(i32.wrap_i64 {load})") } else { load }
        };
        let arguments: String = call.params.iter().enumerate().map(argument).collect();
        let drops = "drop ".repeat(call.results.len());
        body.push_str(&format!(
            "(if (i32.eq (i32.load8_u (local.get $data)) (i32.const {number})) (then (call \
             ${function} {arguments}) {drops}))\n"
        ));
    }
    text.push_str(&format!(
        "(func $on-connect (param $client i32) (result i32) (i32.const 0))
         (func $on-read (param $data i32) (param $length i32) (result i32)\n{before}\n{body} \
         (i32.const 1))"
    ));
    open(name, &text, StringEncoding::UTF8, grants)
}

/// Every combination of values for a call.
fn combinations(call: &Import) -> Vec<Vec<i64>> {
    let values: &[i64] = match call.params.len() {
        0..=2 => &MANY,
        3 => &SOME,
        _ => &FEW,
    };
    let mut all = vec![Vec::new()];
    for kind in &call.params {
        let of_kind: Vec<i64> = match kind {
            Value::I32 => {
                values.iter().copied().filter(|value| i32::try_from(*value).is_ok()).collect()
            }
            Value::I64 => values.iter().copied().chain([i64::MIN, i64::MAX]).collect(),
        };
        all = all
            .iter()
            .flat_map(|one| of_kind.iter().map(|value| [&one[..], &[*value]].concat()))
            .collect();
    }
    all
}

/// Makes one call in a session of its own, and waits for the end of the session.
fn make(server: &ServerHandle, number: usize, values: &[i64]) {
    use std::io::Write;
    let mut message = vec![0; 8];
    message[0] = u8::try_from(number).expect("fewer calls than that");
    message.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    let mut client = Client::connect(server.address());
    // Another session may have ended this one already.
    let _ = client.0.write_all(&message);
    client.expect_gone();
}

/// Makes all calls with all combinations of values. Returns the numbers of ended sessions by
/// reason.
fn call_all(plugin: impl FnOnce() -> Arc<Plugin>, calls: &[Import]) -> BTreeMap<String, u64> {
    let work: Vec<_> = calls
        .iter()
        .enumerate()
        .flat_map(|(number, call)| {
            combinations(call).into_iter().map(move |values| (number, values))
        })
        .collect();
    let off = BreakerLimits { faults: 0, ..BreakerLimits::default() };
    // A short wall time ends calls that wait for ever.
    let budget = BudgetChange { wall: Some(Duration::from_millis(200)), ..BudgetChange::default() };
    let counters = judge(
        || describe(plugin()).breaker(off).budget(Priority::Normal, budget),
        |server| {
            let next = AtomicUsize::new(0);
            thread::scope(|scope| {
                for _ in 0..CALLERS {
                    scope.spawn(|| {
                        while let Some((number, values)) =
                            work.get(next.fetch_add(1, Ordering::Relaxed))
                        {
                            make(server, *number, values);
                        }
                    });
                }
            });
            eventually("all are counted", || {
                server.counters().ended.values().sum::<u64>() == work.len() as u64
            });
        },
    );
    assert_eq!(counters.accepted, work.len() as u64);
    let faults: u64 = counters.faults.values().sum();
    println!("{} calls: {:?}", work.len(), counters.ended);
    // A trap ends its own session and nothing else.
    let ended_by_fault: u64 =
        counters.faults.keys().filter_map(|reason| counters.ended.get(reason)).sum();
    assert_eq!(faults, ended_by_fault, "{counters:?}");
    counters.ended
}

fn only(ended: &BTreeMap<String, u64>, reasons: &[&str]) {
    assert!(ended.keys().all(|reason| reasons.contains(&reason.as_str())), "{ended:?}");
}

#[test]
fn numbers_of_any_size_never_trap() {
    // Calls without pointers, except for the class, which has only five values.
    let calls: Vec<_> = imports("wharf:server/")
        .into_iter()
        .filter(|call| call.pointers == 0 && call.name != "set-priority" && call.params.len() < 3)
        .collect();
    let names: Vec<_> = calls.iter().map(|call| call.name.as_str()).collect();
    for name in ["write-capacity", "set-timer", "client-count", "disconnect"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let calls = calls.clone();
    let ended = call_all(|| caller("numbers", &calls, "", &[Grant::Server]), &calls);
    only(&ended, &["closed-by-plugin", "evicted"]);
}

#[test]
fn unknown_class_is_a_trap() {
    let calls: Vec<_> =
        imports("wharf:server/").into_iter().filter(|call| call.name == "set-priority").collect();
    let ended = call_all(|| caller("classes", &calls, "", &[]), &calls);
    // The values 0 to 3 are classes.
    assert_eq!(ended.get("closed-by-plugin"), Some(&4), "{ended:?}");
    only(&ended, &["closed-by-plugin", "trap:contract"]);
}

#[test]
fn every_contract_call_answers_or_traps() {
    let calls = imports("wharf:server/");
    assert!(calls.len() >= 11, "{calls:?}");
    let ended = call_all(|| caller("contract", &calls, "", &[Grant::Server]), &calls);
    only(
        &ended,
        &["closed-by-plugin", "evicted", "trap:contract", "trap:unreachable", "peer-reset"],
    );
    assert!(ended["closed-by-plugin"] > 100 && ended["trap:contract"] > 100, "{ended:?}");
}

#[test]
fn every_wasi_call_answers_or_traps() {
    let calls = imports("wasi:");
    assert!(calls.len() >= 30, "{calls:?}");
    let find = |name: &str| calls.iter().position(|call| call.name == name).expect("a call");
    // Handles 1 to 3: an output, an input, and a timer that is due.
    let before = format!(
        "(drop (call $call-{})) (drop (call $call-{})) (drop (call $call-{} (i64.const 0)))",
        find("get-stdout"),
        find("get-stdin"),
        find("subscribe-duration"),
    );
    let grants = [Grant::Stdio, Grant::Clocks, Grant::Random, Grant::Config];
    let ended = call_all(|| caller("wasi", &calls, &before, &grants), &calls);
    only(
        &ended,
        &[
            "closed-by-plugin",
            "trap:contract",
            "trap:unreachable",
            "copy-limit",
            "exit",
            "limit-session-mem",
        ],
    );
    assert!(ended["closed-by-plugin"] > 100 && ended["trap:contract"] > 100, "{ended:?}");
}
