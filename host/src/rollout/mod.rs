//! Rollout: the spine of a swap. One server's plugin gets another version in five steps: stage,
//! publish, migrate, watch, record.
//!
//! | step | what happens | file |
//! |---|---|---|
//! | stage | the version is fetched, tried and kept; nothing has changed yet | `stage` |
//! | publish | new sessions get the version | `publish` |
//! | migrate | live sessions move, as the policy says | `introduce`, `migrate`, `migrate_atomic` |
//! | watch | the version is on probation, or a canary | `watch` (probation), `judge` (canary) |
//! | record | the current version is written to disk | `record` |
//!
//! [`Rollout::exclusive`] is the lock of swaps, and the [`VersionChange`] that it returns is the
//! only way to publish a version. A rollout sees its server through [`LiveSessions`] alone.

pub(crate) mod blame;
mod canary;
mod change;
pub(crate) mod env;
mod exclusive;
mod fetch;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod introduce;
mod judge;
mod live;
mod migrate;
mod migrate_atomic;
mod pending;
mod probation;
mod progress;
mod publish;
mod record;
mod report;
mod rules;
mod session_end;
#[cfg(test)]
pub(crate) mod sim_env;
mod stage;
mod state_dir;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use self::canary::Canary;
use self::introduce::RolloutOutcome;
use self::judge::judge;
use self::pending::PendingChange;
use crate::plugin::Plugin;
use crate::telemetry::{CanaryBegan, SwapRefused};

pub use self::canary::{CanaryOptions, CanaryStatus};
pub(crate) use self::change::{Rollout, VersionChange, VersionedServer};
pub(crate) use self::exclusive::Rank;
pub use self::exclusive::TooManyWaitingError;
pub use self::fetch::FetchError;
pub(crate) use self::fetch::{fetch, fetch_again, refused_load, refused_pull, reverify};
pub(crate) use self::live::{IdleTask, LiveSession, LiveSessions};
pub use self::migrate::SWAP_DEADLINE;
pub use self::progress::{SwapPhase, SwapProgress};
pub(crate) use self::publish::History;
pub use self::publish::{HISTORY_MAX, Revision, RevisionOrigin, RevisionState};
pub use self::report::{SwapError, SwapReport};
pub use self::rules::{
    CanaryRules, HeldUp, SwapPolicy, SwapRules, UnknownHeldUpError, UnknownSwapPolicyError,
    VERSIONS_MAX,
};
pub(crate) use self::session_end::count_session_end;
pub(crate) use self::stage::{has_room_for, load_for_swap};
pub(crate) use self::state_dir::Recorded;
pub use self::state_dir::{RecordError, StateDir};

/// Loads a plugin and swaps it in.
///
/// # Errors
/// [`SwapError`], which says what changed.
pub(crate) async fn swap_file(
    server: &Arc<dyn VersionedServer>,
    file: PathBuf,
    policy: SwapPolicy,
) -> Result<SwapReport, SwapError> {
    let pending = server.rollout().pending.add();
    let swapped =
        async { swap_pending(server, pending.load(server, file).await?, policy, &pending).await };
    swapped.await.inspect_err(|error| refused(&**server, error))
}

/// Swaps in a loaded plugin.
///
/// # Errors
/// As [`swap_file`].
pub(crate) async fn swap(
    server: &Arc<dyn VersionedServer>,
    plugin: Arc<Plugin>,
    policy: SwapPolicy,
) -> Result<SwapReport, SwapError> {
    swap_pending(server, plugin, policy, &server.rollout().pending.add()).await
}

async fn swap_pending(
    server: &Arc<dyn VersionedServer>,
    plugin: Arc<Plugin>,
    policy: SwapPolicy,
    pending: &PendingChange<'_>,
) -> Result<SwapReport, SwapError> {
    let change = pending.unless_cancelled(&**server, without_canary(server)).await??;
    let before = server.rollout().procedure();
    let _under_way = change.begins(&plugin);
    // If the version is current already, sessions on other versions are only asked again.
    let is_current = before.plugin().is_same_as(&plugin);
    let next = match is_current {
        true => Arc::clone(&before),
        false => change.stage(&before, plugin, pending).await?,
    };
    let mut report = SwapReport::between(&before, &next);
    let publish = || match is_current {
        true => server.rollout().current_number(),
        false => change.publish(&next),
    };
    if change.introduce(&next, policy, &mut report, publish).await? == RolloutOutcome::CalledOff {
        called_off(&**server, &report);
        return Ok(report);
    }
    change.publish_before_if_stopped(&before, &next)?;
    change.record(report).await
}

/// Loads a plugin and starts it as a canary.
///
/// # Errors
/// [`SwapError`]; nothing was changed.
pub(crate) async fn canary_file(
    server: &Arc<dyn VersionedServer>,
    file: PathBuf,
    options: CanaryOptions,
) -> Result<SwapReport, SwapError> {
    let pending = server.rollout().pending.add();
    let started = async {
        start_canary_pending(server, pending.load(server, file).await?, options, &pending).await
    };
    started.await.inspect_err(|error| refused(&**server, error))
}

/// Starts a loaded plugin as a canary. Returns once it has begun.
///
/// # Errors
/// As [`canary_file`].
pub(crate) async fn start_canary(
    server: &Arc<dyn VersionedServer>,
    plugin: Arc<Plugin>,
    options: CanaryOptions,
) -> Result<SwapReport, SwapError> {
    start_canary_pending(server, plugin, options, &server.rollout().pending.add()).await
}

async fn start_canary_pending(
    server: &Arc<dyn VersionedServer>,
    plugin: Arc<Plugin>,
    options: CanaryOptions,
    pending: &PendingChange<'_>,
) -> Result<SwapReport, SwapError> {
    let change = pending.unless_cancelled(&**server, without_canary(server)).await??;
    let rules = options.applied_to(server.rules().canary);
    if let Some((key, problem)) = rules.problems().into_iter().next() {
        return Err(SwapError::Canary(key, problem));
    }
    let before = server.rollout().procedure();
    if before.plugin().is_same_as(&plugin) {
        return Err(SwapError::Canary("file", "it is what is in force".into()));
    }
    // The current version may be on probation still, which keeps the version before it in memory.
    let kept = server.rollout().before_probation();
    stage::has_room_beside(&**server, &before, &plugin, kept.as_ref())?;
    let _under_way = change.begins(&plugin);
    let next = change.stage(&before, plugin, pending).await?;
    let past = server.rollout().blame.past_of(before.metrics(), env::now());
    let begin = |number| Canary::new(Arc::clone(&next), (&before, past), number, rules);
    let canary = change.unless_stopping(|| change.begin_canary(&next, begin))?;
    let mut report = SwapReport::between(&before, &next);
    report.revision = canary.number();
    // The judge starts at once, so that the canary ends even if the caller drops this future.
    env::spawn(server.runtime(), judge(Arc::downgrade(server), Arc::clone(&canary)));
    CanaryBegan {
        server: server.name(),
        plugin: &report.to,
        share: rules.share,
        lasts: rules.duration,
    }
    .emit();
    if rules.live && next.hands_over() && before.hands_over() {
        let live = server.on(&before);
        let share = (live.len() as f64 * rules.share).round() as usize;
        let asked = live.into_iter().take(share).collect();
        let goes_on = migrate::migrate(&**server, &next, asked, &mut report).await;
        canary.has(report.moved as u64);
        if !goes_on {
            change.roll_back_canary(&canary, "failed-hand-offs").await;
            report.rolled_back = true;
        }
    }
    Ok(report)
}

/// Promotes the canary. New sessions get it, and live sessions follow the server's policy.
///
/// # Errors
/// [`SwapError`], which says what changed.
pub(crate) async fn promote(server: &Arc<dyn VersionedServer>) -> Result<SwapReport, SwapError> {
    let change = while_running(server, Rank::Next).await?;
    let canary = server.rollout().canary().ok_or(SwapError::NoCanary)?;
    let _under_way = change.begins(canary.procedure.plugin());
    change.record(change.promote(&canary).await?).await
}

/// Rolls back the canary or, if none runs, the current version. Cancels every swap, canary and
/// roll-back that is not staged yet.
///
/// # Errors
/// [`SwapError`], which says what changed.
pub(crate) async fn roll_back(server: &Arc<dyn VersionedServer>) -> Result<SwapReport, SwapError> {
    server.rollout().pending.cancel();
    let change = while_running(server, Rank::Next).await?;
    if let Some(canary) = server.rollout().canary() {
        let _under_way = change.begins(server.rollout().procedure().plugin());
        return Ok(change.roll_back_canary(&canary, "asked").await);
    }
    let (revision, known) = server.rollout().revision_before().ok_or(SwapError::NothingBefore)?;
    let number = revision.number;
    // Until the version is staged, another roll-back or a stop cancels this roll-back as well.
    let pending = server.rollout().pending.add();
    pending
        .unless_cancelled(&**server, change.reverify_revision(&revision, pending.stop()))
        .await??;
    let plugin = match known {
        Some(known) => Arc::clone(known.plugin()),
        None => {
            let loaded = change.load_again(revision, pending.stop());
            pending.unless_cancelled(&**server, loaded).await??
        }
    };
    let bad = server.rollout().procedure();
    let _under_way = change.begins(&plugin);
    let next = change.stage(&bad, plugin, &pending).await?;
    drop(pending);
    let mut report = SwapReport::between(&bad, &next);
    let publish = || change.publish_revision(number, &next, &bad);
    // The operator's request overrides the count of failures, so `give` and not `introduce`.
    let policy = server.rules().policy;
    if change.give(&next, policy, &mut report, publish).await? == RolloutOutcome::CalledOff {
        called_off(&**server, &report);
        return Ok(report);
    }
    change.publish_before_if_stopped(&bad, &next)?;
    change.record(report).await
}

/// Takes the lock of swaps, unless the server stops, has stopped or is relinquished.
async fn while_running(
    server: &Arc<dyn VersionedServer>,
    rank: Rank,
) -> Result<VersionChange, SwapError> {
    let change = Rollout::exclusive(server, rank).await?;
    if server.is_ending() || server.rollout().is_relinquished() {
        Err(SwapError::Stopping)
    } else {
        Ok(change)
    }
}

/// Takes the lock of swaps, unless a canary runs.
async fn without_canary(server: &Arc<dyn VersionedServer>) -> Result<VersionChange, SwapError> {
    let change = while_running(server, Rank::InTurn).await?;
    match server.rollout().canary() {
        Some(canary) => Err(SwapError::CanaryRuns(canary.procedure.plugin().label())),
        None => Ok(change),
    }
}

/// Logs that a swap was refused and nothing changed. A failed record is logged elsewhere, because
/// the version is current then.
fn refused(server: &dyn LiveSessions, error: &SwapError) {
    if !matches!(error, SwapError::NotRecorded(..)) {
        SwapRefused { server: server.name(), why: &error.to_string() }.emit(server.counters());
    }
}

fn called_off(server: &dyn LiveSessions, report: &SwapReport) {
    let why =
        format!("not all of its sessions could move to {}, and all or none were to", report.to);
    SwapRefused { server: server.name(), why: &why }.emit(server.counters());
}
