//! The routes of the API, and the state that its requests share.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{RawPathParams, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post, put};
use hyper::body::Body as _;
use tokio::sync::{Semaphore, watch};

use super::answer::Problem;
use super::connections::Connection;
use super::server::Reload;
use super::upgrade::{self, Upgrade};
use super::waiting::{Class, Place, Waiting};
use super::{handlers, metrics, page, stream, versions};
use crate::server::{ControlEndpoint, ServerHandle, Servers};
use crate::telemetry::{Bucket, ControlRequest};
use crate::work::HOST;

/// Most bytes of a request's body.
const BODY_MAX_BYTES: usize = 1 << 20;
/// Time in which a body must arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Most event streams that are open at once.
const STREAMS_MAX: usize = 16;
/// Lines of the log each second for requests that change something, and for refused ones.
const REQUESTS_LOGGED_PER_SECOND: u32 = 20;

/// Duplicate descriptors of the API's sockets, for a new process.
pub(super) type Routes = Vec<(ControlEndpoint, OwnedFd)>;

/// Whether this process still serves the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Not,
    /// This process no longer serves, and no other process has the sockets.
    NoPeers,
    ToAnother,
}

/// The state that all requests of the API share.
pub(super) struct Shared {
    pub(super) servers: Arc<Servers>,
    pub(super) reload: Reload,
    pub(super) upgrade: Option<Upgrade>,
    endpoints: Mutex<Routes>,
    /// What happens to the API's sockets once another process serves.
    left: watch::Sender<Left>,
    /// Set from the start of an upgrade, and cleared if it fails. Tells the API's thread to answer
    /// open requests before it ends.
    leaving: Arc<AtomicBool>,
    pub(super) streams: Arc<Semaphore>,
    /// Places for calls that wait.
    pub(super) waiting: Arc<Waiting>,
    request_lines: Bucket,
}

impl Shared {
    pub(super) fn new(
        servers: Arc<Servers>,
        (reload, upgrade): (Reload, Option<Upgrade>),
        endpoints: Routes,
        leaving: Arc<AtomicBool>,
    ) -> Arc<Self> {
        let (streams, request_lines) =
            (Arc::new(Semaphore::new(STREAMS_MAX)), Bucket::new(REQUESTS_LOGGED_PER_SECOND));
        let waiting = Arc::default();
        let (endpoints, left) = (Mutex::new(endpoints), watch::Sender::new(Left::Not));
        Arc::new(Self {
            servers,
            reload,
            upgrade,
            endpoints,
            left,
            leaving,
            streams,
            waiting,
            request_lines,
        })
    }

    /// Duplicates of the API's sockets, for another process.
    pub(super) fn endpoints(&self) -> io::Result<Vec<(ControlEndpoint, OwnedFd)>> {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints
            .iter()
            .map(|(endpoint, socket)| Ok((endpoint.clone(), socket.try_clone()?)))
            .collect()
    }

    /// Replaces the descriptor of a control endpoint that was opened again. Without a descriptor,
    /// a new process opens a socket of its own there.
    pub(super) fn reopened(&self, endpoint: &ControlEndpoint, socket: Option<OwnedFd>) {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.retain(|(other, _)| other != endpoint);
        endpoints.extend(socket.map(|socket| (endpoint.clone(), socket)));
    }

    /// Marks that this request's upgrade may end the process while the request is answered. Returns
    /// false if another upgrade is under way.
    pub(super) fn begins_to_leave(&self) -> bool {
        !self.leaving.swap(true, Ordering::Relaxed)
    }

    /// Clears the mark of [`Self::begins_to_leave`]: the upgrade failed and the process goes on.
    pub(super) fn stays(&self) {
        self.leaving.store(false, Ordering::Relaxed);
    }

    /// Stops the API: this process accepts no further connections. The socket's file is removed,
    /// unless another process has it now (`to_another`).
    pub(super) fn leave(&self, to_another: bool) {
        self.left.send_replace(if to_another { Left::ToAnother } else { Left::NoPeers });
    }

    /// Waits for [`Self::leave`], and returns its `to_another`.
    pub(super) async fn left(&self) -> bool {
        let mut left = self.left.subscribe();
        // This value owns the sender, so the wait does not fail.
        left.wait_for(|left| *left != Left::Not).await.is_ok_and(|left| *left == Left::ToAnother)
    }

    /// Logs a request that was refused for its caller or its origin.
    pub(super) fn refused(&self, method: &str, path: &str, status: u16) {
        ControlRequest { method, path, status }.emit(&self.request_lines);
    }

    /// Takes a place for a call about this server that waits.
    pub(super) fn may_wait(&self, server: &ServerHandle, class: Class) -> Result<Place, Problem> {
        self.waiting.enter(server.tenant(), class)
    }

    /// Takes a place for a call about the whole process that waits.
    pub(super) fn may_change_all(&self) -> Result<Place, Problem> {
        self.waiting.enter(HOST.into(), Class::Change)
    }
}

pub(super) fn router(shared: Arc<Shared>) -> Router {
    let server = Router::new()
        .route("/", get(handlers::show))
        .route("/suspend", post(handlers::suspend))
        .route("/resume", post(handlers::resume))
        .route("/restart", post(handlers::restart))
        .route("/stop", post(handlers::stop))
        .route("/limits", get(handlers::limits))
        .route("/throttle", get(handlers::throttle).merge(patch(handlers::set_throttle)))
        .route("/lock", post(handlers::lock))
        .route("/unlock", post(handlers::unlock))
        .route("/plugin/swap", get(versions::under_way).merge(post(versions::swap)))
        .route("/plugin/canary", post(versions::canary))
        .route("/plugin/promote", post(versions::promote))
        .route("/plugin/rollback", post(versions::roll_back))
        .route("/plugin/history", get(versions::history))
        .route("/data", put(handlers::set_data))
        .route("/priority", put(handlers::set_priority))
        .route("/broadcast", post(handlers::broadcast))
        .route("/credentials/renew", post(handlers::renew_credentials))
        .route("/sessions", get(handlers::sessions))
        .route("/sessions/{id}", get(handlers::session))
        .route("/sessions/{id}/disconnect", post(handlers::disconnect))
        .route("/sessions/{id}/abort", post(handlers::abort))
        .route("/sessions/{id}/send", post(handlers::send))
        .route("/sessions/{id}/priority", put(handlers::assign))
        .route("/sessions/{id}/name", put(handlers::rename))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), charged));
    Router::new()
        .route("/", get(page::page))
        .route("/livez", get(handlers::live))
        .route("/readyz", get(handlers::ready))
        .route("/metrics", get(metrics::scrape))
        .route("/v1/openapi.json", get(handlers::openapi))
        .route("/v1/servers", get(handlers::servers))
        .route("/v1/tenants", get(handlers::tenants))
        .nest("/v1/servers/{server}", server)
        .route("/v1/reload", post(handlers::reload))
        .route("/v1/upgrade", post(upgrade::upgrade))
        .route("/v1/events", get(stream::events))
        .fallback(handlers::nowhere)
        .method_not_allowed_fallback(handlers::wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), bounded))
        .with_state(shared)
}

/// Charges the work of a call about a server to that server's tenant.
async fn charged(
    State(shared): State<Arc<Shared>>,
    path: RawPathParams,
    request: Request,
    next: Next,
) -> Response {
    let name = path.iter().find(|(key, _)| *key == "server").map(|(_, name)| name);
    match name.and_then(|name| shared.servers.get(name)) {
        Some(server) => server.charged(next.run(request)).await,
        None => next.run(request).await,
    }
}

/// Reads the whole body, within its limits, before a handler runs. Errors of the framework are
/// replaced by problems of the API.
async fn bounded(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let too_large = || {
        let message = format!("the body is larger than {BODY_MAX_BYTES} bytes, or broke off");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message).into_response()
    };
    // A body that is announced as too large is refused before it arrives.
    if body.size_hint().lower() > BODY_MAX_BYTES as u64 {
        return too_large();
    }
    let body = match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_MAX_BYTES)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return too_large(),
        Err(_) => {
            let message = format!("the body did not arrive within {BODY_TIMEOUT:?}");
            return Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", message).into_response();
        }
    };
    let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
    // While a handler works on the request, its connection takes no place from others.
    let connection = parts.extensions.get::<Connection>().cloned();
    let away = connection.map(Connection::leave);
    let mut response = next.run(Request::from_parts(parts, Body::from(body))).await;
    if away.is_some_and(|away| !away.returns()) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if !method.is_safe() {
        ControlRequest { method: method.as_str(), path: &path, status: response.status().as_u16() }
            .emit(&shared.request_lines);
    }
    let ours =
        response.headers().get("content-type").is_some_and(|kind| kind == "application/json");
    if response.status() == StatusCode::BAD_REQUEST && !ours {
        let text = to_bytes(response.into_body(), 4 << 10).await.unwrap_or_default();
        return handlers::bad_query(&String::from_utf8_lossy(&text));
    }
    response
}
