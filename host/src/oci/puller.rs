//! Pulls: from a reference to bytes, out of the store or from the registry. In both cases the
//! digest is known and the required signature is there.

use std::fmt;
use std::future::Future;
use std::io;

use super::artifact::{Artifact, MANIFEST_MAX_BYTES};
use super::claim::Evidence;
use super::client::RegistryClient;
use super::config::{PullPolicy, RegistryConfig};
use super::digest::Digest;
use super::error::{RegistryError, RegistryProblem, SignatureError};
use super::keys::PublicKey;
use super::reference::Reference;
use super::signature::{self, Found, Wanted};
use super::store::Store;
use crate::net::take_ring_for_tls;
use crate::work::Stop;

/// Registries under one configuration.
#[derive(Debug, Default)]
pub struct Registries {
    pub(super) registry_config: RegistryConfig,
}

/// Place where a plugin was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PluginOrigin {
    /// The store.
    Store,
    /// The plugin's registry.
    Registry,
}

/// A pulled component.
pub struct Pulled {
    /// Reference with the digest that was found, which names this plugin for ever.
    pub reference: Reference,
    /// Digest of the manifest, which is in the reference too.
    pub digest: Digest,
    /// Name of the plugin.
    pub name: String,
    /// Version of the plugin, or the tag.
    pub version: String,
    /// Bytes of the component.
    pub bytes: Vec<u8>,
    /// Place where the component was found.
    pub origin: PluginOrigin,
    /// Name of the key that signed the plugin, if a signature was required.
    pub signed_by: Option<String>,
}

impl fmt::Debug for Pulled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pulled({}, {} bytes)", self.reference, self.bytes.len())
    }
}

/// A requested plugin and its conditions.
pub(super) struct Order<'a> {
    pub(super) registry_config: &'a RegistryConfig,
    pub(super) reference: &'a Reference,
    pub(super) keys: Option<&'a [PublicKey]>,
    pub(super) store: Option<Store>,
}

impl Registries {
    /// Creates registries with this configuration.
    #[must_use]
    pub fn new(registry_config: RegistryConfig) -> Self {
        Self { registry_config }
    }

    /// Configuration of the registries.
    #[must_use]
    pub fn config(&self) -> &RegistryConfig {
        &self.registry_config
    }

    /// Fetches the plugin of a reference by the configured pull policy. Blocks for up to `timeout`,
    /// so do not call it on a runtime's thread.
    ///
    /// # Errors
    /// [`RegistryError`]. The content of the store stays.
    pub fn fetch(&self, reference: &Reference) -> Result<Pulled, RegistryError> {
        self.fetch_by(reference, self.registry_config.pull)
    }

    /// Fetches as [`Registries::fetch`] does, by another policy. Blocks as well.
    ///
    /// # Errors
    /// [`RegistryError`]. The content of the store stays.
    pub fn fetch_by(
        &self,
        reference: &Reference,
        policy: PullPolicy,
    ) -> Result<Pulled, RegistryError> {
        self.fetch_until(reference, policy, &Stop::default())
    }

    /// Fetches as [`Registries::fetch_by`] does, until `stop` cancels it. Blocks as well.
    ///
    /// # Errors
    /// [`RegistryError`]. The content of the store stays.
    pub(crate) fn fetch_until(
        &self,
        reference: &Reference,
        policy: PullPolicy,
        stop: &Stop,
    ) -> Result<Pulled, RegistryError> {
        self.find(reference, policy, stop)
            .map_err(|problem| RegistryError { reference: reference.to_string(), problem })
    }

    fn find(
        &self,
        reference: &Reference,
        policy: PullPolicy,
        stop: &Stop,
    ) -> Result<Pulled, RegistryProblem> {
        let registry_config = &self.registry_config;
        let order = Order {
            registry_config,
            reference,
            keys: registry_config.keys_for(reference)?,
            store: self.store(policy)?,
        };
        let kept = order.kept(policy);
        match (kept, policy) {
            (Ok(Some(pulled)), _) => Ok(pulled),
            (Ok(None), PullPolicy::Never) => Err(RegistryProblem::NotKept),
            (Err(problem), PullPolicy::Never) => Err(problem),
            // If the kept plugin has a problem, the registry may have a better one.
            _ => on_this_thread(registry_config, stop, order.asked()),
        }
    }

    pub(super) fn store(&self, policy: PullPolicy) -> Result<Option<Store>, RegistryProblem> {
        let Some(folder) = &self.registry_config.store_dir else { return Ok(None) };
        match Store::open(folder, self.registry_config.store_max_bytes) {
            Ok(store) => Ok(Some(store)),
            Err(source) if policy == PullPolicy::Never => {
                Err(RegistryProblem::Store { folder: folder.clone(), source })
            }
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "no store: plugins are pulled \
                    each time");
                Ok(None)
            }
        }
    }
}

impl Order<'_> {
    /// Returns the plugin from the store. `None` if the store does not have it or the policy
    /// ignores it.
    fn kept(&self, policy: PullPolicy) -> Result<Option<Pulled>, RegistryProblem> {
        let Some(store) = &self.store else { return Ok(None) };
        let by_tag = || match policy {
            PullPolicy::Always => None,
            PullPolicy::IfMissing | PullPolicy::Never => store.tag(&self.reference.to_string()),
        };
        let Some(digest) = self.reference.digest().cloned().or_else(by_tag) else {
            return Ok(None);
        };
        let Some(manifest) = store.blob(&digest, MANIFEST_MAX_BYTES) else { return Ok(None) };
        let artifact = Artifact::read(&manifest, self.registry_config.component_max_bytes)?;
        let signed_by = match self.keys {
            None => None,
            Some(keys) => Some(self.signed_in(store, keys, &digest)?),
        };
        let Some(bytes) = store.blob(&artifact.layer, artifact.layer_bytes) else {
            return Ok(None);
        };
        Ok(Some(self.pulled(&artifact, digest, bytes, PluginOrigin::Store, signed_by)))
    }

    /// Returns the name of the key that signed the plugin, by the signatures in the store.
    pub(super) fn signed_in(
        &self,
        store: &Store,
        keys: &[PublicKey],
        plugin: &Digest,
    ) -> Result<String, RegistryProblem> {
        match store.evidence(plugin) {
            // The plugin was pulled while no signature was required.
            none if none.is_empty() => Err(RegistryProblem::Signature(SignatureError::NotKept)),
            evidence => self.believed(&evidence.into(), keys, plugin),
        }
    }

    /// Fetches the plugin from the registry. The component comes last, after all checks that are
    /// possible without it.
    async fn asked(&self) -> Result<Pulled, RegistryProblem> {
        let mut registry_client = RegistryClient::new(self.registry_config, self.reference)?;
        let name = match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => digest.as_str(),
            (None, tag) => tag.unwrap_or_default(),
        };
        let (manifest, digest) = registry_client.manifest(name).await?;
        let artifact = Artifact::read(&manifest, self.registry_config.component_max_bytes)?;
        let (evidence, signed_by) = match self.keys {
            None => (Vec::new(), None),
            Some(keys) => {
                let (evidence, name) = self.signed(&mut registry_client, keys, &digest).await?;
                (evidence, Some(name))
            }
        };
        let kept =
            self.store.as_ref().and_then(|store| store.blob(&artifact.layer, artifact.layer_bytes));
        let (bytes, fresh) = match kept {
            Some(bytes) => (bytes, false),
            None => (
                registry_client.blob("component", &artifact.layer, artifact.layer_bytes).await?,
                true,
            ),
        };
        if let Some(store) = &self.store
            && let Err(error) = self.keep(
                store,
                &digest,
                &manifest,
                fresh.then_some((&artifact.layer, &bytes)),
                &evidence,
            )
        {
            tracing::warn!(reference = %self.reference, %error, "what was pulled is not kept in \
                the store");
        }
        Ok(self.pulled(&artifact, digest, bytes, PluginOrigin::Registry, signed_by))
    }

    /// Keeps the parts in an order in which no part ever names a missing one.
    fn keep(
        &self,
        store: &Store,
        digest: &Digest,
        manifest: &[u8],
        component: Option<(&Digest, &Vec<u8>)>,
        evidence: &[Evidence],
    ) -> io::Result<()> {
        if let Some((layer, bytes)) = component {
            store.keep(layer, bytes)?;
        }
        if !evidence.is_empty() {
            store.add_evidence(digest, evidence)?;
        }
        store.keep(digest, manifest)?;
        if self.reference.digest().is_none() {
            store.set_tag(&self.reference.to_string(), digest)?;
        }
        store.trim()
    }

    /// Returns the signatures of the plugin and the name of the key. One valid signature is enough,
    /// in the form that is found first.
    pub(super) async fn signed(
        &self,
        registry_client: &mut RegistryClient<'_>,
        keys: &[PublicKey],
        plugin: &Digest,
    ) -> Result<(Vec<Evidence>, String), RegistryProblem> {
        let mut found = Found::default();
        match registry_client.signatures(plugin).await {
            Ok(list) => registry_client.texts(&list, &mut found).await,
            Err(problem) => found.note(problem),
        }
        if let Ok(name) = self.believed(&found, keys, plugin) {
            return Ok((found.evidence, name));
        }
        registry_client.bundles(plugin, &mut found).await;
        let name = self.believed(&found, keys, plugin)?;
        Ok((found.evidence, name))
    }

    /// Returns the name of the trusted key that signed the plugin.
    fn believed(
        &self,
        found: &Found,
        keys: &[PublicKey],
        plugin: &Digest,
    ) -> Result<String, RegistryProblem> {
        let by_digest = self.reference.digest().is_some();
        let wanted = Wanted { plugin, repository: self.reference.repository(), by_digest };
        signature::check(found, keys, &wanted)
            .map(|key| key.name().to_owned())
            .map_err(|unsigned| RegistryProblem::Signature(unsigned.into()))
    }

    fn pulled(
        &self,
        artifact: &Artifact,
        digest: Digest,
        bytes: Vec<u8>,
        origin: PluginOrigin,
        signed_by: Option<String>,
    ) -> Pulled {
        Pulled {
            reference: self.reference.pinned(&digest),
            name: artifact.name(self.reference.repository()),
            version: artifact.version(self.reference.tag()),
            digest,
            bytes,
            origin,
            signed_by,
        }
    }
}

/// Runs the work on a reactor of its own on this thread, so that no other thread has part of it.
/// The work ends at `timeout` or when `stop` cancels it. A hanging look-up of a name is left
/// behind.
pub(super) fn on_this_thread<T>(
    registry_config: &RegistryConfig,
    stop: &Stop,
    work: impl Future<Output = Result<T, RegistryProblem>>,
) -> Result<T, RegistryProblem> {
    take_ring_for_tls();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| RegistryProblem::Client(error.to_string()))?;
    let done = runtime.block_on(async {
        tokio::select! {
            done = tokio::time::timeout(registry_config.timeout, work) => done,
            () = stop.asked() => Ok(Err(RegistryProblem::Cancelled)),
        }
    });
    runtime.shutdown_background();
    done.unwrap_or(Err(RegistryProblem::TooSlow(registry_config.timeout)))
}
