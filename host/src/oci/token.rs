//! Authorization that a registry demands, and where the host gets it.

use http_auth::{ChallengeParser, ChallengeRef};
use reqwest::Url;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::error::RegistryProblem;

/// Largest answer with a token, in bytes.
pub(super) const TOKEN_MAX_BYTES: u64 = 64 << 10;

/// Authorization that a registry demands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// User name and password with each request.
    Basic,
    /// A token from this address. Some registries give it for a login only, and some without one.
    Bearer(Url),
}

/// Returns the first of the demanded authorizations that the host supports.
pub(super) fn wanted(headers: &HeaderMap, repository: &str) -> Option<Wanted> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| ChallengeParser::new(text).map_while(Result::ok))
        .find_map(|one| read(&one, repository))
}

fn read(challenge: &ChallengeRef<'_>, repository: &str) -> Option<Wanted> {
    if challenge.scheme.eq_ignore_ascii_case("basic") {
        return Some(Wanted::Basic);
    }
    if !challenge.scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let param = |name: &str| {
        let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_unescaped())
    };
    let mut url = Url::parse(&param("realm")?).ok()?;
    if let Some(service) = param("service") {
        url.query_pairs_mut().append_pair("service", &service);
    }
    // The scope in the registry's demand is ignored, because the host only has to read this
    // repository.
    url.query_pairs_mut().append_pair("scope", &format!("repository:{repository}:pull"));
    Some(Wanted::Bearer(url))
}

/// Returns the token in an answer.
pub(super) fn token(answer: &[u8]) -> Result<String, RegistryProblem> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let none = || RegistryProblem::Unreachable("where it sends for a token there is none".into());
    let answer: Answer = serde_json::from_slice(answer).map_err(|_| none())?;
    answer.token.or(answer.access_token).filter(|token| !token.is_empty()).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Option<Wanted> {
        let mut headers = HeaderMap::new();
        headers.insert(WWW_AUTHENTICATE, text.parse().expect("a header"));
        wanted(&headers, "team/echo")
    }

    #[test]
    fn token_scope_is_pull_of_one_repository() {
        let text = r#"Bearer realm="https://auth.example/token",service="registry",scope="repository:x:push""#;
        let Some(Wanted::Bearer(url)) = asked(text) else { panic!("no token") };
        assert_eq!(
            url.as_str(),
            "https://auth.example/token?service=registry&scope=repository%3Ateam%2Fecho%3Apull"
        );
        assert_eq!(asked("Basic realm=\"x\""), Some(Wanted::Basic));
        for none in ["Negotiate", "Bearer", "Bearer realm=\"nowhere\"", "\u{7f}", ""] {
            let text = none.replace('\u{7f}', ",,=");
            assert_eq!(asked(&text), None, "{text}");
        }
    }

    #[test]
    fn both_members_of_a_token_are_read() {
        assert_eq!(token(br#"{"token": "a"}"#).expect("one"), "a");
        assert_eq!(token(br#"{"access_token": "b"}"#).expect("one"), "b");
        for none in ["{}", r#"{"token": ""}"#, "[]", "<html>"] {
            assert!(token(none.as_bytes()).is_err(), "{none}");
        }
    }
}
