//! The lock of swaps. It has two ranks of callers: roll-backs, promotions, reloads and upgrades
//! come before swaps and canaries that wait.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::locks::lock;
use tokio::sync::oneshot;

/// Callers of one rank that may wait. The control API lets 32 calls of a class wait; the other
/// places are for programs that embed the host.
const WAITING_MAX: usize = 256;
/// Attempts to take several locks together.
const ROUNDS_MAX: usize = 64;

/// Why a caller may not wait for a change of a server's version. The caller may try again once some
/// changes are done. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} changes of the server's version are under way already; try again once some are done",
    WAITING_MAX
)]
#[non_exhaustive]
pub struct TooManyWaitingError;

/// Rank of a caller. Callers of one rank get the lock in the order of their requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rank {
    /// Right after the current holder.
    Next,
    /// After all callers of rank `Next`.
    InTurn,
}

/// The lock.
#[derive(Debug, Default)]
pub(super) struct Exclusive(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_held: bool,
    next: VecDeque<oneshot::Sender<Held>>,
    in_turn: VecDeque<oneshot::Sender<Held>>,
    /// Callers that were refused, because too many waited.
    refused: u64,
}

impl State {
    /// Callers of a rank that wait. Cancelled callers are removed, so that they do not add up.
    fn waiting(&mut self, rank: Rank) -> &mut VecDeque<oneshot::Sender<Held>> {
        let waiting = match rank {
            Rank::Next => &mut self.next,
            Rank::InTurn => &mut self.in_turn,
        };
        waiting.retain(|waits| !waits.is_closed());
        waiting
    }
}

/// The held lock. Dropping it frees the lock.
#[derive(Debug)]
pub(super) struct Held(Arc<Exclusive>);

impl Exclusive {
    /// Waits for the lock. Cancel-safe.
    ///
    /// # Errors
    /// [`TooManyWaitingError`] if [`WAITING_MAX`] callers of the rank wait.
    pub(super) async fn lock(self: &Arc<Self>, rank: Rank) -> Result<Held, TooManyWaitingError> {
        loop {
            let told = {
                let mut state = self.state();
                if state.is_held && state.waiting(rank).len() >= WAITING_MAX {
                    state.refused += 1;
                    return Err(TooManyWaitingError);
                }
                match self.ask(&mut state, rank) {
                    Ok(held) => return Ok(held),
                    Err(told) => told,
                }
            };
            if let Ok(held) = told.await {
                return Ok(held);
            }
        }
    }

    /// Waits for the lock with [`Rank::Next`], for one of the few tasks of the host's own. Callers
    /// that fill the queue do not hold up its roll-back. Cancel-safe.
    pub(super) async fn lock_for_host(self: &Arc<Self>) -> Held {
        loop {
            let asked = self.ask(&mut self.state(), Rank::Next);
            match asked {
                Ok(held) => return held,
                Err(told) => {
                    if let Ok(held) = told.await {
                        return held;
                    }
                }
            }
        }
    }

    /// Takes the lock if it is free, or else joins the callers that wait.
    fn ask(
        self: &Arc<Self>,
        state: &mut State,
        rank: Rank,
    ) -> Result<Held, oneshot::Receiver<Held>> {
        if !std::mem::replace(&mut state.is_held, true) {
            return Ok(Held(Arc::clone(self)));
        }
        let (tell, told) = oneshot::channel();
        state.waiting(rank).push_back(tell);
        Err(told)
    }

    /// Takes the lock if it is free. Does not wait.
    pub(super) fn try_lock(self: &Arc<Self>) -> Option<Held> {
        let mut state = self.state();
        let is_free = !std::mem::replace(&mut state.is_held, true);
        is_free.then(|| Held(Arc::clone(self)))
    }

    /// Number of callers that were refused, because too many waited.
    pub(super) fn refused(&self) -> u64 {
        self.state().refused
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        loop {
            let next = {
                let mut state = self.0.state();
                let next = state.next.pop_front().or_else(|| state.in_turn.pop_front());
                state.is_held = next.is_some();
                next
            };
            match next {
                Some(gone) if gone.is_closed() => {}
                // A caller that is cancelled right now drops the lock, which frees it again.
                Some(next) => return drop(next.send(Held(Arc::clone(&self.0)))),
                None => return,
            }
        }
    }
}

/// Takes all of these locks, each with [`Rank::Next`]. While this waits for one, it holds none, so
/// that a slow holder of one delays no caller of another. Cancel-safe.
///
/// # Errors
/// The index of a lock that was held at the last of [`ROUNDS_MAX`] attempts, or for which too many
/// callers wait. None is held then.
pub(super) async fn lock_all(locks: &[Arc<Exclusive>]) -> Result<Vec<Held>, usize> {
    let mut waited_for: Option<(usize, Held)> = None;
    let mut rounds = 0;
    loop {
        let mut held = Vec::with_capacity(locks.len());
        let has = waited_for.as_ref().map(|(at, _)| *at);
        let busy =
            (0..locks.len()).filter(|at| Some(*at) != has).find(|at| match locks[*at].try_lock() {
                Some(lock) => {
                    held.push(lock);
                    false
                }
                None => true,
            });
        let Some(busy) = busy else {
            held.extend(waited_for.map(|(_, lock)| lock));
            return Ok(held);
        };
        rounds += 1;
        if rounds >= ROUNDS_MAX {
            return Err(busy);
        }
        drop((held, waited_for.take()));
        let Ok(lock) = locks[busy].lock(Rank::Next).await else { return Err(busy) };
        waited_for = Some((busy, lock));
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::rng::Rng;

    type Waits = Pin<Box<dyn Future<Output = Result<Held, TooManyWaitingError>>>>;

    fn poll(waits: &mut Waits) -> Option<Held> {
        match waits.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(held) => Some(held.expect("a place")),
            Poll::Pending => None,
        }
    }

    /// Polls a caller that does not get the lock now. Returns true if it may not wait.
    fn is_refused(waits: &mut Waits) -> bool {
        match waits.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(_)) => panic!("another caller holds the lock"),
            Poll::Ready(Err(TooManyWaitingError)) => true,
            Poll::Pending => false,
        }
    }

    fn ask(lock: &Arc<Exclusive>, rank: Rank) -> Waits {
        let lock = Arc::clone(lock);
        Box::pin(async move { lock.lock(rank).await })
    }

    #[test]
    fn lock_all_holds_nothing_while_waiting() {
        let mut given_up = 0;
        for seed in 1_u64..100 {
            let mut rng = Rng(seed);
            let mut below = |most: u64| rng.throw(most) as usize;
            let locks: Vec<_> = (0..1 + below(5)).map(|_| Arc::new(Exclusive::default())).collect();
            let mut holders: Vec<_> = locks.iter().map(|lock| lock.try_lock()).collect();
            // Some servers are swapped all the time, others come to rest.
            let goes_on = locks.len() > 1 && below(2) == 0;
            let mut all = pin!(lock_all(&locks));
            let mut cx = Context::from_waker(Waker::noop());
            let mut steps = 0;
            let got = loop {
                if let Poll::Ready(got) = all.as_mut().poll(&mut cx) {
                    break got;
                }
                for (lock, holder) in locks.iter().zip(&holders) {
                    let is_free = lock.try_lock().is_some();
                    assert!(
                        is_free || holder.is_some(),
                        "seed {seed}: one is held while another is waited for"
                    );
                }
                let held: Vec<_> = (0..locks.len()).filter(|at| holders[*at].is_some()).collect();
                let freed = held[below(held.len() as u64)];
                if goes_on {
                    // Another swap begins before this one ends.
                    let other = (freed + 1) % locks.len();
                    holders[other] = holders[other].take().or_else(|| locks[other].try_lock());
                }
                holders[freed] = None;
                steps += 1;
                assert!(steps < 10_000, "seed {seed}: it ends");
            };
            match got {
                Ok(held) => assert!(!goes_on && held.len() == locks.len(), "seed {seed}"),
                Err(busy) => {
                    assert!(goes_on && holders[busy].is_some(), "seed {seed}");
                    given_up += 1;
                }
            }
        }
        assert!(given_up > 0, "some are swapped all the time");
    }

    #[test]
    fn next_comes_before_all_in_turn() {
        for seed in 1_u64..200 {
            let mut rng = Rng(seed);
            let mut below = |most: u64| rng.throw(most);
            let lock = Arc::new(Exclusive::default());
            let mut held =
                Some(pin!(lock.lock(Rank::InTurn)).poll(&mut Context::from_waker(Waker::noop())));
            assert!(matches!(held, Some(Poll::Ready(_))), "it is free");
            let mut waiting: Vec<(Rank, usize, Waits)> = Vec::new();
            for number in 0..40 {
                let rank = if below(4) == 0 { Rank::Next } else { Rank::InTurn };
                let mut one = ask(&lock, rank);
                assert!(poll(&mut one).is_none() && lock.try_lock().is_none(), "seed {seed}");
                waiting.push((rank, number, one));
                if below(3) == 0 {
                    drop(waiting.swap_remove(below(waiting.len() as u64) as usize));
                }
            }
            waiting.sort_by_key(|(rank, number, _)| (*rank != Rank::Next, *number));
            held = None;
            assert!(held.is_none());
            for (rank, number, mut one) in waiting {
                drop(
                    poll(&mut one)
                        .unwrap_or_else(|| panic!("seed {seed}: {rank:?} {number} is not next")),
                );
            }
            assert!(lock.try_lock().is_some(), "seed {seed}: it is free again");
        }
    }

    #[test]
    fn waiting_callers_have_a_maximum() {
        let around = || (0..=2).chain(WAITING_MAX - 3..=WAITING_MAX + 3);
        for (rank, other) in [(Rank::Next, Rank::InTurn), (Rank::InTurn, Rank::Next)] {
            for asking in around() {
                let (mut rng, lock) = (Rng(asking as u64), Arc::new(Exclusive::default()));
                let held = lock.try_lock();
                let (mut waiting, mut refused) = (Vec::new(), 0);
                for _ in 0..asking {
                    let mut one = ask(&lock, rank);
                    match is_refused(&mut one) {
                        true => refused += 1,
                        false => waiting.push(one),
                    }
                }
                assert_eq!(refused, asking.saturating_sub(WAITING_MAX), "{rank:?}, {asking}");
                assert_eq!(lock.refused(), refused as u64, "{rank:?}, {asking}");
                assert!(!is_refused(&mut ask(&lock, other)), "{other:?} has its own places");
                let mut of_host = Box::pin(lock.lock_for_host());
                let waits = of_host.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                assert!(waits.is_pending(), "the host's own tasks need no place");
                drop(of_host);

                // A cancelled caller frees its place for another.
                for _ in 0..rng.throw(waiting.len() as u64 + 1) {
                    drop(waiting.remove(rng.throw(waiting.len() as u64) as usize));
                }
                while waiting.len() < WAITING_MAX {
                    let mut one = ask(&lock, rank);
                    assert!(!is_refused(&mut one), "{rank:?}, {asking}: {}", waiting.len());
                    waiting.push(one);
                }
                assert!(is_refused(&mut ask(&lock, rank)), "{rank:?}, {asking}: all wait");

                drop(held);
                for (at, mut one) in waiting.into_iter().enumerate() {
                    let held = poll(&mut one);
                    drop(held.unwrap_or_else(|| panic!("{rank:?}, {asking}: {at} is not next")));
                }
                assert!(lock.try_lock().is_some(), "{rank:?}, {asking}: it is free again");
            }
        }
    }

    #[test]
    fn full_queue_refuses_all_locks_together() {
        let locks: Vec<_> = (0..3).map(|_| Arc::new(Exclusive::default())).collect();
        for full in 0..locks.len() {
            let held = locks[full].try_lock();
            let mut waiting: Vec<_> =
                (0..WAITING_MAX).map(|_| ask(&locks[full], Rank::Next)).collect();
            assert!(!waiting.iter_mut().any(is_refused), "each has a place");
            let got = pin!(lock_all(&locks)).poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(got, Poll::Ready(Err(busy)) if busy == full), "{full}: {got:?}");
            for (at, lock) in locks.iter().enumerate() {
                assert_eq!(lock.try_lock().is_some(), at != full, "{full}: {at}");
            }
            drop((held, waiting));
        }
    }
}
