//! Simulated environment: time, tasks and disk. The seed decides which task runs next, and what
//! fails. Time passes only while no task can run.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use super::env::DiskChange;
use crate::locks::lock;
use crate::rng::Rng;

thread_local! {
    static HERE: RefCell<Option<Arc<SimEnv>>> = const { RefCell::new(None) };
}

/// State of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    Good,
    /// Files can be created and removed, but not written.
    Full,
    /// All changes fail.
    ReadOnly,
    /// One in this many changes fails.
    Flaky(u64),
}

/// Environment of one simulated server.
pub(crate) struct SimEnv(Mutex<Inner>);

struct Inner {
    now: Instant,
    rng: Rng,
    /// Wakers of the waiting tasks, by deadline and number.
    timers: BTreeMap<(Instant, u64), Waker>,
    last_timer: u64,
    spawned: Vec<Pin<Box<dyn Future<Output = ()> + Send>>>,
    disk: Disk,
    /// Number of changes on the disk until the process is killed in the middle of one.
    kill_in: Option<u64>,
    killed: bool,
}

impl SimEnv {
    pub(crate) fn new(rng: Rng) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inner {
            now: Instant::now(),
            rng,
            timers: BTreeMap::new(),
            last_timer: 0,
            spawned: Vec::new(),
            disk: Disk::Good,
            kill_in: None,
            killed: false,
        })))
    }

    /// Returns the environment of the simulation that this thread runs, if any.
    pub(crate) fn here() -> Option<Arc<Self>> {
        HERE.with_borrow(Clone::clone)
    }

    /// Starts the simulation on this thread. It ends when the returned value is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> impl Drop + use<> {
        struct Over;
        impl Drop for Over {
            fn drop(&mut self) {
                HERE.set(None);
            }
        }
        HERE.set(Some(Arc::clone(self)));
        Over
    }

    pub(crate) fn set_disk(&self, disk: Disk) {
        self.inner().disk = disk;
    }

    /// Kills the process in the middle of a change on the disk, after this many other changes.
    pub(crate) fn kill_in(&self, changes: u64) {
        self.inner().kill_in = Some(changes);
    }

    /// Resets the environment for another process.
    pub(crate) fn revive(&self) {
        let mut inner = self.inner();
        (inner.kill_in, inner.killed) = (None, false);
        inner.spawned.clear();
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.inner().killed
    }

    pub(crate) fn throw(&self, sides: u64) -> u64 {
        self.inner().rng.throw(sides)
    }

    pub(crate) fn percent(&self, share: u64) -> bool {
        self.inner().rng.percent(share)
    }

    pub(crate) fn now(&self) -> Instant {
        self.inner().now
    }

    pub(crate) async fn rest(&self, most: Duration) {
        let time = Duration::from_millis(self.throw(most.as_millis() as u64 + 1));
        self.sleep_until(self.now() + time).await;
    }

    pub(crate) async fn sleep_until(&self, deadline: Instant) {
        let number = {
            let mut inner = self.inner();
            inner.last_timer += 1;
            inner.last_timer
        };
        let key = (deadline, number);
        let _forgotten = Forgotten(self, key);
        poll_fn(|cx| {
            let mut inner = self.inner();
            if inner.now >= deadline {
                return Poll::Ready(());
            }
            inner.timers.insert(key, cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub(crate) async fn by<T>(
        &self,
        deadline: Instant,
        waited: impl Future<Output = T>,
    ) -> Option<T> {
        let mut waited = std::pin::pin!(waited);
        let mut late = std::pin::pin!(self.sleep_until(deadline));
        poll_fn(|cx| match waited.as_mut().poll(cx) {
            Poll::Ready(came) => Poll::Ready(Some(came)),
            Poll::Pending => late.as_mut().poll(cx).map(|()| None),
        })
        .await
    }

    pub(crate) fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.inner().spawned.push(task);
    }

    /// Runs work of another thread: waits a while, and then does the work at one moment.
    pub(crate) async fn run_blocking<T>(&self, work: impl FnOnce() -> T) -> T {
        self.rest(Duration::from_millis(20)).await;
        work()
    }

    pub(crate) fn may(&self, change: DiskChange) -> io::Result<()> {
        let mut inner = self.inner();
        if let Some(left) = inner.kill_in {
            inner.killed |= left == 0;
            inner.kill_in = Some(left.saturating_sub(1));
        }
        let bad = match inner.disk {
            _ if inner.killed => true,
            Disk::Good => false,
            Disk::Full => change == DiskChange::Write,
            Disk::ReadOnly => true,
            Disk::Flaky(one_in) => inner.rng.throw(one_in) == 0,
        };
        if bad { Err(io::Error::other(format!("injected: {change:?}"))) } else { Ok(()) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0)
    }
}

/// Removes the timer when its wait is cancelled.
struct Forgotten<'a>(&'a SimEnv, (Instant, u64));

impl Drop for Forgotten<'_> {
    fn drop(&mut self) {
        self.0.inner().timers.remove(&self.1);
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Task {
    flag: Arc<Flag>,
    work: Pin<Box<dyn Future<Output = ()>>>,
}

/// Tasks of one life of the process.
pub(crate) struct Tasks {
    sim_env: Arc<SimEnv>,
    tasks: Vec<Task>,
}

impl Tasks {
    pub(crate) fn new(sim_env: &Arc<SimEnv>) -> Self {
        Self { sim_env: Arc::clone(sim_env), tasks: Vec::new() }
    }

    pub(crate) fn add(&mut self, task: impl Future<Output = ()> + 'static) {
        self.tasks.push(Task { flag: Arc::new(Flag(AtomicBool::new(true))), work: Box::pin(task) });
    }

    /// Polls one task that can run or, if there is none, lets time pass. Returns false if no task
    /// and no timer is left.
    pub(crate) fn step(&mut self) -> bool {
        let spawned = std::mem::take(&mut self.sim_env.inner().spawned);
        for task in spawned {
            self.add(task);
        }
        let ready: Vec<usize> = (0..self.tasks.len())
            .filter(|at| self.tasks[*at].flag.0.load(Ordering::Relaxed))
            .collect();
        if ready.is_empty() {
            let mut inner = self.sim_env.inner();
            let Some(&(at, _)) = inner.timers.keys().next() else { return false };
            inner.now = at;
            let later = inner.timers.split_off(&(at, u64::MAX));
            let due = std::mem::replace(&mut inner.timers, later);
            drop(inner);
            due.into_values().for_each(Waker::wake);
            return true;
        }
        let at = ready[self.sim_env.throw(ready.len() as u64) as usize];
        let Task { flag, work } = &mut self.tasks[at];
        flag.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(flag));
        if work.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            drop(self.tasks.swap_remove(at));
        }
        true
    }
}
