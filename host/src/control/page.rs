//! The operator's page in a browser.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use rustix::rand::{GetRandomFlags, getrandom};

/// The page: one document that loads nothing from elsewhere.
const PAGE: &str = include_str!("page.html");

/// Serves the page. Only scripts with this answer's nonce run, so no text of a client, such as its
/// name, can become a script.
pub(super) async fn page() -> Response {
    let mut random = [0; 16];
    // Without random bytes the answer is an error, never a nonce that can be guessed.
    let nonce = match getrandom(&mut random, GetRandomFlags::empty()) {
        Ok(count) if count == random.len() => {
            random.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        }
        _ => return axum::http::StatusCode::SERVICE_UNAVAILABLE.into_response(),
    };
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src \
         'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = PAGE.replace("__NONCE__", &nonce).into_response();
    let headers = response.headers_mut();
    let fixed = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}
