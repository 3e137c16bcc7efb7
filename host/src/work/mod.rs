//! Blocking work of the control plane: threads that start with the host, and queues that tenants
//! share fairly.
//!
//! The threads exist before the host serves anything, so the system cannot refuse one later. Each
//! [`WorkKind`] has its own threads, because steps of one kind take far longer than those of
//! another. A slow compilation holds up no read of a key, and neither holds up a roll-back. In each
//! kind the queue alternates between tenants, and one tenant has a limited number of threads
//! ([`WorkKind::running_tenant_max`]).

mod own_thread;
mod queue;
mod refusal;
mod stop;

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, mpsc};
use std::thread;

use tokio::sync::oneshot;

use crate::locks::{lock, wait};
pub use own_thread::on_own_thread;
use queue::{QueueStatus, TenantQueue};
pub use refusal::{RefusedResource, SystemRefused};
pub use stop::Stop;

/// Threads of each kind.
const THREADS: usize = 4;
/// Threads of one kind that one tenant may have at a time. Of [`WorkKind::Restore`] it has one.
pub const RUNNING_TENANT_MAX: usize = 2;
/// Steps of one kind that may wait for a thread, of one tenant.
pub const QUEUED_TENANT_MAX: usize = 64;
/// Steps of one kind that may wait, of the host itself. At a start the host keeps one socket for
/// each server.
const QUEUED_HOST_MAX: usize = 4_096;
/// The queue of steps that no tenant asked for. No tenant has this name.
pub const HOST: &str = "";
/// Characters kept of a panic's message.
const PANIC_MAX_CHARS: usize = 300;

/// How long a step may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WorkKind {
    /// Milliseconds to minutes: compiling, and pulling from a registry.
    Long,
    /// As long as a disk takes: keys and certificates, the configuration.
    Short,
    /// Steps that must not wait behind the other kinds: those under a server's lock of swaps,
    /// roll-backs, records, and the end of a server.
    Urgent,
    /// Seconds to minutes under a server's lock of swaps. A step pulls and compiles the version
    /// that a roll-back returns to, or pulls a version once more to keep it.
    Restore,
}

impl WorkKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Long, Self::Short, Self::Urgent, Self::Restore];

    /// Returns the kind's name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Long => "long",
            Self::Short => "short",
            Self::Urgent => "urgent",
            Self::Restore => "restore",
        }
    }

    /// Returns how many threads one tenant may have at a time. Its swaps leave threads for the
    /// roll-backs of all others.
    #[must_use]
    pub fn running_tenant_max(self) -> usize {
        match self {
            Self::Long | Self::Short | Self::Urgent => RUNNING_TENANT_MAX,
            Self::Restore => 1,
        }
    }
}

/// Why a step was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkError {
    /// The tenant's doing: too many of its steps wait already.
    #[error(
        "{queued} steps of {} wait for a thread already, and no more may; try again once some are \
         done",
        owner(.tenant)
    )]
    Full {
        /// The tenant; [`HOST`] for the host itself.
        tenant: Arc<str>,
        /// How many of its steps wait.
        queued: usize,
    },
    /// The host's doing: a mistake in its code.
    #[error("the host failed in this step, by a mistake of its own: {0}")]
    Panicked(String),
    /// The process ends.
    #[error("the process is stopping")]
    Ending,
}

/// Returns the owner of a queue, for messages.
fn owner(tenant: &str) -> String {
    if tenant == HOST { "the process".to_owned() } else { format!("the tenant `{tenant}`") }
}

/// The queue of one tenant and kind, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkStatus {
    /// The kind.
    pub kind: WorkKind,
    /// The tenant; [`HOST`] for the host itself.
    pub tenant: Arc<str>,
    /// Steps that wait for a thread.
    pub waiting: usize,
    /// Steps that have a thread.
    pub running: usize,
    /// Steps that were refused because too many were waiting.
    pub refused: u64,
}

type Job = Box<dyn FnOnce() + Send>;

/// All threads for blocking work. Dropping the pool lets running steps finish and drops the others.
pub struct WorkPool {
    crews: [Arc<Crew>; WorkKind::ALL.len()],
}

/// The threads of one kind.
struct Crew {
    state: Mutex<State>,
    more: Condvar,
}

struct State {
    queue: TenantQueue<Job>,
    ends: bool,
}

impl WorkPool {
    /// Starts the threads. Each thread runs `prepare` first.
    ///
    /// # Errors
    /// The system refuses a thread, or `prepare` panics.
    pub fn start(prepare: fn()) -> io::Result<Self> {
        let pool = Self { crews: WorkKind::ALL.map(|kind| Arc::new(Crew::new(kind))) };
        let (tell, told) = mpsc::channel();
        for (kind, crew) in WorkKind::ALL.into_iter().zip(&pool.crews) {
            for number in 0..THREADS {
                let (crew, tell) = (Arc::clone(crew), tell.clone());
                let name = format!("wharf-{}-{number}", kind.name());
                thread::Builder::new().name(name).spawn(move || {
                    let prepared = caught(prepare);
                    let goes_on = prepared.is_ok();
                    // If another thread failed, the receiver is gone.
                    let _ = tell.send(prepared);
                    drop(tell);
                    if goes_on {
                        crew.work();
                    }
                })?;
            }
        }
        drop(tell);
        told.iter().collect::<Result<(), _>>().map_err(io::Error::other)?;
        Ok(pool)
    }

    /// Runs a step when the queue gives its tenant a thread. Dropping the future takes a waiting
    /// step out of the queue; a running step goes on.
    ///
    /// # Errors
    /// [`WorkError`].
    pub async fn run<T: Send + 'static>(
        &self,
        kind: WorkKind,
        tenant: &Arc<str>,
        step: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkError> {
        let (tell, told) = oneshot::channel();
        // If the caller has gone, the outcome is not needed.
        let job = Box::new(move || drop(tell.send(caught(step))));
        let crew = &self.crews[kind as usize];
        let number = crew.put(tenant, job)?;
        let _waiting = Waiting { crew, tenant, number };
        told.await.unwrap_or(Err(WorkError::Ending))
    }

    /// Runs a step as [`WorkPool::run`] does, without a caller that waits for it.
    ///
    /// # Errors
    /// [`WorkError::Full`].
    pub fn run_alone(
        &self,
        kind: WorkKind,
        tenant: &Arc<str>,
        step: impl FnOnce() + Send + 'static,
    ) -> Result<(), WorkError> {
        self.crews[kind as usize].put(tenant, Box::new(step)).map(drop)
    }

    /// Returns all queues that have or had work.
    #[must_use]
    pub fn seen(&self) -> Vec<WorkStatus> {
        let of = |(kind, crew): (WorkKind, &Arc<Crew>)| {
            let lines = crew.state().queue.seen();
            lines.into_iter().map(move |(tenant, QueueStatus { waiting, running, refused })| {
                WorkStatus { kind, tenant, waiting, running, refused }
            })
        };
        WorkKind::ALL.into_iter().zip(&self.crews).flat_map(of).collect()
    }
}

impl Drop for WorkPool {
    fn drop(&mut self) {
        for crew in &self.crews {
            let forgotten = {
                let mut state = crew.state();
                state.ends = true;
                state.queue.clear()
            };
            crew.more.notify_all();
            drop(forgotten);
        }
    }
}

impl Crew {
    fn new(kind: WorkKind) -> Self {
        let queue = TenantQueue::new(kind.running_tenant_max());
        Self { state: Mutex::new(State { queue, ends: false }), more: Condvar::new() }
    }

    fn put(&self, tenant: &Arc<str>, job: Job) -> Result<u64, WorkError> {
        let most = if &**tenant == HOST { QUEUED_HOST_MAX } else { QUEUED_TENANT_MAX };
        let mut state = self.state();
        if state.ends {
            return Err(WorkError::Ending);
        }
        let put = state.queue.put(tenant, job, most);
        drop(state);
        let full = |queued| WorkError::Full { tenant: Arc::clone(tenant), queued };
        let number = put.map_err(full)?;
        self.more.notify_one();
        Ok(number)
    }

    /// Runs steps on one thread until the pool is dropped.
    fn work(&self) {
        let mut state = self.state();
        while !state.ends {
            let Some((tenant, job)) = state.queue.take() else {
                state = wait(&self.more, state);
                continue;
            };
            drop(state);
            // The panic of a step without a caller is in the log already.
            drop(caught(job));
            state = self.state();
            state.queue.done(&tenant);
            // A tenant that was at its limit may have more steps.
            self.more.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// A waiting step. Dropping this withdraws the step, as its caller has gone.
struct Waiting<'a> {
    crew: &'a Crew,
    tenant: &'a Arc<str>,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let withdrawn = self.crew.state().queue.withdraw(self.tenant, self.number);
        drop(withdrawn);
    }
}

/// One tenant's access to the threads of one kind. Cheap to clone.
#[derive(Clone)]
pub struct WorkQueue {
    pool: Arc<WorkPool>,
    kind: WorkKind,
    tenant: Arc<str>,
}

impl WorkQueue {
    /// Creates the access of this tenant to this kind.
    #[must_use]
    pub fn new(pool: &Arc<WorkPool>, kind: WorkKind, tenant: Arc<str>) -> Self {
        Self { pool: Arc::clone(pool), kind, tenant }
    }

    /// Runs a step as [`WorkPool::run`] does.
    ///
    /// # Errors
    /// [`WorkError`].
    pub async fn run<T: Send + 'static>(
        &self,
        step: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkError> {
        self.pool.run(self.kind, &self.tenant, step).await
    }
}

/// Runs a step, and turns a panic in it into an error.
fn caught<T>(step: impl FnOnce() -> T) -> Result<T, WorkError> {
    catch_unwind(AssertUnwindSafe(step)).map_err(|panic| WorkError::Panicked(panic_words(&*panic)))
}

/// Returns the message of a panic, shortened.
pub(crate) fn panic_words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it did not say why").chars().take(PANIC_MAX_CHARS).collect()
}

#[cfg(test)]
mod tests;
