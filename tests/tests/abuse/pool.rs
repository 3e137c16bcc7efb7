//! Full pools: no session waits for an instance, live sessions notice nothing, and there is room
//! again afterwards.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use wharf::event::{
    Budget, ClientInfo, Event, FaultKind, Instance, NoPeers, NullPort, Origin, Procedure, Scope,
};
use wharf::plugin::{Binding, EventProcedure, Grant, Grants};
use wharf::server::{Host, HostConfig, Server, ServerHandle};
use wharf_tests::clients::Client;
use wharf_tests::guests::{component, component_for, file, root};
use wharf_tests::imports::open_contract;
use wharf_tests::oracle::{alone, balanced};
use wharf_tests::servers::eventually;

fn host(sessions_max: usize) -> Host {
    Host::new(&HostConfig { workers: 1, sessions_max, ..HostConfig::default() }).expect("a host")
}

fn start(host: &Host) -> ServerHandle {
    let builder =
        Server::builder().host(host).local_host("127.0.0.1").plugin(file("pooled", &component("")));
    builder.start().expect("it starts")
}

#[test]
fn client_over_the_host_maximum_is_refused() {
    let _alone = alone();
    let host = host(4);
    let (one, other) = (start(&host), start(&host));
    let mut inside: Vec<_> = (0..4).map(|_| Client::connect(one.address())).collect();
    for client in &mut inside {
        client.echo("in");
    }
    for server in [&one, &other] {
        Client::connect(server.address()).expect_gone();
        eventually("it is counted", || server.counters().refused.get("overload") == Some(&1));
    }
    for client in &mut inside {
        client.echo("still here");
    }
    inside.pop();
    eventually("one left", || one.clients() == 3);
    let mut next = Client::connect(other.address());
    next.echo("there is room").finish().expect_closed();
    drop((inside, next));
    eventually("all left", || one.clients() + other.clients() == 0);
    balanced(&one.counters());
    balanced(&other.counters());
}

pub(crate) fn nowhere() -> Scope {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let info = ClientInfo {
        id: 0,
        server: "none".into(),
        peer: address,
        local: address,
        tls: None,
        parameter: 0,
    };
    Scope { port: Arc::new(NullPort(info)), peers: Arc::new(NoPeers) }
}

#[test]
fn client_without_an_instance_is_refused_at_once() {
    let _alone = alone();
    let host = host(2);
    let server = start(&host);
    let mut inside = Client::connect(server.address());
    inside.echo("before");
    // Takes every free slot, as many trials at once would.
    let plugin = Arc::new(
        host.loader().load(&file("pooled", &component("")), &Grants::none()).expect("a plugin"),
    );
    let procedure = EventProcedure::new(plugin, Binding::default());
    let budget =
        Budget { fuel: 1_000_000, cpu: Duration::from_secs(1), wall: Duration::from_secs(1) };
    let mut taken = Vec::new();
    let refusal = loop {
        // An instance without a loop at its start is ready at the first poll.
        let making = pin!(procedure.instantiate(nowhere(), budget));
        match making.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(instance)) => taken.push(instance),
            Poll::Ready(Err(fault)) => break fault,
            Poll::Pending => panic!("it waits for room"),
        }
        assert!(taken.len() < 1_000, "instances without end");
    };
    assert_eq!((refusal.kind, refusal.kind.origin()), (FaultKind::Capacity, Origin::Host));
    for times in 1..=20 {
        Client::connect(server.address()).expect_gone();
        eventually("it is counted", || server.counters().refused.get("overload") == Some(&times));
    }
    // The refusals are the host's doing, so they trip no breaker.
    assert_eq!(server.counters().notices.get("tripped"), None);
    inside.echo("meanwhile");
    drop(taken);
    Client::connect(server.address()).echo("after").finish().expect_closed();
    inside.finish().expect_closed();
    eventually("all left", || server.clients() == 0 && host.engine().instances() == 0);
    balanced(&server.counters());
}

#[test]
fn cancelled_call_leaves_no_instance_to_enter() {
    let text = root().join("tests/guests/sleeper.wat");
    let handlers = std::fs::read_to_string(text).expect("the guest");
    let sleeper = file("cancelled", &component_for(&handlers, &open_contract(), "0.1.0"));
    let grants: Grants = [Grant::Clocks].into_iter().collect();
    let budget =
        Budget { fuel: 1_000_000, cpu: Duration::from_secs(1), wall: Duration::from_secs(60) };
    for core_modules in [false, true] {
        let config =
            HostConfig { core_modules, workers: 1, sessions_max: 4, ..HostConfig::default() };
        let host = Host::new(&config).expect("a host");
        let _timers = host.runtime().enter();
        let plugin = host.loader().share(&sleeper, &grants).expect("it loads");
        assert_eq!(plugin.needs_component_layer().is_none(), core_modules);
        let procedure = EventProcedure::new(plugin, Binding::default());
        let cx = &mut Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(mut instance)) = pin!(procedure.instantiate(nowhere(), budget)).poll(cx)
        else {
            panic!("no instance");
        };
        let waits = pin!(instance.dispatch(Event::Read(b"x"), budget)).poll(cx).is_pending();
        assert!(waits, "the guest does not wait");
        let Poll::Ready(later) = pin!(instance.dispatch(Event::Write, budget)).poll(cx) else {
            panic!("a dead instance waits");
        };
        let kind = later.map_err(|fault| fault.kind);
        assert_eq!(kind, Err(FaultKind::Trap("dead-instance")), "{core_modules}");
    }
}
