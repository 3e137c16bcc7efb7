//! What a running server's tasks share.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::registry::Registry;
use super::shards::Shards;
use crate::admission::Gate;
use crate::net::Security;
use crate::plugin::EventProcedure;
use crate::session::LineConfig;
use crate::telemetry::{Bucket, Counters};

/// Where a server is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Accepting and serving.
    Running,
    /// No newcomers; sessions end gracefully.
    Draining,
    /// Sessions end now.
    Cancelled,
}

pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) parameter: i64,
    pub(crate) gate: Gate,
    pub(crate) security: Security,
    pub(crate) line_config: LineConfig,
    pub(crate) registry: Arc<Registry>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) fault_lines: Bucket,
    pub(super) shards: Arc<Shards>,
    pub(super) procedure: ArcSwap<EventProcedure>,
    pub(super) phase: watch::Sender<Phase>,
}

impl Service {
    /// What new sessions get.
    pub(crate) fn procedure(&self) -> Arc<EventProcedure> {
        self.procedure.load_full()
    }

    /// Runs a client's task on one of the threads for sessions.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shards.spawn(task);
    }

    /// The phase, to look at and to wait for.
    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Moves on to a later phase; there is no way back.
    pub(super) fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = *phase < to;
            *phase = to.max(*phase);
            later
        });
        for line in self.registry.present() {
            match to {
                Phase::Running => {}
                Phase::Draining => line.stop(),
                Phase::Cancelled => line.cancel(),
            }
        }
    }
}
