//! The lock of a whole server. While it is held, no event of the server runs and the server accepts
//! no connections.
//!
//! The lock cannot hang a caller:
//!
//! - Waiting for it and holding it have limits.
//! - Dropping it frees it.
//! - Ending the server's sessions revokes it.
//!
//! The lock is not recursive: a holder that requests it again waits like any other caller, and gets
//! [`LockError::Busy`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::shared::Service;
use super::state::{Status, followed};
use crate::locks::lock;
use crate::sched::{Moment, stalls};
use crate::telemetry::LockExpired;

/// Shortest time for which a caller may ask to hold a lock.
const LOCK_HOLD_MIN: Duration = Duration::from_millis(1);
/// Longest time that a lock may be held.
pub const LOCK_HOLD_MAX: Duration = Duration::from_secs(60);
/// Longest time that a caller may wait for a lock.
pub const LOCK_WAIT_MAX: Duration = Duration::from_secs(60);

/// Why a lock was not taken. Nothing is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another caller has the lock, or the same caller has it already.
    #[error("the server is locked by another caller, or by this one; a lock is not recursive")]
    Busy,
    /// An event did not end in time.
    #[error("an event that was running did not end in time")]
    NotQuiet,
    /// The server ends its sessions or is stopped.
    #[error("the server is ending its sessions, or is stopped")]
    Stopping,
    /// The time to wait or to hold is out of range.
    #[error("expected at most a minute to wait, and 1 ms to a minute to hold")]
    Limit,
}

/// The holder of a server's lock.
#[derive(Debug, Default)]
pub(crate) struct Holder {
    state: Mutex<HolderState>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct HolderState {
    now: Option<u64>,
    /// Task that revokes the lock at the end of its time.
    timer: Option<AbortHandle>,
}

/// The last token of all servers, so that no token is given twice.
static TOKENS: AtomicU64 = AtomicU64::new(0);

impl Holder {
    fn take(&self) -> Option<u64> {
        let mut state = lock(&self.state);
        if state.now.is_some() {
            return None;
        }
        state.now = Some(TOKENS.fetch_add(1, Ordering::Relaxed) + 1);
        state.now
    }

    /// Calls `act` if `token` holds the lock. The lock cannot be revoked meanwhile.
    fn with<T>(&self, token: u64, act: impl FnOnce() -> Option<T>) -> Option<T> {
        let state = lock(&self.state);
        if state.now == Some(token) { act() } else { None }
    }

    /// Sets the timer of a held lock. If `token` no longer holds it, aborts the timer.
    fn time(&self, token: u64, timer: AbortHandle) {
        let mut state = lock(&self.state);
        match state.now == Some(token) {
            true => state.timer = Some(timer),
            false => timer.abort(),
        }
    }

    /// Calls `open` and frees the lock, from any holder if `token` is `None`. True if it was held.
    fn free(&self, token: Option<u64>, open: impl FnOnce()) -> bool {
        let mut state = lock(&self.state);
        let held = state.now.is_some() && (token.is_none() || token == state.now);
        if held {
            open();
            state.now = None;
            // If the timer itself frees the lock, it has nothing left to wait for.
            state.timer.take().inspect(AbortHandle::abort);
            drop(state);
            self.freed.notify_waiters();
        }
        held
    }
}

/// A held lock. Dropping it gives it back.
pub struct Lock {
    service: Weak<Service>,
    token: u64,
}

impl Lock {
    /// Whether the lock is still held, and was not revoked.
    #[must_use]
    pub fn is_held(&self) -> bool {
        let service = self.service.upgrade();
        service.is_some_and(|service| service.holder.with(self.token, || Some(())).is_some())
    }

    /// Leaves the lock held until its time is over or the token is given to
    /// [`ServerHandle::unlock`](crate::server::ServerHandle::unlock).
    #[must_use]
    pub fn into_token(mut self) -> u64 {
        // Without its service, the drop frees nothing.
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
    /// `hold`. `accepting` tells the version of the state that the accepting task follows.
    /// Cancel-safe: dropping the future gives the lock back.
    pub(crate) async fn lock(
        self: &Arc<Self>,
        runtime: &Handle,
        wait: Duration,
        hold: Duration,
        accepting: watch::Receiver<u64>,
    ) -> Result<Lock, LockError> {
        if wait > LOCK_WAIT_MAX || hold > LOCK_HOLD_MAX || hold < LOCK_HOLD_MIN {
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
            let version = self.steer(|state| {
                let running = !state.status.is_final()
                    && state.status != Status::Restarting
                    && state.ending == 0;
                state.locked |= running;
                running
            });
            version.inspect(|_| self.pause_gate.close())
        };
        let version = self.holder.with(token, close).ok_or(LockError::Stopping)?;
        let quiet = async {
            followed(accepting, version).await;
            self.pause_gate
                .until(|| !self.registry.present().iter().any(|(handle, _)| handle.in_event()))
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

    /// Gives back the lock of this token. Returns false if that lock is no longer held.
    pub(crate) fn unlock(&self, token: u64) -> bool {
        self.holder.free(Some(token), || self.open())
    }

    /// Takes the lock from any holder.
    pub(crate) fn revoke_lock(&self) {
        self.holder.free(None, || self.open());
    }

    fn open(&self) {
        self.pause_gate.open();
        self.steer(|state| std::mem::take(&mut state.locked));
    }
}
