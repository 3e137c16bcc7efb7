//! Occurrences around versions of a plugin.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{debug, error, info, warn};

use super::counters::Kind;
use super::{Bucket, Counters};
use crate::event::{Fault, FaultKind, excerpt};

/// Bytes of a reason, which names a file and imports.
const WHY_MAX_BYTES: usize = 4 << 10;

/// The faults for which a version was rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FaultFigures {
    /// Sessions that faulted on the version.
    pub faults: u64,
    /// Of these, faults that the version before has as well, as fault replays showed.
    pub excused: u64,
    /// Faults that were replayed.
    pub replayed: u64,
    /// Addresses with sessions on the version.
    pub addresses: u64,
    /// Of these, addresses with a fault that is not excused.
    pub faulty_addresses: u64,
    /// The version's rate of faults that are not excused, 0 to 1. The rate counts sessions; from
    /// three addresses on it is the mean of the addresses' rates.
    pub rate: f64,
    /// The same rate of the version before.
    pub rate_before: f64,
}

impl fmt::Display for FaultFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { faults, excused, replayed, addresses, faulty_addresses, rate, rate_before } =
            self;
        write!(
            f,
            "{faults} faults, {excused} of them excused by {replayed} replays; {faulty_addresses} \
             of {addresses} \
             addresses have faults; rate {rate:.3}, of the version before {rate_before:.3}"
        )
    }
}

/// New sessions get another build of the plugin.
#[derive(Debug)]
pub struct PluginSwapped<'a> {
    /// The server.
    pub server: &'a str,
    /// The plugin that new sessions get.
    pub plugin: &'a str,
    /// Digest of its component, which tells two builds of one version apart.
    pub digest: &'a str,
}

impl PluginSwapped<'_> {
    /// Logs the occurrence.
    pub fn emit(&self) {
        let digest = self.digest.get(..12).unwrap_or(self.digest);
        info!(server = self.server, plugin = self.plugin, digest, "new sessions get this build");
    }
}

/// A version was rolled back, because it faults or live sessions cannot migrate to it.
#[derive(Debug)]
pub struct SwapRolledBack<'a> {
    /// The server.
    pub server: &'a str,
    /// The version that was rolled back.
    pub bad: &'a str,
    /// The version that new sessions get again.
    pub plugin: &'a str,
    /// Digest of its component.
    pub digest: &'a str,
    /// The reason: `faults`, `failed-hand-offs`, `stopping`.
    pub reason: &'a str,
    /// The faults, if they are the reason.
    pub figures: Option<&'a FaultFigures>,
}

impl SwapRolledBack<'_> {
    /// Logs and counts the occurrence.
    pub fn emit(&self, counters: &Counters) {
        counters.count(Kind::Notice, "swap-rolled-back");
        let digest = self.digest.get(..12).unwrap_or(self.digest);
        let Self { server, bad, plugin, reason, figures, .. } = *self;
        match figures {
            Some(figures) => {
                let FaultFigures { faults, excused, addresses, rate, rate_before, .. } = *figures;
                warn!(
                    server,
                    bad,
                    plugin,
                    digest,
                    reason,
                    faults,
                    excused,
                    addresses,
                    rate,
                    rate_before,
                    "the new version faults more than the one before and is rolled back: {figures}"
                );
            }
            None => warn!(server, bad, plugin, digest, reason, "the new version is rolled back"),
        }
    }
}

/// The result of a fault replay on the version before.
#[derive(Debug)]
pub struct FaultReplayed<'a> {
    /// The server.
    pub server: &'a str,
    /// The event that failed; `start`: the start of an instance.
    pub event: &'a str,
    /// The kind of the fault.
    pub kind: FaultKind,
    /// `same`, `differs`, `unsure`; `over-quota`: the fault was not replayed.
    pub finding: &'a str,
}

impl FaultReplayed<'_> {
    /// Logs the occurrence at `debug`, and counts it.
    pub fn emit(&self, counters: &Counters) {
        let Self { server, event, kind, finding } = *self;
        counters.count(Kind::Notice, &format!("replay-{finding}"));
        debug!(
            server,
            event,
            kind = &*kind.name(),
            finding,
            "a fault of the new version, tried on the one before"
        );
    }
}

/// A version was refused: it does not load, or an atomic migration to it failed.
#[derive(Debug)]
pub struct SwapRefused<'a> {
    /// The server.
    pub server: &'a str,
    /// The reason.
    pub why: &'a str,
}

impl SwapRefused<'_> {
    /// Logs and counts the occurrence.
    pub fn emit(&self, counters: &Counters) {
        counters.count(Kind::Notice, "swap-refused");
        let (server, why) = (self.server, excerpt(self.why, WHY_MAX_BYTES));
        warn!(server, "the server keeps its version: {why}");
    }
}

/// A canary begins: a version is tried on some of the sessions.
#[derive(Debug)]
pub struct CanaryBegan<'a> {
    /// The server.
    pub server: &'a str,
    /// The version that is tried.
    pub plugin: &'a str,
    /// Share of the new sessions.
    pub share: f64,
    /// The length of the canary.
    pub lasts: Duration,
}

impl CanaryBegan<'_> {
    /// Logs the occurrence.
    pub fn emit(&self) {
        let Self { server, plugin, share, lasts } = *self;
        info!(server, plugin, share, ?lasts, "a canary: some of the new sessions get this version");
    }
}

/// A canary is over.
#[derive(Debug)]
pub struct CanaryEnded<'a> {
    /// The server.
    pub server: &'a str,
    /// The version that was tried.
    pub plugin: &'a str,
    /// `promoted`, or why the canary was rolled back.
    pub outcome: &'a str,
    /// Sessions on the canary.
    pub sessions: u64,
    /// Of these, sessions that faulted.
    pub faulted: u64,
    /// The faults, if the canary was rolled back for them.
    pub figures: Option<&'a FaultFigures>,
}

impl CanaryEnded<'_> {
    /// Logs and counts the occurrence.
    pub fn emit(&self, counters: &Counters) {
        let promoted = self.outcome == "promoted";
        counters
            .count(Kind::Notice, if promoted { "canary-promoted" } else { "canary-taken-back" });
        let Self { server, plugin, outcome, sessions, faulted, figures } = *self;
        if let Some(figures) = figures {
            let FaultFigures { excused, addresses, rate, rate_before, .. } = *figures;
            warn!(
                server,
                plugin,
                reason = outcome,
                sessions,
                faulted,
                excused,
                addresses,
                rate,
                rate_before,
                "the canary faults more than what is in force and is rolled back: {figures}"
            );
            return;
        }
        match promoted {
            true => info!(
                server,
                plugin, sessions, faulted, "the canary is promoted: all new sessions get it"
            ),
            false => warn!(
                server,
                plugin,
                reason = outcome,
                sessions,
                faulted,
                "the canary is rolled back"
            ),
        }
    }
}

/// The server's current version is not on disk.
#[derive(Debug)]
pub struct NotRecorded<'a> {
    /// The server.
    pub server: &'a str,
    /// The reason.
    pub error: &'a str,
}

impl NotRecorded<'_> {
    /// Logs and counts the occurrence.
    pub fn emit(&self, counters: &Counters) {
        counters.count(Kind::Notice, "not-recorded");
        let Self { server, error } = *self;
        error!(
            server,
            "what is in force could not be recorded, and a restart may start what was recorded \
             last: {error}"
        );
    }
}

/// A live session could not migrate to a new version, and goes on as before.
#[derive(Debug)]
pub struct MigrationFailed<'a> {
    /// The server.
    pub server: &'a str,
    /// The session.
    pub session: u64,
    /// The reason.
    pub fault: &'a Fault,
}

impl MigrationFailed<'_> {
    /// Logs the occurrence if `lines` lets it pass.
    pub fn emit(&self, lines: &Bucket) {
        let Some(suppressed) = lines.pass(Instant::now()) else { return };
        let (reason, by) = (self.fault.kind.name(), self.fault.kind.origin().name());
        let Self { server, session, fault } = self;
        warn!(
            server,
            session,
            reason = &*reason,
            by,
            suppressed,
            "session stays on its version: {}",
            fault.detail
        );
    }
}

/// A swap has migrated the live sessions by its policy.
#[derive(Debug)]
pub struct SessionsMoved<'a> {
    /// The server.
    pub server: &'a str,
    /// Sessions on the new version.
    pub moved: usize,
    /// Sessions on the old version.
    pub stayed: usize,
    /// Sessions that ended.
    pub ended: usize,
    /// The longest time in which no version handled a session.
    pub longest: Duration,
}

impl SessionsMoved<'_> {
    /// Logs the occurrence.
    pub fn emit(&self) {
        let Self { server, moved, stayed, ended, longest } = *self;
        info!(
            server,
            moved,
            stayed,
            ended,
            longest_seconds = longest.as_secs_f64(),
            "live sessions swapped"
        );
    }
}
