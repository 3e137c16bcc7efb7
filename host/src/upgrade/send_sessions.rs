//! Sessions that leave this process, for a new process or for the descriptor store. Each session
//! stays here until it is taken, and only then does this process release it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;

use crate::event::Port;
use crate::handover::{
    LeaveError, PackedSession, SendSession, SessionsSent, ToNew, ToOld, send_message,
};
use crate::locks::lock;
use crate::net::FdChannel;
use crate::rollout::LiveSession;
use crate::server::ServerHandle;
use crate::servers::Servers;
use crate::session::SessionSnapshot;
use crate::work::{WorkError, WorkKind};

/// Number of sessions that are packed or sent at a time, at most.
const PACKED_MAX: usize = 8;
/// Time that a session may be busy before it stays.
const BUSY_MAX: Duration = Duration::from_secs(2);
/// Time that a session may then take to save its state.
const SAVE_MAX: Duration = Duration::from_secs(10);
/// Time that the new process may take for one session.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Time that all sessions may take. A session that has not moved by then stays.
const MOVE_MAX: Duration = Duration::from_secs(120);
/// Numbers left for sessions that the old process still accepts. A session with a higher number may
/// meet one of the new process with the same number, and then stays.
const IDS_SPARE: u64 = 1_000_000;
/// Number of searches for sessions that began meanwhile.
const LOOKS_MAX: usize = 5;

/// Transfers every session that can move to the process at the other end.
pub(super) async fn transfer_all(servers: &Servers, fd_channel: FdChannel) -> SessionsSent {
    // If the time limit cannot be set, the channel is gone, and sending the first session fails.
    let _ = fd_channel.set_timeout(ANSWER_MAX);
    let fd_channel = Arc::new(Mutex::new(fd_channel));
    let send: Arc<SendSession> = Arc::new({
        let fd_channel = Arc::clone(&fd_channel);
        move |packed| send_to_new_process(&mut lock(&fd_channel), packed)
    });
    let sent = send_all(servers, send, MOVE_MAX).await;
    // If the new process is gone by now, its own log says why.
    let _ = send_message(&mut lock(&fd_channel), &ToNew::Done);
    sent
}

/// Sends every session that can leave, by `send`, within `patience` at most.
pub(super) async fn send_all(
    servers: &Servers,
    send: Arc<SendSession>,
    patience: Duration,
) -> SessionsSent {
    let (mut moved, mut stayed) = (0, BTreeMap::<String, usize>::new());
    let ends = Instant::now() + patience;
    for server in servers.all() {
        let mut asked = BTreeSet::new();
        for _ in 0..LOOKS_MAX {
            let fresh = server.service.registry.handled();
            let fresh: Vec<_> =
                fresh.into_iter().filter(|(handle, _)| asked.insert(handle.info().id)).collect();
            if fresh.is_empty() {
                break;
            }
            let sending =
                fresh.into_iter().map(|session| send_session(&server, session, &send, ends));
            let mut sending = stream::iter(sending).buffer_unordered(PACKED_MAX);
            while let Some(outcome) = sending.next().await {
                match outcome {
                    Ok(()) => moved += 1,
                    Err(why) => *stayed.entry(why.to_string()).or_default() += 1,
                }
            }
        }
    }
    SessionsSent { moved, stayed }
}

/// Returns the number above which the next process numbers its sessions. Leaves [`IDS_SPARE`]
/// numbers or more after `last`.
pub(super) fn ids_above(last: u64) -> u64 {
    (last / IDS_SPARE + 2) * IDS_SPARE
}

/// Sends one session, or returns why it stays.
async fn send_session(
    server: &ServerHandle,
    (handle, slot): LiveSession,
    send: &Arc<SendSession>,
    ends: Instant,
) -> Result<(), LeaveError> {
    if Instant::now() >= ends {
        return Err(LeaveError::NoTime);
    }
    let mut packed = slot.ask_to_transfer();
    handle.look_at_slot();
    let packed = match tokio::time::timeout(BUSY_MAX, &mut packed).await {
        Ok(packed) => packed,
        Err(_) if slot.withdraw_transfer() => return Err(LeaveError::Busy),
        Err(_) => tokio::time::timeout(SAVE_MAX, packed).await.map_err(|_| LeaveError::Busy)?,
    };
    let (snapshot, verdict) = packed.map_err(|_| LeaveError::Ended)??;
    let registry = &server.service.registry;
    let starts_again = server.service.rollout.starts_again(slot.current().plugin());
    let not_on = server.service.rollout.not_recorded();
    let host = server.host().clone();
    let (server, name) = (server.name().to_owned(), registry.name_of(handle.info().id));
    let ids_above = ids_above(registry.last_id());
    let packed = PackedSession { server, name, ids_above, starts_again, not_on, snapshot, verdict };
    let send = Arc::clone(send);
    let sent = host.work(WorkKind::Urgent, move || send(packed));
    sent.await.map_err(|error| match error {
        WorkError::Ending => LeaveError::Stopping,
        _ => LeaveError::HostFault,
    })?
}

/// Sends one session to the new process. If this fails before the verdict, dropping the verdict
/// lets the session go on here.
fn send_to_new_process(
    fd_channel: &mut FdChannel,
    packed: PackedSession,
) -> Result<(), LeaveError> {
    let PackedSession { server, name, not_on, snapshot, verdict, .. } = packed;
    let SessionSnapshot { meta, mut state, queued, socket } = snapshot;
    let offer =
        ToNew::Session { server, name, not_on, state_bytes: state.len(), meta: Box::new(meta) };
    let head = serde_json::to_vec(&offer).map_err(io::Error::from)?;
    state.extend_from_slice(&queued);
    // Once a message is missing, the two sides are out of step, so the channel is closed.
    let lost = |fd_channel: &FdChannel| {
        fd_channel.close();
        LeaveError::PeerGone
    };
    if let Err(error) = fd_channel.send(&head, &state, Some(socket.as_fd())) {
        return Err(match error.kind() {
            io::ErrorKind::InvalidInput => LeaveError::TooLarge,
            _ => lost(fd_channel),
        });
    }
    let answer =
        fd_channel.receive().ok().and_then(|message| serde_json::from_slice(&message.head).ok());
    match answer {
        Some(ToOld::Takes) => {}
        Some(ToOld::Refuses { why }) => return Err(LeaveError::Refused(why)),
        _ => return Err(lost(fd_channel)),
    }
    // From here on the session belongs to the new process, unless it has given up waiting.
    let go = verdict.send(true).is_ok();
    if send_message(fd_channel, &ToNew::Verdict { go }).is_err() {
        let why = lost(fd_channel);
        // If `go`, this process has released the session, and the new process does not know that it
        // may go on.
        return Err(if go { LeaveError::Lost } else { why });
    }
    if go { Ok(()) } else { Err(LeaveError::Busy) }
}
