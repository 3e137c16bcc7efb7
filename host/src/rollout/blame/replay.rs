//! Replays: a fault of a new version is tried on the version before, in background. The tenant is
//! charged.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::ready;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::Finding;
use super::comparison::REPLAYS_WAIT_MAX;
use super::port::ReplayPort;
use super::suspect::PendingReplay;
use crate::event::{Action, Event, FaultKind, Instance, Priority, Procedure, Scope};
use crate::locks::lock;
use crate::plugin::EventProcedure;
use crate::rollout::live::LiveSessions;
use crate::sched::{Budgets, Placement, RunPermit, Stretch};
use crate::session::{FaultEvidence, Fidelity};
use crate::telemetry::FaultReplayed;

/// Longest time of one replay.
const REPLAY_MAX: Duration = Duration::from_secs(5);

/// Name of a failed event, and the kind of its fault.
pub(super) type Failure = (&'static str, FaultKind);

/// Begins a replay once `replaying` admits it. Its finding always reaches the comparison.
pub(super) fn begin(
    server: &dyn LiveSessions,
    replaying: Arc<Semaphore>,
    pending: PendingReplay,
    evidence: Box<FaultEvidence>,
    (event, kind): Failure,
) {
    let (name, counters) = (Arc::clone(server.name()), Arc::clone(server.counters()));
    let config = server.session_config();
    let port =
        ReplayPort::new(evidence.client.clone(), evidence.class, config.watermarks.high_bytes);
    let peers = server.peers();
    let (comparison, mark) = (pending.comparison, pending.mark);
    let setup =
        ReplaySetup { scope: port.scope(peers), port, budgets: config.budgets, kind, evidence };
    // A waiting replay does not keep a version in memory.
    let before = Arc::downgrade(&pending.before);
    server.spawn_idle(Box::new(move |placement| {
        let run_permit = RunPermit::new(
            Arc::clone(&placement),
            Priority::Background,
            Arc::clone(&config.tenant),
            Arc::clone(&config.quota),
        );
        Box::pin(async move {
            let finding = Box::pin(alone(replaying, before, setup, run_permit, placement)).await;
            FaultReplayed { server: &name, event, kind, finding: finding.name() }.emit(&counters);
            lock(&comparison).replayed(mark, finding);
        })
    }));
}

/// All that a replay needs.
struct ReplaySetup {
    scope: Scope,
    port: Arc<ReplayPort>,
    budgets: Budgets,
    kind: FaultKind,
    evidence: Box<FaultEvidence>,
}

/// Waits until no other replay runs, and runs this one.
async fn alone(
    replaying: Arc<Semaphore>,
    before: Weak<EventProcedure>,
    setup: ReplaySetup,
    mut run_permit: RunPermit,
    _placement: Arc<Placement>,
) -> Finding {
    let waited = tokio::time::timeout(REPLAYS_WAIT_MAX, replaying.acquire()).await;
    let (Ok(Ok(_alone)), Some(before)) = (waited, before.upgrade()) else { return Finding::Unsure };
    // A replay must not end a shared instance that other sessions use.
    let before = before.with_instance_each();
    let port = Arc::clone(&setup.port);
    let played = pin!(play(&before, setup));
    let outcome = tokio::time::timeout(REPLAY_MAX, in_slices(&mut run_permit, &port, played)).await;
    outcome.unwrap_or(Finding::Unsure)
}

/// Runs the session up to the event that failed, and that event.
async fn play(before: &EventProcedure, setup: ReplaySetup) -> Finding {
    let ReplaySetup { scope, budgets, kind, mut evidence, .. } = setup;
    let (start, budget) = (budgets.start(evidence.class), budgets.event(evidence.class));
    let Some(event) = evidence.event.as_ref().map(|kept| kept.event()) else {
        return found(before.instantiate(scope, start).await.map(drop), kind, evidence.fidelity);
    };
    let instance = match evidence.saved.take() {
        Some(saved) => {
            let (state, version) = (*saved).parts();
            before.take_over(scope, start, budget, &version, state).await
        }
        None => match (before.instantiate(scope, start).await, event) {
            (Ok(instance), Event::Connect) => Ok(instance),
            (Ok(mut instance), _) => match instance.dispatch(Event::Connect, budget).await {
                Ok(Action::Proceed) => Ok(instance),
                Ok(_) => return Finding::Unsure,
                Err(fault) => Err(fault),
            },
            (Err(fault), _) => Err(fault),
        },
    };
    let Ok(mut instance) = instance else { return Finding::Unsure };
    found(instance.dispatch(event, budget).await.map(drop), kind, evidence.fidelity)
}

/// Returns the finding about a fault of this kind, from the outcome on the version before.
fn found(outcome: Result<(), crate::event::Fault>, kind: FaultKind, fidelity: Fidelity) -> Finding {
    match (outcome, fidelity) {
        // A trap may come from the state that a partial replay lacks. Exceeding a budget does not.
        (Err(fault), Fidelity::Partial) if are_alike(fault.kind, kind) && !is_work(kind) => {
            Finding::Unsure
        }
        (Err(fault), _) if are_alike(fault.kind, kind) => Finding::Same,
        (Err(_), _) | (Ok(()), Fidelity::Partial) => Finding::Unsure,
        (Ok(()), Fidelity::Exact) => Finding::Differs,
    }
}

/// Whether two kinds count as the same. Fuel and CPU time do, because chance decides which of them
/// is used up first.
fn are_alike(one: FaultKind, other: FaultKind) -> bool {
    one == other || (is_work(one) && is_work(other))
}

/// Whether the event did more than its budget allows.
fn is_work(kind: FaultKind) -> bool {
    matches!(kind, FaultKind::Fuel | FaultKind::CpuTime)
}

/// Polls a call in slices, with a run permit of its lane. Charges the tenant for its CPU time.
async fn in_slices<F: Future>(
    run_permit: &mut RunPermit,
    port: &ReplayPort,
    mut call: Pin<&mut F>,
) -> F::Output {
    run_permit.begin(Priority::Background, Instant::now());
    let output = poll_fn(|cx| {
        loop {
            ready!(run_permit.poll(cx));
            let start = Instant::now();
            run_permit.slice(Some(start));
            let stretch = Stretch::begin(start);
            let polled = call.as_mut().poll(cx);
            let used = stretch.end();
            run_permit.slice(None);
            run_permit.used(used);
            if polled.is_ready() || !port.slice_ended() {
                run_permit.rest();
                return polled;
            }
            run_permit.pause();
        }
    })
    .await;
    run_permit.rest();
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Fault;

    #[test]
    fn only_same_kind_of_fault_excuses() {
        let fault = |kind| Err(Fault::new(kind, ""));
        let trap = FaultKind::Trap("unreachable");
        let (exact, partial) = (Fidelity::Exact, Fidelity::Partial);
        assert_eq!(found(fault(trap), trap, exact), Finding::Same);
        assert_eq!(found(fault(trap), trap, partial), Finding::Unsure);
        assert_eq!(found(fault(FaultKind::Fuel), FaultKind::Fuel, partial), Finding::Same);
        assert_eq!(found(fault(FaultKind::CpuTime), FaultKind::Fuel, exact), Finding::Same);
        assert_eq!(found(fault(FaultKind::Trap("stack-overflow")), trap, exact), Finding::Unsure);
        assert_eq!(found(fault(FaultKind::Capacity), trap, exact), Finding::Unsure);
        assert_eq!(found(Ok(()), trap, partial), Finding::Unsure);
        assert_eq!(found(Ok(()), trap, exact), Finding::Differs);
    }
}
