//! Checks of what registries send, of what is kept of it, and of the files of logins and keys: see
//! `crate::fuzzing`.

use std::fs;
use std::sync::LazyLock;

use oci_client::manifest::OciDescriptor;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, LINK, WWW_AUTHENTICATE};

use super::artifact::Artifact;
use super::bundle;
use super::claim::{Evidence, Form};
use super::client::has_next;
use super::digest::Digest;
use super::error::RegistryProblem;
use super::reference::Reference;
use super::signature::{self, SIGNATURES_MAX};
use super::signature_fetch::SignatureList;
use super::simple;
use super::store::Store;
use super::token::{self, Wanted};
use super::{PublicKey, RegistryCredentials, SigningKey};
use crate::files::scratch;

const COMPONENT_MAX_BYTES: u64 = 64 << 20;
const REPOSITORY: &str = "team/echo";

/// The plugin that the seeds are about.
static PLUGIN: LazyLock<Digest> = LazyLock::new(|| Digest::of(b"plugin"));

/// Whether it was taken, and that a refusal is short and stays in its line.
fn taken<T>(read: Result<T, RegistryProblem>) -> Option<T> {
    read.map_err(|problem| {
        let said = problem.to_string();
        assert!((1..=4 << 10).contains(&said.len()), "{} bytes: {said:.100}", said.len());
        assert!(!said.contains(char::is_control), "{said:?}");
    })
    .ok()
}

/// The manifest of a plugin: one component, and words that can stand in a line.
pub fn oci_manifest(bytes: &[u8]) -> bool {
    let Some(plugin) = taken(Artifact::read(bytes, COMPONENT_MAX_BYTES)) else { return false };
    assert!(plugin.layer_bytes <= COMPONENT_MAX_BYTES);
    for word in [plugin.name(REPOSITORY), plugin.version(None)] {
        assert!((1..=64).contains(&word.len()), "{word:?}");
        assert!(word.chars().all(|one| one.is_ascii_graphic()), "{word:?}");
    }
    true
}

/// A list of signatures takes one more, and has the others as before.
pub fn oci_signatures(bytes: &[u8]) -> bool {
    let Some(list) = taken(SignatureList::read(bytes)) else { return false };
    let count = list.len();
    let added = OciDescriptor { digest: PLUGIN.to_string(), ..OciDescriptor::default() };
    if let Some((_, manifest)) = taken(list.with(&added)) {
        let again = taken(SignatureList::read(&manifest)).expect("its own manifest");
        assert_eq!(again.len(), count + 1);
    }
    true
}

/// A list of referrers, each of which is named once; or the manifest of one.
pub fn oci_referrers(bytes: &[u8]) -> bool {
    let attached = bundle::attached_by(bytes, &PLUGIN);
    let Some(mut all) = taken(bundle::referrers(bytes)) else { return attached.is_some() };
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
    true
}

/// A bundle with one signature, which no key of ours has made.
pub fn oci_bundle(bytes: &[u8]) -> bool {
    let Some(evidence) = bundle::read(bytes) else { return false };
    assert!(evidence.payload.len() + evidence.signature.len() <= bytes.len());
    let by_digest = signature::Wanted { plugin: &PLUGIN, repository: REPOSITORY, by_digest: true };
    let keys = [KEY.public()];
    let why = signature::check(&vec![evidence].into(), &keys, &by_digest);
    let why = why.map(PublicKey::name).expect_err("no key has signed it").to_string();
    assert!(why.len() <= 4 << 10, "{} bytes: {why:.100}", why.len());
    true
}

static KEY: LazyLock<SigningKey> = LazyLock::new(SigningKey::for_tests);

/// A text that is really signed counts if it says so of this very plugin.
pub fn oci_signed_text(bytes: &[u8]) -> bool {
    let (mut counts, keys) = (false, [KEY.public()]);
    for form in [Form::Simple, Form::Bundle] {
        let (signed, claims) = match form {
            Form::Simple => (bytes.to_vec(), simple::claim(bytes).map(|claim| vec![claim])),
            Form::Bundle => (bundle::signed(bytes), bundle::claims(bytes)),
        };
        let signature = KEY.sign(&signed).expect("random numbers");
        let found = vec![Evidence { form, payload: bytes.to_vec(), signature }].into();
        for by_digest in [false, true] {
            let wanted = signature::Wanted { plugin: &PLUGIN, repository: REPOSITORY, by_digest };
            match signature::check(&found, &keys, &wanted) {
                Ok(_) => {
                    let claims = claims.iter().flatten();
                    let mut ours = claims.filter(|claim| claim.digest == PLUGIN.as_str());
                    assert!(ours.any(|claim| by_digest || claim.place.is_some()));
                    counts = true;
                }
                Err(why) => {
                    let why = why.to_string();
                    assert!(why.len() <= 4 << 10, "{} bytes: {why:.100}", why.len());
                    assert!(!why.contains(char::is_control), "{why:?}");
                }
            }
        }
    }
    counts
}

/// A reference is read again from its own text, and its address leads nowhere else.
pub fn oci_reference(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match text.parse::<Reference>() {
        Ok(reference) => {
            let written = reference.to_string();
            assert_eq!(written.parse::<Reference>().expect("its own text"), reference);
            assert!(reference.tag().is_some() || reference.digest().is_some());
            let (registry, repository) = (reference.registry(), reference.repository());
            let url = format!("https://{registry}/v2/{repository}/");
            if let Ok(url) = Url::parse(&url) {
                assert_eq!(url.path(), format!("/v2/{repository}/"));
                assert!(url.username().is_empty() && url.query().is_none(), "{url}");
                let host = url.host_str().expect("a host");
                // An IPv4 address has several spellings.
                let is_address = host.parse::<std::net::IpAddr>().is_ok();
                let same = registry.to_ascii_lowercase().starts_with(host);
                assert!(is_address || same, "{registry} became {host}");
            }
            true
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains("oci://REGISTRY/REPOSITORY:TAG"), "{said}");
            assert!(said.len() <= 8 << 10 && !said.contains(char::is_control), "{said:?}");
            false
        }
    }
}

/// A file of logins. Refusals name the file.
pub fn oci_logins(bytes: &[u8]) -> bool {
    scratch::with_file(bytes, |path| match RegistryCredentials::read(path) {
        Ok(logins) => {
            let _ = logins.of("docker.io");
            true
        }
        Err(why) => {
            assert!(why.to_string().starts_with(&path.display().to_string()), "{why}");
            false
        }
    })
}

/// A file of a key. A private key makes signatures that its public half verifies.
pub fn oci_key(bytes: &[u8]) -> bool {
    scratch::with_file(bytes, |path| {
        let (public, private) = (PublicKey::read(path), SigningKey::read(path));
        let refusals = [public.as_ref().err(), private.as_ref().err()];
        for why in refusals.into_iter().flatten() {
            assert!(why.to_string().starts_with(&path.display().to_string()), "{why}");
        }
        if let Ok(key) = &private {
            let signature = key.sign(b"text").expect("random numbers");
            assert!(key.public().has_signed(b"text", &signature));
        }
        if let Ok(key) = &public {
            assert!(!key.has_signed(b"text", bytes));
        }
        public.is_ok() || private.is_ok()
    })
}

/// The token in an answer.
pub fn oci_token(bytes: &[u8]) -> bool {
    let Some(token) = taken(token::token(bytes)) else { return false };
    assert!((1..=bytes.len()).contains(&token.len()));
    true
}

/// Each line is a header: what a registry wants to see, and whether its list goes on. A token is
/// asked for to read this repository.
pub fn oci_challenge(bytes: &[u8]) -> bool {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|&byte| byte == b'\n').take(16) {
        let Ok(value) = HeaderValue::from_bytes(line) else { continue };
        headers.append(LINK, value.clone());
        headers.append(WWW_AUTHENTICATE, value);
    }
    let more = has_next(&headers);
    match token::wanted(&headers, REPOSITORY) {
        Some(Wanted::Bearer(url)) => {
            let (_, scope) = url.query_pairs().last().expect("at least the scope");
            assert_eq!(scope, format!("repository:{REPOSITORY}:pull"));
            true
        }
        Some(Wanted::Basic) => true,
        None => more,
    }
}

/// Records of the store: signatures of a plugin, and what a tag named.
pub fn oci_store(bytes: &[u8]) -> bool {
    const NAME: &str = "oci://a.example/echo:1";
    scratch::with_folder(|folder| {
        let store = Store::open(folder, u64::MAX).expect("a folder");
        let tag = folder.join("tags").join(Digest::of(NAME.as_bytes()).hex());
        for file in [folder.join("signatures").join(PLUGIN.hex()), tag] {
            fs::write(file, bytes).expect("room");
        }
        let evidence = store.evidence(&PLUGIN);
        let sizes = evidence.iter().map(|one| one.payload.len() + one.signature.len());
        assert!(sizes.sum::<usize>() <= bytes.len());
        if !evidence.is_empty() && evidence.len() <= SIGNATURES_MAX {
            store.add_evidence(&PLUGIN, &[]).expect("room");
            assert!(store.evidence(&PLUGIN).iter().all(|one| evidence.contains(one)));
        }
        let tagged = store.tag(NAME);
        assert!(tagged.as_ref().is_none_or(|digest| digest.hex().len() == 64));
        tagged.is_some() || !evidence.is_empty()
    })
}
