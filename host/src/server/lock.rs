//! A critical section over a whole server: while it is held, no event of the server runs and
//! nothing is accepted.
//!
//! It cannot hang anybody: waiting for it has a limit, holding it has a limit, dropping it frees
//! it, and ending the server's sessions takes it back. It is not recursive: whoever holds it and
//! asks again waits like everybody else, and is told that it is busy.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::service::Service;
use super::state::{Status, followed};
use crate::sched::{Moment, stalls};
use crate::telemetry::LockExpired;

/// Longest that a lock may be held.
pub const LOCK_HOLD_MAX: Duration = Duration::from_secs(60);
/// Longest that anybody may wait for one.
pub const LOCK_WAIT_MAX: Duration = Duration::from_secs(60);

/// Why there is no lock. Nothing is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Somebody else has it, perhaps the caller itself.
    #[error(
        "the server is locked by somebody else, or by the same caller; a lock is not recursive"
    )]
    Busy,
    /// An event did not end in time.
    #[error("an event that was running did not end in time")]
    NotQuiet,
    /// The server ends its sessions or is stopped.
    #[error("the server is ending its sessions, or is stopped")]
    Stopping,
    /// No such time.
    #[error("expected at most a minute to wait, and 1 ms to a minute to hold")]
    Limit,
}

/// Who has the lock.
#[derive(Debug, Default)]
pub(super) struct Holder {
    state: Mutex<HolderState>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct HolderState {
    now: Option<u64>,
    /// What takes it back when its time is over.
    timer: Option<AbortHandle>,
}

/// The last token of any server, so that none is ever given twice.
static TOKENS: AtomicU64 = AtomicU64::new(0);

impl Holder {
    fn take(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.now.is_some() {
            return None;
        }
        state.now = Some(TOKENS.fetch_add(1, Ordering::Relaxed) + 1);
        state.now
    }

    /// Does `act` if the token holds it, and as long as it does. Nobody takes it back meanwhile.
    fn with<T>(&self, token: u64, act: impl FnOnce() -> Option<T>) -> Option<T> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.now == Some(token) { act() } else { None }
    }

    /// It has a timer from now on; or none, where it was given back already.
    fn time(&self, token: u64, timer: AbortHandle) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.now == Some(token) {
            true => state.timer = Some(timer),
            false => timer.abort(),
        }
    }

    /// Does `open` and gives it back; `None` is whoever has it. True where it was held.
    fn free(&self, token: Option<u64>, open: impl FnOnce()) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let held = state.now.is_some() && (token.is_none() || token == state.now);
        if held {
            open();
            state.now = None;
            // Where the timer itself frees it, it has nothing left to wait for.
            state.timer.take().inspect(AbortHandle::abort);
            drop(state);
            self.freed.notify_waiters();
        }
        held
    }
}

/// The lock, held. Dropping it gives it back.
pub struct Lock {
    service: Weak<Service>,
    token: u64,
}

impl Lock {
    /// Whether it is held still, and was not taken back.
    #[must_use]
    pub fn is_held(&self) -> bool {
        let service = self.service.upgrade();
        service.is_some_and(|service| service.holder.with(self.token, || Some(())).is_some())
    }

    /// Leaves it held until its time is over or the token is given to
    /// [`super::ServerHandle::unlock`].
    #[must_use]
    pub fn into_token(mut self) -> u64 {
        // Without its service it gives nothing back.
        self.service = Weak::new();
        self.token
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(service) = self.service.upgrade() {
            service.unlock(self.token);
        }
    }
}

impl Service {
    /// Waits up to `wait` for the lock and for running events to end, then holds it for up to
    /// `hold`. `accepting` says which version of the course the accepting task follows. Dropping
    /// the future gives it back.
    pub(super) async fn lock(
        self: &Arc<Self>,
        runtime: &Handle,
        wait: Duration,
        hold: Duration,
        accepting: watch::Receiver<u64>,
    ) -> Result<Lock, LockError> {
        if wait > LOCK_WAIT_MAX || hold > LOCK_HOLD_MAX || hold < Duration::from_millis(1) {
            return Err(LockError::Limit);
        }
        let deadline = Moment::now().excused() + wait;
        let taken = async {
            loop {
                let freed = self.holder.freed.notified();
                if let Some(token) = self.holder.take() {
                    return token;
                }
                freed.await;
            }
        };
        let token = stalls::by(deadline, taken).await.ok_or(LockError::Busy)?;
        let lock = Lock { service: Arc::downgrade(self), token };
        let close = || {
            let version = self.steer(|course| {
                let running = !course.status.is_final()
                    && course.status != Status::Restarting
                    && course.ending == 0;
                course.locked |= running;
                running
            });
            version.inspect(|_| self.pause_gate.close())
        };
        let version = self.holder.with(token, close).ok_or(LockError::Stopping)?;
        let quiet = async {
            followed(accepting, version).await;
            self.pause_gate
                .until(|| !self.registry.present().iter().any(|(line, _)| line.in_event()))
                .await;
        };
        stalls::by(deadline, quiet).await.ok_or(LockError::NotQuiet)?;
        if !lock.is_held() {
            return Err(LockError::Stopping);
        }
        let service = Arc::downgrade(self);
        let timer = runtime.spawn(async move {
            stalls::sleep(hold).await;
            if let Some(service) = service.upgrade()
                && service.unlock(token)
            {
                LockExpired { server: &service.name, hold }.emit(&service.counters);
            }
        });
        self.holder.time(token, timer.abort_handle());
        Ok(lock)
    }

    /// Gives the lock of this token back. False where it is not held any more.
    pub(super) fn unlock(&self, token: u64) -> bool {
        self.holder.free(Some(token), || self.open())
    }

    /// Takes the lock from whoever has it.
    pub(super) fn revoke_lock(&self) {
        self.holder.free(None, || self.open());
    }

    fn open(&self) {
        self.pause_gate.open();
        self.steer(|course| std::mem::take(&mut course.locked));
    }
}
