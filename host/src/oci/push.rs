//! Push of a component to a registry, in the layout of the Wasm packaging tools, signed if there is
//! a key.
//!
//! Pushes use `oci-client`, which limits the time of the registry's answers but not their size.
//! That is why pulls do not use it. A push runs in a command of its own, which ends with it.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use oci_client::RegistryOperation;
use oci_client::client::{Certificate, CertificateEncoding, Client, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::{OciDescriptor, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use reqwest::header::HeaderValue;
use serde_json::json;

use super::artifact::{
    self, CONFIG_TYPE, DESCRIPTION, LAYER_TYPE, MANIFEST_MAX_BYTES, MANIFEST_TYPE, TITLE, VERSION,
};
use super::client::{CONNECT_MAX, RegistryClient, SILENCE_MAX, without_tls};
use super::config::RegistryConfig;
use super::digest::Digest;
use super::error::{RegistryError, RegistryProblem, causes, excerpt};
use super::keys::SigningKey;
use super::puller::{Registries, on_this_thread};
use super::reference::Reference;
use super::signature::{self, Found, SIGNATURES_MAX, Wanted};
use super::simple;
use crate::work::Stop;

/// A component to push, and its description.
pub struct PushedComponent {
    /// Name of the plugin.
    pub name: String,
    /// Version of the plugin, if it has one.
    pub version: Option<String>,
    /// One sentence; may be empty.
    pub description: String,
    /// Bytes of the component.
    pub bytes: Vec<u8>,
    /// Interfaces that the component imports.
    pub imports: Vec<String>,
    /// Interfaces that the component exports.
    pub exports: Vec<String>,
}

impl Registries {
    /// Pushes a plugin to a tag, and its signature beside it. The tag names the plugin only once
    /// everything else is there. The same component has the same digest each time. Blocks, so do
    /// not call it on a runtime's thread.
    ///
    /// # Errors
    /// [`RegistryError`]; the tag names what it named before.
    pub fn push(
        &self,
        reference: &Reference,
        component: PushedComponent,
        key: Option<&SigningKey>,
    ) -> Result<Digest, RegistryError> {
        let pushed = match reference.digest() {
            Some(_) => Err(RegistryProblem::Reference(
                "a plugin is pushed to a tag, and gets its digest by that".into(),
            )),
            None => on_this_thread(
                &self.registry_config,
                &Stop::default(),
                guarded(push(&self.registry_config, reference, component, key)),
            ),
        };
        pushed.map_err(|problem| RegistryError { reference: reference.to_string(), problem })
    }
}

/// Turns panics of the client into errors. The client panics if some answers are not as it expects.
async fn guarded<T>(
    work: impl Future<Output = Result<T, RegistryProblem>>,
) -> Result<T, RegistryProblem> {
    let broken = |_| {
        RegistryProblem::Unreachable("it answers in a way that the client does not know".into())
    };
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| Err(broken(panic)))
}

async fn push(
    registry_config: &RegistryConfig,
    reference: &Reference,
    component: PushedComponent,
    key: Option<&SigningKey>,
) -> Result<Digest, RegistryProblem> {
    let auth = match registry_config.credentials.of(reference.registry()) {
        Some(login) => RegistryAuth::Basic(login.user.clone(), login.password.clone()),
        None => RegistryAuth::Anonymous,
    };
    let known = auth != RegistryAuth::Anonymous;
    let failed = |error: OciDistributionError| explain(&error, known);
    let client = client(registry_config, reference)?;
    client.auth(reference.inner(), &auth, RegistryOperation::Push).await.map_err(failed)?;
    let layer = Digest::of(&component.bytes);
    let config = config(&component, &layer);
    let manifest = manifest(&component, &layer, &config)?;
    let digest = Digest::of(&manifest);

    client.push_blob(reference.inner(), component.bytes, layer.as_str()).await.map_err(failed)?;
    let name = Digest::of(&config);
    client.push_blob(reference.inner(), config, name.as_str()).await.map_err(failed)?;
    put(&client, &reference.pinned(&digest), manifest.clone()).await.map_err(failed)?;
    if let Some(key) = key {
        sign(registry_config, &client, reference, &digest, key).await?.map_err(failed)?;
    }
    put(&client, reference, manifest).await.map_err(failed)?;
    Ok(digest)
}

async fn put(
    client: &Client,
    reference: &Reference,
    manifest: Vec<u8>,
) -> Result<(), OciDistributionError> {
    let kind = HeaderValue::from_static(MANIFEST_TYPE);
    client.push_manifest_raw(reference.inner(), manifest, kind).await.map(drop)
}

/// Adds a signature to the existing ones, unless this key has a valid one already.
async fn sign(
    registry_config: &RegistryConfig,
    client: &Client,
    reference: &Reference,
    digest: &Digest,
    key: &SigningKey,
) -> Result<Result<(), OciDistributionError>, RegistryProblem> {
    let mut registry_client = RegistryClient::new(registry_config, reference)?;
    let there = registry_client.signatures(digest).await?;
    let mut found = Found::default();
    registry_client.texts(&there, &mut found).await;
    let wanted = Wanted { plugin: digest, repository: reference.repository(), by_digest: false };
    if signature::check(&found, &[key.public()], &wanted).is_ok() {
        return Ok(Ok(()));
    }
    if there.len() >= SIGNATURES_MAX {
        return Err(RegistryProblem::TooManySignatures {
            tag: simple::tag(digest),
            max: SIGNATURES_MAX,
        });
    }
    let evidence = simple::made(key, &reference.place(), digest).ok_or_else(|| {
        RegistryProblem::Client("the system has no random numbers to sign with".into())
    })?;
    let (config, manifest) = there.with(&simple::descriptor(&evidence))?;
    let pushing = async {
        for content in [evidence.payload, config] {
            let name = Digest::of(&content);
            client.push_blob(reference.inner(), content, name.as_str()).await?;
        }
        put(client, &reference.tagged(&simple::tag(digest)), manifest).await
    };
    Ok(pushing.await)
}

/// Creates the configuration, which describes the component to programs that do not fetch it. The
/// same component has the same configuration each time.
fn config(component: &PushedComponent, layer: &Digest) -> Vec<u8> {
    let config = json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [layer.as_str()],
        "component": { "exports": component.exports, "imports": component.imports },
    });
    config.to_string().into_bytes()
}

fn manifest(
    component: &PushedComponent,
    layer: &Digest,
    config: &[u8],
) -> Result<Vec<u8>, RegistryProblem> {
    let mut said = BTreeMap::from([(TITLE.to_owned(), component.name.clone())]);
    said.extend(component.version.clone().map(|version| (VERSION.to_owned(), version)));
    if !component.description.is_empty() {
        said.insert(DESCRIPTION.to_owned(), component.description.clone());
    }
    let layer = OciDescriptor {
        media_type: LAYER_TYPE.into(),
        digest: layer.to_string(),
        size: i64::try_from(component.bytes.len()).unwrap_or(i64::MAX),
        ..OciDescriptor::default()
    };
    let manifest = image(config, layer, Some(said))?;
    // A plugin that the host could not pull is not pushed.
    artifact::Artifact::read(&manifest, u64::MAX).map(|_| manifest)
}

fn image(
    config: &[u8],
    layer: OciDescriptor,
    annotations: Option<BTreeMap<String, String>>,
) -> Result<Vec<u8>, RegistryProblem> {
    let config = OciDescriptor {
        media_type: CONFIG_TYPE.into(),
        digest: Digest::of(config).to_string(),
        size: i64::try_from(config.len()).unwrap_or(i64::MAX),
        ..OciDescriptor::default()
    };
    let (media_type, layers) = (Some(MANIFEST_TYPE.to_owned()), vec![layer]);
    let manifest =
        OciImageManifest { media_type, config, layers, annotations, ..OciImageManifest::default() };
    let text = serde_json::to_vec(&manifest)
        .map_err(|error| RegistryProblem::NotAPlugin(error.to_string()))?;
    if text.len() as u64 > MANIFEST_MAX_BYTES {
        return Err(RegistryProblem::TooLarge { what: "manifest", max: MANIFEST_MAX_BYTES });
    }
    Ok(text)
}

fn client(
    registry_config: &RegistryConfig,
    reference: &Reference,
) -> Result<Client, RegistryProblem> {
    // The client makes a second one with the system's authorities for its own purposes, and panics
    // if there are none.
    reqwest::Client::builder().build().map_err(|error| RegistryProblem::Client(causes(&error)))?;
    let protocol = if without_tls(registry_config, reference)? {
        ClientProtocol::Http
    } else {
        ClientProtocol::Https
    };
    let authority = registry_config.authority.iter();
    let authority =
        authority.map(|pem| Certificate { encoding: CertificateEncoding::Pem, data: pem.clone() });
    let config = ClientConfig {
        protocol,
        tls_certs_only: authority.collect(),
        connect_timeout: Some(CONNECT_MAX),
        read_timeout: Some(SILENCE_MAX),
        ..ClientConfig::default()
    };
    Client::try_from(config).map_err(|error| RegistryProblem::Client(causes(&error)))
}

fn explain(error: &OciDistributionError, known: bool) -> RegistryProblem {
    match error {
        OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::AuthenticationFailure(_) => RegistryProblem::Denied(known),
        OciDistributionError::ServerError { code: 401 | 403, .. } => RegistryProblem::Denied(known),
        OciDistributionError::ServerError { code, message, .. } => {
            RegistryProblem::Answer { status: *code, said: excerpt(message) }
        }
        error => RegistryProblem::Unreachable(causes(error)),
    }
}
