//! A lock that some callers get before all that wait in turn: a roll-back does not wait for the
//! swaps that were asked for before it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Who comes first. Callers of one rank come in the order in which they asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rank {
    /// Right after the step that is under way.
    Next,
    /// After all others.
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
}

/// The lock, held until this is dropped.
#[derive(Debug)]
pub(super) struct Held(Arc<Exclusive>);

impl Exclusive {
    /// Waits for the lock. Dropping the future is safe.
    pub(super) async fn lock(self: &Arc<Self>, rank: Rank) -> Held {
        loop {
            let told = {
                let mut state = self.state();
                if !state.is_held {
                    state.is_held = true;
                    return Held(Arc::clone(self));
                }
                let (tell, told) = oneshot::channel();
                let waiting = match rank {
                    Rank::Next => &mut state.next,
                    Rank::InTurn => &mut state.in_turn,
                };
                // Callers that went away are forgotten, so that they do not add up.
                waiting.retain(|waits: &oneshot::Sender<Held>| !waits.is_closed());
                waiting.push_back(tell);
                told
            };
            if let Ok(held) = told.await {
                return held;
            }
        }
    }

    /// The lock, where it is free. Does not wait.
    pub(super) fn try_lock(self: &Arc<Self>) -> Option<Held> {
        let mut state = self.state();
        let is_free = !std::mem::replace(&mut state.is_held, true);
        is_free.then(|| Held(Arc::clone(self)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
                // One that goes away just now drops what it is given, and so passes it on.
                Some(next) => return drop(next.send(Held(Arc::clone(&self.0)))),
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Waits = Pin<Box<dyn Future<Output = Held>>>;

    fn poll(waits: &mut Waits) -> Option<Held> {
        match waits.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(held) => Some(held),
            Poll::Pending => None,
        }
    }

    fn ask(lock: &Arc<Exclusive>, rank: Rank) -> Waits {
        let lock = Arc::clone(lock);
        Box::pin(async move { lock.lock(rank).await })
    }

    #[test]
    fn next_comes_before_all_in_turn() {
        for seed in 1_u64..200 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut below = |most: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % most
            };
            let lock = Arc::new(Exclusive::default());
            let mut held = Some(pin!(lock.lock(Rank::InTurn)).poll(&mut Context::from_waker(Waker::noop())));
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
                drop(poll(&mut one).unwrap_or_else(|| panic!("seed {seed}: {rank:?} {number} is not next")));
            }
            assert!(lock.try_lock().is_some(), "seed {seed}: it is free again");
        }
    }
}
