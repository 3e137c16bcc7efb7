//! Answers of the API: JSON, or a problem with a code for programs and a sentence for people.

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::task::JoinError;

use crate::event::{NAME_MAX_BYTES, excerpt};
use crate::servers::{PlanCause, PlanError};
use crate::work::{RefusedResource, WorkError};

pub(super) type Answer = Result<Response, Problem>;

/// Most bytes of a problem's message. JSON escapes make it at most twice as long.
const MESSAGE_MAX_BYTES: usize = 16 << 10;

/// An error of the API. The code is stable; the message may change.
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
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            format!("there is no {what} `{}`", which.escape_debug()),
        )
    }

    pub(super) fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }
}

impl Problem {
    /// A problem for a resource that the operating system refused.
    pub(super) fn refused_by_system(refusal: RefusedResource, what: &str) -> Self {
        // The message names the refusal once.
        let message = match what.contains(&refusal.to_string()) {
            true => what.to_owned(),
            false => format!("{what}; {refusal}"),
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "refused-by-system", message)
    }

    /// A problem for a mistake in the host's own code.
    pub(super) fn host_fault(what: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "host-fault", what)
    }

    /// A problem for a task that panicked, or that the runtime cancelled at its end.
    pub(super) fn unfinished(error: &JoinError) -> Self {
        match error.is_panic() {
            true => Self::host_fault(format!(
                "the host failed in this request, by a mistake of its own: {error}"
            )),
            false => Self::conflict("stopping", "the process is stopping"),
        }
    }

    /// This problem, or [`Self::refused_by_system`] if the message says that the system refused
    /// something. Only for messages without words of peers and plugins.
    pub(super) fn or_refused_by_system(self) -> Self {
        match RefusedResource::in_text(&self.message) {
            Some(refusal) => Self::refused_by_system(refusal, &self.message),
            None => self,
        }
    }
}

impl From<WorkError> for Problem {
    fn from(error: WorkError) -> Self {
        let text = error.to_string();
        match error {
            WorkError::Full { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-waiting", text)
            }
            WorkError::Panicked(_) => Self::host_fault(text),
            _ => Self::conflict("stopping", text),
        }
    }
}

impl From<PlanError> for Problem {
    fn from(error: PlanError) -> Self {
        let text = error.to_string();
        match error.cause {
            PlanCause::System(refusal) => Self::refused_by_system(refusal, &text),
            PlanCause::Work(error) => Self::from(error),
            PlanCause::Swapping => Self::conflict("overtaken", text),
            PlanCause::Stopping => Self::conflict("stopping", text),
            _ => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-configuration", text),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let inner = Inner { code: self.code, message: &self.message };
        json(self.status, &Wrapped { error: inner })
    }
}

/// An answer with a JSON document.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    // Serialization fails only for maps whose keys are no strings. The API has no such maps.
    let mut text = serde_json::to_vec(value).unwrap_or_else(|_| b"null".to_vec());
    text.push(b'\n');
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, Body::from(text)).into_response()
}

/// An answer with a JSON document and status 200.
pub(super) fn ok(value: &impl Serialize) -> Response {
    json(StatusCode::OK, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_reload_names_its_cause() {
        let full = WorkError::Full { tenant: "host".into(), queued: 7 };
        let panicked = WorkError::Panicked("bad-configuration (os error 24)".into());
        let mistake = PlanError::mistake("`name`: `os error 11` (os error 24) Os { code: 12 }");
        let refused =
            PlanError { cause: PlanCause::System(RefusedResource::Descriptors), ..mistake.clone() };
        let cases = [
            (PlanError::from(panicked), 500, "host-fault"),
            (PlanError::from(full), 503, "too-many-waiting"),
            (PlanError::from(WorkError::Ending), 409, "stopping"),
            (PlanError { cause: PlanCause::Stopping, ..mistake.clone() }, 409, "stopping"),
            (refused, 503, "refused-by-system"),
            (mistake, 422, "bad-configuration"),
        ];
        for (error, status, code) in cases {
            let said = error.to_string();
            let problem = Problem::from(error);
            assert_eq!((problem.status.as_u16(), problem.code), (status, code), "{said}");
            assert!(problem.message.contains(&said), "{}", problem.message);
        }
    }
}
