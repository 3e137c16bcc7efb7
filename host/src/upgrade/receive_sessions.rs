//! Sessions of the old process that come into this one. They come one after the other, and each is
//! restored here before this process accepts it.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::handover::{RestoreError, ToNew, ToOld, send_message};
use crate::net::{FdChannel, FdMessage};
use crate::serve;
use crate::servers::Servers;
use crate::session::{SessionMeta, SessionSnapshot};

/// Time that a session may take to be restored.
const RESTORE_MAX: Duration = Duration::from_secs(10);

/// Takes sessions until the old process is done or gone. Calls `begins` after the first message of
/// the old process, or when that is gone. Blocks.
pub(super) fn receive(servers: &Servers, mut fd_channel: FdChannel, begins: impl FnOnce()) {
    let mut begins = Some(begins);
    loop {
        let message = fd_channel.receive();
        if let Some(begins) = begins.take() {
            begins();
        }
        let Ok(message) = message else { return };
        let Ok(ToNew::Session { server, name, not_on, state_bytes, meta }) =
            serde_json::from_slice(&message.head)
        else {
            return;
        };
        let id = meta.id;
        let received = receive_session(servers, &server, not_on, name, state_bytes, *meta, message);
        let go = match received {
            Ok(go) => go,
            Err(error) => {
                let why = error.to_string();
                tracing::warn!(
                    server,
                    session = id,
                    why,
                    "a session of the old process stays there"
                );
                match send_message(&mut fd_channel, &ToOld::Refuses { why }) {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            }
        };
        // If the old process does not answer, it still has the session, and this copy is dropped.
        if send_message(&mut fd_channel, &ToOld::Takes).is_err() {
            return;
        }
        match fd_channel
            .receive()
            .ok()
            .and_then(|message| serde_json::from_slice(&message.head).ok())
        {
            Some(ToNew::Verdict { go: true }) => drop(go.send(())),
            Some(ToNew::Verdict { go: false }) => {}
            _ => return,
        }
    }
}

/// Restores a session, which then waits here for the verdict. Sending on the returned channel lets
/// the session go on.
fn receive_session(
    servers: &Servers,
    server: &str,
    not_on: Option<String>,
    name: Option<String>,
    state_bytes: usize,
    meta: SessionMeta,
    message: FdMessage,
) -> Result<oneshot::Sender<()>, RestoreError> {
    let server = servers.get(server).ok_or(RestoreError::NoServer)?;
    let service = Arc::clone(&server.service);
    if not_on.is_some_and(|digest| service.procedure().plugin().digest() == digest) {
        return Err(RestoreError::OtherVersion);
    }
    let FdMessage { mut body, descriptor: Some(socket), .. } = message else {
        return Err(RestoreError::NoConnection);
    };
    if state_bytes > body.len() {
        return Err(RestoreError::NoState);
    }
    let queued = body.split_off(state_bytes);
    let state = *service.state().borrow();
    if state.status.is_final() {
        return Err(RestoreError::Stopping);
    }
    let permit = service.gate.readmit(meta.peer.ip(), Instant::now());
    let permit = permit.map_err(RestoreError::NotAdmitted)?;
    let snapshot = SessionSnapshot { meta, state: body, queued, socket };
    let (go, goes) = oneshot::channel();
    let (restored, outcome) = sync_channel(1);
    let restored = move |how| drop(restored.send(how));
    let epoch = state.epoch;
    let task = service.task(epoch);
    let serving = Arc::clone(&service);
    service.spawn(move |placement| {
        serve::resume(serving, snapshot, name, permit, (epoch, task, placement), restored, goes)
    });
    match outcome.recv_timeout(RESTORE_MAX) {
        Ok(Ok(())) => Ok(go),
        Ok(Err(why)) => Err(why),
        Err(_) => Err(RestoreError::TimedOut),
    }
}
