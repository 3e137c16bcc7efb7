//! Servers whose sessions share an instance, or a fixed number of them.

use std::sync::Arc;
use std::time::Duration;

use wharf::event::Priority;
use wharf::sched::BudgetChange;
use wharf::server::{ServerBuilder, ServerHandle, SwapPolicy};
use wharf_tests::clients::Client;
use wharf_tests::guests::{bundled, guest, inline};
use wharf_tests::servers::{describe, ended, eventually, host, swap};

fn tally(shards: usize) -> ServerBuilder {
    describe(guest("tally")).shared_instances(shards)
}

fn start(server: ServerBuilder) -> ServerHandle {
    server.start().expect("it starts")
}

/// Connects, and waits until the session has its place on an instance: the server may serve clients
/// in another order.
fn join(server: &ServerHandle) -> Client {
    let before = server.session_count() as usize;
    let client = Client::connect(server.address());
    eventually("the session is served", || {
        let sessions = server.sessions(0, before + 1);
        sessions.len() > before && sessions.iter().all(|session| session.stats.events > 0)
    });
    client
}

#[test]
fn shared_memory_outlives_its_sessions() {
    let server = start(tally(1));
    let (mut one, mut two) = (Client::connect(server.address()), Client::connect(server.address()));
    one.send("x").expect("1");
    two.send("x").expect("2");
    one.send("x").expect("3");
    drop((one, two));
    ended(&server, "peer-closed", 2);
    Client::connect(server.address()).send("x").expect("4");
}

#[test]
fn each_event_is_that_of_its_own_session() {
    let server = start(describe(bundled("tests/unruly")).shared_instances(1));
    let mut clients: Vec<_> = (0..8).map(|_| join(&server)).collect();
    for (number, client) in clients.iter_mut().enumerate().rev() {
        client.send("i").expect(format!("id={} ", number + 1));
        let _ = std::io::Read::read(&mut client.0, &mut [0; 512]).expect("the rest of it");
        client.echo(format!("only for {number}"));
    }
    clients[3].send("nthird").expect("Ok(())");
    clients[5].send("fthird").expect("Some(4)");
}

#[test]
fn fault_ends_only_sessions_of_its_instance() {
    let server = start(tally(2));
    // Sessions go to the shard with the fewest: first, second, first, second.
    let mut clients: Vec<_> = (0..4).map(|_| join(&server)).collect();
    for client in &mut clients[..2] {
        client.send("x").expect("1");
    }
    clients[0].send("T").expect_gone();
    clients[2].expect_gone();
    clients[1].send("x").expect("2");
    clients[3].send("x").expect("3");
    ended(&server, "trap:unreachable", 1);
    ended(&server, "instance-lost", 1);
    eventually("their places are free", || server.clients() == 2);
    // The next session gets a new shard.
    join(&server).send("x").expect("1");
    assert_eq!(server.counters().faults.get("trap:unreachable"), Some(&1));
}

#[test]
fn lost_instance_is_one_fault_to_the_breaker() {
    let server = start(tally(1));
    for round in 1..=3 {
        let mut clients: Vec<_> = (0..20).map(|_| join(&server)).collect();
        clients[7].send("T");
        clients.iter_mut().for_each(Client::expect_gone);
        ended(&server, "trap:unreachable", round);
        ended(&server, "instance-lost", round * 19);
        assert_eq!(server.breaker().name(), "closed");
    }
}

#[test]
fn wait_for_shared_instance_costs_no_wall_time() {
    // Each event takes some milliseconds; all of them together take far longer than one may.
    let wall = BudgetChange { wall: Some(Duration::from_millis(500)), ..BudgetChange::default() };
    let server = start(tally(1).budget(Priority::Normal, wall));
    let mut clients: Vec<_> = (0..60).map(|_| join(&server)).collect();
    for _ in 0..3 {
        clients.iter_mut().for_each(|client| _ = client.send("L"));
        clients.iter_mut().for_each(|client| _ = client.skip(1));
    }
    assert_eq!(server.session_count(), 60);
    assert!(server.counters().faults.is_empty(), "{:?}", server.counters().faults);
}

#[test]
fn abort_within_an_event_keeps_the_shared_instance() {
    let server = start(tally(1));
    let (mut stuck, mut other) = (join(&server), join(&server));
    stuck.send("B");
    eventually("it waits for its reader", || {
        server.session(1).is_some_and(|session| session.stats.event == Some("on-read"))
    });
    other.send("x");
    assert!(server.abort(1));
    other.expect("2");
    eventually("it is gone", || server.clients() == 1);
    ended(&server, "evicted", 1);
    assert!(server.counters().faults.is_empty(), "{:?}", server.counters().faults);
}

#[test]
fn stop_ends_a_stuck_shared_instance() {
    let server = start(tally(1));
    let (mut stuck, other) = (join(&server), join(&server));
    stuck.send("B");
    eventually("it waits for its reader", || {
        server.session(1).is_some_and(|session| session.stats.event == Some("on-read"))
    });
    server.stop_blocking(Duration::from_millis(100));
    assert_eq!(server.clients(), 0);
    drop(other);
}

#[test]
fn faulty_first_event_gets_a_fresh_instance() {
    let handlers = "(func $on-connect (param i32) (result i32) unreachable)";
    let server = start(describe(inline("late-trap", handlers)).shared_instances(1));
    for round in 1..=3 {
        Client::connect(server.address()).expect_gone();
        ended(&server, "trap:unreachable", round);
    }
    eventually("nothing is left", || server.clients() == 0);
}

#[test]
fn new_configuration_keeps_an_unchanged_instance() {
    let plugin = guest("tally");
    let tally = || describe(Arc::clone(&plugin)).shared_instances(1);
    let server = start(tally());
    let mut client = join(&server);
    client.send("x").expect("1");
    let again = || tally().name(server.name()).max_clients(5);
    let reconfigure = |prepared| {
        host().runtime().block_on(server.reconfigure(prepared)).expect("a free place");
    };
    reconfigure(again().prepare(&host()).expect("it holds"));
    Client::connect(server.address()).send("x").expect("2");
    // With other settings, new sessions get another instance, and live sessions keep theirs.
    reconfigure(again().setting("a", "b").prepare(&host()).expect("it holds"));
    Client::connect(server.address()).send("x").expect("1");
    client.send("x").expect("3");
}

#[test]
fn swap_leaves_live_sessions_their_shared_instance() {
    let server = start(tally(1));
    let mut client = join(&server);
    client.send("x").expect("1");
    let other = inline("tally-again", &tally_text().replace("(i32.const 48)", "(i32.const 64)"));
    assert_eq!(swap(&server, other, SwapPolicy::HandOff).stayed.get("no-handoff"), Some(&1));
    Client::connect(server.address()).send("x").expect("A");
    client.send("x").expect("2");
}

fn tally_text() -> String {
    std::fs::read_to_string(wharf_tests::guests::root().join("tests/guests/tally.wat"))
        .expect("a guest")
}

#[test]
fn shared_instance_sessions_change_lanes_without_loss() {
    let server = start(tally(1));
    let mut clients: Vec<_> = (0..3).map(|_| join(&server)).collect();
    let mut count = 0;
    for class in [Priority::Critical, Priority::Background, Priority::Normal] {
        for (number, client) in clients.iter_mut().enumerate() {
            server.assign(number as u64 + 1, class).expect("a session");
            count += 1;
            client.send("x").expect(count.to_string());
        }
    }
}
