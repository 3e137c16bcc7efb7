//! What handles a session, and what is to take it over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{oneshot, watch};

use super::snapshot::TransferRequest;
use crate::event::Fault;
use crate::sched::stalls;

/// The procedure of one session. The session itself moves from one to the next, between two events.
#[derive(Debug)]
pub struct ProcedureSlot<P> {
    current: ArcSwap<P>,
    next: Mutex<Next<P>>,
}

#[derive(Debug)]
struct Next<P> {
    migration: Option<Migration<P>>,
    transfer: Option<TransferRequest>,
    /// The session is to end: there will be no hand-over.
    closed: bool,
}

/// A session is to move to this procedure.
#[derive(Debug)]
pub(super) struct Migration<P> {
    pub(super) to: Arc<P>,
    /// It moves with others, or not at all.
    pub(super) vote: Option<PrepareVote>,
    report: oneshot::Sender<MigrateOutcome>,
}

/// What a session that moves with others says and hears: that it is ready, and then whether all
/// are.
#[derive(Debug)]
pub(super) struct PrepareVote {
    ready: Option<oneshot::Sender<()>>,
    verdict: watch::Receiver<Option<bool>>,
    /// How long it waits for the verdict. Then it does not move.
    pub(super) call_deadlines: Duration,
}

impl PrepareVote {
    /// Done when it is decided that nobody moves, or nobody decides any more. Dropping it is safe.
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

    /// Says that it is ready, and waits for what is decided. Where nobody decides any more, or not
    /// in time, it does not move. Dropping the future is safe.
    pub(super) async fn cast(mut self) -> bool {
        if let Some(ready) = self.ready.take() {
            // Whoever asked may have lost patience; then the verdict says so.
            let _ = ready.send(());
        }
        let decided =
            stalls::within(self.call_deadlines, self.verdict.wait_for(Option::is_some)).await;
        decided.is_some_and(|decided| decided.is_ok_and(|verdict| *verdict == Some(true)))
    }
}

/// What became of it. Whoever waits for this and hears nothing: the session ended before.
#[derive(Debug)]
pub enum MigrateOutcome {
    /// The session is handled by the new procedure. How long it was not handled at all.
    Moved(Duration),
    /// It is handled as before, and this is why.
    Stayed(Fault),
    /// It is over, because the old version could not save it.
    Lost(Fault),
}

impl<P> ProcedureSlot<P> {
    /// Of a session that starts with this procedure.
    #[must_use]
    pub fn new(current: Arc<P>) -> Self {
        Self {
            current: ArcSwap::new(current),
            next: Mutex::new(Next { migration: None, transfer: None, closed: false }),
        }
    }

    /// What handles the session.
    #[must_use]
    pub fn current(&self) -> Arc<P> {
        self.current.load_full()
    }

    /// It starts with another one after all.
    pub fn start_with(&self, procedure: Arc<P>) {
        self.current.store(procedure);
    }

    /// Asks for a hand-over; one that was asked for and not begun is forgotten. The session has to
    /// be told to look.
    pub fn ask(&self, to: Arc<P>) -> oneshot::Receiver<MigrateOutcome> {
        self.put(to, None)
    }

    /// The same for a session that is to move with others, or not at all: it says when it is ready,
    /// and then waits for the verdict, for as long as whoever gives it is there, and so long at
    /// most.
    pub fn ask_together(
        &self,
        to: Arc<P>,
        verdict: watch::Receiver<Option<bool>>,
        call_deadlines: Duration,
    ) -> (oneshot::Receiver<()>, oneshot::Receiver<MigrateOutcome>) {
        let (ready, is_ready) = oneshot::channel();
        (is_ready, self.put(to, Some(PrepareVote { ready: Some(ready), verdict, call_deadlines })))
    }

    fn put(&self, to: Arc<P>, vote: Option<PrepareVote>) -> oneshot::Receiver<MigrateOutcome> {
        let (report, reported) = oneshot::channel();
        let mut next = self.next();
        if !next.closed {
            next.migration = Some(Migration { to, vote, report });
        }
        reported
    }

    /// The session is to end: whoever waits for a hand-over hears nothing, and so does whoever asks
    /// for one.
    pub(super) fn close(&self) {
        *self.next() = Next { migration: None, transfer: None, closed: true };
    }

    /// Takes the wish back. False where the hand-over has begun, or nothing was asked for.
    pub fn withdraw(&self) -> bool {
        self.next().migration.take().is_some()
    }

    /// Whether a hand-over was asked for and has not begun.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.next().migration.is_some()
    }

    pub(super) fn put_departure(&self, transfer: TransferRequest) {
        let mut next = self.next();
        if !next.closed {
            next.transfer = Some(transfer);
        }
    }

    pub(super) fn take_departure(&self) -> Option<TransferRequest> {
        self.next().transfer.take()
    }

    /// Asks a session no more to leave. False where it is about to.
    pub fn asks_no_more(&self) -> bool {
        self.take_departure().is_some()
    }

    pub(super) fn take(&self) -> Option<Migration<P>> {
        self.next().migration.take()
    }

    pub(super) fn commit(&self, to: &Arc<P>) {
        self.current.store(Arc::clone(to));
    }

    fn next(&self) -> MutexGuard<'_, Next<P>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P> Migration<P> {
    pub(super) fn report(self, handed: MigrateOutcome) {
        // Whoever asked may have lost patience.
        let _ = self.report.send(handed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_verdict_that_does_not_come_in_time_is_a_no() {
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
