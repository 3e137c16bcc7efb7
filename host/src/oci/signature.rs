//! Check of a plugin's signatures: against the trusted keys, and of the signed texts against the
//! plugin.

use std::borrow::Cow;
use std::sync::Arc;

use super::bundle;
use super::claim::{Claim, Evidence, Form};
use super::digest::Digest;
use super::error::{RegistryProblem, UnsignedError, UntrustedError};
use super::keys::PublicKey;
use super::simple;

/// Number of signatures of one plugin that are read, in all forms together.
pub(super) const SIGNATURES_MAX: usize = 16;

impl Evidence {
    fn is_by(&self, key: &PublicKey) -> bool {
        let signed = match self.form {
            Form::Simple => Cow::from(&self.payload),
            Form::Bundle => Cow::from(bundle::signed(&self.payload)),
        };
        key.has_signed(&signed, &self.signature)
    }

    /// Returns the claims of the text. Call this only for a text with a verified signature.
    fn claims(&self) -> Option<Vec<Claim>> {
        match self.form {
            Form::Simple => simple::claim(&self.payload).map(|claim| vec![claim]),
            Form::Bundle => bundle::claims(&self.payload),
        }
    }
}

/// Unchecked signatures of a plugin.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) evidence: Vec<Evidence>,
    /// Number of signatures that are not read, because of their form or because there were too many
    /// before them.
    pub(super) passed_over: usize,
    /// Number of referrers that were not fetched. They may be signatures or other attachments.
    pub(super) referrers_left: usize,
    /// Whether the list of referrers has further parts, which were not fetched.
    pub(super) pages_left: bool,
    /// Reason why some signatures could not be read.
    problem: Option<Arc<RegistryProblem>>,
}

impl Found {
    /// Adds a signature, if there is room.
    pub(super) fn add(&mut self, evidence: Evidence) {
        match self.is_full() {
            true => self.passed_over += 1,
            false => self.evidence.push(evidence),
        }
    }

    /// Returns whether no more signatures are read.
    pub(super) fn is_full(&self) -> bool {
        self.evidence.len() >= SIGNATURES_MAX
    }

    /// Returns whether there may be more signatures than were found.
    fn is_partial(&self) -> bool {
        self.problem.is_some() || self.referrers_left > 0 || self.pages_left
    }

    /// Notes an unreadable signature. Only the first problem is reported.
    pub(super) fn note(&mut self, problem: RegistryProblem) {
        self.problem.get_or_insert_with(|| Arc::new(problem));
    }
}

impl From<Vec<Evidence>> for Found {
    fn from(evidence: Vec<Evidence>) -> Self {
        Self { evidence, ..Self::default() }
    }
}

/// Required content of a signature.
pub(super) struct Wanted<'a> {
    pub(super) plugin: &'a Digest,
    pub(super) repository: &'a str,
    /// Whether the operator named this digest, and not a tag that the registry resolved.
    pub(super) by_digest: bool,
}

/// Problem with a text that a trusted key signed. Later variants are nearer to a valid signature.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Flaw {
    NoSignature,
    OtherDigest(String),
    OtherPlugin(String),
    NoRepository,
}

impl Wanted<'_> {
    fn judge(&self, claims: Option<Vec<Claim>>) -> Result<(), Flaw> {
        let claims = claims.unwrap_or_default();
        let first = claims.first().ok_or(Flaw::NoSignature)?.digest.clone();
        let of_it = claims.into_iter().filter(|claim| claim.digest == self.plugin.as_str());
        let judged = of_it.map(|claim| match claim.place {
            Some(place) if is_about(&place, self.repository) => Ok(()),
            Some(place) => Err(Flaw::OtherPlugin(place)),
            None if self.by_digest => Ok(()),
            None => Err(Flaw::NoRepository),
        });
        let better = |one, other| match (one, other) {
            (Err(one), Err(other)) => Err(Flaw::max(one, other)),
            _ => Ok(()),
        };
        judged.reduce(better).unwrap_or(Err(Flaw::OtherDigest(first)))
    }

    fn explain(&self, flaw: Flaw, key: &str) -> UntrustedError {
        let key = key.to_owned();
        match flaw {
            Flaw::NoSignature => UntrustedError::NoSignature { key },
            Flaw::OtherDigest(digest) => UntrustedError::OtherDigest { key, digest },
            Flaw::OtherPlugin(place) => UntrustedError::OtherPlugin { key, place },
            Flaw::NoRepository => UntrustedError::NoRepository {
                key,
                digest: self.plugin.clone(),
                repository: self.repository.to_owned(),
            },
        }
    }
}

/// Returns the key that signed this plugin.
///
/// # Errors
/// [`UnsignedError`] if the plugin counts as unsigned.
pub(super) fn check<'a>(
    found: &Found,
    keys: &'a [PublicKey],
    wanted: &Wanted<'_>,
) -> Result<&'a PublicKey, Box<UnsignedError>> {
    let mut nearest: Option<(Flaw, &str)> = None;
    for evidence in found.evidence.iter().take(SIGNATURES_MAX) {
        let Some(key) = keys.iter().find(|key| evidence.is_by(key)) else { continue };
        // The signature is verified only here, so the text is read only here.
        match wanted.judge(evidence.claims()) {
            Ok(()) => return Ok(key),
            Err(flaw) => nearest = nearest.max(Some((flaw, key.name()))),
        }
    }
    let trusted = || keys.iter().map(|key| key.name().to_owned()).collect();
    let cause = match (nearest, found.evidence.len()) {
        (Some((flaw, key)), _) => wanted.explain(flaw, key),
        (None, 0) if found.passed_over > 0 => UntrustedError::OtherForms { trusted: trusted() },
        (None, 0) if found.is_partial() => UntrustedError::NoneFound { trusted: trusted() },
        (None, 0) => UntrustedError::NotSigned { trusted: trusted() },
        (None, count) => UntrustedError::OtherKeys { count, trusted: trusted() },
    };
    Err(Box::new(UnsignedError {
        cause,
        passed_over: found.passed_over,
        read_max: SIGNATURES_MAX,
        referrers_left: found.referrers_left,
        pages_left: found.pages_left,
        unread: found.problem.clone(),
    }))
}

/// Returns whether a signed name means this repository. So a registry cannot present one signed
/// plugin as another. A mirror is another registry, and may add parts before the name or leave them
/// out.
fn is_about(place: &str, repository: &str) -> bool {
    let signed = place.split('@').next().unwrap_or_default();
    let path = match signed.split_once('/') {
        Some((registry, path)) if registry.contains(['.', ':']) || registry == "localhost" => path,
        _ => signed,
    };
    let name = match path.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => path,
    };
    let ends = |long: &str, short: &str| {
        long.strip_suffix(short).is_some_and(|before| before.is_empty() || before.ends_with('/'))
    };
    !name.is_empty() && (ends(repository, name) || ends(name, repository))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::oci::{SignatureError, SigningKey};

    fn wanted<'a>(plugin: &'a Digest, by_digest: bool) -> Wanted<'a> {
        Wanted { plugin, repository: "echo", by_digest }
    }

    fn bundle(key: &SigningKey, statement: &serde_json::Value) -> Evidence {
        let payload = statement.to_string().into_bytes();
        let signature = key.sign(&bundle::signed(&payload)).expect("signed");
        Evidence { form: Form::Bundle, payload, signature }
    }

    fn subject(digest: &Digest, annotations: &serde_json::Value) -> serde_json::Value {
        json!({ "digest": { "sha256": digest.hex() }, "annotations": annotations })
    }

    fn statement(subjects: &[serde_json::Value]) -> serde_json::Value {
        json!({
            "_type": "https://in-toto.io/Statement/v1",
            "predicateType": "https://sigstore.dev/cosign/sign/v1",
            "subject": subjects, "predicate": {},
        })
    }

    #[test]
    fn only_trusted_key_on_this_digest_counts() {
        let (ours, theirs, plugin) =
            (SigningKey::for_tests(), SigningKey::for_tests(), Digest::of(b"plugin"));
        let keys = [ours.public()];
        let check = |evidence: &[Evidence]| {
            check(&evidence.to_vec().into(), &keys, &wanted(&plugin, false)).map(|_| ())
        };
        let by = |key: &SigningKey, digest: &Digest| {
            simple::made(key, "a.example/echo", digest).expect("signed")
        };
        let good = by(&ours, &plugin);
        assert!(check(std::slice::from_ref(&good)).is_ok());
        assert!(check(&[by(&theirs, &plugin), good.clone()]).is_ok());

        let refused = |evidence: &[Evidence]| check(evidence).expect_err("refused").to_string();
        assert!(refused(&[]).contains("not signed"));
        assert!(refused(&[by(&theirs, &plugin)]).contains("none of its 1"));
        assert!(refused(&[by(&ours, &Digest::of(b"other"))]).contains("another digest"));
        let other = simple::made(&ours, "a.example/admin", &plugin).expect("signed");
        assert!(refused(&[other]).contains("as another plugin: a.example/admin"));
        let mut changed = good.clone();
        changed.payload.push(b' ');
        assert!(refused(&[changed]).contains("none of its 1"));
        let mut cut = good.clone();
        cut.signature.truncate(8);
        assert!(refused(&[cut]).contains("none of its 1"));
        let filler = by(&theirs, &plugin);
        let mut late = vec![filler; SIGNATURES_MAX];
        late.push(good);
        assert!(check(&late).is_err(), "beyond the limit nothing is looked at");
    }

    #[test]
    fn statement_needs_repository_or_requested_digest() {
        let (key, plugin, other) =
            (SigningKey::for_tests(), Digest::of(b"plugin"), Digest::of(b"other"));
        let keys = [key.public()];
        let said = |subjects: &[serde_json::Value], by_digest| {
            let found = vec![bundle(&key, &statement(subjects))].into();
            let checked = check(&found, &keys, &wanted(&plugin, by_digest));
            checked.map(|_| String::new()).unwrap_or_else(|error| error.to_string())
        };
        let named = |place: &str| subject(&plugin, &json!({ "repository": place }));
        let bare = subject(&plugin, &json!(null));
        assert!(
            said(std::slice::from_ref(&bare), false)
                .contains("sign it with `cosign sign -a repository=echo`")
        );
        assert_eq!(said(std::slice::from_ref(&bare), true), "");
        for place in ["echo", "team/echo", "a.example/team/echo"] {
            assert_eq!(said(&[named(place)], false), "", "{place}");
        }
        for by_digest in [false, true] {
            assert!(said(&[named("admin")], by_digest).contains("as another plugin: admin"));
            let odd = subject(&plugin, &json!({ "repository": ["echo"] }));
            assert!(said(&[odd], by_digest).contains("as another plugin"));
            // The repository of another subject does not count for this one.
            let elsewhere = subject(&other, &json!({ "repository": "echo" }));
            assert!(said(std::slice::from_ref(&elsewhere), by_digest).contains("another digest"));
            assert_eq!(said(&[elsewhere, bare.clone()], by_digest).is_empty(), by_digest);
            assert_eq!(said(&[bare.clone(), named("admin"), named("echo")], by_digest), "");
        }
    }

    #[test]
    fn other_kinds_of_statement_are_no_signature() {
        let (key, plugin) = (SigningKey::for_tests(), Digest::of(b"plugin"));
        let keys = [key.public()];
        let good = statement(&[subject(&plugin, &json!({}))]);
        let refused = |evidence: Evidence| {
            check(&vec![evidence].into(), &keys, &wanted(&plugin, true))
                .map(|_| ())
                .expect_err("refused")
                .to_string()
        };
        for (member, value) in [
            ("predicateType", json!("https://slsa.dev/provenance/v1")),
            ("_type", json!("https://in-toto.io/Statement/v0.1")),
            ("subject", json!([])),
            ("subject", json!("x")),
        ] {
            let mut other = good.clone();
            other[member] = value;
            assert!(
                refused(bundle(&key, &other)).contains("is no signature of a plugin"),
                "{member}"
            );
        }
        let mut changed = bundle(&key, &good);
        changed.payload.push(b' ');
        assert!(refused(changed).contains("none of its 1"));
        // Neither form is ever taken for the other.
        let bundled = bundle(&key, &good);
        assert!(
            refused(Evidence { form: Form::Simple, ..bundled.clone() }).contains("none of its 1")
        );
        let whole =
            Evidence { form: Form::Simple, payload: bundle::signed(&bundled.payload), ..bundled };
        assert!(refused(whole).contains("is no signature of a plugin"));
        let simple = simple::made(&key, "echo", &plugin).expect("signed");
        assert!(refused(Evidence { form: Form::Bundle, ..simple }).contains("none of its 1"));
    }

    #[test]
    fn skipped_signatures_are_reported() {
        let (plugin, key) = (Digest::of(b"plugin"), [PublicKey::named_for_tests("ours.pub")]);
        let said = |found: &Found| {
            let checked = check(found, &key, &wanted(&plugin, true));
            checked.map(|_| ()).expect_err("refused").to_string()
        };
        let other = said(&Found { passed_over: 3, ..Found::default() });
        assert!(
            other.contains("no signature in a form that is looked at")
                && other.contains("; 3 in other forms"),
            "{other}"
        );
        let many = said(&Found { referrers_left: 9, ..Found::default() });
        assert!(
            !many.contains("it is not signed") && many.contains("9 of its referrers not looked at"),
            "{many}"
        );
        let parts = said(&Found { pages_left: true, ..Found::default() });
        assert!(
            !parts.contains("it is not signed") && parts.contains("list of its referrers goes on"),
            "{parts}"
        );
        let mut found = Found::default();
        found.note(RegistryProblem::Signature(SignatureError::NoTrust));
        found.note(RegistryProblem::NotKept);
        assert!(
            said(&found).contains("none was found")
                && said(&found).contains("not all could be read: a signature")
        );
    }

    #[test]
    fn mirror_is_same_plugin() {
        for place in [
            "a.example/team/echo",
            "localhost:5000/team/echo:1.0",
            "team/echo",
            "echo",
            "b.example/x/team/echo",
        ] {
            assert!(is_about(place, "team/echo"), "{place}");
        }
        for place in [
            "a.example/team/admin",
            "a.example/teams/echo",
            "cho",
            "",
            "a.example/",
            "a.example/team",
        ] {
            assert!(!is_about(place, "team/echo"), "{place}");
        }
    }
}
