//! From a reference to bytes: out of the store or from the registry, and in either case with a
//! known digest and the signature that is asked for.

use std::fmt;
use std::future::Future;
use std::io;

use super::artifact::{Artifact, MANIFEST_MAX_BYTES};
use super::claim::Evidence;
use super::client::RegistryClient;
use super::config::{PullPolicy, RegistryConfig};
use super::digest::Digest;
use super::error::{RegistryError, RegistryProblem};
use super::keys::PublicKey;
use super::reference::Reference;
use super::signature::{self, Found, Wanted};
use super::store::Store;
use crate::net::take_ring_for_tls;
use crate::work::Stop;

/// Registries, spoken to on these terms.
#[derive(Debug, Default)]
pub struct Registries {
    pub(super) registry_config: RegistryConfig,
}

/// Where a plugin was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// In the store.
    Store,
    /// At its registry.
    Registry,
}

/// A component, and what is known of it.
pub struct Pulled {
    /// The reference with the digest of what was found, which is the plugin's name for good.
    pub reference: Reference,
    /// The digest of its manifest, which is in the reference too.
    pub digest: Digest,
    /// Its name.
    pub name: String,
    /// Its version, or the tag.
    pub version: String,
    /// The component.
    pub bytes: Vec<u8>,
    /// Where it was.
    pub origin: Origin,
    /// The key that has signed it, where that was asked for.
    pub signed_by: Option<String>,
}

impl fmt::Debug for Pulled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pulled({}, {} bytes)", self.reference, self.bytes.len())
    }
}

/// What is asked for, and what has to hold of it.
pub(super) struct Order<'a> {
    pub(super) registry_config: &'a RegistryConfig,
    pub(super) reference: &'a Reference,
    pub(super) keys: Option<&'a [PublicKey]>,
    pub(super) store: Option<Store>,
}

impl Registries {
    /// Registries on these terms.
    #[must_use]
    pub fn new(registry_config: RegistryConfig) -> Self {
        Self { registry_config }
    }

    /// The terms.
    #[must_use]
    pub fn config(&self) -> &RegistryConfig {
        &self.registry_config
    }

    /// The plugin that a reference names, as the pull policy says. Blocks for up to `timeout`, so
    /// not for a runtime's thread.
    ///
    /// # Errors
    /// [`RegistryError`]; what was in the store still is.
    pub fn fetch(&self, reference: &Reference) -> Result<Pulled, RegistryError> {
        self.fetch_by(reference, self.registry_config.pull)
    }

    /// The same by another policy. Blocks too.
    ///
    /// # Errors
    /// [`RegistryError`]; what was in the store still is.
    pub fn fetch_by(
        &self,
        reference: &Reference,
        policy: PullPolicy,
    ) -> Result<Pulled, RegistryError> {
        self.fetch_until(reference, policy, &Stop::default())
    }

    /// The same, until it is called off. Blocks too.
    ///
    /// # Errors
    /// [`RegistryError`]; what was in the store still is.
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
            // Whatever is wrong with what is kept, the registry may have better.
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
    /// What the store has. `None`: nothing, or the policy does not want to know.
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
        Ok(Some(self.pulled(&artifact, digest, bytes, Origin::Store, signed_by)))
    }

    /// The name of the key that has signed it by what is in the store.
    pub(super) fn signed_in(
        &self,
        store: &Store,
        keys: &[PublicKey],
        plugin: &Digest,
    ) -> Result<String, RegistryProblem> {
        match store.evidence(plugin) {
            // It was pulled while nobody asked for any.
            none if none.is_empty() => Err(RegistryProblem::Signature(
                "none is in the store; `wharf plugin pull` asks the registry".into(),
            )),
            evidence => self.believed(&evidence.into(), keys, plugin),
        }
    }

    /// What the registry has. The component is the last to be asked for, once everything that can
    /// be known without it holds.
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
        Ok(self.pulled(&artifact, digest, bytes, Origin::Registry, signed_by))
    }

    /// In an order in which nothing ever names what is not there.
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

    /// What was signed, and the name of the key that has. One that holds is enough, in whatever
    /// form it is found first.
    pub(super) async fn signed(
        &self,
        registry_client: &mut RegistryClient<'_>,
        keys: &[PublicKey],
        plugin: &Digest,
    ) -> Result<(Vec<Evidence>, String), RegistryProblem> {
        let mut found = Found::default();
        match registry_client.signatures(plugin).await {
            Ok(list) => registry_client.texts(&list, &mut found).await,
            Err(problem) => found.note(&problem),
        }
        if let Ok(name) = self.believed(&found, keys, plugin) {
            return Ok((found.evidence, name));
        }
        registry_client.bundles(plugin, &mut found).await;
        let name = self.believed(&found, keys, plugin)?;
        Ok((found.evidence, name))
    }

    /// The name of the key that has signed it.
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
            .map_err(RegistryProblem::Signature)
    }

    fn pulled(
        &self,
        artifact: &Artifact,
        digest: Digest,
        bytes: Vec<u8>,
        origin: Origin,
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

/// Runs it on a reactor of its own on this thread, so that no other thread has any of the work, for
/// no longer than it may take, and until it is called off. A look-up of a name that hangs is left
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
            () = stop.asked() => Ok(Err(RegistryProblem::CalledOff)),
        }
    });
    runtime.shutdown_background();
    done.unwrap_or(Err(RegistryProblem::TooSlow(registry_config.timeout)))
}
