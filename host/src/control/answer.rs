//! What a request gets: JSON, or an error with a code for programs and a sentence for people.

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::event::{NAME_MAX_BYTES, excerpt};

/// Bytes of an error's message. In JSON it is at most twice as long.
const MESSAGE_MAX_BYTES: usize = 16 << 10;

/// An error of the API. Its code is stable.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

#[derive(Serialize)]
struct Wrapped<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    code: &'a str,
    message: &'a str,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: excerpt(message.into(), MESSAGE_MAX_BYTES) }
    }

    pub(super) fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn unknown(what: &str, which: impl std::fmt::Display) -> Self {
        let which = excerpt(which, NAME_MAX_BYTES);
        Self::new(StatusCode::NOT_FOUND, "not-found", format!("there is no {what} `{}`", which.escape_debug()))
    }

    pub(super) fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let inner = Inner { code: self.code, message: &self.message };
        json(self.status, &Wrapped { error: inner })
    }
}

/// A JSON document.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    // Nothing of ours fails to serialize: there are no maps with keys that are no strings.
    let mut text = serde_json::to_vec(value).unwrap_or_else(|_| b"null".to_vec());
    text.push(b'\n');
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, Body::from(text)).into_response()
}

/// A JSON document and 200.
pub(super) fn ok(value: &impl Serialize) -> Response {
    json(StatusCode::OK, value)
}
