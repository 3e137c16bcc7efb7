//! Re-verification of a pulled plugin that is kept outside the store. The trusted keys may have
//! changed since the pull, and the current ones count.

use super::client::RegistryClient;
use super::config::PullPolicy;
use super::digest::Digest;
use super::error::{RegistryError, RegistryProblem, SignatureError};
use super::keys::PublicKey;
use super::puller::{Order, Registries, on_this_thread};
use super::reference::Reference;
use crate::work::Stop;

impl Registries {
    /// Checks the signature of a reference by digest, if one is required, as a pull does.
    ///
    /// The store is asked first. If its signatures are not enough and the pull policy allows it,
    /// the registry is asked, for signatures only. Blocks for up to `timeout`, so do not call it on
    /// a runtime's thread.
    ///
    /// # Errors
    /// [`RegistryError`] if the plugin is not trusted.
    pub fn reverify(&self, reference: &Reference) -> Result<(), RegistryError> {
        self.reverify_until(reference, &Stop::default())
    }

    /// Does the same as [`Registries::reverify`] until `stop` cancels it. Blocks as well.
    ///
    /// # Errors
    /// [`RegistryError`] if the plugin is not trusted or the call was cancelled.
    pub(crate) fn reverify_until(
        &self,
        reference: &Reference,
        stop: &Stop,
    ) -> Result<(), RegistryError> {
        self.reverified(reference, stop)
            .map_err(|problem| RegistryError { reference: reference.to_string(), problem })
    }

    fn reverified(&self, reference: &Reference, stop: &Stop) -> Result<(), RegistryProblem> {
        let registry_config = self.config();
        let Some(keys) = registry_config.keys_for(reference)? else { return Ok(()) };
        let digest =
            reference.digest().ok_or(RegistryProblem::Signature(SignatureError::NoDigest))?;
        let order = Order {
            registry_config,
            reference,
            keys: Some(keys),
            store: self.store(registry_config.pull)?,
        };
        let kept = match &order.store {
            Some(store) => order.signed_in(store, keys, digest),
            None => Err(RegistryProblem::Signature(SignatureError::NoStore)),
        };
        let Err(kept) = kept else { return Ok(()) };
        if registry_config.pull == PullPolicy::Never {
            return Err(kept);
        }
        on_this_thread(registry_config, stop, order.found_signed(keys, digest)).map_err(|asked| {
            if kept.of_signature() == asked.of_signature() {
                return kept;
            }
            RegistryProblem::Signature(SignatureError::NotKeptNorServed {
                kept: Box::new(kept),
                asked: Box::new(asked),
            })
        })
    }
}

impl Order<'_> {
    /// Asks the registry for signatures, checks them, and keeps valid ones in the store.
    async fn found_signed(
        &self,
        keys: &[PublicKey],
        plugin: &Digest,
    ) -> Result<(), RegistryProblem> {
        let mut registry_client = RegistryClient::new(self.registry_config, self.reference)?;
        let (evidence, _) = self.signed(&mut registry_client, keys, plugin).await?;
        if let Some(store) = &self.store
            && let Err(error) = store.add_evidence(plugin, &evidence).and_then(|()| store.trim())
        {
            tracing::warn!(reference = %self.reference, %error, "its signatures are not kept in \
                the store");
        }
        Ok(())
    }
}
