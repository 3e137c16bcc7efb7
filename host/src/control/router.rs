//! The routes of the API, and what happens around each request.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{RawPathParams, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post, put};
use hyper::body::Body as _;

use super::answer::Problem;
use super::connections::Connection;
use super::state::Shared;
use super::{handlers, metrics, page, stream, upgrade, versions};
use crate::telemetry::ControlRequest;

/// Most bytes of a request's body.
const BODY_MAX_BYTES: usize = 1 << 20;
/// Time in which a body must arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of the framework's error about a query. A longer error is replaced by an empty one.
const QUERY_ERROR_MAX_BYTES: usize = 4 << 10;

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
        let text = to_bytes(response.into_body(), QUERY_ERROR_MAX_BYTES).await.unwrap_or_default();
        return handlers::bad_query(&String::from_utf8_lossy(&text));
    }
    response
}
