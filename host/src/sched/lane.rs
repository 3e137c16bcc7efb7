//! Workers: sets of threads between which the kernel decides, and a task's seat on one of them.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::Poll;

use super::RunQueue;
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

/// A task's place. The task says where it wants to be; whoever polls it takes it there.
#[derive(Debug)]
pub struct Placement {
    lane: AtomicU8,
    /// 0, or where the task wants to be.
    wish: AtomicU32,
    run_queues: Arc<[Arc<RunQueue>; Lane::ALL.len()]>,
}

/// The thread of a wish for any thread of a lane.
const ANY: u32 = 0;

impl Placement {
    /// A place on this lane, of which these are the lines.
    #[must_use]
    pub fn new(lane: Lane, run_queues: Arc<[Arc<RunQueue>; Lane::ALL.len()]>) -> Self {
        Self { lane: AtomicU8::new(lane as u8), wish: AtomicU32::new(0), run_queues }
    }

    /// Where the task is.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane::ALL[usize::from(self.lane.load(Ordering::Relaxed))]
    }

    /// The line of that lane.
    pub(super) fn run_queue(&self) -> &Arc<RunQueue> {
        &self.run_queues[self.lane() as usize]
    }

    /// Goes to another lane: when this returns, the task runs on one of its threads. Whatever is
    /// bound to the reactor of the old one has to be let go before.
    pub async fn change(&self, lane: Lane) {
        poll_fn(|_| {
            if self.lane() == lane {
                return Poll::Ready(());
            }
            self.ask(lane, None);
            Poll::Pending
        })
        .await;
    }

    /// Asks to be taken there as soon as this poll of the task is over. It is polled next by the
    /// thread it arrives on, so that nothing else need wake it.
    pub(super) fn ask(&self, lane: Lane, thread: Option<usize>) {
        let thread = thread.map_or(ANY, |thread| thread as u32 + 1);
        self.wish.store(thread << 2 | (lane as u32 + 1), Ordering::Relaxed);
    }

    /// Whoever polled the task asks where it wants to go, and says with this that it goes there: to
    /// a lane, and to one of its threads or any.
    pub fn moving(&self) -> Option<(Lane, Option<usize>)> {
        let wish = self.wish.load(Ordering::Relaxed);
        let lane = *Lane::ALL.get((wish & 3).checked_sub(1)? as usize)?;
        self.wish.store(0, Ordering::Relaxed);
        self.lane.store(lane as u8, Ordering::Relaxed);
        Some((lane, (wish >> 2).checked_sub(1).map(|thread| thread as usize)))
    }
}
