//! The spine: from a listening socket to finished sessions. Read this first.
//!
//! Each step consumes the value of the one before, so that skipping admission or the handshake does not compile:
//! accept -> admit -> \[task\] handshake -> session -> event -> plugin call.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::admission::Admitted;
use crate::event::{ClientInfo, Scope};
use crate::net::{AcceptFault, Accepted, Established, HandshakeFault, Listener};
use crate::server::{Phase, Service};
use crate::session::{Ended, Line, Session};
use crate::telemetry::{AcceptPaused, AcceptStopped, Faulted, HandshakeFailed, Refused, SessionEnded, SessionStarted};

/// Proof that a task of the server still runs; the server is drained when all are dropped.
pub(crate) type Alive = mpsc::Sender<()>;

/// Accepts until the server leaves its running phase. Cheap checks come first: a refused client costs no task, no
/// handshake and no instance.
pub(crate) async fn accept(service: Arc<Service>, listener: Listener, alive: Alive) {
    let mut phase = service.phase();
    loop {
        let newcomer = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase != Phase::Running) => return,
            newcomer = listener.accept() => newcomer,
        };
        match newcomer {
            Ok(client) => welcome(&service, client, &alive),
            Err(error) => match AcceptFault::of(&error) {
                AcceptFault::Retry => {}
                AcceptFault::Pause(pause) => {
                    AcceptPaused { server: &service.name, error: &error, pause }.emit(&service.counters);
                    tokio::time::sleep(pause).await;
                }
                AcceptFault::Stop => {
                    AcceptStopped { server: &service.name, error: &error }.emit(&service.counters);
                    return;
                }
            },
        }
    }
}

fn welcome(service: &Arc<Service>, client: Accepted, alive: &Alive) {
    service.counters.accepted();
    let peer = client.peer();
    match service.gate.admit(client) {
        Ok(client) => service.spawn(serve(Arc::clone(service), client, alive.clone())),
        Err(refusal) => {
            Refused { server: &service.name, peer, reason: refusal.name() }.emit(&service.counters);
        }
    }
}

/// One client's task, cradle to grave.
async fn serve(service: Arc<Service>, client: Admitted<Accepted>, alive: Alive) {
    let Some(client) = establish(&service, client).await else { return };
    // Boxed, so that the task of a client in its handshake is small and a session's state is allocated once it is
    // one.
    Box::pin(converse(service, client)).await;
    drop(alive);
}

async fn establish(service: &Service, client: Admitted<Accepted>) -> Option<Established> {
    let peer = client.peer();
    let mut phase: watch::Receiver<Phase> = service.phase();
    let outcome = tokio::select! {
        biased;
        outcome = service.security.establish(client, service.line_config.timeout) => outcome,
        _ = phase.wait_for(|phase| *phase != Phase::Running) => Err(HandshakeFault::Gone),
    };
    match outcome {
        Ok(client) => Some(client),
        Err(fault) => {
            let detail = if let HandshakeFault::Tls(detail) = &fault { detail.as_str() } else { "" };
            HandshakeFailed { server: &service.name, peer, reason: fault.name(), detail }.emit(&service.counters);
            None
        }
    }
}

async fn converse(service: Arc<Service>, client: Established) {
    let id = service.registry.next_id();
    let info = ClientInfo {
        id,
        server: service.name.clone(),
        peer: client.peer,
        local: client.local,
        tls: client.tls.clone(),
        parameter: service.parameter,
    };
    SessionStarted { server: &service.name, session: id, peer: info.peer }.emit();
    let (wire, permit) = client.into_parts();
    let line = Line::new(info, service.line_config, wire);
    let (membership, presence) = service.registry.enter(&line);
    // A stop that came before the registry knew of this session passed it by.
    match *service.phase().borrow() {
        Phase::Running => {}
        Phase::Draining => line.stop(),
        Phase::Cancelled => line.cancel(),
    }
    let procedure = service.procedure();
    let scope = Scope { port: line.clone(), peers: service.registry.clone() };
    let ended = Session::run(line, &*procedure, scope, membership).await;
    report(&service, id, &procedure.plugin().label(), &ended);
    drop((presence, permit));
}

fn report(service: &Service, session: u64, plugin: &str, ended: &Ended) {
    let server = service.name.as_str();
    if let Some((event, fault)) = &ended.fault {
        Faulted { server, session, plugin, event, fault }.emit(&service.counters, &service.fault_lines);
    }
    let Ended { reason, events, bytes_in, bytes_out, usage, lasted, .. } = ended;
    SessionEnded {
        server,
        session,
        reason: &reason.name(),
        lasted: *lasted,
        events: *events,
        bytes_in: *bytes_in,
        bytes_out: *bytes_out,
        fuel: usage.fuel,
    }
    .emit(&service.counters);
}
