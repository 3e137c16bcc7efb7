//! The threads that run sessions, in lanes. Each thread has its own reactor. A session stays on one
//! thread unless its class moves it to another lane.
//!
//! A session's state is an instance's memory, its stack and its socket. To move it between CPUs at
//! every event, as a work-stealing runtime does, costs more than most events. Threads that never
//! look into each other's task queues need no wake-ups to share tasks.

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
use crate::sched::{
    Lane, Placement, Quota, RunQueue, RunQueueStatus, SchedParams, Work, take, take_rescue,
};

/// The workers of all lanes. Dropping it ends the threads and every task on them.
pub(crate) struct Workers {
    lanes: [LaneWorkers; Lane::ALL.len()],
    run_queues: Arc<[Arc<RunQueue>; Lane::ALL.len()]>,
}

/// The workers of one lane.
struct LaneWorkers {
    workers: Vec<Worker>,
    /// Number of regular workers, which come first and get the new tasks. The others are rescue
    /// workers.
    regular: usize,
    sched_params: SchedParams,
    _stops: Vec<oneshot::Sender<()>>,
}

struct Worker {
    handle: Handle,
    load: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts `count` threads for each lane.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let run_queues = Lane::ALL.map(|lane| Arc::new(RunQueue::new(lane, count)));
        let start = |lane: Lane| LaneWorkers::start(lane, count, &run_queues[lane as usize]);
        let (fast, standard, mut idle) =
            (start(Lane::Fast)?, start(Lane::Standard)?, start(Lane::Idle)?);
        idle.add_rescue_workers(&run_queues[Lane::Idle as usize], fast.sched_params)?;
        Ok(Self { lanes: [fast, standard, idle], run_queues: Arc::new(run_queues) })
    }

    /// What the kernel granted the threads of a lane.
    pub(crate) fn sched_params(&self, lane: Lane) -> SchedParams {
        self.lanes[lane as usize].sched_params
    }

    /// Status of each lane's run queue.
    pub(crate) fn run_queues(&self) -> Vec<RunQueueStatus> {
        self.run_queues.iter().map(|run_queue| run_queue.seen()).collect()
    }

    /// Waits until every thread has taken up a task. Threads that run only when the CPU is idle do
    /// not count.
    pub(crate) async fn answer(&self) {
        for worker in self
            .lanes
            .iter()
            .filter(|lane| !lane.sched_params.yields_at_once)
            .flat_map(|lane| &lane.workers)
        {
            // A dead thread never answers, so this waits without end.
            if worker.handle.spawn(async {}).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Runs a task on the thread of this lane with the fewest tasks. The task's placement may move
    /// it later. The task's CPU time is charged to `quota`.
    pub(crate) fn spawn<T>(
        self: &Arc<Self>,
        lane: Lane,
        quota: Arc<Quota>,
        task: impl FnOnce(Arc<Placement>) -> T,
    ) where
        T: Future<Output = ()> + Send + 'static,
    {
        let placement = Arc::new(Placement::new(lane, Arc::clone(&self.run_queues)));
        let task: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(task(Arc::clone(&placement)));
        self.place(
            lane,
            None,
            PlacedTask { task: Some(task), placement, quota, lanes: Arc::clone(self) },
        );
    }

    /// Hands a task to this thread of the lane, or to the one with the fewest tasks.
    fn place(&self, lane: Lane, thread: Option<usize>, placed: PlacedTask) {
        let LaneWorkers { workers, regular, .. } = &self.lanes[lane as usize];
        let least =
            || workers[..*regular].iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed));
        let Some(worker) = thread.and_then(|thread| workers.get(thread)).or_else(least) else {
            return;
        };
        worker.load.fetch_add(1, Ordering::Relaxed);
        let load = Load(Arc::clone(&worker.load));
        worker.handle.spawn(async move {
            placed.await;
            drop(load);
        });
    }
}

impl LaneWorkers {
    fn start(lane: Lane, count: usize, run_queue: &Arc<RunQueue>) -> io::Result<Self> {
        let mut threads = Self {
            workers: Vec::new(),
            regular: count,
            sched_params: SchedParams::default(),
            _stops: Vec::new(),
        };
        for number in 0..count {
            threads.sched_params =
                threads.add(number, lane.name(), run_queue, move || take(lane))?;
        }
        Ok(threads)
    }

    /// Adds as many rescue workers, which check whether the regular ones get any CPU.
    fn add_rescue_workers(
        &mut self,
        run_queue: &Arc<RunQueue>,
        fast: SchedParams,
    ) -> io::Result<()> {
        for number in self.regular..self.regular * 2 {
            self.add(number, "rescue", run_queue, move || take_rescue(fast))?;
            let run_queue = Arc::downgrade(run_queue);
            self.workers[number].handle.spawn(async move {
                while let Some(next) = run_queue.upgrade().map(|run_queue| run_queue.look()) {
                    tokio::time::sleep(next).await;
                }
            });
        }
        Ok(())
    }

    /// Adds a thread, and returns what the kernel granted it.
    fn add(
        &mut self,
        number: usize,
        name: &str,
        run_queue: &Arc<RunQueue>,
        take: impl FnOnce() -> SchedParams + Send + 'static,
    ) -> io::Result<SchedParams> {
        let offering = Arc::clone(run_queue);
        let runtime = Builder::new_current_thread()
            .enable_all()
            .on_thread_park(move || offering.offer())
            .on_thread_unpark(RunQueue::rested)
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        self.workers.push(Worker { handle: runtime.handle().clone(), load: Arc::default() });
        self._stops.push(stop);
        let ((tell, told), run_queue) = (mpsc::sync_channel(1), Arc::clone(run_queue));
        thread::Builder::new().name(format!("wharf-{name}-{number}")).spawn(move || {
            prepare_thread();
            run_queue.attend(number);
            // The channel has room for one message.
            let _ = tell.send(take());
            // The sender is only dropped, and never sends.
            let _ = runtime.block_on(stopped);
        })?;
        told.recv().map_err(|_| io::Error::other("a thread ended at its start"))
    }
}

/// A task with its placement. Polls the task, and moves it to another lane on request.
struct PlacedTask {
    task: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    placement: Arc<Placement>,
    quota: Arc<Quota>,
    lanes: Arc<Workers>,
}

impl Future for PlacedTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { task: Some(task), quota, .. } = &mut *self else { return Poll::Ready(()) };
        let measured = Work::begin(quota);
        if task.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        drop(measured);
        let Some((lane, thread)) = self.placement.moving() else { return Poll::Pending };
        let (task, placement, lanes) =
            (self.task.take(), Arc::clone(&self.placement), Arc::clone(&self.lanes));
        let quota = Arc::clone(&self.quota);
        self.lanes.place(lane, thread, PlacedTask { task, placement, quota, lanes });
        Poll::Ready(())
    }
}

/// One task of a thread, which counts until this is dropped.
struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
