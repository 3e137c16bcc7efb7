//! The end of a session: blame, canary and probation count it, and a fault may be replayed.

use std::sync::{Arc, Weak};
use std::time::Instant;

use super::blame::{Blamed, ClientSource, PendingReplay};
use super::change::VersionedServer;
use super::env;
use super::watch::decide_when_due;
use crate::plugin::EventProcedure;

/// Counts the end of a session, by a fault of its plugin or well. The breaker counts elsewhere.
pub(crate) fn count_session_end<S: VersionedServer>(
    server: &Arc<S>,
    source: ClientSource,
    procedure: &Arc<EventProcedure>,
    mut blamed: Option<Blamed>,
) {
    let (rollout, now) = (server.rollout(), env::now());
    rollout.blame.ended(procedure.metrics(), source, blamed.as_ref(), now);
    let by_canary = rollout
        .canary()
        .and_then(|canary| canary.count_session_end(procedure, source, blamed.as_ref(), now));
    let by_probation = count_on_probation(server, procedure, source, blamed.as_ref(), now);
    // A version is either a canary or on probation.
    let evidence =
        blamed.as_mut().and_then(|blamed| Some((blamed.evidence.take()?, blamed.fault())));
    if let (Some(pending), Some((evidence, fault))) = (by_probation.or(by_canary), evidence) {
        rollout.blame.replay(&**server, pending, evidence, fault, now);
    }
}

/// Counts the end of a session for a version on probation. Returns the fault to replay. Starts the
/// decision about the version when it is due.
fn count_on_probation<S: VersionedServer>(
    server: &Arc<S>,
    procedure: &Arc<EventProcedure>,
    source: ClientSource,
    blamed: Option<&Blamed>,
    now: Instant,
) -> Option<PendingReplay> {
    let (pending, begins, comparison) = server.rollout().with_probation(|probation| {
        let (pending, begins) = probation.count_session_end(procedure, source, blamed, now);
        (pending, begins, probation.suspect.comparison())
    })?;
    if begins {
        let weak: Weak<S> = Arc::downgrade(server);
        env::spawn(server.runtime(), decide_when_due(weak, comparison));
    }
    pending
}
