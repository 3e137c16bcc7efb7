//! The handlers of the requests about servers, sessions and the process.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::answer::{Answer, Problem, json, ok};
use super::limits;
use super::peer::ApiPeer;
use super::requests::{self, parse};
use super::state::Shared;
use super::views;
use super::waiting::Class;
use crate::event::{NameError, SendError};
use crate::server::{LockError, ServerHandle, SteerError};

/// Sessions in one page: the default, and the most that a request may ask for.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;
/// Most servers that `/readyz` names.
const NAMED_MAX: usize = 8;

pub(super) type Server = Path<String>;
type Session = Path<(String, String)>;

pub(super) fn server(shared: &Shared, name: &str) -> Result<Arc<ServerHandle>, Problem> {
    shared.servers.get(name).ok_or_else(|| Problem::unknown("server", name))
}

fn session_id(text: &str) -> Result<u64, Problem> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let id = text.parse().ok().filter(|_| digits);
    id.ok_or_else(|| Problem::bad("bad-id", "expected the number of a session"))
}

fn no_session(id: u64) -> Problem {
    Problem::unknown("session", id)
}

fn too_large(message: String) -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message)
}

fn steered(server: &ServerHandle, done: Result<(), SteerError>) -> Answer {
    done.map_err(|error| not_steered(&error))?;
    Ok(ok(&views::Server::of(server)))
}

fn not_steered(error: &SteerError) -> Problem {
    let why = error.to_string();
    match error {
        SteerError::Overtaken => Problem::conflict("overtaken", why),
        SteerError::NotListening(_) => Problem::conflict("not-listening", why),
        _ => Problem::conflict("stopping", why),
    }
}

pub(super) async fn servers(State(shared): State<Arc<Shared>>) -> Response {
    let servers: Vec<_> =
        shared.servers.all().iter().map(|server| views::Server::of(server)).collect();
    ok(&json!({ "servers": servers }))
}

pub(super) async fn tenants(State(shared): State<Arc<Shared>>) -> Response {
    let tenants: Vec<_> =
        shared.servers.host().tenants().into_iter().map(limits::TenantBody::of).collect();
    ok(&json!({ "tenants": tenants }))
}

pub(super) async fn limits(State(shared): State<Arc<Shared>>, Path(name): Server) -> Answer {
    let limits: Vec<_> =
        server(&shared, &name)?.limits().into_iter().map(limits::LimitBody::of).collect();
    Ok(ok(&json!({ "limits": limits })))
}

pub(super) async fn show(State(shared): State<Arc<Shared>>, Path(name): Server) -> Answer {
    Ok(ok(&views::Server::of(&*server(&shared, &name)?)))
}

pub(super) async fn suspend(
    State(shared): State<Arc<Shared>>,
    Path(name): Server,
    body: Bytes,
) -> Answer {
    let server = server(&shared, &name)?;
    let (new_connections, sessions) = parse::<requests::Suspend>(&body)?.read()?;
    let _waits = shared.may_wait(&server, Class::Wait)?;
    steered(&server, server.suspend(new_connections, sessions).await)
}

pub(super) async fn resume(
    State(shared): State<Arc<Shared>>,
    Path(name): Server,
    body: Bytes,
) -> Answer {
    parse::<requests::Nothing>(&body)?;
    let server = server(&shared, &name)?;
    let resumed = match server.resume() {
        Ok(()) => server.listen_again().await,
        stopping => stopping,
    };
    steered(&server, resumed)
}

pub(super) async fn restart(
    State(shared): State<Arc<Shared>>,
    Path(name): Server,
    body: Bytes,
) -> Answer {
    let server = server(&shared, &name)?;
    let request = parse::<requests::Restart>(&body)?;
    let ending = request.read()?;
    if server.status().is_final() {
        return Err(Problem::conflict("stopping", SteerError::Stopping.to_string()));
    }
    let _waits = shared.may_wait(&server, Class::End)?;
    if request.reload {
        reload_all(&shared).await?;
    }
    let cut = server.restart(ending).await.map_err(|error| not_steered(&error))?;
    Ok(ok(&json!({ "cut_off": cut, "server": views::Server::of(&server) })))
}

pub(super) async fn stop(
    State(shared): State<Arc<Shared>>,
    Path(name): Server,
    body: Bytes,
) -> Answer {
    let server = server(&shared, &name)?;
    let (drain, grace) = parse::<requests::Stop>(&body)?.read()?;
    let _waits = shared.may_wait(&server, Class::End)?;
    let stopping = Arc::clone(&server);
    // A task of its own finishes the stop even if the caller disconnects.
    let work = tokio::spawn(async move {
        if !drain.is_zero() {
            stopping.drain(drain).await;
        }
        stopping.stop(grace).await;
    });
    // The task fails only if the API ends, and the process with it.
    let _ = work.await;
    Ok(ok(&views::Server::of(&server)))
}

pub(super) async fn throttle(State(shared): State<Arc<Shared>>, Path(name): Server) -> Answer {
    Ok(ok(&views::Throttle::of(&*server(&shared, &name)?)))
}

pub(super) async fn set_throttle(
    State(shared): State<Arc<Shared>>,
    Path(name): Server,
    body: Bytes,
) -> Answer {
    let server = server(&shared, &name)?;
    let change = parse::<requests::Throttle>(&body)?.read();
    server.set_throttle(change).map_err(|error| Problem::bad("bad-value", error.to_string()))?;
    Ok(ok(&views::Throttle::of(&server)))
}

pub(super) async fn lock(
    State(shared): State<Arc<Shared>>,
    Path(name): Server,
    Extension(peer): Extension<ApiPeer>,
    body: Bytes,
) -> Answer {
    let server = server(&shared, &name)?;
    let (wait, hold) = parse::<requests::Lock>(&body)?.read()?;
    let _waits = shared.may_wait(&server, Class::Wait)?;
    match server.lock(wait, hold).await {
        // The lock of a caller that disconnected is dropped with the request. If bytes that the
        // caller sent ahead hid the end of its connection, the lock is dropped here.
        Ok(_) if peer.is_gone() => {
            Err(Problem::conflict("locked", "the caller has closed the connection"))
        }
        Ok(lock) => {
            Ok(ok(&json!({ "token": lock.into_token(), "hold_seconds": hold.as_secs_f64() })))
        }
        Err(error @ LockError::Limit) => Err(Problem::bad("bad-value", error.to_string())),
        Err(error @ LockError::Stopping) => Err(Problem::conflict("stopping", error.to_string())),
        Err(error @ LockError::NotQuiet) => Err(Problem::conflict("not-quiet", error.to_string())),
        Err(error) => Err(Problem::conflict("locked", error.to_string())),
    }
}

pub(super) async fn unlock(
    State(shared): State<Arc<Shared>>,
    Path(name): Server,
    body: Bytes,
) -> Answer {
    let server = server(&shared, &name)?;
    let token = parse::<requests::Unlock>(&body)?.token;
    match server.unlock(token) {
        true => Ok(ok(&json!({ "unlocked": true }))),
        false => Err(Problem::conflict("not-locked", "this lock is not held any more")),
    }
}

pub(super) async fn set_data(
    State(shared): State<Arc<Shared>>,
    Path(name): Server,
    body: Bytes,
) -> Answer {
    let server = server(&shared, &name)?;
    let data = parse::<requests::Data>(&body)?.data;
    server.set_data(data).map_err(|error| too_large(error.to_string()))?;
    Ok(ok(&json!({ "data": server.data() })))
}

pub(super) async fn set_priority(
    State(shared): State<Arc<Shared>>,
    Path(name): Server,
    body: Bytes,
) -> Answer {
    let server = server(&shared, &name)?;
    let before = server.set_priority(parse::<requests::Class>(&body)?.read()?);
    Ok(ok(&json!({ "priority": server.priority().name(), "before": before.name() })))
}

pub(super) async fn broadcast(
    State(shared): State<Arc<Shared>>,
    Path(name): Server,
    body: Bytes,
) -> Answer {
    let server = server(&shared, &name)?;
    let sessions = server.session_count();
    let taken = server.broadcast(&body);
    Ok(ok(&json!({ "taken": taken, "refused": sessions.saturating_sub(taken) })))
}

pub(super) async fn renew_credentials(
    State(shared): State<Arc<Shared>>,
    Path(name): Server,
    body: Bytes,
) -> Answer {
    parse::<requests::Nothing>(&body)?;
    let server = server(&shared, &name)?;
    let _waits = shared.may_wait(&server, Class::Read)?;
    let bad = |error: String| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-credentials", error)
            .or_refused_by_system()
    };
    match shared.servers.renew_credentials(&name).await? {
        Some(Ok(())) => Ok(ok(&json!({ "renewed": true }))),
        Some(Err(error)) => Err(bad(error.to_string())),
        None => Err(Problem::conflict("not-secure", "this server has no credentials")),
    }
}

pub(super) async fn sessions(
    State(shared): State<Arc<Shared>>,
    Path(name): Server,
    Query(page): Query<requests::Page>,
) -> Answer {
    let server = server(&shared, &name)?;
    if let Some(name) = &page.name {
        let found = server.find_session(name).and_then(|id| server.session(id));
        let found: Vec<_> = found.into_iter().map(views::Session::of).collect();
        return Ok(ok(&json!({ "sessions": found, "more": false })));
    }
    let limit = page.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::bad("bad-value", format!("`limit`: expected 1 to {PAGE_MAX}")));
    }
    let mut found = server.sessions(page.after, limit + 1);
    let more = found.len() > limit;
    found.truncate(limit);
    let found: Vec<_> = found.into_iter().map(views::Session::of).collect();
    Ok(ok(&json!({ "sessions": found, "more": more })))
}

pub(super) async fn session(
    State(shared): State<Arc<Shared>>,
    Path((name, id)): Session,
) -> Answer {
    let (server, id) = (server(&shared, &name)?, session_id(&id)?);
    server.session(id).map(|session| ok(&views::Session::of(session))).ok_or_else(|| no_session(id))
}

pub(super) async fn disconnect(
    State(shared): State<Arc<Shared>>,
    Path((name, id)): Session,
    body: Bytes,
) -> Answer {
    parse::<requests::Nothing>(&body)?;
    let (server, id) = (server(&shared, &name)?, session_id(&id)?);
    if server.disconnect(id) { Ok(ok(&json!({ "disconnected": id }))) } else { Err(no_session(id)) }
}

pub(super) async fn abort(
    State(shared): State<Arc<Shared>>,
    Path((name, id)): Session,
    body: Bytes,
) -> Answer {
    parse::<requests::Nothing>(&body)?;
    let (server, id) = (server(&shared, &name)?, session_id(&id)?);
    if server.abort(id) { Ok(ok(&json!({ "aborted": id }))) } else { Err(no_session(id)) }
}

pub(super) async fn send(
    State(shared): State<Arc<Shared>>,
    Path((name, id)): Session,
    body: Bytes,
) -> Answer {
    let (server, id) = (server(&shared, &name)?, session_id(&id)?);
    match server.send_to(id, &body) {
        Ok(()) => Ok(ok(&json!({ "queued": body.len() }))),
        Err(SendError::Closed) => Err(no_session(id)),
        Err(SendError::Full) => {
            Err(Problem::conflict("full", "the session has too much queued; try again later"))
        }
        Err(SendError::TooLarge) => Err(too_large("larger than the session's send buffer".into())),
    }
}

pub(super) async fn assign(
    State(shared): State<Arc<Shared>>,
    Path((name, id)): Session,
    body: Bytes,
) -> Answer {
    let (server, id) = (server(&shared, &name)?, session_id(&id)?);
    let class = parse::<requests::Class>(&body)?.read()?;
    let before = server.assign(id, class).ok_or_else(|| no_session(id))?;
    Ok(ok(&json!({ "priority": class.name(), "before": before.name() })))
}

pub(super) async fn rename(
    State(shared): State<Arc<Shared>>,
    Path((name, id)): Session,
    body: Bytes,
) -> Answer {
    let (server, id) = (server(&shared, &name)?, session_id(&id)?);
    let wanted = parse::<requests::Name>(&body)?.name;
    server.session(id).ok_or_else(|| no_session(id))?;
    match server.name_session(id, &wanted) {
        Ok(()) => Ok(ok(&json!({ "name": wanted.to_lowercase() }))),
        Err(NameError::Taken) => {
            Err(Problem::conflict("name-taken", "another session carries this name"))
        }
        Err(NameError::TooLong | NameError::Empty) => {
            let max = server.name_chars_max();
            Err(Problem::bad("bad-value", format!("`name`: expected 1 to {max} characters")))
        }
    }
}

pub(super) async fn reload(State(shared): State<Arc<Shared>>, body: Bytes) -> Answer {
    parse::<requests::Nothing>(&body)?;
    let _waits = shared.may_change_all()?;
    Ok(ok(&reload_all(&shared).await?))
}

async fn reload_all(shared: &Shared) -> Result<views::Reload, Problem> {
    if shared.servers.is_draining() {
        return Err(Problem::conflict("stopping", "the process is stopping"));
    }
    // A task of its own finishes the reload even if the caller disconnects.
    let (reload, servers) = (shared.reload.clone(), Arc::clone(&shared.servers));
    let work = tokio::spawn(async move { reload.run(&servers).await });
    let done = work.await.map_err(|error| Problem::unfinished(&error))?;
    done.map(views::Reload::of).map_err(Problem::from)
}

pub(super) async fn live() -> Response {
    "live\n".into_response()
}

/// Answers `/readyz`. The API opens only after everything is loaded. So the process is ready until
/// it drains, except while one of its servers cannot listen.
pub(super) async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    if shared.servers.is_draining() {
        let problem = Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "draining",
            "the process drains and takes no new connections",
        );
        return problem.into_response();
    }
    let failed = shared.servers.not_listening();
    if !failed.is_empty() {
        let named: Vec<_> = failed.iter().take(NAMED_MAX).map(String::as_str).collect();
        let message =
            format!("{} cannot listen, of {} such servers", named.join(", "), failed.len());
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-listening", message)
            .into_response();
    }
    "ready\n".into_response()
}

pub(super) async fn nowhere() -> Response {
    let message = "there is nothing at this address; see /v1/openapi.json";
    Problem::new(StatusCode::NOT_FOUND, "not-found", message).into_response()
}

pub(super) async fn wrong_method() -> Response {
    let problem =
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong-method", "not by this method");
    problem.into_response()
}

pub(super) async fn openapi() -> Response {
    let text = include_str!("openapi.json");
    ([(axum::http::header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// The problem of a query that does not parse.
pub(super) fn bad_query(error: &str) -> Response {
    json(StatusCode::BAD_REQUEST, &json!({ "error": { "code": "bad-query", "message": error } }))
}
