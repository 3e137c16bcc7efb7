//! Fetches and loads a plugin from its place: a path or a reference to a registry.

use std::path::Path;
use std::sync::Arc;

use super::state_dir::NotRead;
use crate::files;
use crate::oci::{PluginOrigin, PullPolicy, Reference, Registries, RegistryError, RegistryProblem};
use crate::plugin::{COMPONENT_MAX_BYTES, Grants, Known, LoadError, Loader, Plugin, Source};
use crate::telemetry::PluginPulled;
use crate::work::{RefusedResource, Stop};

/// Why a plugin was not fetched. Nothing changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The plugin did not come from its registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The plugin was not loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// What the system refused to a load. Only the error's type decides, because its text may be the
/// plugin's.
pub(crate) fn refused_load(error: &LoadError) -> Option<RefusedResource> {
    match error {
        LoadError::Source(_) => RefusedResource::in_causes(error),
        LoadError::System { refused, .. } => Some(refused.refusal),
        _ => None,
    }
}

/// What the system refused to a pull. The text of a registry or component does not count.
pub(crate) fn refused_pull(error: &RegistryError) -> Option<RefusedResource> {
    match &error.problem {
        RegistryProblem::Unreachable(said) | RegistryProblem::Client(said) => {
            RefusedResource::in_text(said)
        }
        RegistryProblem::Store { source, .. } => RefusedResource::of(source),
        _ => None,
    }
}

/// Fetches a plugin again from its place. Blocks and stops early as [`fetch`] does.
pub(crate) fn fetch_again(
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

/// Checks that a plugin from a registry is still signed by a trusted key, wherever its component
/// was kept since. A plugin from a file passes.
///
/// Blocks as [`fetch`] does, but rarely for more than a look into the store. Stops early if `stop`
/// is set.
pub(crate) fn reverify(
    place: &Path,
    registries: &Registries,
    stop: &Stop,
) -> Result<(), RegistryError> {
    Reference::in_place_of(place)
        .map_or(Ok(()), |reference| registries.reverify_until(&reference?, stop))
}

/// Whether the bytes of a component from this place are pulled from a registry.
pub(super) fn is_pulled(place: &Path) -> bool {
    Reference::in_place_of(place).is_some()
}

/// Returns the bytes of a component that was loaded from this place. Blocks and stops early as
/// [`fetch`] does.
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
        None => files::read(place, COMPONENT_MAX_BYTES).map_err(|error| NotRead {
            why: error.to_string(),
            refusal: RefusedResource::of(&error),
        }),
    }
}

/// Reads or pulls a plugin and loads it, or shares one that is already in use. Blocks for
/// milliseconds to minutes, so not for a runtime's thread. Stops early if `stop` is set.
pub(crate) fn fetch(
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
        PluginOrigin::Store => "store",
        PluginOrigin::Registry => "registry",
    };
    let signed_by = pulled.signed_by.as_deref();
    PluginPulled { wanted: &wanted.to_string(), reference: &reference, from, signed_by }.emit();
    let source = Source::pulled(&reference, pulled.name, pulled.version, pulled.bytes)
        .map_err(LoadError::from)?;
    Ok(loader.share_source(source, grants)?)
}
