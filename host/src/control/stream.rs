//! The event stream: notices of all servers as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use tokio::sync::broadcast::error::RecvError;

use super::answer::Problem;
use super::state::Shared;
use super::views;

/// Time without an event after which a comment is sent. The comment lets each end notice that the
/// other is gone.
const HEARTBEAT: Duration = Duration::from_secs(15);

pub(super) async fn events(State(shared): State<Arc<Shared>>) -> Response {
    let Ok(place) = Arc::clone(&shared.streams).try_acquire_owned() else {
        let problem = Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too-many-streams",
            "too many open event streams",
        );
        return problem.into_response();
    };
    let notices = shared.servers.host().notices();
    // The first piece is sent at once: from then on the listener misses nothing.
    let hello = Some(": from here on\n\n".to_owned());
    let pieces = unfold((notices, hello, place), |(mut notices, hello, place)| async move {
        let piece = match hello {
            Some(hello) => hello,
            None => match tokio::time::timeout(HEARTBEAT, notices.recv()).await {
                Err(_) => ": still here\n\n".to_owned(),
                Ok(Ok(notice)) => {
                    let data =
                        serde_json::to_string(&views::Notice::of(&notice)).unwrap_or_default();
                    format!("event: notice\ndata: {data}\n\n")
                }
                Ok(Err(RecvError::Lagged(missed))) => {
                    format!("event: missed\ndata: {{\"notices\":{missed}}}\n\n")
                }
                Ok(Err(RecvError::Closed)) => return None,
            },
        };
        Some((Ok::<_, Infallible>(Bytes::from(piece)), (notices, None, place)))
    });
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(pieces)).into_response()
}
