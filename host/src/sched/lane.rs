//! Lanes: sets of threads between which the kernel decides, and a task's seat on one of them.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Poll;

use crate::event::Priority;

/// Where a session's I/O, TLS and Wasm run. Each has its own threads, reactors and queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Critical sessions.
    Fast,
    /// High, normal and low.
    Standard,
    /// Background: what the others leave.
    Idle,
}

impl Lane {
    /// Every lane.
    pub const ALL: [Self; 3] = [Self::Fast, Self::Standard, Self::Idle];

    /// The lane of a class.
    #[must_use]
    pub fn of(class: Priority) -> Self {
        match class {
            Priority::Critical => Self::Fast,
            Priority::High | Priority::Normal | Priority::Low => Self::Standard,
            Priority::Background => Self::Idle,
        }
    }

    /// Stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        ["fast", "standard", "idle"][self as usize]
    }
}

/// A task's place on a lane. The task says where it wants to be; whoever polls it takes it there.
#[derive(Debug)]
pub struct Seat {
    lane: AtomicU8,
    /// 0, or one more than the number of the lane.
    wish: AtomicU8,
}

impl Seat {
    /// A place on this lane.
    #[must_use]
    pub fn new(lane: Lane) -> Self {
        Self { lane: AtomicU8::new(lane as u8), wish: AtomicU8::new(0) }
    }

    /// Where the task is.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane::ALL[usize::from(self.lane.load(Ordering::Relaxed))]
    }

    /// Goes to another lane: when this returns, the task runs on one of its threads. Whatever is bound to the reactor of
    /// the old one has to be let go before.
    pub async fn change(&self, lane: Lane) {
        poll_fn(|_| {
            if self.lane() == lane {
                return Poll::Ready(());
            }
            // No waker: the task is polled next by the thread it arrives on.
            self.wish.store(lane as u8 + 1, Ordering::Relaxed);
            Poll::Pending
        })
        .await;
    }

    /// Whoever polled the task asks where it wants to go, and says with this that it goes there.
    pub fn moving(&self) -> Option<Lane> {
        let wish = self.wish.load(Ordering::Relaxed);
        let lane = *Lane::ALL.get(usize::from(wish.checked_sub(1)?))?;
        self.wish.store(0, Ordering::Relaxed);
        self.lane.store(lane as u8, Ordering::Relaxed);
        Some(lane)
    }
}
