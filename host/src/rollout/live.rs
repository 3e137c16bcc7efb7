//! All that a rollout sees of its server.

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::blame::{ClientSource, LiveAddresses};
use super::rules::SwapRules;
use crate::event::Peers;
use crate::oci::Registries;
use crate::plugin::{EventProcedure, Grants, Holding, Loader};
use crate::sched::{Placement, Quota};
use crate::session::{ProcedureSlot, SessionConfig, SessionHandle};
use crate::telemetry::{Bucket, Counters};
use crate::work::{WorkKind, WorkQueue};

/// A live session, and the slot of its procedure.
pub(crate) type LiveSession = (Arc<SessionHandle>, Arc<ProcedureSlot<EventProcedure>>);

/// A task of the lane for background work, which gets its placement.
pub(crate) type IdleTask = Box<dyn FnOnce(Arc<Placement>) -> BoxFuture<'static, ()> + Send>;

/// A server as its rollout sees it: live sessions, configuration, and the host's services.
pub(crate) trait LiveSessions: Send + Sync + 'static {
    /// The server's name.
    fn name(&self) -> &Arc<str>;

    /// Whether the server stops or has stopped.
    fn is_ending(&self) -> bool;

    /// The sessions that have a version and are not ending.
    fn live(&self) -> Vec<LiveSession>;

    /// Counts the live sessions by address: first those whose version `which` maps to 0, then those
    /// of 1. The registry stays usable meanwhile.
    fn live_on(&self, which: &dyn Fn(&Arc<EventProcedure>) -> Option<usize>) -> [LiveAddresses; 2];

    /// The source that blame counts for a client at this address.
    fn source(&self, peer: IpAddr) -> ClientSource;

    /// What clients can look up and send to, for replays.
    fn peers(&self) -> Arc<dyn Peers>;

    /// The rules of swaps and canaries.
    fn rules(&self) -> SwapRules;

    /// What the plugin may import.
    fn grants(&self) -> Grants;

    /// Sources of plugins that are no files.
    fn registries(&self) -> Arc<Registries>;

    /// The configuration of new sessions.
    fn session_config(&self) -> Arc<SessionConfig>;

    /// The quota of the server's tenant.
    fn quota(&self) -> Arc<Quota>;

    /// A queue of the host's work threads for the server's tenant.
    fn work(&self, kind: WorkKind) -> WorkQueue;

    /// The host's runtime, for work that continues if its caller is cancelled.
    fn runtime(&self) -> &tokio::runtime::Handle;

    /// Runs a task in the lane for background work, charged to the server's tenant.
    fn spawn_idle(&self, task: IdleTask);

    /// Loader of the host, on behalf of the server's tenant.
    fn loader(&self) -> Loader;

    /// The server's share of the process's instances.
    fn holding(&self) -> &Arc<Holding>;

    /// The server's counters.
    fn counters(&self) -> &Arc<Counters>;

    /// Limits the log lines about faults.
    fn fault_lines(&self) -> &Bucket;

    /// Closes the breaker and forgets its counts, because the current version has changed.
    fn forget_faults(&self);

    /// Returns the sessions that are on another version than this.
    fn others(&self, next: &Arc<EventProcedure>) -> Vec<LiveSession> {
        let mut live = self.live();
        live.retain(|(_, slot)| !Arc::ptr_eq(&slot.current(), next));
        live
    }

    /// Returns the sessions that are on this version.
    fn on(&self, version: &Arc<EventProcedure>) -> Vec<LiveSession> {
        let mut live = self.live();
        live.retain(|(_, slot)| Arc::ptr_eq(&slot.current(), version));
        live
    }

    /// Returns the sessions that are on this build, under any configuration.
    fn on_build(&self, version: &Arc<EventProcedure>) -> Vec<LiveSession> {
        let mut live = self.live();
        live.retain(|(_, slot)| slot.current().plugin().is_same_as(version.plugin()));
        live
    }
}
