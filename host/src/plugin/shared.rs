//! Shared instances, which serve many sessions: one for all sessions of a server, or a fixed number
//! of shards.
//!
//! Events of the sessions on one instance wait for each other, in their order of arrival. A fault
//! ends the instance and all of its sessions. The next new session gets another instance.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll, ready};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::context::Context;
use super::loaded::Plugin;
use super::null_scope;
use super::store::PluginStore;
use crate::event::{Action, Budget, Event, Fault, FaultKind, Port, Scope};
use crate::locks::lock;

/// The shards of one server. A shard is made when its first session comes. It lives until it
/// faults, or until the server has another plugin and the shard's last session has ended.
pub(super) struct Shards(Box<[Mutex<Arc<Living>>]>);

/// One instance: before its start, alive, or gone.
struct Living {
    core: Arc<AsyncMutex<Option<PluginStore>>>,
    /// Whether the instance was made. Set once.
    ready: AtomicBool,
    /// Whether the instance is gone, or could not be made. Set once.
    gone: AtomicBool,
    sessions: Mutex<HashMap<u64, Arc<dyn Port>>>,
}

/// Instances that a new session tries to join. Each try but the last finds one that ends just then.
const JOINS_MAX: usize = 4;

type Held = OwnedMutexGuard<Option<PluginStore>>;

/// One session's part in a shared instance.
pub(super) struct Member {
    living: Arc<Living>,
    scope: Scope,
    /// The instance, while this session holds its lock.
    held: Option<Held>,
    /// The wait for that lock, in order of arrival.
    waiting: Option<Pin<Box<dyn Future<Output = Held> + Send>>>,
}

impl Shards {
    /// Creates `count` shards, none of them made yet.
    pub(super) fn new(count: usize) -> Self {
        Self((0..count).map(|_| Mutex::new(Living::fresh())).collect())
    }

    /// Number of shards.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Adds a session to the shard with the fewest sessions, and makes the shard's instance if
    /// there is none. Returns the fuel spent. Dropping the future is safe.
    pub(super) async fn join(
        &self,
        plugin: &Plugin,
        context: &Arc<Context>,
        scope: Scope,
        budget: Budget,
    ) -> Result<(Member, u64), Fault> {
        let Some(living) = self.choose(&scope) else { return Err(gone()) };
        let mut member = Member { living, scope, held: None, waiting: None };
        if member.living.ready.load(Ordering::Acquire) {
            return Ok((member, 0));
        }
        poll_fn(|cx| member.poll_held(cx)).await;
        let Some(mut held) = member.held.take() else { return Err(gone()) };
        if member.living.gone.load(Ordering::Acquire) {
            return Err(gone());
        }
        if held.is_some() {
            return Ok((member, 0));
        }
        // If this does not finish, `InUse` tells the sessions that wait for the instance.
        let mut making = InUse {
            living: &member.living,
            own: member.scope.port.info().id,
            held: &mut held,
            well: false,
        };
        let (core, fuel) = PluginStore::make(plugin, context, member.scope.clone(), budget).await?;
        making.held.insert(core).serve(null_scope::scope());
        making.well = true;
        member.living.ready.store(true, Ordering::Release);
        drop(making);
        Ok((member, fuel))
    }

    /// Adds this session to the shard with the fewest sessions. Returns `None` if every instance
    /// that it tried ended meanwhile.
    fn choose(&self, scope: &Scope) -> Option<Arc<Living>> {
        (0..JOINS_MAX).map(|_| self.fewest()).find(|living| living.add(&scope.port))
    }

    /// Returns the shard with the fewest sessions.
    fn fewest(&self) -> Arc<Living> {
        let mut chosen: Option<(usize, Arc<Living>)> = None;
        for shard in &self.0 {
            let mut shard = lock(shard);
            if shard.gone.load(Ordering::Acquire) {
                *shard = Living::fresh();
            }
            let sessions = lock(&shard.sessions).len();
            if chosen.as_ref().is_none_or(|(fewest, _)| sessions < *fewest) {
                chosen = Some((sessions, Arc::clone(&shard)));
            }
        }
        chosen.map_or_else(Living::fresh, |(_, living)| living)
    }
}

impl Living {
    fn fresh() -> Arc<Self> {
        let (ready, gone) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { core: Arc::default(), ready, gone, sessions: Mutex::default() })
    }

    /// Adds a session. Returns false if the instance is gone, because nothing would tell the
    /// session of that any more.
    fn add(&self, port: &Arc<dyn Port>) -> bool {
        let mut sessions = lock(&self.sessions);
        if self.gone.load(Ordering::Acquire) {
            return false;
        }
        sessions.insert(port.info().id, Arc::clone(port));
        true
    }

    /// Marks the instance as gone, and tells every session but `own`, which caused the end.
    fn end(&self, own: u64) {
        self.gone.store(true, Ordering::Release);
        let sessions = std::mem::take(&mut *lock(&self.sessions));
        for (_, port) in sessions.into_iter().filter(|(id, _)| *id != own) {
            port.instance_lost();
        }
    }
}

impl Member {
    /// Becomes ready when this session has the instance, which it keeps until its next event is
    /// over.
    pub(super) fn poll_free(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Fault>> {
        ready!(self.poll_held(cx));
        let alive = self.held.as_ref().is_some_and(|held| held.is_some());
        Poll::Ready(if alive { Ok(()) } else { Err(gone()) })
    }

    fn poll_held(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        if self.held.is_some() {
            return Poll::Ready(());
        }
        if self.waiting.is_none()
            && let Ok(held) = Arc::clone(&self.living.core).try_lock_owned()
        {
            self.held = Some(held);
            return Poll::Ready(());
        }
        let core = &self.living.core;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(Arc::clone(core).lock_owned()));
        self.held = Some(ready!(waiting.as_mut().poll(cx)));
        self.waiting = None;
        Poll::Ready(())
    }

    /// Handles one event on the instance. Returns the answer, the fuel spent, and the instance's
    /// memory in bytes now.
    ///
    /// If the future is dropped before it is finished, the instance is gone.
    pub(super) async fn call(
        &mut self,
        event: Event<'_>,
        budget: Budget,
    ) -> Result<(Action, u64, u64), Fault> {
        poll_fn(|cx| self.poll_free(cx)).await?;
        let Some(mut held) = self.held.take() else { return Err(gone()) };
        let mut using = InUse {
            living: &self.living,
            own: self.scope.port.info().id,
            held: &mut held,
            well: false,
        };
        let Some(core) = using.held.as_mut() else { return Err(gone()) };
        core.serve(self.scope.clone());
        let (action, fuel) = core.call(event, budget).await?;
        // An idle instance must not keep the session alive.
        core.serve(null_scope::scope());
        let memory = core.memory_bytes();
        using.well = true;
        Ok((action, fuel, memory))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        lock(&self.living.sessions).remove(&self.scope.port.info().id);
    }
}

/// The instance while a session uses it. Dropping this before `well` is set ends the instance.
struct InUse<'a> {
    living: &'a Living,
    own: u64,
    held: &'a mut Held,
    well: bool,
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        if !self.well {
            **self.held = None;
            self.living.end(self.own);
        }
    }
}

fn gone() -> Fault {
    Fault::new(
        FaultKind::InstanceLost,
        "the instance it shared with other sessions is gone by a fault in one of theirs",
    )
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::event::{ClientInfo, NullPort};

    #[test]
    fn lost_instance_is_told_to_all() {
        for shards in 1..=3 {
            let shards = Shards::new(shards);
            let current = || lock(&shards.0[0]).clone();
            let joined = thread::scope(|threads| {
                let joining = threads.spawn(|| {
                    let of = |id| {
                        let Scope { port, peers } = null_scope::scope();
                        let info = ClientInfo { id, ..port.info().clone() };
                        shards.choose(&Scope { port: Arc::new(NullPort(info)), peers })
                    };
                    (1..=20_000).map(of).collect::<Vec<_>>()
                });
                while !joining.is_finished() {
                    current().end(0);
                }
                joining.join().expect("it joined")
            });
            for living in joined.into_iter().flatten() {
                // The end of an instance takes out each session that it tells.
                let untold = lock(&living.sessions).len();
                assert!(untold == 0 || !living.gone.load(Ordering::Acquire), "{untold} sessions");
            }
        }
    }
}
