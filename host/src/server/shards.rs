//! The threads that run sessions. Each has its own reactor, and a session stays on one for life.
//!
//! A session's state is an instance's memory, its stack and its socket. Moving it between CPUs with every event, as a
//! work-stealing runtime does, costs more than most events; and a thread that never looks into another's queue needs
//! no wake-ups to share it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// All of them. Dropping it ends the threads and every task on them.
pub(super) struct Shards {
    shards: Vec<Shard>,
    _stops: Vec<oneshot::Sender<()>>,
}

struct Shard {
    handle: Handle,
    load: Arc<AtomicUsize>,
}

impl Shards {
    /// Starts `count` threads.
    pub(super) fn start(count: usize) -> io::Result<Self> {
        let (mut shards, mut stops) = (Vec::new(), Vec::new());
        for number in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (stop, stopped) = oneshot::channel::<()>();
            shards.push(Shard { handle: runtime.handle().clone(), load: Arc::default() });
            stops.push(stop);
            thread::Builder::new().name(format!("wharf-{number}")).spawn(move || {
                // The sender says nothing: it is dropped.
                let _ = runtime.block_on(stopped);
            })?;
        }
        Ok(Self { shards, _stops: stops })
    }

    /// Waits until every thread has taken up a task.
    pub(super) async fn answer(&self) {
        for shard in &self.shards {
            // A thread that is gone answers nothing, and neither does this.
            if shard.handle.spawn(async {}).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Runs a task on the thread that has the fewest.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let least = self.shards.iter().min_by_key(|shard| shard.load.load(Ordering::Relaxed));
        let Some(shard) = least else { return };
        shard.load.fetch_add(1, Ordering::Relaxed);
        let load = Load(Arc::clone(&shard.load));
        shard.handle.spawn(async move {
            task.await;
            drop(load);
        });
    }
}

/// One task of a thread.
struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
