//! Lanes, which are sets of worker threads, and the placement of a task on one of them.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::Poll;

use super::RunQueue;
use crate::event::Priority;

/// Where a session's I/O, TLS and Wasm run. Each lane has its own threads, reactors and queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Critical sessions.
    Fast,
    /// High, normal and low sessions.
    Standard,
    /// Background sessions, on the CPU time that the other lanes leave.
    Idle,
}

impl Lane {
    /// All lanes.
    pub const ALL: [Self; 3] = [Self::Fast, Self::Standard, Self::Idle];

    /// Returns the lane of a class.
    #[must_use]
    pub fn of(class: Priority) -> Self {
        match class {
            Priority::Critical => Self::Fast,
            Priority::High | Priority::Normal | Priority::Low => Self::Standard,
            Priority::Background => Self::Idle,
        }
    }

    /// Returns the lane's stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        ["fast", "standard", "idle"][self as usize]
    }
}

/// The lane of a task, and where the task wants to be. The worker that polls the task moves it.
#[derive(Debug)]
pub struct Placement {
    lane: AtomicU8,
    /// 0, or the lane and thread that the task wants.
    wanted: AtomicU32,
    run_queues: Arc<[Arc<RunQueue>; Lane::ALL.len()]>,
}

/// The thread number of a task that wants any thread of a lane.
const ANY: u32 = 0;

impl Placement {
    /// Creates a placement on `lane`. `run_queues` has the run queue of each lane.
    #[must_use]
    pub fn new(lane: Lane, run_queues: Arc<[Arc<RunQueue>; Lane::ALL.len()]>) -> Self {
        Self { lane: AtomicU8::new(lane as u8), wanted: AtomicU32::new(0), run_queues }
    }

    /// Returns the lane that the task is on.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane::ALL[usize::from(self.lane.load(Ordering::Relaxed))]
    }

    /// Returns the run queue of the task's lane.
    pub(super) fn run_queue(&self) -> &Arc<RunQueue> {
        &self.run_queues[self.lane() as usize]
    }

    /// Moves the task to another lane. When this returns, the task runs on one of that lane's
    /// threads.
    ///
    /// The caller first drops everything that is bound to the reactor of the old thread.
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

    /// Asks for a move when this poll of the task is over. The thread that the task arrives on
    /// polls the task next, so nothing else needs to wake it.
    pub(super) fn ask(&self, lane: Lane, thread: Option<usize>) {
        let thread = thread.map_or(ANY, |thread| thread as u32 + 1);
        self.wanted.store(thread << 2 | (lane as u32 + 1), Ordering::Relaxed);
    }

    /// Takes the placement that the task wants, if it wants another: a lane, and one of its threads
    /// or any of them.
    ///
    /// The worker calls this after each poll of the task. The task counts as moved, so the caller
    /// moves it there.
    pub fn moving(&self) -> Option<(Lane, Option<usize>)> {
        let wanted = self.wanted.load(Ordering::Relaxed);
        let lane = *Lane::ALL.get((wanted & 3).checked_sub(1)? as usize)?;
        self.wanted.store(0, Ordering::Relaxed);
        self.lane.store(lane as u8, Ordering::Relaxed);
        Some((lane, (wanted >> 2).checked_sub(1).map(|thread| thread as usize)))
    }
}
