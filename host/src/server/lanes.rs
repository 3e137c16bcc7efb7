//! The threads that run sessions, in lanes. Each has its own reactor, and a session stays on one
//! unless its class takes it to another lane.
//!
//! A session's state is an instance's memory, its stack and its socket. Moving it between CPUs with
//! every event, as a work-stealing runtime does, costs more than most events; and a thread that
//! never looks into another's queue needs no wake-ups to share it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::plugin::prepare_thread;
use crate::sched::{Account, Lane, Seat, Standing, TurnsSeen, Turnstile, Work, take, take_usher};

/// All of them. Dropping it ends the threads and every task on them.
pub(super) struct Lanes {
    lanes: [Threads; Lane::ALL.len()],
    turnstiles: Arc<[Arc<Turnstile>; Lane::ALL.len()]>,
}

/// The threads of one lane.
struct Threads {
    shards: Vec<Shard>,
    /// New tasks go to the first so many; the others are ushers.
    regular: usize,
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
        let start = |lane: Lane| Threads::start(lane, count, &turnstiles[lane as usize]);
        let (fast, standard, mut idle) =
            (start(Lane::Fast)?, start(Lane::Standard)?, start(Lane::Idle)?);
        idle.add_ushers(&turnstiles[Lane::Idle as usize], fast.standing)?;
        Ok(Self { lanes: [fast, standard, idle], turnstiles: Arc::new(turnstiles) })
    }

    /// What the kernel gave the threads of a lane.
    pub(super) fn standing(&self, lane: Lane) -> Standing {
        self.lanes[lane as usize].standing
    }

    /// The turns of each lane now.
    pub(super) fn turns(&self) -> Vec<TurnsSeen> {
        self.turnstiles.iter().map(|turnstile| turnstile.seen()).collect()
    }

    /// Waits until every thread has taken up a task, but for those that run only when nobody else
    /// wants to.
    pub(super) async fn answer(&self) {
        for shard in self
            .lanes
            .iter()
            .filter(|lane| !lane.standing.yields_at_once)
            .flat_map(|lane| &lane.shards)
        {
            // A thread that is gone answers nothing, and neither does this.
            if shard.handle.spawn(async {}).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Runs a task on the thread of this lane that has the fewest. The task may go elsewhere by its
    /// seat. What it takes is charged to this account.
    pub(super) fn spawn<T>(
        self: &Arc<Self>,
        lane: Lane,
        account: Arc<Account>,
        task: impl FnOnce(Arc<Seat>) -> T,
    ) where
        T: Future<Output = ()> + Send + 'static,
    {
        let seat = Arc::new(Seat::new(lane, Arc::clone(&self.turnstiles)));
        let task: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(task(Arc::clone(&seat)));
        self.seat(lane, None, Ride { task: Some(task), seat, account, lanes: Arc::clone(self) });
    }

    /// Hands it to this thread of the lane, or to the one with the fewest.
    fn seat(&self, lane: Lane, thread: Option<usize>, ride: Ride) {
        let Threads { shards, regular, .. } = &self.lanes[lane as usize];
        let least =
            || shards[..*regular].iter().min_by_key(|shard| shard.load.load(Ordering::Relaxed));
        let Some(shard) = thread.and_then(|thread| shards.get(thread)).or_else(least) else {
            return;
        };
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
        let mut threads = Self {
            shards: Vec::new(),
            regular: count,
            standing: Standing::default(),
            _stops: Vec::new(),
        };
        for number in 0..count {
            threads.standing = threads.add(number, lane.name(), turnstile, move || take(lane))?;
        }
        Ok(threads)
    }

    /// As many again, which look whether the others get any CPU.
    fn add_ushers(&mut self, turnstile: &Arc<Turnstile>, fast: Standing) -> io::Result<()> {
        for number in self.regular..self.regular * 2 {
            self.add(number, "usher", turnstile, move || take_usher(fast))?;
            let turnstile = Arc::downgrade(turnstile);
            self.shards[number].handle.spawn(async move {
                while let Some(next) = turnstile.upgrade().map(|turnstile| turnstile.look()) {
                    tokio::time::sleep(next).await;
                }
            });
        }
        Ok(())
    }

    /// One more thread; what the kernel gave it.
    fn add(
        &mut self,
        number: usize,
        name: &str,
        turnstile: &Arc<Turnstile>,
        take: impl FnOnce() -> Standing + Send + 'static,
    ) -> io::Result<Standing> {
        let offering = Arc::clone(turnstile);
        let runtime = Builder::new_current_thread()
            .enable_all()
            .on_thread_park(move || offering.offer())
            .on_thread_unpark(Turnstile::rested)
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        self.shards.push(Shard { handle: runtime.handle().clone(), load: Arc::default() });
        self._stops.push(stop);
        let ((tell, told), turnstile) = (mpsc::sync_channel(1), Arc::clone(turnstile));
        thread::Builder::new().name(format!("wharf-{name}-{number}")).spawn(move || {
            prepare_thread();
            turnstile.attend(number);
            // The channel has room for it.
            let _ = tell.send(take());
            // The sender says nothing: it is dropped.
            let _ = runtime.block_on(stopped);
        })?;
        told.recv().map_err(|_| io::Error::other("a thread ended at its start"))
    }
}

/// A task with its seat. Polls it, and takes it to another lane when it wants to go there.
struct Ride {
    task: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    seat: Arc<Seat>,
    account: Arc<Account>,
    lanes: Arc<Lanes>,
}

impl Future for Ride {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { task: Some(task), account, .. } = &mut *self else { return Poll::Ready(()) };
        let measured = Work::begin(account);
        if task.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        drop(measured);
        let Some((lane, thread)) = self.seat.moving() else { return Poll::Pending };
        let (task, seat, lanes) =
            (self.task.take(), Arc::clone(&self.seat), Arc::clone(&self.lanes));
        let account = Arc::clone(&self.account);
        self.lanes.seat(lane, thread, Ride { task, seat, account, lanes });
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
