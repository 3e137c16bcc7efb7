//! The slot that holds a session's procedure, and the requests to migrate or transfer the session.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{oneshot, watch};

use super::snapshot::TransferRequest;
use crate::event::Fault;
use crate::locks::lock;
use crate::sched::stalls;

/// The procedure of one session. The session itself takes the next one, between two events.
#[derive(Debug)]
pub struct ProcedureSlot<P> {
    current: ArcSwap<P>,
    next: Mutex<Next<P>>,
}

#[derive(Debug)]
struct Next<P> {
    migration: Option<Migration<P>>,
    transfer: Option<TransferRequest>,
    /// The session is to end, so no migration follows.
    closed: bool,
}

/// A request to migrate the session to the procedure `to`.
#[derive(Debug)]
pub(super) struct Migration<P> {
    pub(super) to: Arc<P>,
    /// The session's vote, if the migration is atomic.
    pub(super) vote: Option<PrepareVote>,
    report: oneshot::Sender<MigrateOutcome>,
}

/// A session's vote in an atomic migration: reports that the session is ready, then waits for the
/// verdict on all sessions.
#[derive(Debug)]
pub(super) struct PrepareVote {
    ready: Option<oneshot::Sender<()>>,
    verdict: watch::Receiver<Option<bool>>,
    /// How long the session waits for the verdict. After that it stays.
    pub(super) wait_max: Duration,
}

impl PrepareVote {
    /// Completes when the verdict is no, or when its sender is gone. Dropping the future is safe.
    pub(super) fn called_off(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut verdict = self.verdict.clone();
        async move {
            if let Ok(decided) = verdict.wait_for(Option::is_some).await.map(|decided| *decided)
                && decided == Some(true)
            {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Reports that the session is ready, then waits for the verdict. Returns whether the session
    /// moves. It stays if the sender of the verdict is gone, or if the verdict takes longer than
    /// [`PrepareVote::wait_max`]. Dropping the future is safe.
    pub(super) async fn cast(mut self) -> bool {
        if let Some(ready) = self.ready.take() {
            // The requester may have stopped waiting; then the verdict says so.
            let _ = ready.send(());
        }
        let decided = stalls::within(self.wait_max, self.verdict.wait_for(Option::is_some)).await;
        decided.is_some_and(|decided| decided.is_ok_and(|verdict| *verdict == Some(true)))
    }
}

/// The outcome of a migration. The receiver of the report gets none if the session ended first.
#[derive(Debug)]
pub enum MigrateOutcome {
    /// The new procedure handles the session. Holds the time in which no procedure did.
    Moved(Duration),
    /// The session stays on its procedure, because of this fault.
    Stayed(Fault),
    /// The session is over, because the old version could not save it or it had to end meanwhile.
    Lost(Fault),
}

impl<P> ProcedureSlot<P> {
    /// Makes the slot of a session that starts with this procedure.
    #[must_use]
    pub fn new(current: Arc<P>) -> Self {
        Self {
            current: ArcSwap::new(current),
            next: Mutex::new(Next { migration: None, transfer: None, closed: false }),
        }
    }

    /// The procedure that handles the session.
    #[must_use]
    pub fn current(&self) -> Arc<P> {
        self.current.load_full()
    }

    /// Replaces the procedure before the session starts.
    pub fn start_with(&self, procedure: Arc<P>) {
        self.current.store(procedure);
    }

    /// Requests a migration, and replaces a request that has not begun. The caller then has to call
    /// [`SessionHandle::look_at_slot`](super::SessionHandle::look_at_slot).
    pub fn ask(&self, to: Arc<P>) -> oneshot::Receiver<MigrateOutcome> {
        self.put(to, None)
    }

    /// Requests an atomic migration. The first receiver completes when the session is ready. The
    /// session then waits for the verdict, for `wait_max` at most and only while its sender
    /// exists.
    pub fn ask_together(
        &self,
        to: Arc<P>,
        verdict: watch::Receiver<Option<bool>>,
        wait_max: Duration,
    ) -> (oneshot::Receiver<()>, oneshot::Receiver<MigrateOutcome>) {
        let (ready, is_ready) = oneshot::channel();
        (is_ready, self.put(to, Some(PrepareVote { ready: Some(ready), verdict, wait_max })))
    }

    fn put(&self, to: Arc<P>, vote: Option<PrepareVote>) -> oneshot::Receiver<MigrateOutcome> {
        let (report, reported) = oneshot::channel();
        let mut next = self.next();
        if !next.closed {
            next.migration = Some(Migration { to, vote, report });
        }
        reported
    }

    /// Closes the slot because the session is to end. Pending and later requests get no report.
    pub(super) fn close(&self) {
        *self.next() = Next { migration: None, transfer: None, closed: true };
    }

    /// Withdraws the requested migration. Returns false if it has begun, or if there is none.
    pub fn withdraw(&self) -> bool {
        self.next().migration.take().is_some()
    }

    /// Whether a migration was requested and has not begun.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.next().migration.is_some()
    }

    pub(super) fn put_transfer(&self, transfer: TransferRequest) {
        let mut next = self.next();
        if !next.closed {
            next.transfer = Some(transfer);
        }
    }

    pub(super) fn take_transfer(&self) -> Option<TransferRequest> {
        self.next().transfer.take()
    }

    /// Withdraws the request for a transfer. Returns false if the session is about to leave, or if
    /// there is no request.
    pub fn withdraw_transfer(&self) -> bool {
        self.take_transfer().is_some()
    }

    pub(super) fn take(&self) -> Option<Migration<P>> {
        self.next().migration.take()
    }

    pub(super) fn commit(&self, to: &Arc<P>) {
        self.current.store(Arc::clone(to));
    }

    fn next(&self) -> MutexGuard<'_, Next<P>> {
        lock(&self.next)
    }
}

impl<P> Migration<P> {
    pub(super) fn report(self, handed: MigrateOutcome) {
        // The requester may have stopped waiting.
        let _ = self.report.send(handed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn late_verdict_counts_as_no() {
        let slot = ProcedureSlot::new(Arc::new(1));
        let (decide, verdict) = watch::channel(None);
        let (ready, _reported) = slot.ask_together(Arc::new(2), verdict, Duration::from_millis(10));
        let vote =
            slot.take().and_then(|mut migration| migration.vote.take()).expect("it was asked");
        assert!(!vote.cast().await);
        assert!(ready.await.is_ok(), "it was ready");
        drop(decide);
    }

    #[tokio::test]
    async fn a_verdict_is_heard() {
        for yes in [true, false] {
            let slot = ProcedureSlot::new(Arc::new(1));
            let (decide, verdict) = watch::channel(None);
            let (_ready, _reported) =
                slot.ask_together(Arc::new(2), verdict, Duration::from_secs(60));
            let vote =
                slot.take().and_then(|mut migration| migration.vote.take()).expect("it was asked");
            decide.send(Some(yes)).expect("it listens");
            assert_eq!(vote.cast().await, yes);
        }
    }
}
