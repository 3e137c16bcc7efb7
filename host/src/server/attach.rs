//! Detached sessions that this process attaches. No other process has them.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::handover::{DetachedSession, RestoreError};
use crate::serve;
use crate::service::Service;
use crate::telemetry::SessionNotRestored;

/// Attaches a detached session. If that fails, the host closes the connection and logs why. The
/// session has its permit when this returns.
pub(super) fn resume_detached(service: &Arc<Service>, session: DetachedSession) {
    let id = session.meta.id;
    let lost = move |service: &Service, why: &str| {
        let session = SessionNotRestored { server: &service.name, session: id, reason: why };
        session.emit(&service.counters, &service.session_lines);
    };
    let permit = match service.gate.readmit(session.meta.peer.ip(), Instant::now()) {
        Ok(permit) => permit,
        Err(refusal) => return lost(service, refusal.name()),
    };
    let (go, goes) = oneshot::channel();
    // No other process has the session, so it need not wait for a verdict.
    let _ = go.send(());
    let epoch = service.state().borrow().epoch;
    let (task, serving) = (service.task(epoch), Arc::clone(service));
    service.spawn(move |placement| async move {
        let (name, snapshot) = match session.unpack() {
            Ok(unpacked) => unpacked,
            Err(error) => return lost(&serving, &error.to_string()),
        };
        let hears = Arc::clone(&serving);
        let restored = move |how: Result<(), RestoreError>| {
            if let Err(error) = how {
                lost(&hears, &error.to_string());
            }
        };
        serve::resume(serving, snapshot, name, permit, (epoch, task, placement), restored, goes)
            .await;
    });
}
