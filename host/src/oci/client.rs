//! HTTP client for registries that trusts no answer: each has a limit on its size and on silence.
//! The client checks redirects and sends a login to no other party.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LINK};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Certificate, Client, Response, StatusCode, Url};

use super::artifact::{MANIFEST_MAX_BYTES, MANIFEST_TYPE};
use super::config::RegistryConfig;
use super::digest::Digest;
use super::error::{RegistryProblem, causes, excerpt};
use super::reference::Reference;
use super::resolver::SystemResolver;
use super::token::{self, TOKEN_MAX_BYTES, Wanted};

/// Time for the connection to a registry.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Time that a registry may be silent.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Number of redirects of one request, at most.
const REDIRECTS_MAX: usize = 3;
/// Bytes that are read of an error's text.
const SAID_MAX_BYTES: usize = 4 << 10;
const USER_AGENT: &str = concat!("wharf/", env!("CARGO_PKG_VERSION"));

/// Client for the repository of one reference.
pub(super) struct RegistryClient<'a> {
    registry_config: &'a RegistryConfig,
    reference: &'a Reference,
    client: Client,
    base: Url,
    authorization: Option<HeaderValue>,
}

/// A list, or a part of one.
pub(super) struct Page {
    pub(super) content: Vec<u8>,
    /// Whether the registry has further parts.
    pub(super) more: bool,
}

impl<'a> RegistryClient<'a> {
    pub(super) fn new(
        registry_config: &'a RegistryConfig,
        reference: &'a Reference,
    ) -> Result<Self, RegistryProblem> {
        let base = base(registry_config, reference)?;
        let client = client(registry_config, &base)?;
        Ok(Self { registry_config, reference, client, base, authorization: None })
    }

    /// Fetches the manifest of a tag or a digest, and its digest.
    pub(super) async fn manifest(
        &mut self,
        name: &str,
    ) -> Result<(Vec<u8>, Digest), RegistryProblem> {
        let path = format!("manifests/{name}");
        let manifest = self.get(&path, MANIFEST_TYPE, "manifest", MANIFEST_MAX_BYTES).await?;
        let digest = Digest::of(&manifest);
        match Digest::parse(name) {
            Some(expected) if expected != digest => Err(lied("manifest", &expected, &digest)),
            _ => Ok((manifest, digest)),
        }
    }

    /// Fetches content of this digest and size.
    pub(super) async fn blob(
        &mut self,
        what: &'static str,
        digest: &Digest,
        bytes: u64,
    ) -> Result<Vec<u8>, RegistryProblem> {
        let content = self.get(&format!("blobs/{digest}"), "*/*", what, bytes).await;
        let content = content.map_err(|problem| match problem {
            RegistryProblem::TooLarge { what, max } => RegistryProblem::Lied {
                what,
                expected: format!("{max} bytes"),
                found: "more".into(),
            },
            problem => problem,
        })?;
        let found = Digest::of(&content);
        if found == *digest { Ok(content) } else { Err(lied(what, digest, &found)) }
    }

    /// Fetches content of one of these types, of `max` bytes at most. The content is not checked.
    pub(super) async fn get(
        &mut self,
        path: &str,
        accept: &str,
        what: &'static str,
        max: u64,
    ) -> Result<Vec<u8>, RegistryProblem> {
        self.page(path, accept, what, max).await.map(|page| page.content)
    }

    /// Fetches a list as [`RegistryClient::get`] does. The registry may give a part of it.
    pub(super) async fn page(
        &mut self,
        path: &str,
        accept: &str,
        what: &'static str,
        max: u64,
    ) -> Result<Page, RegistryProblem> {
        let url = format!("{}{path}", self.base);
        let mut answer = self.send(&url, accept).await?;
        if answer.status() == StatusCode::UNAUTHORIZED && self.authorization.is_none() {
            self.authorization = Some(self.authorize(answer.headers()).await?);
            answer = self.send(&url, accept).await?;
        }
        match answer.status() {
            StatusCode::OK => {
                let more = has_next(answer.headers());
                Ok(Page { content: body(answer, what, max).await?, more })
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.denied()),
            StatusCode::NOT_FOUND => Err(RegistryProblem::NotThere(what)),
            status => {
                Err(RegistryProblem::Answer { status: status.as_u16(), said: said(answer).await })
            }
        }
    }

    async fn send(&self, url: &str, accept: &str) -> Result<Response, RegistryProblem> {
        let mut request = self.client.get(url).header(ACCEPT, accept);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        request.send().await.map_err(|error| failed(&error.without_url()))
    }

    /// Gets the authorization that a registry demands in its refusal.
    async fn authorize(&self, headers: &HeaderMap) -> Result<HeaderValue, RegistryProblem> {
        match token::wanted(headers, self.reference.repository()) {
            None => Err(self.denied()),
            Some(Wanted::Basic) => self.basic().ok_or_else(|| self.denied()),
            Some(Wanted::Bearer(url)) => {
                let hop = Hop { from: &self.base, to: &url };
                hop.check(self.registry_config)
                    .map_err(|why| RegistryProblem::Redirected { to: shown(&url), why })?;
                let mut request = self.client.get(url);
                if let Some(basic) = self.basic() {
                    request = request.header(AUTHORIZATION, basic);
                }
                let answer = request.send().await.map_err(|error| failed(&error.without_url()))?;
                if !answer.status().is_success() {
                    return Err(self.denied());
                }
                let token = token::token(&body(answer, "token", TOKEN_MAX_BYTES).await?)?;
                secret(&format!("Bearer {token}")).ok_or_else(|| self.denied())
            }
        }
    }

    fn basic(&self) -> Option<HeaderValue> {
        let login = self.registry_config.credentials.of(self.reference.registry())?;
        secret(&format!("Basic {}", STANDARD.encode(format!("{}:{}", login.user, login.password))))
    }

    fn denied(&self) -> RegistryProblem {
        RegistryProblem::Denied(
            self.registry_config.credentials.of(self.reference.registry()).is_some(),
        )
    }
}

/// Returns the base address of the repository, with a slash at its end.
fn base(registry_config: &RegistryConfig, reference: &Reference) -> Result<Url, RegistryProblem> {
    let read = |scheme: &str| {
        Url::parse(&format!("{scheme}://{}/v2/{}/", reference.registry(), reference.repository()))
            .map_err(|error| RegistryProblem::Reference(error.to_string()))
    };
    let plain = read("http")?;
    if is_plain(registry_config, &plain) { Ok(plain) } else { read("https") }
}

/// Returns whether the registry of a reference is used without TLS.
pub(super) fn without_tls(
    registry_config: &RegistryConfig,
    reference: &Reference,
) -> Result<bool, RegistryProblem> {
    Ok(base(registry_config, reference)?.scheme() == "http")
}

fn is_plain(registry_config: &RegistryConfig, url: &Url) -> bool {
    url.host_str().is_some_and(|host| registry_config.is_plain(host, url.port()))
}

fn client(registry_config: &RegistryConfig, base: &Url) -> Result<Client, RegistryProblem> {
    let wrong = |error: reqwest::Error| RegistryProblem::Client(causes(&error));
    let redirects = registry_config.clone();
    let mut builder = Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_MAX)
        .read_timeout(SILENCE_MAX)
        .referer(false)
        .dns_resolver(SystemResolver)
        .redirect(Policy::custom(move |attempt| redirect(&redirects, attempt)));
    match &registry_config.authority {
        Some(pem) => {
            builder = builder.tls_certs_only(Certificate::from_pem_bundle(pem).map_err(wrong)?);
        }
        // Without TLS there is no certificate to check, and a machine without authorities needs
        // none.
        None if base.scheme() == "http" => builder = builder.tls_certs_only([]),
        None => {}
    }
    // A registry on this machine is not behind the proxy of the environment.
    if base.host_str().is_some_and(is_this_machine) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(wrong)
}

fn redirect(registry_config: &RegistryConfig, attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let Some(from) = attempt.previous().last() else { return attempt.follow() };
    let why = match attempt.previous().len() > REDIRECTS_MAX {
        true => Err("it was sent on too often"),
        false => Hop { from, to: attempt.url() }.check(registry_config),
    };
    let to = shown(attempt.url());
    match why {
        Ok(()) => attempt.follow(),
        Err(why) => attempt.error(Astray { to, why }),
    }
}

/// A refused redirect, on its way through the client's errors.
#[derive(Debug, thiserror::Error)]
#[error("{to}: {why}")]
struct Astray {
    to: String,
    why: &'static str,
}

/// A redirect from one address to another.
struct Hop<'a> {
    from: &'a Url,
    to: &'a Url,
}

impl Hop<'_> {
    /// Checks whether the client may follow. Another party than the registry often has the blobs
    /// and nearly always the tokens, so other hosts are allowed. A registry on the network must not
    /// point to this machine, and a request with TLS must keep TLS.
    fn check(&self, registry_config: &RegistryConfig) -> Result<(), &'static str> {
        let Self { from, to } = self;
        if !to.username().is_empty() || to.password().is_some() {
            return Err("the address has a login in it");
        }
        match to.scheme() {
            "https" => {}
            "http" if from.scheme() == "https" => return Err("from TLS to none"),
            "http" if is_plain(registry_config, to) => {}
            "http" => return Err("without TLS, and it is not among `registry.plain_http`"),
            _ => return Err("neither https nor http"),
        }
        let local = |url: &Url| url.host_str().is_some_and(is_this_machine);
        if local(to) && !local(from) {
            return Err("it is this machine");
        }
        Ok(())
    }
}

/// Returns whether a host is a name or loopback address of this machine, or the unspecified
/// address.
fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|ip| {
            let ip = ip.to_canonical();
            ip.is_loopback() || ip.is_unspecified()
        })
}

/// Returns an address without parts that may be secret.
fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    excerpt(&format!("{}://{host}{port}", url.scheme()))
}

/// Returns whether a list has a next part (RFC 8288): `Link: </v2/...>; rel="next"`.
pub(super) fn has_next(headers: &HeaderMap) -> bool {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let parameters = links
        .flat_map(|links| links.split([';', ',']))
        .filter_map(|parameter| parameter.split_once('='));
    let mut relations = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("rel"));
    relations.any(|(_, value)| {
        value
            .trim()
            .trim_matches('"')
            .split_ascii_whitespace()
            .any(|relation| relation.eq_ignore_ascii_case("next"))
    })
}

async fn body(
    mut answer: Response,
    what: &'static str,
    max: u64,
) -> Result<Vec<u8>, RegistryProblem> {
    let too_large = || RegistryProblem::TooLarge { what, max };
    if answer.content_length().is_some_and(|bytes| bytes > max) {
        return Err(too_large());
    }
    let mut content = Vec::new();
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) if (content.len() + chunk.len()) as u64 > max => {
                return Err(too_large());
            }
            Ok(Some(chunk)) => content.extend_from_slice(&chunk),
            Ok(None) => return Ok(content),
            Err(error) if error.is_timeout() => return Err(RegistryProblem::Silent(SILENCE_MAX)),
            Err(error) => {
                let cause = causes(&error.without_url());
                return Err(RegistryProblem::BrokeOff { what, got: content.len(), cause });
            }
        }
    }
}

/// Reads the beginning of an error's text.
async fn said(mut answer: Response) -> String {
    let mut content = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        let room = SAID_MAX_BYTES.saturating_sub(content.len());
        content.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if content.len() >= SAID_MAX_BYTES {
            break;
        }
    }
    excerpt(&String::from_utf8_lossy(&content))
}

fn failed(error: &reqwest::Error) -> RegistryProblem {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(Astray { to, why }) = error.downcast_ref() {
            return RegistryProblem::Redirected { to: to.clone(), why };
        }
        next = error.source();
    }
    match error.is_timeout() && !error.is_connect() {
        true => RegistryProblem::Silent(SILENCE_MAX),
        false => RegistryProblem::Unreachable(causes(error)),
    }
}

pub(super) fn lied(what: &'static str, expected: &Digest, found: &Digest) -> RegistryProblem {
    RegistryProblem::Lied { what, expected: expected.to_string(), found: found.to_string() }
}

/// Creates a header that other code's logs do not show.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_header_marks_partial_list() {
        let with = |links: &[&'static str]| {
            let links = links.iter().map(|link| (LINK, HeaderValue::from_static(link)));
            has_next(&links.collect())
        };
        for links in [
            &["</v2/x?n=2>; rel=\"next\""][..],
            &["</v2/x>;rel=next"],
            &["</a>; rel=\"first\", </b>; title=\"x\"; Rel=\"last NEXT\""],
            &["</a>; rel=\"first\"", "</b>; rel=\"next\""],
        ] {
            assert!(with(links), "{links:?}");
        }
        for links in [
            &[][..],
            &["</v2/next>"],
            &["</a>; rel=\"prev\""],
            &["</a>; title=\"next\""],
            &["next"],
        ] {
            assert!(!with(links), "{links:?}");
        }
    }

    #[test]
    fn redirects_go_only_where_they_may() {
        let registry_config = RegistryConfig {
            plain_http: vec!["127.0.0.1".into(), "lan".into()],
            ..RegistryConfig::default()
        };
        let may = |from: &str, to: &str| {
            let (from, to) = (Url::parse(from).expect(from), Url::parse(to).expect(to));
            Hop { from: &from, to: &to }.check(&registry_config)
        };
        for (from, to) in [
            ("https://r.example/v2/", "https://blobs.example/x"),
            ("http://127.0.0.1:5000/v2/", "http://127.0.0.1:9000/x"),
            ("http://lan/v2/", "https://blobs.example/x"),
            ("http://127.0.0.1:5000/v2/", "https://localhost/x"),
        ] {
            assert_eq!(may(from, to), Ok(()), "{from} {to}");
        }
        for (from, to) in [
            ("https://r.example/v2/", "http://r.example/x"),
            ("https://r.example/v2/", "http://lan/x"),
            ("http://lan/v2/", "http://other/x"),
            ("http://lan/v2/", "http://127.0.0.1/x"),
            ("https://r.example/v2/", "https://localhost/x"),
            ("https://r.example/v2/", "https://[::1]:8443/x"),
            ("https://r.example/v2/", "https://[::ffff:127.0.0.1]/x"),
            ("https://r.example/v2/", "https://0.0.0.0/x"),
            ("https://r.example/v2/", "https://ann:secret@blobs.example/x"),
            ("https://r.example/v2/", "file:///etc/passwd"),
        ] {
            assert!(may(from, to).is_err(), "{from} {to}");
        }
    }
}
