//! Components of released contracts: one built today from each frozen text, and one kept from the
//! release.

use std::sync::Arc;
use std::time::Duration;

use wharf::plugin::{Grant, Grants, Plugin};
use wharf::server::{ServerBuilder, SwapPolicy};
use wharf_tests::clients::Client;
use wharf_tests::guests::file;
use wharf_tests::released::{every_call, samples};
use wharf_tests::servers::{describe, ended, host, swap};

const VERSION: &str = "0.1.0";

/// The component as it was built when the contract was released.
fn kept() -> Vec<u8> {
    std::fs::read(samples(VERSION).join("every-call.wasm")).expect("it is kept")
}

/// The component under another name, so that it counts as another build.
fn load(name: &str, bytes: &[u8]) -> Arc<Plugin> {
    let grants: Grants = [Grant::Server, Grant::Config].into_iter().collect();
    let marked = [bytes, &[0, name.len() as u8 + 1, name.len() as u8], name.as_bytes()].concat();
    let file = file(name, &marked);
    Arc::new(host().loader().load(&file, &grants).unwrap_or_else(|error| panic!("{name}: {error}")))
}

fn server(name: &str, bytes: &[u8]) -> ServerBuilder {
    describe(load(name, bytes))
        .name("old")
        .parameter(7)
        .setting("greeting", "hello")
        .setting("other", "")
}

/// Reads up to and including `end`.
fn until(client: &mut Client, end: &[u8]) -> Vec<u8> {
    let mut seen = Vec::new();
    while !seen.ends_with(end) {
        seen.extend(client.take(1));
    }
    seen
}

/// Plays the life of a session beside another. It calls every import and meets every event.
fn life(name: &str, bytes: &[u8]) {
    let server = server(name, bytes).start().expect("it starts");
    let mut ann = Client::connect(server.address());
    ann.expect("+1\n");
    let mut bob = Client::connect(server.address());
    bob.expect("+2\n");
    for (asked, answer) in [
        ("wback\n", "back\n"),
        ("i", "old27\n"),
        ("c", "c1\n"),
        ("p1", "p1\n"),
        ("i", "old17\n"),
        ("p2", "p2\n"),
        ("t5", "t1\nT5\n"),
        ("n", "n2\n"),
        ("Nann", "N0\n"),
        ("N", "N3\n"),
        ("fANN", "f1\n"),
        ("fbob", "f0\n"),
        ("s9hello", "s1\n"),
        ("d9", "d0\n"),
        ("ggreeting", "hellog.\n"),
        ("gnone", "g.\n"),
        ("a", "a2\n"),
        ("V", "V-\n"),
        ("v", "v3\n"),
    ] {
        ann.send(asked).expect(answer);
    }
    bob.send("Nann").expect("N1\n");
    ann.send("bfor all\n").expect("b1\n");
    ann.send("s2for bob\n").expect("s0\n");
    bob.expect("for all\nfor bob\n");
    // More than the send buffer holds: the buffer fills, and drains when the client reads.
    ann.send("F");
    let filled = until(&mut ann, b"W!\n");
    assert!(filled.len() > 32 << 10 && filled[..filled.len() - 3].iter().all(|byte| *byte == 0));
    let report = swap(&server, load(&format!("{name}-next"), bytes), SwapPolicy::HandOff);
    assert_eq!((report.moved, report.stayed.len(), report.ended), (2, 0, 0), "{report:?}");
    // The session keeps its count. The version that it came from is `unversioned`.
    ann.send("v").expect("v7\n").send("V").expect("Vu\n");
    // The session saves a state that cannot be restored, so it stays.
    bob.send("u").expect("u1\n");
    let report = swap(&server, load(&format!("{name}-last"), bytes), SwapPolicy::HandOff);
    assert_eq!(report.stayed.get("handoff-refused"), Some(&1), "{report:?}");
    bob.send("wstill here\n").expect("still here\n");
    ann.finish().expect("e.\n").expect_closed();
    bob.expect("DA\n");
    let mut carol = Client::connect(server.address());
    carol.expect("+3\n").send("d2").expect("d1\n");
    bob.expect_closed();
    // The reason is `evicted`.
    carol.expect("DG\n").send("q").expect_closed();
    Client::connect(server.address()).expect("+4\n").send("x").expect_reset();
    ended(&server, "closed-by-plugin", 2);
    assert!(server.counters().faults.is_empty(), "{:?}", server.counters());
}

/// Plays a session whose client is silent for the server's timeout.
fn silence(name: &str, bytes: &[u8]) {
    let server = server(name, bytes).timeout(Duration::from_millis(50)).start().expect("it starts");
    Client::connect(server.address()).expect("+1\no1\no1\n");
}

#[test]
fn component_built_from_the_frozen_text_runs() {
    let built = every_call(VERSION);
    life("frozen", &built);
    silence("frozen-silence", &built);
}

#[test]
fn component_kept_from_the_release_runs() {
    life("kept", &kept());
    silence("kept-silence", &kept());
}

#[test]
fn both_components_import_every_function() {
    let promises = wharf_tests::released::promises_in(&wharf_tests::released::frozen(VERSION));
    let imported = |name: &&String| {
        name.starts_with("interface session: f") || name.starts_with("interface server: f")
    };
    let mut functions: Vec<_> =
        promises.keys().filter(imported).filter_map(|name| name.split(' ').next_back()).collect();
    functions.extend(["get", "get-all"]);
    assert_eq!(functions.len(), 13, "{functions:?}");
    let source =
        std::fs::read_to_string(samples(VERSION).join("every-call.wat")).expect("its source");
    for (what, bytes) in [("built", every_call(VERSION)), ("kept", kept())] {
        for function in &functions {
            let called = source.contains(&format!("(call ${function}"));
            let imported =
                bytes.windows(function.len()).any(|window| window == function.as_bytes());
            assert!(called && imported, "{what}: {function}");
        }
    }
}
