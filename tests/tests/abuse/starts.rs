//! Guests that misbehave outside of their handlers: at the start of an instance, when the host
//! copies data into their memory, and when they free a result.

use std::time::Duration;

use wharf::event::Priority;
use wharf::plugin::Grants;
use wharf::sched::BudgetChange;
use wharf::server::{BreakerLimits, SwapPolicy};
use wharf_tests::guests::{component, file, guest, polite};
use wharf_tests::oracle::{judge, only_faults};
use wharf_tests::servers::{describe, eventually, fuel_alone, host, swap};

use crate::{costs_its_session, costs_its_session_with, say};

#[test]
fn failing_start_is_refused_at_load() {
    judge(
        || describe(polite()),
        |_| {
            for (name, body, reasons) in [
                ("begins-with-a-trap", "unreachable", &["trap:unreachable"][..]),
                // Any of the three limits may be reached first.
                ("begins-with-a-loop", "(call $spin)", &["fuel", "cpu-time", "in time"]),
            ] {
                let bytes = component(&format!("(func $begin {body}) (start $begin)"));
                let said = host()
                    .loader()
                    .load(&file(name, &bytes), &Grants::none())
                    .err()
                    .expect(name)
                    .to_string();
                let is_told = reasons.iter().any(|reason| said.contains(reason));
                assert!(said.contains("its trial instance failed") && is_told, "{said}");
            }
        },
    );
}

#[test]
fn start_that_traps_later_ends_one_session() {
    costs_its_session(|| guest("trap-at-a-real-start"), &["trap:unreachable"]);
}

#[test]
fn start_that_loops_later_ends_one_session() {
    let budget = BudgetChange { start_fuel: Some(20_000_000), ..fuel_alone() };
    let server = || describe(guest("loop-at-a-real-start")).budget(Priority::Normal, budget);
    costs_its_session_with(server, &["fuel"]);
}

#[test]
fn server_without_instances_listens_and_trips() {
    let limits =
        BreakerLimits { faults: 5, pause: Duration::from_millis(100), ..BreakerLimits::default() };
    let counters = judge(
        || describe(guest("trap-at-a-real-start")).breaker(limits),
        |server| {
            for _ in 0..5 {
                say(server, "x").expect_gone();
            }
            eventually("it trips", || server.counters().notices.get("tripped") == Some(&1));
            swap(server, polite(), SwapPolicy::Pin);
            say(server, "served by another build").expect("served by another build");
        },
    );
    assert_eq!(counters.faults.get("trap:unreachable"), Some(&5), "{counters:?}");
}

#[test]
fn loop_in_realloc_ends_by_fuel() {
    costs_its_session(|| guest("loop-in-realloc"), &["fuel"]);
}

#[test]
fn trap_in_realloc_ends_one_session() {
    costs_its_session(|| guest("trap-in-realloc"), &["trap:unreachable"]);
}

#[test]
fn invalid_memory_is_not_written_to() {
    costs_its_session(|| guest("crooked-realloc"), &["trap:contract"]);
}

#[test]
fn host_call_in_realloc_is_a_trap() {
    costs_its_session(|| guest("reentrant-realloc"), &["trap:dead-instance"]);
}

#[test]
fn loop_in_post_return_ends_by_fuel() {
    costs_its_session(|| guest("loop-in-post-return"), &["fuel"]);
}

#[test]
fn trap_in_post_return_ends_one_session() {
    let counters =
        judge(|| describe(guest("trap-in-post-return")), |server| say(server, "x").expect_gone());
    only_faults(&counters, &["trap:unreachable"], 1);
}
