//! From the place of a plugin, a path or a reference, to the plugin.

use std::path::Path;
use std::sync::Arc;

use super::builder::StartError;
use super::swap::SwapError;
use super::versions::NotRead;
use crate::files;
use crate::oci::{Origin, PullPolicy, Reference, Registries, RegistryError, RegistryProblem};
use crate::plugin::{COMPONENT_MAX_BYTES, Grants, Known, LoadError, Loader, Plugin, Source};
use crate::telemetry::PluginPulled;
use crate::work::{Refusal, Stop};

/// Why a plugin is not there. Nothing changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// It did not come from its registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It is no good.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl From<FetchError> for StartError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Registry(error) => Self::Registry(error),
            FetchError::Load(error) => Self::Plugin(error),
        }
    }
}

impl From<FetchError> for SwapError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Registry(error) => Self::Registry(error),
            FetchError::Load(error) => Self::Plugin(error),
        }
    }
}

/// What the system refused to a load. Types alone decide, as its words may be the plugin's.
pub(super) fn refused_load(error: &LoadError) -> Option<Refusal> {
    match error {
        LoadError::Source(_) => Refusal::in_causes(error),
        LoadError::System { refused, .. } => Some(refused.refusal),
        _ => None,
    }
}

/// The same of a pull. What a registry or a component says is not the system's word.
pub(super) fn refused_pull(error: &RegistryError) -> Option<Refusal> {
    match &error.problem {
        RegistryProblem::Unreachable(said) | RegistryProblem::Client(said) => {
            Refusal::in_text(said)
        }
        RegistryProblem::Store { source, .. } => Refusal::of(source),
        _ => None,
    }
}

/// Gets a plugin that was there before from where it came from. Blocks as [`procure`] does, and
/// ends early likewise.
pub(super) fn again(
    place: &Path,
    known: Known<'_>,
    registries: &Registries,
    loader: &Loader,
    grants: &Grants,
    stop: &Stop,
) -> Result<Arc<Plugin>, FetchError> {
    match Reference::in_place_of(place) {
        Some(_) => fetch(place, (registries, registries.config().pull), loader, grants, stop),
        None => Ok(loader.clone().until(stop.clone()).share_as(place, known, grants)?),
    }
}

/// Whether a plugin that came from there once may still run: what came from a registry has to be
/// signed by who is believed now, wherever its component was kept since. Blocks as [`procure`]
/// does, but is rarely more than a look into the store. Ends early where it is called off.
pub(super) fn believed(
    place: &Path,
    registries: &Registries,
    stop: &Stop,
) -> Result<(), RegistryError> {
    Reference::in_place_of(place)
        .map_or(Ok(()), |reference| registries.reverify_until(&reference?, stop))
}

/// Whether the bytes of a component from there are pulled from a registry.
pub(super) fn is_pulled(place: &Path) -> bool {
    Reference::in_place_of(place).is_some()
}

/// The bytes of a component that was loaded from there. Blocks as [`procure`] does, and ends early
/// likewise.
pub(super) fn bytes_of(
    place: &Path,
    registries: &Registries,
    stop: &Stop,
) -> Result<Vec<u8>, NotRead> {
    match Reference::in_place_of(place) {
        Some(reference) => {
            let pull = registries.config().pull;
            let pulled =
                reference.and_then(|reference| registries.fetch_until(&reference, pull, stop));
            let refused = |error: RegistryError| NotRead {
                why: error.to_string(),
                refusal: refused_pull(&error),
            };
            pulled.map(|pulled| pulled.bytes).map_err(refused)
        }
        None => files::read(place, COMPONENT_MAX_BYTES)
            .map_err(|error| NotRead { why: error.to_string(), refusal: Refusal::of(&error) }),
    }
}

/// Reads or pulls a plugin and loads it, or shares one that is in use already. Blocks for
/// milliseconds to minutes, so not for a runtime's thread. Ends early where it is called off.
pub(super) fn fetch(
    place: &Path,
    (registries, pull): (&Registries, PullPolicy),
    loader: &Loader,
    grants: &Grants,
    stop: &Stop,
) -> Result<Arc<Plugin>, FetchError> {
    let loader = loader.clone().until(stop.clone());
    let Some(reference) = Reference::in_place_of(place) else {
        return Ok(loader.share(place, grants)?);
    };
    let wanted = reference?;
    let pulled = registries.fetch_until(&wanted, pull, stop)?;
    let reference = pulled.reference.to_string();
    let from = match pulled.origin {
        Origin::Store => "store",
        Origin::Registry => "registry",
    };
    let signed_by = pulled.signed_by.as_deref();
    PluginPulled { wanted: &wanted.to_string(), reference: &reference, from, signed_by }.emit();
    let source = Source::pulled(&reference, pulled.name, pulled.version, pulled.bytes)
        .map_err(LoadError::from)?;
    Ok(loader.share_source(source, grants)?)
}
