//! Authentication of requests.
//!
//! - On the Unix socket: the owner of the process and root, as the system has checked.
//! - On a loopback address: callers with the token.
//! - On both: no web page of another origin, under any name of this machine.

use std::net::IpAddr;
use std::path::Path;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};

use super::answer::Problem;
use super::listener::ListenerError;
use crate::files;

/// Least length of a token: 128 bits in hexadecimal are 32 characters.
const TOKEN_MIN_BYTES: usize = 32;
/// Greatest length of the token's file.
const TOKEN_MAX_BYTES: u64 = 4 << 10;

/// The bearer token of the loopback address.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Reads the token from a file. It must belong to this user or to root, with mode 600 or 640.
    ///
    /// # Errors
    /// [`ListenerError::Token`].
    pub fn read(file: &Path) -> Result<Self, ListenerError> {
        let wrong = |problem: String| ListenerError::Token { file: file.to_owned(), problem };
        let text =
            files::read_secret(file, TOKEN_MAX_BYTES).map_err(|error| wrong(error.to_string()))?;
        let token = text.trim();
        let printable = token.bytes().all(|byte| byte.is_ascii_graphic());
        if token.len() < TOKEN_MIN_BYTES || !printable {
            return Err(wrong(format!(
                "expected at least {TOKEN_MIN_BYTES} printable characters without spaces"
            )));
        }
        Ok(Self(token.to_owned()))
    }

    /// Compares in constant time: a wrong token takes as long as the right one.
    fn is(&self, other: &[u8]) -> bool {
        let own = self.0.as_bytes();
        let differs =
            own.iter().zip(other).fold(0, |differs, (one, other)| differs | (one ^ other));
        own.len() == other.len() && std::hint::black_box(differs) == 0
    }
}

/// The caller of a request, as far as the caller has proved it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// The owner of the process or of its token.
    Owner,
    /// A caller without a token, for a path that needs none.
    Stranger,
}

/// Paths that need no token because they tell nothing: the probes, and the page, which asks for
/// the token itself.
const OPEN: [&str; 3] = ["/", "/livez", "/readyz"];

/// Checks a request from the Unix socket. The system has checked the caller's user already.
///
/// A browser cannot reach the socket. A request with a foreign origin comes from a proxy that
/// forwards what it should not, and is refused.
pub(super) fn local(request: &Request<Body>) -> Result<Caller, Problem> {
    same_origin(request.headers()).map(|()| Caller::Owner)
}

/// Checks a request from a loopback address.
pub(super) fn remote(request: &Request<Body>, token: &Token) -> Result<Caller, Problem> {
    // A foreign page can point its own name at this machine (DNS rebinding). It cannot change the
    // name in its requests, so the check of the name catches it.
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (host, another) = (hosts.next().and_then(|host| host.to_str().ok()), hosts.next());
    let named = request.uri().host().is_none_or(is_this_machine);
    if !host.is_some_and(is_this_machine) || another.is_some() || !named {
        let message = "this API answers to localhost and loopback addresses only";
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "foreign-host", message));
    }
    same_origin(request.headers())?;
    let given = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let scheme = |value: &&[u8]| {
        value.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "))
    };
    match given.filter(scheme).map(|value| &value[7..]) {
        Some(given) if token.is(given) => Ok(Caller::Owner),
        _ if matches!(*request.method(), Method::GET | Method::HEAD)
            && OPEN.contains(&request.uri().path()) =>
        {
            Ok(Caller::Stranger)
        }
        _ => {
            let message =
                "expected `Authorization: Bearer TOKEN` with the token of `control.token_file`";
            Err(Problem::new(StatusCode::UNAUTHORIZED, "no-token", message))
        }
    }
}

/// Refuses requests of foreign pages. A browser names the origin of the page that makes a request;
/// only the API's own page may make one.
fn same_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let own = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let given = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
    if given.is_some() && given == own {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "foreign-origin",
        "pages of other origins may not use this API",
    ))
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Caller, &'static str> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let token = Token("0123456789abcdef0123456789abcdef".into());
        remote(&request.body(Body::empty()).expect("a request"), &token)
            .map_err(|problem| problem.code)
    }

    #[test]
    fn requests_without_token_reach_only_open_paths() {
        let host = ("host", "localhost:7070");
        let right = ("authorization", "Bearer 0123456789abcdef0123456789abcdef");
        assert_eq!(ask("GET", "/v1/servers", &[host, right]), Ok(Caller::Owner));
        assert_eq!(ask("GET", "/", &[host]), Ok(Caller::Stranger));
        for wrong in [
            "Bearer 0123456789abcdef0123456789abcdee",
            "Bearer ",
            "Basic x",
            "Bearer 0123456789abcdef0123456789abcdef0",
        ] {
            assert_eq!(
                ask("GET", "/v1/servers", &[host, ("authorization", wrong)]),
                Err("no-token"),
                "{wrong}"
            );
        }
        assert_eq!(ask("POST", "/", &[host]), Err("no-token"));
    }

    #[test]
    fn foreign_pages_are_refused_under_any_name() {
        let right = ("authorization", "Bearer 0123456789abcdef0123456789abcdef");
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.0.2.1",
            "",
            "[::2]:1",
        ] {
            assert_eq!(
                ask("GET", "/v1/servers", &[("host", host), right]),
                Err("foreign-host"),
                "{host}"
            );
        }
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:7070", "[::1]:7070"] {
            assert_eq!(
                ask("GET", "/v1/servers", &[("host", host), right]),
                Ok(Caller::Owner),
                "{host}"
            );
        }
        let host = ("host", "localhost:7070");
        assert_eq!(
            ask("POST", "/v1/reload", &[host, right, ("origin", "http://localhost:7070")]),
            Ok(Caller::Owner)
        );
        for origin in
            ["http://evil.example", "null", "http://localhost:1", "https://localhost:7070"]
        {
            let asked = ask("POST", "/v1/reload", &[host, right, ("origin", origin)]);
            assert_eq!(asked, Err("foreign-origin"), "{origin}");
        }
    }
}
