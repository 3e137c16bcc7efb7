//! The handlers of requests about the versions of a server's plugin.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::answer::{Answer, Problem, ok};
use super::handlers::{Server, server};
use super::requests::{self, parse};
use super::state::Shared;
use super::views;
use super::waiting::Class;
use crate::server::{ServerHandle, SwapError, SwapReport};

pub(super) async fn swap(
    State(shared): State<Arc<Shared>>,
    Path(name): Server,
    body: Bytes,
) -> Answer {
    let server = server(&shared, &name)?;
    let requests::Swap { file, policy } = parse(&body)?;
    let policy = policy.map(Into::into);
    change(&shared, server, Class::Change, |server| async move {
        server.swap_to(file, policy).await.map_err(refused)
    })
    .await
}

/// Shows the progress of the swap that is under way.
pub(super) async fn under_way(State(shared): State<Arc<Shared>>, Path(name): Server) -> Answer {
    Ok(ok(&views::UnderWay::of(server(&shared, &name)?.swap_seen())))
}

pub(super) async fn canary(
    State(shared): State<Arc<Shared>>,
    Path(name): Server,
    body: Bytes,
) -> Answer {
    let server = server(&shared, &name)?;
    let request: requests::Canary = parse(&body)?;
    let options = request.options();
    let start = |server: Arc<ServerHandle>| async move {
        server.canary_file(request.file, options).await.map_err(refused)
    };
    change(&shared, server, Class::Change, start).await
}

pub(super) async fn promote(
    State(shared): State<Arc<Shared>>,
    Path(name): Server,
    body: Bytes,
) -> Answer {
    parse::<requests::Nothing>(&body)?;
    let server = server(&shared, &name)?;
    change(
        &shared,
        server,
        Class::End,
        |server| async move { server.promote().await.map_err(refused) },
    )
    .await
}

pub(super) async fn roll_back(
    State(shared): State<Arc<Shared>>,
    Path(name): Server,
    body: Bytes,
) -> Answer {
    parse::<requests::Nothing>(&body)?;
    let server = server(&shared, &name)?;
    change(&shared, server, Class::End, |server| async move {
        server.roll_back().await.map_err(refused)
    })
    .await
}

pub(super) async fn history(State(shared): State<Arc<Shared>>, Path(name): Server) -> Answer {
    Ok(ok(&views::History::of(&*server(&shared, &name)?)))
}

/// Runs a change of versions as a task of its own, which finishes even if the caller disconnects.
async fn change<T>(
    shared: &Arc<Shared>,
    server: Arc<ServerHandle>,
    class: Class,
    work: impl FnOnce(Arc<ServerHandle>) -> T,
) -> Answer
where
    T: Future<Output = Result<SwapReport, Problem>> + Send + 'static,
{
    let waits = shared.may_wait(&server, class)?;
    let work = work(server);
    // The task keeps its place until it ends. So a caller that disconnects cannot have more tasks
    // at work than it has places.
    let working = async move {
        let _waits = waits;
        work.await
    };
    let report = tokio::spawn(working).await.map_err(|error| Problem::unfinished(&error))??;
    Ok(ok(&views::Swap::of(report)))
}

fn refused(error: SwapError) -> Problem {
    let text = error.to_string();
    if let Some(refusal) = error.refusal() {
        return Problem::refused_by_system(refusal, &text);
    }
    match error {
        SwapError::Work(error) => error.into(),
        SwapError::Overtaken => Problem::conflict("overtaken", text),
        SwapError::Stopping => Problem::conflict("stopping", text),
        SwapError::FileChanged(_) => Problem::conflict("file-changed", text),
        SwapError::CanaryRuns(_) => Problem::conflict("canary-runs", text),
        SwapError::NoCanary => Problem::conflict("no-canary", text),
        SwapError::TooManyVersions(_) => Problem::conflict("too-many-versions", text),
        SwapError::NothingBefore | SwapError::Gone { .. } => {
            Problem::conflict("nothing-before", text)
        }
        SwapError::NotKept(_) | SwapError::NotRecorded(..) => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "not-recorded", text)
        }
        SwapError::TooManyWaiting(_) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-waiting", text)
        }
        SwapError::NoRoom(_) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no-room", text),
        SwapError::Canary(..) => Problem::new(StatusCode::BAD_REQUEST, "bad-value", text),
        _ => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-plugin", text),
    }
}
