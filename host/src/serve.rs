//! The spine of a connection: from a listening socket to a finished session. Read this file first.
//!
//! Each step consumes the value of the step before. Code that skips the admission or the handshake
//! does not compile: accept -> admit -> \[task\] handshake -> session -> event -> plugin call.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use crate::admission::{Admitted, Permit, PreAdmitted, Refusal};
use crate::event::{ClientInfo, Fault, FaultKind, Origin};
use crate::handover::RestoreError;
use crate::net::{AcceptError, Accepted, Established, HandshakeError, ProxyError, Stream};
use crate::plugin::EventProcedure;
use crate::rollout::blame::Blamed;
use crate::sched::{ACCEPT_COST, LOG_LINE_COST, Placement, RunPermit, WorkerId, here, stalls};
use crate::service::{AcceptMode, Directive, Listening, Service, TaskGuard};
use crate::session::{Ended, ProcedureSlot, Session, SessionHandle, SessionSnapshot};
use crate::telemetry::{
    AcceptPaused, Faulted, HandshakeFailed, Refused, SessionEnded, SessionStarted, Spent,
};

/// Accepts connections until the server state says that the server closes.
///
/// Cheap checks come first: a refused client costs no task, no handshake and no instance. `seen`
/// gets the version of each server state that the loop follows. The socket is closed before `seen`
/// is dropped.
pub(crate) async fn accept(seen: watch::Sender<u64>, mut listening: Listening) {
    let (service, listener) = (Arc::clone(listening.service()), Arc::clone(listening.listener()));
    let mut state = service.state();
    service.listens();
    let (mut last, mut paused_until) = (None::<Instant>, Instant::now());
    loop {
        let now = *state.borrow_and_update();
        listening.obey(now.listen_asked);
        seen.send_replace(now.version);
        if now.accept_mode() == AcceptMode::Close {
            return;
        }
        if let Some(next) = listening.next_attempt() {
            tokio::select! {
                _ = state.changed() => {}
                () = tokio::time::sleep_until(next) => listening.attempt(),
            }
            continue;
        }
        if now.accept_mode() == AcceptMode::Queue {
            tokio::select! {
                _ = state.changed() => {}
                error = listening.broken() => listening.repair(&error),
            }
            continue;
        }
        if now.accept_mode() == AcceptMode::Admit
            && let Err(until) = service.may_enter(Instant::now())
        {
            tokio::select! {
                _ = state.changed() => {}
                () = tokio::time::sleep_until(until.into()) => {}
                error = listening.broken() => listening.repair(&error),
            }
            continue;
        }
        // A connection costs CPU time before it has an event that could wait for the tenant's
        // quota.
        let quota = service.quota();
        if let Some(until) = quota.cpu().not_before_now() {
            quota.cpu().waited();
            tokio::select! {
                _ = state.changed() => {}
                () = tokio::time::sleep_until(until.into()) => {}
                error = listening.broken() => listening.repair(&error),
            }
            continue;
        }
        // The interval is read for each connection, since it may change while the loop waits.
        let interval = service.gate.throttle().accept_interval;
        let not_before = last.map_or(paused_until, |last| paused_until.max(last + interval));
        let connection = async {
            if Instant::now() < not_before {
                tokio::time::sleep_until(not_before.into()).await;
            }
            listener.accept().await
        };
        let connection = tokio::select! {
            biased;
            _ = state.changed() => continue,
            connection = connection => connection,
            error = listening.broken() => {
                listening.repair(&error);
                continue;
            }
        };
        match connection {
            Ok(client) if now.accept_mode() == AcceptMode::Reject => {
                service.counters.accepted();
                refuse_suspended(&service, &client);
            }
            Ok(client) => {
                last = Some(Instant::now());
                admit_or_refuse(&service, client, now.epoch);
            }
            Err(error) => match AcceptError::of(&error) {
                AcceptError::Retry => {}
                AcceptError::Pause(pause) => {
                    let turned_away = listener.turn_away();
                    AcceptPaused { server: &service.name, error: &error, pause, turned_away }
                        .emit(&service.counters, &service.pause_lines);
                    paused_until = Instant::now() + pause;
                }
                AcceptError::Broken => listening.repair(&error),
            },
        }
    }
}

/// An admitted connection. The address of a client behind a proxy is not known yet.
enum NewConnection {
    Known(Admitted<Accepted>),
    Proxied(PreAdmitted<Accepted>),
}

fn admit_or_refuse(service: &Arc<Service>, client: Accepted, epoch: u64) {
    service.counters.accepted();
    // A refused client costs the same CPU time up to here.
    service.quota().charge(ACCEPT_COST);
    let peer = client.peer();
    let proxies = &service.server_config().proxies;
    let connection = if proxies.is_empty() {
        service.gate.admit(client, peer.ip(), Instant::now()).map(NewConnection::Known)
    } else if proxies.iter().any(|proxy| proxy.contains(peer.ip())) {
        service.gate.pre_admit(client).map(NewConnection::Proxied)
    } else {
        // A sender that is no trusted proxy is refused: its header is not believed.
        Err(Refusal::Untrusted)
    };
    match connection {
        Ok(client) => {
            service.entered(Instant::now());
            service.spawn(|placement| {
                serve(Arc::clone(service), client, epoch, service.task(epoch), placement)
            });
        }
        Err(refusal) => {
            Refused { server: &service.name, peer, reason: refusal.name() }.emit(&service.counters);
        }
    }
}

fn refuse_suspended(service: &Service, client: &Accepted) {
    service.quota().charge(ACCEPT_COST);
    let reason = Refusal::Suspended.name();
    Refused { server: &service.name, peer: client.peer(), reason }.emit(&service.counters);
}

/// The task of one client, from its admission to the end of its session.
async fn serve(
    service: Arc<Service>,
    connection: NewConnection,
    epoch: u64,
    task: TaskGuard,
    placement: Arc<Placement>,
) {
    // Each stage is boxed, so that a client's task has no room for the stage that it is not in.
    if let Some(client) = Box::pin(introduced(&service, connection, epoch, &placement)).await {
        Box::pin(converse(service, client, epoch, placement)).await;
    }
    drop(task);
}

/// Runs the stages before the session, while the directive of the client's epoch is to stay.
async fn introduced(
    service: &Service,
    connection: NewConnection,
    epoch: u64,
    placement: &Arc<Placement>,
) -> Option<(Established, Option<WorkerId>)> {
    let peer = match &connection {
        NewConnection::Known(client) => client.peer(),
        NewConnection::Proxied(client) => client.peer(),
    };
    let mut state = service.state();
    let recalled = async {
        // The wait cannot fail: the sender lives in the service.
        let _ = state.wait_for(|state| state.directive(epoch) != Directive::Stay).await;
    };
    tokio::select! {
        biased;
        established = establish(service, connection, placement) => established,
        () = recalled => {
            let (server, reason) = (&*service.name, HandshakeError::Recalled.name());
            HandshakeFailed { server, peer, reason, detail: "" }.emit(&service.counters);
            None
        }
    }
}

/// Performs the handshake, and returns the worker whose reactor has the socket.
async fn establish(
    service: &Service,
    connection: NewConnection,
    placement: &Arc<Placement>,
) -> Option<(Established, Option<WorkerId>)> {
    let server_config = service.server_config();
    let client = match connection {
        NewConnection::Known(client) => client,
        NewConnection::Proxied(client) => {
            introduce(service, client, server_config.handshake).await?
        }
    };
    let peer = client.peer();
    let handshake = async {
        let home = here();
        server_config.security.establish(client).await.map(|client| (client, home))
    };
    let config = &server_config.session_config;
    let permitted = async {
        if server_config.security.is_plaintext() {
            return handshake.await;
        }
        // A handshake takes more CPU time than most events, so it needs a run permit.
        let (tenant, quota) = (Arc::clone(&config.tenant), Arc::clone(&config.quota));
        let mut run_permit = RunPermit::new(Arc::clone(placement), config.class(), tenant, quota);
        run_permit.perform(config.class(), handshake).await
    };
    match stalls::within(server_config.handshake, permitted)
        .await
        .unwrap_or(Err(HandshakeError::Timeout))
    {
        Ok(client) => Some(client),
        Err(error) => {
            let (reason, detail) = (error.name(), &error.detail());
            HandshakeFailed { server: &service.name, peer, reason, detail }.emit(&service.counters);
            None
        }
    }
}

/// Reads the client's address from the proxy's header, and admits or refuses that client.
async fn introduce(
    service: &Service,
    client: PreAdmitted<Accepted>,
    timeout: Duration,
) -> Option<Admitted<Accepted>> {
    let proxy = client.peer();
    let introduced = async |client: Accepted| {
        let introduced = stalls::within(timeout, client.behind_proxy()).await;
        introduced.unwrap_or(Err(ProxyError::Timeout))
    };
    match client.and_then(introduced).await {
        Ok(client) => {
            let peer = client.peer();
            let refused = |refusal: Refusal| {
                Refused { server: &service.name, peer, reason: refusal.name() }
                    .emit(&service.counters);
            };
            service.gate.admit_proxied(client, peer.ip(), Instant::now()).map_err(refused).ok()
        }
        Err(error) => {
            let (reason, detail) = (error.name(), &error.to_string());
            HandshakeFailed { server: &service.name, peer: proxy, reason, detail }
                .emit(&service.counters);
            None
        }
    }
}

async fn converse(
    service: Arc<Service>,
    (client, home): (Established, Option<WorkerId>),
    epoch: u64,
    placement: Arc<Placement>,
) {
    let id = service.registry.next_id();
    let server_config = service.server_config();
    let info = ClientInfo {
        id,
        server: Arc::clone(&service.name),
        peer: client.peer,
        local: client.local,
        tls: client.tls.clone(),
        parameter: server_config.parameter,
    };
    let peer = info.peer;
    SessionStarted { server: &service.name, session: id, peer }.emit();
    // Two lines of the log: one at the session's start and one at its end.
    server_config.session_config.quota.charge(LOG_LINE_COST * 2);
    let (stream, permit) = client.into_parts();
    let handle =
        SessionHandle::new(info, Arc::clone(&server_config.session_config), placement, stream);
    drop(server_config);
    let (slot, membership, presence) = service.let_in(&handle, epoch).await;
    // A directive that came before the registry had this session did not reach the session.
    match service.directive(epoch) {
        Directive::Stay => {}
        Directive::End => handle.stop(),
        Directive::EndNow => handle.cancel(),
    }
    let (ended, procedure) =
        Session::run(handle, slot, service.registry.clone(), membership, home).await;
    report(&service, (id, peer.ip()), &procedure, ended);
    let last = presence.leave();
    drop(permit);
    if last {
        service.emptied();
    }
}

/// Serves a session that comes from another process, with its permit in this one.
///
/// Calls `restored` once with the outcome of the restore. Then `go` says whether the session goes
/// on in this process.
pub(crate) async fn resume(
    service: Arc<Service>,
    snapshot: SessionSnapshot,
    name: Option<String>,
    permit: Permit,
    (epoch, task, placement): (u64, TaskGuard, Arc<Placement>),
    restored: impl FnOnce(Result<(), RestoreError>),
    go: oneshot::Receiver<()>,
) {
    let SessionSnapshot { meta, state, queued, socket } = snapshot;
    let stream = match Stream::adopt(socket) {
        Ok(stream) => stream,
        Err(error) => return restored(Err(error.into())),
    };
    let (id, peer) = (meta.id, meta.peer);
    let info = ClientInfo {
        id,
        server: Arc::clone(&service.name),
        peer: meta.peer,
        local: meta.local,
        tls: None,
        parameter: meta.parameter,
    };
    let handle = SessionHandle::resumed(
        info,
        Arc::clone(&service.server_config().session_config),
        placement,
        stream,
        &meta,
    );
    // As with a new session: a swap finds sessions by the registry.
    let entering = service.rollout.entering().await;
    let slot = Arc::new(ProcedureSlot::new(service.procedure()));
    let entered = service.registry.enter_again(&handle, epoch, &slot, name.as_deref());
    slot.start_with(service.procedure());
    drop(entering);
    let Some((membership, presence)) = entered else {
        return restored(Err(RestoreError::NumberTaken));
    };
    let restored = |outcome: Result<(), Fault>| restored(outcome.map_err(RestoreError::Fault));
    let packed = (meta, state, queued);
    let resumed =
        Session::resume(handle, slot, service.registry.clone(), membership, packed, restored, go);
    if let Some((ended, procedure)) = Box::pin(resumed).await {
        report(&service, (id, peer.ip()), &procedure, ended);
    }
    let last = presence.leave();
    drop((permit, task));
    if last {
        service.emptied();
    }
}

fn report(
    service: &Arc<Service>,
    (session, peer): (u64, IpAddr),
    procedure: &Arc<EventProcedure>,
    mut ended: Ended,
) {
    let metrics = procedure.metrics();
    let (server, class) = (&*service.name, ended.class);
    // The fault that lost the shared instance is counted with the session that caused it.
    let kind = ended.fault.as_ref().map(|(_, fault)| fault.kind);
    if kind != Some(FaultKind::InstanceLost) {
        let fault = ended.fault.as_ref().filter(|(_, fault)| fault.kind.origin() == Origin::Plugin);
        let evidence = ended.evidence.take();
        let blamed = fault.map(|(event, fault)| Blamed { event, kind: fault.kind, evidence });
        service.count_session_end(peer, procedure, blamed);
    }
    if let Some((event, fault)) = &ended.fault {
        Faulted { server, session, peer, class, event, fault }.emit(metrics, &service.fault_lines);
    }
    let Ended { reason, events, bytes_in, bytes_out, usage, lasted, cpu, .. } = ended;
    let spent = Spent { events, bytes_in, bytes_out, fuel: usage.fuel, cpu };
    SessionEnded { server, session, class, reason: &reason.name(), lasted, spent }
        .emit(metrics, &service.session_lines);
}
