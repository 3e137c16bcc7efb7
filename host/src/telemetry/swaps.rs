//! Occurrences around versions of a plugin.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{debug, error, info, warn};

use super::counters::Kind;
use super::{Bucket, Counters};
use crate::event::{Fault, FaultKind, excerpt};

/// Bytes of a reason that names a file and imports.
const WHY_MAX_BYTES: usize = 4 << 10;

/// By which faults a version was taken back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FaultFigures {
    /// Sessions that faulted on it.
    pub faults: u64,
    /// Of these, faults that the version before has as well, as replays showed.
    pub excused: u64,
    /// Faults that were replayed.
    pub replayed: u64,
    /// Addresses with sessions on it.
    pub addresses: u64,
    /// Of these, addresses with a fault that is not excused.
    pub faulty_addresses: u64,
    /// Its rate of faults that are not excused, 0 to 1: of sessions, or from three addresses on the
    /// mean of the rates of addresses.
    pub rate: f64,
    /// The same of the version before.
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
    /// What new sessions get.
    pub plugin: &'a str,
    /// Digest of its component, which tells two builds of one version apart.
    pub digest: &'a str,
}

impl PluginSwapped<'_> {
    /// Logs it.
    pub fn emit(&self) {
        let digest = self.digest.get(..12).unwrap_or(self.digest);
        info!(server = self.server, plugin = self.plugin, digest, "new sessions get this build");
    }
}

/// A version that faults, or that live sessions cannot move to, is taken back.
#[derive(Debug)]
pub struct SwapRolledBack<'a> {
    /// The server.
    pub server: &'a str,
    /// What was taken back.
    pub bad: &'a str,
    /// What new sessions get again.
    pub plugin: &'a str,
    /// Digest of its component.
    pub digest: &'a str,
    /// Why: `faults`, `failed-hand-offs`, `stopping`.
    pub reason: &'a str,
    /// The faults, where it is these.
    pub figures: Option<&'a FaultFigures>,
}

impl SwapRolledBack<'_> {
    /// Logs and counts it.
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
                    "the new version faults more than the one before and is taken back: {figures}"
                );
            }
            None => warn!(server, bad, plugin, digest, reason, "the new version is taken back"),
        }
    }
}

/// What became of the replay of a fault on the version before.
#[derive(Debug)]
pub struct FaultReplayed<'a> {
    /// The server.
    pub server: &'a str,
    /// The event that failed; `start`: the start of an instance.
    pub event: &'a str,
    /// How.
    pub kind: FaultKind,
    /// `same`, `differs`, `unsure`; `over-quota`: it was not replayed.
    pub finding: &'a str,
}

impl FaultReplayed<'_> {
    /// Logs it at `debug`, and counts it.
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

/// A version was not taken: it does not load, or not all sessions could move to it where all or
/// none were to.
#[derive(Debug)]
pub struct SwapRefused<'a> {
    /// The server.
    pub server: &'a str,
    /// Why.
    pub why: &'a str,
}

impl SwapRefused<'_> {
    /// Logs and counts it.
    pub fn emit(&self, counters: &Counters) {
        counters.count(Kind::Notice, "swap-refused");
        let (server, why) = (self.server, excerpt(self.why, WHY_MAX_BYTES));
        warn!(server, "the server keeps its version: {why}");
    }
}

/// A version is tried on some of the sessions.
#[derive(Debug)]
pub struct CanaryBegan<'a> {
    /// The server.
    pub server: &'a str,
    /// What is tried.
    pub plugin: &'a str,
    /// Share of the newcomers.
    pub share: f64,
    /// For how long.
    pub lasts: Duration,
}

impl CanaryBegan<'_> {
    /// Logs it.
    pub fn emit(&self) {
        let Self { server, plugin, share, lasts } = *self;
        info!(server, plugin, share, ?lasts, "a canary: some of the newcomers get this version");
    }
}

/// A canary is over.
#[derive(Debug)]
pub struct CanaryEnded<'a> {
    /// The server.
    pub server: &'a str,
    /// What was tried.
    pub plugin: &'a str,
    /// `promoted`, or why it was taken back.
    pub outcome: &'a str,
    /// Sessions that it had.
    pub sessions: u64,
    /// Of these, those that faulted.
    pub faulted: u64,
    /// The faults, where it was taken back for these.
    pub figures: Option<&'a FaultFigures>,
}

impl CanaryEnded<'_> {
    /// Logs and counts it.
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
                "the canary faults more than what is in force and is taken back: {figures}"
            );
            return;
        }
        match promoted {
            true => info!(
                server,
                plugin, sessions, faulted, "the canary is promoted: all newcomers get it"
            ),
            false => warn!(
                server,
                plugin,
                reason = outcome,
                sessions,
                faulted,
                "the canary is taken back"
            ),
        }
    }
}

/// What a server has in force is not on disk.
#[derive(Debug)]
pub struct NotRecorded<'a> {
    /// The server.
    pub server: &'a str,
    /// Why.
    pub error: &'a str,
}

impl NotRecorded<'_> {
    /// Logs and counts it.
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

/// A live session could not move to a new version, and goes on as before.
#[derive(Debug)]
pub struct HandoverFailed<'a> {
    /// The server.
    pub server: &'a str,
    /// The session.
    pub session: u64,
    /// Why.
    pub fault: &'a Fault,
}

impl HandoverFailed<'_> {
    /// Logs it, where the bucket lets it pass.
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

/// A swap has done with live sessions what was asked for.
#[derive(Debug)]
pub struct SessionsMoved<'a> {
    /// The server.
    pub server: &'a str,
    /// Sessions on the new version.
    pub moved: usize,
    /// Sessions on the old one.
    pub stayed: usize,
    /// Sessions that ended.
    pub ended: usize,
    /// The longest that one was handled by neither.
    pub longest: Duration,
}

impl SessionsMoved<'_> {
    /// Logs it.
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
