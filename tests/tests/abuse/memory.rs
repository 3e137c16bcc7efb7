//! Guests that take: memory, handles, timers, giant values, giant components. Each gets so much and no more.

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
fn a_guest_at_its_memory_limit_is_told_no_and_goes_on() {
    let counters = judge(
        || describe(guest("grow-and-stay")),
        |server| {
            let mut client = say(server, "x");
            client.expect([b'n', 100]).send("x").expect([b'n', 100]);
            assert!(server.sessions(0, 1)[0].glance.usage.memory_bytes <= 32 << 20);
            client.finish().expect_closed();
        },
    );
    only_ends(&counters, "peer-closed", 1);
}

#[test]
fn a_guest_that_traps_at_its_memory_limit_ends_for_that_reason() {
    costs_its_session(|| guest("memory-bomb"), &["limit-session-mem"]);
}

#[test]
fn handles_that_are_never_given_back_end_at_their_limit() {
    costs_its_session(|| granted("handle-hoarder", &[Grant::Stdio]), &["handle-limit"]);
    costs_its_session(|| granted("pollable-hoarder", &[Grant::Clocks]), &["handle-limit"]);
    let limits = InstanceLimits { handles_max: 100_000, ..InstanceLimits::default() };
    for (name, grant) in [("handle-hoarder", Grant::Stdio), ("pollable-hoarder", Grant::Clocks)] {
        // However many the guest may have, the host keeps so many things for it.
        costs_its_session_with(|| describe(granted(name, &[grant])).limits(limits), &["handle-limit"]);
    }
}

#[test]
fn a_giant_list_is_not_copied() {
    let limits = InstanceLimits { memory_max_bytes: 256 << 20, ..InstanceLimits::default() };
    costs_its_session_with(|| describe(guest("huge-list")).limits(limits), &["copy-limit"]);
}

#[test]
fn a_handler_that_returns_a_giant_list_is_no_handler() {
    judge(
        || describe(polite()),
        |_| {
            let contract = contract().replace("on-write: func() -> action;", "on-write: func() -> list<u8>;");
            let export = |name: &str, rest: &str| {
                format!("(func (export \"wharf:server/inet-event-proc@0.1.0#{name}\") {rest})\n")
            };
            let text = format!(
                "(module (memory (export \"memory\") 1)
                   (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) (i32.const 1024))\n{}{}{}{}{}{}{})",
                export("on-connect", "(param i32) (result i32) (i32.const 0)"),
                export("on-read", "(param i32 i32) (result i32) (i32.const 0)"),
                export("on-write", "(result i32) (i32.store (i32.const 12) (i32.const 0x7fffffff)) (i32.const 8)"),
                export("on-timeout", "(param i64) (result i32) (i32.const 0)"),
                export("on-timer", "(param i32) (result i32) (i32.const 0)"),
                export("on-end", "(result i32) (i32.const 0)"),
                export("on-disconnect", "(param i32)"),
            );
            let file = file("returns-a-list", &encode(&text, &contract));
            let said = host().loader().load(&file, &Grants::none()).err().expect("refused").to_string();
            assert!(said.contains("expected `enum` found `list`"), "{said}");
        },
    );
}

#[test]
fn a_million_timers_are_sixty_four_and_the_oldest_is_kept() {
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
    refused("core-instances", "(component (core module $m)", &"(core instance (instantiate $m))".repeat(10_000), ")");
}

#[test]
fn ten_thousand_components_in_one_are_refused() {
    let inner = "(component $c (core module $m) (core instance (instantiate $m)))";
    refused("components", &format!("(component {inner}"), &"(instance (instantiate $c))".repeat(10_000), ")");
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
                let mut length = bytes.len();
                while length > 127 {
                    outer.push((length & 127) as u8 | 128);
                    length >>= 7;
                }
                outer.push(length as u8);
                outer.append(&mut bytes);
                bytes = outer;
            }
            is_refused("nested-components", &bytes);
        },
    );
}

fn refused(name: &str, begin: &str, middle: &str, end: &str) {
    let bytes = wat::parse_str(format!("{begin}{middle}{end}")).expect("a component");
    judge(|| describe(polite()), |_| is_refused(name, &bytes));
}

fn is_refused(name: &str, bytes: &[u8]) {
    let said = host().loader().load(&file(name, bytes), &Grants::none()).err().expect("refused").to_string();
    assert!(said.contains("not a component this host can run"), "{said}");
}
