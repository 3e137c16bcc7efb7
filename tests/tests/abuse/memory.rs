//! Guests that take memory, handles, timers, giant values or giant components. Each gets as much as
//! its limit allows.

use std::time::Duration;

use wharf::event::Priority;
use wharf::plugin::{Grant, Grants, InstanceLimits};
use wharf::sched::BudgetChange;
use wharf_tests::guests::{contract, encode, file, guest, polite};
use wharf_tests::imports::granted;
use wharf_tests::oracle::{judge, only_ends};
use wharf_tests::servers::{describe, host};

use crate::{costs_its_session, costs_its_session_with, say};

#[test]
fn guest_at_its_memory_limit_goes_on() {
    let counters = judge(
        || describe(guest("grow-and-stay")),
        |server| {
            let mut client = say(server, "x");
            client.expect([b'n', 100]).send("x").expect([b'n', 100]);
            assert!(server.sessions(0, 1)[0].stats.usage.memory_bytes <= 32 << 20);
            client.finish().expect_closed();
        },
    );
    only_ends(&counters, "peer-closed", 1);
}

#[test]
fn trap_at_the_memory_limit_has_its_reason() {
    costs_its_session(|| guest("memory-bomb"), &["limit-session-mem"]);
}

#[test]
fn kept_handles_end_at_their_limit() {
    costs_its_session(|| granted("handle-hoarder", &[Grant::Stdio]), &["handle-limit"]);
    costs_its_session(|| granted("pollable-hoarder", &[Grant::Clocks]), &["handle-limit"]);
    let limits = InstanceLimits { handles_max: 100_000, ..InstanceLimits::default() };
    for (name, grant) in [("handle-hoarder", Grant::Stdio), ("pollable-hoarder", Grant::Clocks)] {
        // The host has a limit of its own, below the configured one.
        costs_its_session_with(
            || describe(granted(name, &[grant])).limits(limits),
            &["handle-limit"],
        );
    }
}

#[test]
fn giant_list_is_not_copied() {
    let limits = InstanceLimits { memory_max_bytes: 256 << 20, ..InstanceLimits::default() };
    costs_its_session_with(|| describe(guest("huge-list")).limits(limits), &["copy-limit"]);
}

#[test]
fn handler_that_returns_a_list_is_refused() {
    judge(
        || describe(polite()),
        |_| {
            let contract =
                contract().replace("on-write: func() -> action;", "on-write: func() -> list<u8>;");
            let export = |name: &str, rest: &str| {
                format!("(func (export \"wharf:server/inet-event-proc@0.1.0#{name}\") {rest})\n")
            };
            let text = format!(
                "(module (memory (export \"memory\") 1)
                   (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) (i32.const \
                   1024))\n{}{}{}{}{}{}{})",
                export("on-connect", "(param i32) (result i32) (i32.const 0)"),
                export("on-read", "(param i32 i32) (result i32) (i32.const 0)"),
                export(
                    "on-write",
                    "(result i32) (i32.store (i32.const 12) (i32.const 0x7fffffff)) \
                    (i32.const 8)"
                ),
                export("on-timeout", "(param i64) (result i32) (i32.const 0)"),
                export("on-timer", "(param i32) (result i32) (i32.const 0)"),
                export("on-end", "(result i32) (i32.const 0)"),
                export("on-disconnect", "(param i32)"),
            );
            let file = file("returns-a-list", &encode(&text, &contract));
            let said =
                host().loader().load(&file, &Grants::none()).err().expect("refused").to_string();
            assert!(said.contains("expected `enum` found `list`"), "{said}");
        },
    );
}

#[test]
fn sixty_four_of_a_million_timers_are_kept() {
    let budget = BudgetChange {
        fuel: Some(1_000_000_000_000),
        cpu: Some(Duration::from_secs(30)),
        wall: Some(Duration::from_secs(60)),
        ..BudgetChange::default()
    };
    let counters = judge(
        || describe(guest("million-timers")).budget(Priority::Normal, budget),
        |server| say(server, "x").expect(64_u32.to_le_bytes()).expect("o").finish().expect_closed(),
    );
    only_ends(&counters, "peer-closed", 1);
}

#[test]
fn ten_thousand_core_instances_are_refused() {
    refused(
        "core-instances",
        "(component (core module $m)",
        &"(core instance (instantiate $m))".repeat(10_000),
        ")",
    );
}

#[test]
fn ten_thousand_components_in_one_are_refused() {
    let inner = "(component $c (core module $m) (core instance (instantiate $m)))";
    refused(
        "components",
        &format!("(component {inner}"),
        &"(instance (instantiate $c))".repeat(10_000),
        ")",
    );
}

#[test]
fn ten_thousand_components_inside_each_other_are_refused() {
    judge(
        || describe(polite()),
        |_| {
            const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";
            let mut bytes = EMPTY.to_vec();
            for _ in 0..10_000 {
                // A section of one component.
                let mut outer = EMPTY.to_vec();
                outer.push(4);
                push_number(&mut outer, bytes.len());
                outer.append(&mut bytes);
                bytes = outer;
            }
            is_refused("nested-components", &bytes);
        },
    );
}

#[test]
fn nested_types_are_refused_or_harmless() {
    // A type of a component or of an instance that contains one such type, and so on for `levels`.
    // The innermost is empty.
    let types =
        |kind: u8, levels: usize| [&[1][..], &[kind, 1, 1].repeat(levels), &[kind, 0]].concat();
    judge(
        || describe(polite()),
        |_| {
            for kind in [0x41, 0x42] {
                for (levels, refusal) in [
                    (1_000, "not a plugin"),
                    // As many levels as the limit on bytes lets through.
                    (21_000, "not a plugin"),
                    (22_000, "bytes of types in a section"),
                    (1_000_000, "bytes of types in a section"),
                ] {
                    let content = types(kind, levels);
                    let mut bytes = b"\0asm\x0d\0\x01\0\x07".to_vec();
                    push_number(&mut bytes, content.len());
                    bytes.extend_from_slice(&content);
                    if kind == 0x42 {
                        // An import uses the type, so that it is not skipped.
                        bytes.extend_from_slice(&[10, 6, 1, 0, 1, b'x', 5, 0]);
                    }
                    let file = file("nested-types", &bytes);
                    let said = host()
                        .loader()
                        .load(&file, &Grants::none())
                        .err()
                        .expect("refused")
                        .to_string();
                    assert!(said.contains(refusal), "{levels} levels of {kind:#x}: {said}");
                }
            }
        },
    );
}

fn push_number(bytes: &mut Vec<u8>, mut number: usize) {
    while number > 0x7f {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn refused(name: &str, begin: &str, middle: &str, end: &str) {
    let bytes = wat::parse_str(format!("{begin}{middle}{end}")).expect("a component");
    judge(|| describe(polite()), |_| is_refused(name, &bytes));
}

fn is_refused(name: &str, bytes: &[u8]) {
    let said = host()
        .loader()
        .load(&file(name, bytes), &Grants::none())
        .err()
        .expect("refused")
        .to_string();
    assert!(said.contains("not a component this host can run"), "{said}");
}
