//! Checks of requests to the control API: see `crate::fuzzing`.

use std::sync::LazyLock;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Query;
use axum::http::{Request, Uri};

use super::answer::Problem;
use super::auth::{self, Caller, Token};
use super::requests::{self, parse};
use crate::admission::Throttle;
use crate::files::scratch;

/// Longest that any call of the API may be asked to last.
const CALL_MAX: Duration = Duration::from_secs(24 * 3_600);
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Whether a body was taken, and that a refusal is short and has a code.
fn taken<T>(read: Result<T, Problem>) -> bool {
    if let Err(problem) = &read {
        let message = &problem.message;
        assert!(["bad-json", "bad-value"].contains(&problem.code), "{}", problem.code);
        assert!((1..=16 << 10).contains(&message.len()), "{} bytes", message.len());
        let controls = |one: char| one.is_control() && one != '\n' && one != '\t';
        assert!(!message.contains(controls), "{message:?}");
    }
    read.is_ok()
}

/// A body of every request there is. Times that are taken end.
pub fn api_request(bytes: &[u8]) -> bool {
    let within = |times: &[Duration]| assert!(times.iter().all(|time| *time <= CALL_MAX));
    let all = [
        taken(parse::<requests::Nothing>(bytes)),
        taken(parse::<requests::Suspend>(bytes).and_then(|body| body.read())),
        taken(parse::<requests::Restart>(bytes).and_then(|body| body.read())),
        taken(parse::<requests::Stop>(bytes).and_then(|body| {
            let (drain, grace) = body.read()?;
            within(&[drain, grace]);
            Ok(())
        })),
        taken(parse::<requests::Throttle>(bytes).map(|body| {
            if let Err(error) = Throttle::default().changed(body.read()) {
                assert!(error.to_string().contains("expected"), "{error}");
            }
        })),
        taken(parse::<requests::Swap>(bytes)),
        taken(parse::<requests::Canary>(bytes).map(|body| body.options())),
        taken(parse::<requests::Lock>(bytes).and_then(|body| {
            let (wait, hold) = body.read()?;
            within(&[wait, hold]);
            Ok(())
        })),
        taken(parse::<requests::Upgrade>(bytes).and_then(|body| {
            let (timeout, drain) = body.read()?;
            within(&[timeout, drain.unwrap_or_default()]);
            assert!(!timeout.is_zero() && body.program.is_none_or(|it| it.is_absolute()));
            Ok(())
        })),
        taken(parse::<requests::Unlock>(bytes)),
        taken(parse::<requests::Class>(bytes).and_then(|body| body.read())),
        taken(parse::<requests::Data>(bytes)),
        taken(parse::<requests::Name>(bytes)),
    ];
    all.contains(&true)
}

/// A query of a list of sessions.
pub fn api_query(bytes: &[u8]) -> bool {
    let uri = [&b"/v1/servers/echo/sessions?"[..], bytes].concat();
    let Ok(uri) = Uri::try_from(&uri[..]) else { return false };
    match Query::<requests::Page>::try_from_uri(&uri) {
        Ok(_) => true,
        Err(error) => {
            assert!(!error.body_text().is_empty());
            false
        }
    }
}

/// The first line is method and path, and each other line a header. No caller is the owner without
/// the token.
pub fn api_head(bytes: &[u8]) -> bool {
    static KNOWN: LazyLock<Token> = LazyLock::new(|| {
        scratch::with_file(TOKEN.as_bytes(), Token::read).expect("it is long enough")
    });
    let mut lines = bytes.split(|&byte| byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let (method, path) = first
        .iter()
        .position(|&byte| byte == b' ')
        .map_or((first, &b"/"[..]), |at| (&first[..at], &first[at + 1..]));
    let mut request = Request::builder().method(method).uri(path);
    for line in lines {
        let Some(at) = line.iter().position(|&byte| byte == b':') else { continue };
        request = request.header(&line[..at], line[at + 1..].trim_ascii());
    }
    let Ok(request) = request.body(Body::empty()) else { return false };
    let (local, remote) = (auth::local(&request), auth::remote(&request, &KNOWN));
    let has_token = bytes.windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes());
    match remote {
        Ok(known) => {
            assert!(local.is_ok() && (known != Caller::Owner || has_token));
            true
        }
        Err(problem) => {
            let codes = ["foreign-host", "foreign-origin", "no-token"];
            assert!(codes.contains(&problem.code), "{}", problem.code);
            false
        }
    }
}

/// The file of the token: what is taken cannot be guessed, and is not shown.
pub fn api_token(bytes: &[u8]) -> bool {
    match scratch::with_file(bytes, Token::read) {
        Ok(token) => {
            let text = std::str::from_utf8(bytes).expect("it was taken").trim();
            assert!(text.len() >= 32 && text.chars().all(|one| one.is_ascii_graphic()));
            assert_eq!(format!("{token:?}"), "Token");
            true
        }
        Err(error) => {
            assert!(error.to_string().contains("expected"), "{error}");
            false
        }
    }
}
