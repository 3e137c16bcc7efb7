//! The threads that run sessions, in lanes. Each has its own reactor, and a session stays on one unless its class takes
//! it to another lane.
//!
//! A session's state is an instance's memory, its stack and its socket. Moving it between CPUs with every event, as a
//! work-stealing runtime does, costs more than most events; and a thread that never looks into another's queue needs
//! no wake-ups to share it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::sched::{Lane, Seat, Standing, TurnsSeen, Turnstile, take};

/// All of them. Dropping it ends the threads and every task on them.
pub(super) struct Lanes {
    lanes: [Threads; Lane::ALL.len()],
    turnstiles: Arc<[Arc<Turnstile>; Lane::ALL.len()]>,
}

/// The threads of one lane.
struct Threads {
    shards: Vec<Shard>,
    standing: Standing,
    _stops: Vec<oneshot::Sender<()>>,
}

struct Shard {
    handle: Handle,
    load: Arc<AtomicUsize>,
}

impl Lanes {
    /// Starts `count` threads for each lane.
    pub(super) fn start(count: usize) -> io::Result<Self> {
        let turnstiles = Lane::ALL.map(|lane| Arc::new(Turnstile::new(lane, count)));
        let [fast, standard, idle] = Lane::ALL.map(|lane| Threads::start(lane, count, &turnstiles[lane as usize]));
        Ok(Self { lanes: [fast?, standard?, idle?], turnstiles: Arc::new(turnstiles) })
    }

    /// What the kernel gave the threads of a lane.
    pub(super) fn standing(&self, lane: Lane) -> Standing {
        self.lanes[lane as usize].standing
    }

    /// The turns of each lane now.
    pub(super) fn turns(&self) -> Vec<TurnsSeen> {
        self.turnstiles.iter().map(|turnstile| turnstile.seen()).collect()
    }

    /// Waits until every thread has taken up a task, but for those that run only when nobody else wants to.
    pub(super) async fn answer(&self) {
        for shard in self.lanes.iter().filter(|lane| !lane.standing.yields_at_once).flat_map(|lane| &lane.shards) {
            // A thread that is gone answers nothing, and neither does this.
            if shard.handle.spawn(async {}).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Runs a task on the thread of this lane that has the fewest. The task may go elsewhere by its seat.
    pub(super) fn spawn<T>(self: &Arc<Self>, lane: Lane, task: impl FnOnce(Arc<Seat>) -> T)
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let seat = Arc::new(Seat::new(lane, Arc::clone(&self.turnstiles)));
        self.seat(lane, None, Ride { task: Some(Box::pin(task(Arc::clone(&seat)))), seat, lanes: Arc::clone(self) });
    }

    /// Hands it to this thread of the lane, or to the one with the fewest.
    fn seat(&self, lane: Lane, thread: Option<usize>, ride: Ride) {
        let shards = &self.lanes[lane as usize].shards;
        let least = || shards.iter().min_by_key(|shard| shard.load.load(Ordering::Relaxed));
        let Some(shard) = thread.and_then(|thread| shards.get(thread)).or_else(least) else { return };
        shard.load.fetch_add(1, Ordering::Relaxed);
        let load = Load(Arc::clone(&shard.load));
        shard.handle.spawn(async move {
            ride.await;
            drop(load);
        });
    }
}

impl Threads {
    fn start(lane: Lane, count: usize, turnstile: &Arc<Turnstile>) -> io::Result<Self> {
        let (mut shards, mut stops) = (Vec::new(), Vec::new());
        let (tell, told) = mpsc::sync_channel(count);
        for number in 0..count {
            let offering = Arc::clone(turnstile);
            let runtime = Builder::new_current_thread()
                .enable_all()
                .on_thread_park(move || offering.offer())
                .on_thread_unpark(Turnstile::rested)
                .build()?;
            let (stop, stopped) = oneshot::channel::<()>();
            shards.push(Shard { handle: runtime.handle().clone(), load: Arc::default() });
            stops.push(stop);
            let (tell, turnstile) = (tell.clone(), Arc::clone(turnstile));
            thread::Builder::new().name(format!("wharf-{}-{number}", lane.name())).spawn(move || {
                turnstile.attend(number);
                // The channel has room for all.
                let _ = tell.send(take(lane));
                // The sender says nothing: it is dropped.
                let _ = runtime.block_on(stopped);
            })?;
        }
        let standing = told.recv().map_err(|_| io::Error::other("a thread ended at its start"))?;
        Ok(Self { shards, standing, _stops: stops })
    }
}

/// A task with its seat. Polls it, and takes it to another lane when it wants to go there.
struct Ride {
    task: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    seat: Arc<Seat>,
    lanes: Arc<Lanes>,
}

impl Future for Ride {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(task) = &mut self.task else { return Poll::Ready(()) };
        if task.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some((lane, thread)) = self.seat.moving() else { return Poll::Pending };
        let (task, seat, lanes) = (self.task.take(), Arc::clone(&self.seat), Arc::clone(&self.lanes));
        self.lanes.seat(lane, thread, Ride { task, seat, lanes });
        Poll::Ready(())
    }
}

/// One task of a thread.
struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
