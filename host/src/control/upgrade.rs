//! The request for an upgrade, and the transfer of the API's sockets to the new process.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;
use tokio::task::JoinError;

use super::answer::{Answer, Problem, ok};
use super::requests::{self, parse};
use super::state::Shared;
use crate::servers::Servers;
use crate::upgrade::{ControlEndpoint, OfferError, SessionsSent};
use crate::work::WorkError;

/// The values of a request for an upgrade.
#[derive(Debug)]
pub struct UpgradeOptions {
    /// Absolute path of the new program. `None`: the path from which the running one was started.
    pub program: Option<PathBuf>,
    /// Time that the new process may take until it serves.
    pub timeout: Duration,
    /// Time that sessions which cannot move may go on. `None`: as for any stop.
    pub drain: Option<Duration>,
    /// Duplicates of this API's sockets, for the new process.
    pub endpoints: Vec<(ControlEndpoint, OwnedFd)>,
}

/// The result of an upgrade.
#[derive(Debug)]
pub struct Upgraded {
    /// The id of the new process.
    pub process: u32,
    /// Whether the new process took over the API's Unix socket.
    pub endpoints_taken: bool,
    /// What happened to the sessions.
    pub sent: SessionsSent,
}

/// Why no upgrade took place. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The request names no program, and the path of the running one is unknown.
    #[error("it is not known where this program lies; name it with --program")]
    UnknownProgram,
    /// The system gave no channel to the new process.
    #[error("{}: {source}; nothing was changed", .program.display())]
    Channel {
        /// The new program.
        program: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// No work thread did a step of the upgrade.
    #[error("{}: {source}; nothing was changed", .program.display())]
    Work {
        /// The new program.
        program: PathBuf,
        /// The reason.
        source: WorkError,
    },
    /// The new program cannot be started.
    #[error("{}: cannot be started: {source}; nothing was changed", .program.display())]
    Start {
        /// The new program.
        program: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The new process did not take the sockets.
    #[error("{}: {source}{}; nothing was changed", .program.display(), bracketed(*.status))]
    Refused {
        /// The new program.
        program: PathBuf,
        /// The reason of either process.
        source: OfferError,
        /// The status with which the new process ended by itself.
        status: Option<ExitStatus>,
    },
    /// An earlier request for an upgrade is not done.
    #[error("another upgrade is under way")]
    UnderWay,
    /// The task of the upgrade panicked, or its runtime ended.
    #[error("{0}")]
    Unfinished(#[source] JoinError),
}

/// Returns an exit status as an addition to a sentence.
fn bracketed(status: Option<ExitStatus>) -> String {
    status.map(|status| format!(" ({status})")).unwrap_or_default()
}

type Upgrading = Pin<Box<dyn Future<Output = Result<Upgraded, UpgradeError>> + Send>>;

/// A function that starts a new process, which takes over.
#[derive(Clone)]
pub struct Upgrade(Arc<dyn Fn(Arc<Servers>, UpgradeOptions) -> Upgrading + Send + Sync>);

impl Upgrade {
    /// Wraps a function. Its error says why no upgrade took place; then nothing has changed.
    pub fn new<F>(
        upgrade: impl Fn(Arc<Servers>, UpgradeOptions) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Upgraded, UpgradeError>> + Send + 'static,
    {
        Self(Arc::new(move |servers, options| Box::pin(upgrade(servers, options))))
    }
}

pub(super) async fn upgrade(State(shared): State<Arc<Shared>>, body: Bytes) -> Answer {
    let request: requests::Upgrade = parse(&body)?;
    let (timeout, drain) = request.read()?;
    let _waits = shared.may_change_all()?;
    if shared.servers.is_draining() {
        return Err(Problem::conflict("stopping", "the process is stopping"));
    }
    let Some(Upgrade(upgrade)) = &shared.upgrade else {
        return Err(Problem::conflict(
            "no-upgrade",
            "this process cannot be replaced: `wharf serve` can",
        ));
    };
    let endpoints = shared.endpoints().map_err(|error| {
        let what = format!("nothing was changed: {error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no-upgrade", what).or_refused_by_system()
    })?;
    let options = UpgradeOptions { program: request.program, timeout, drain, endpoints };
    let not_upgraded = |error: UpgradeError| {
        let why = error.to_string();
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "not-upgraded", why).or_refused_by_system()
    };
    // Set before the upgrade can end this process.
    if !shared.begins_to_leave() {
        return Err(not_upgraded(UpgradeError::UnderWay));
    }
    // A task of its own finishes the upgrade, and leaves the sockets to the new process, even if
    // the caller disconnects.
    let (upgrading, leaving) = (upgrade(Arc::clone(&shared.servers), options), Arc::clone(&shared));
    let done = shared.servers.host().runtime().spawn(async move {
        let done = upgrading.await;
        match &done {
            // The new process answers requests as soon as it serves. From then on this process
            // accepts no further ones.
            Ok(done) => leaving.leave(done.endpoints_taken),
            Err(_) => leaving.stays(),
        }
        done
    });
    let done = done
        .await
        .unwrap_or_else(|error| Err(UpgradeError::Unfinished(error)))
        .map_err(not_upgraded)?;
    let SessionsSent { moved, stayed } = done.sent;
    Ok(ok(&json!({ "process": done.process, "moved": moved, "stayed": stayed })))
}
