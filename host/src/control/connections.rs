//! The connections of one socket of the API.
//!
//! A connection holds no place while a handler works on its request. So calls that wait never block
//! the call that would end their wait.

use std::sync::{Arc, Mutex};

use crate::locks::lock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most connections of each socket that are read from, written to or idle. Further ones wait in
/// the backlog.
const CONNECTIONS_MAX: usize = 64;
/// Most connections of each socket, including those with a request in a handler.
const ALL_MAX: usize = 4_096;

/// The places for connections of one socket.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    free: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// One connection. Clones share its place.
#[derive(Debug, Clone)]
pub(super) struct Connection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: Arc<Semaphore>,
    /// `None` while a handler works on the connection's request.
    place: Mutex<Option<OwnedSemaphorePermit>>,
    _counted: OwnedSemaphorePermit,
}

/// A connection that has given up its place.
pub(super) struct Away(Connection);

impl Default for Connections {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            all: Arc::new(Semaphore::new(ALL_MAX)),
        }
    }
}

impl Connections {
    /// Waits for a place for one more connection. Cancel safe: dropping the future loses no place.
    pub(super) async fn next(&self) -> Connection {
        let take = async |places: &Arc<Semaphore>| {
            let place = Arc::clone(places).acquire_owned().await;
            place.expect("the semaphore is never closed")
        };
        let counted = take(&self.all).await;
        let place = Mutex::new(Some(take(&self.free).await));
        Connection(Arc::new(Inner { free: Arc::clone(&self.free), place, _counted: counted }))
    }

    /// Waits until no connection is left. Cancel safe.
    pub(super) async fn ended(&self) {
        // The semaphore is never closed.
        let _ = self.all.acquire_many(ALL_MAX as u32).await;
    }
}

impl Connection {
    /// Gives the connection's place to others until [`Away::returns`].
    pub(super) fn leave(self) -> Away {
        drop(self.place().take());
        Away(self)
    }

    fn place(&self) -> std::sync::MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        lock(&self.0.place)
    }
}

impl Away {
    /// Takes a place again. Returns false if none is free; then the connection must end with its
    /// answer.
    pub(super) fn returns(self) -> bool {
        let place = Arc::clone(&self.0.0.free).try_acquire_owned().ok();
        let returns = place.is_some();
        *self.0.place() = place;
        returns
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn waiting_calls_hold_no_place_and_are_counted() {
        let connections = Connections::default();
        let mut cx = Context::from_waker(Waker::noop());
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut away = Vec::new();
        for _ in 0..CONNECTIONS_MAX * 3 {
            away.push(runtime.block_on(connections.next()).leave());
        }
        let idle: Vec<_> =
            (0..CONNECTIONS_MAX).map(|_| runtime.block_on(connections.next())).collect();
        assert!(
            pin!(connections.next()).poll(&mut cx).is_pending(),
            "one more than there are places"
        );
        assert!(!away.pop().expect("one").returns(), "there is no place for it");
        drop(idle);
        assert!(away.pop().expect("one").returns());
        assert!(pin!(connections.ended()).poll(&mut cx).is_pending(), "some are worked on");
        drop(away);
        assert!(pin!(connections.ended()).poll(&mut cx).is_ready());
    }
}
