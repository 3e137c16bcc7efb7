//! Loading a plugin.
//!
//! The steps, in this order: read the component, compile it or take it from the cache, check its
//! exports and imports, link it, make a trial instance. A [`Plugin`] exists only if all steps
//! passed. A failure changes nothing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use super::bindings::{CONTRACT_VERSION, PluginIndices};
use super::cache::{Cache, Cached, hex};
use super::compile::compile;
use super::compiler::Compiler;
use super::flat::NotFlat;
use super::footprint::Footprint;
use super::grants::ImportAccess;
use super::handoff_exports::Handoff;
use super::load_error::LoadError;
use super::loaded::{CacheUse, EVENT_PROCEDURE, Known, Plugin};
use super::not_loaded::{not_compiled, short};
use super::source::{self, Source};
use super::trial::can_be_made;
use super::{Engine, Grants, flat, imports};
use crate::event::{NAME_MAX_BYTES, NAMES_SHOWN_MAX, excerpt, some_of};
use crate::locks::lock;
use crate::sched::Quota;
use crate::work::Stop;

/// Bytes that the names of all imports and exports may have together. The largest known plugins
/// have two thousand.
const NAMES_MAX_BYTES: usize = 64 << 10;

/// Loads plugins for one engine.
#[derive(Clone)]
pub struct Loader {
    engine: Engine,
    cache: Option<Cache>,
    compiler: Option<Compiler>,
    /// Whether plugins of one core module run without the component layer.
    core_modules: bool,
    /// Cancels a compilation.
    stop: Stop,
    /// The quota to which loading is charged.
    quota: Arc<Quota>,
    /// Plugins in memory. If one is loaded again, it costs neither a compilation nor a descriptor
    /// for its image.
    loaded: Arc<Mutex<HashMap<Key, Weak<Plugin>>>>,
}

/// Two loads with the same key give the same plugin: file, name, version, whether it is stateless,
/// digest and grants.
type Key = (PathBuf, String, String, bool, String, Grants);

impl Loader {
    /// Creates a loader that compiles every time.
    #[must_use]
    pub fn without_cache(engine: Engine) -> Self {
        Self {
            engine,
            cache: None,
            compiler: None,
            core_modules: false,
            stop: Stop::default(),
            quota: Arc::default(),
            loaded: Arc::default(),
        }
    }

    /// Creates a loader that keeps compiled code in `folder`. The folder is created if it is
    /// missing.
    ///
    /// # Errors
    /// The folder cannot be created or read, or other users may write to it.
    pub fn with_cache(engine: Engine, folder: &Path) -> std::io::Result<Self> {
        let cache = Some(Cache::open(folder)?);
        Ok(Self {
            engine,
            cache,
            compiler: None,
            core_modules: false,
            stop: Stop::default(),
            quota: Arc::default(),
            loaded: Arc::default(),
        })
    }

    /// Makes the loader compile in a process of its own. With `None`, it compiles on a thread of
    /// this process.
    #[must_use]
    pub fn compiling_in(self, compiler: Option<Compiler>) -> Self {
        Self { compiler, ..self }
    }

    /// Lets plugins of one core module run without the engine's component layer, or not. For
    /// trusted plugins only: some limits are not kept yet. Default: not.
    #[must_use]
    pub fn with_core_modules(self, core_modules: bool) -> Self {
        Self { core_modules, ..self }
    }

    /// Makes the loader cancellable by `stop`, which ends its compiler process. A compilation on a
    /// thread of this process goes on.
    #[must_use]
    pub fn until(self, stop: Stop) -> Self {
        Self { stop, ..self }
    }

    /// A copy of the loader that charges a tenant's quota for loading and compiling.
    #[must_use]
    pub fn on_behalf_of(&self, quota: Arc<Quota>) -> Self {
        Self { quota, ..self.clone() }
    }

    /// Loads the plugin in a folder or a component file, and compiles it if necessary.
    ///
    /// Blocks for milliseconds to minutes, so do not call this on a runtime's thread. Many threads
    /// may call this at the same time.
    ///
    /// # Errors
    /// [`LoadError`]; nothing was published.
    pub fn load(&self, path: &Path, grants: &Grants) -> Result<Plugin, LoadError> {
        self.load_source(source::read(path)?, grants)
    }

    /// As [`Loader::load`], for a component that was already read or pulled.
    ///
    /// # Errors
    /// [`LoadError`]; nothing was published.
    pub fn load_source(&self, source: Source, grants: &Grants) -> Result<Plugin, LoadError> {
        self.quota.owing(|| self.build(source, grants))
    }

    /// As [`Loader::load`], but shares a plugin that is already in use and is the same in every
    /// respect.
    ///
    /// # Errors
    /// [`LoadError`]; nothing was published.
    pub fn share(&self, path: &Path, grants: &Grants) -> Result<Arc<Plugin>, LoadError> {
        self.share_source(source::read(path)?, grants)
    }

    /// As [`Loader::share`], for a component file with this name, version and statelessness.
    ///
    /// # Errors
    /// [`LoadError`]; nothing was published.
    pub fn share_as(
        &self,
        file: &Path,
        known: Known<'_>,
        grants: &Grants,
    ) -> Result<Arc<Plugin>, LoadError> {
        let source = source::read(file)?;
        self.share_source(
            Source {
                name: known.name.to_owned(),
                version: known.version.to_owned(),
                stateless: known.stateless,
                ..source
            },
            grants,
        )
    }

    /// As [`Loader::share`], for a component that was already read or pulled.
    ///
    /// # Errors
    /// [`LoadError`]; nothing was published.
    pub fn share_source(&self, source: Source, grants: &Grants) -> Result<Arc<Plugin>, LoadError> {
        let (file, name, version) =
            (source.file.clone(), source.name.clone(), source.version.clone());
        let key = (
            file,
            name,
            version,
            source.stateless,
            hex(&Sha256::digest(&source.bytes)),
            grants.clone(),
        );
        let known = || lock(&self.loaded);
        if let Some(plugin) = known().get(&key).and_then(Weak::upgrade) {
            return Ok(plugin);
        }
        let plugin = Arc::new(self.quota.owing(|| self.build(source, grants))?);
        let mut loaded = known();
        loaded.retain(|_, plugin| plugin.strong_count() > 0);
        loaded.insert(key, Arc::downgrade(&plugin));
        Ok(plugin)
    }

    fn build(&self, source: Source, grants: &Grants) -> Result<Plugin, LoadError> {
        let start = Instant::now();
        let Source { file, name, version, stateless, bytes } = source;
        let digest = Sha256::digest(&bytes);
        // A flat component also exports its main module, to the host alone.
        let structure = match self.core_modules {
            true => flat::read(&bytes),
            false => Err(NotFlat("`host.core_modules` is not set")),
        };
        let bytes = match &structure {
            Ok(structure) => flat::with_main_module(bytes, structure),
            Err(_) => bytes,
        };
        let (component, cache_use) = self
            .component(&bytes, &Sha256::digest(&bytes))
            .map_err(|error| not_compiled(&file, &error))?;

        let kind = component.component_type();
        let named = |(name, _): (&str, ComponentItem)| name.to_owned();
        let engine = &self.engine.inner;
        let imported = kind.imports(engine).map(|(name, _)| name.len());
        let found = imported.chain(kind.exports(engine).map(|(name, _)| name.len())).sum::<usize>();
        if found > NAMES_MAX_BYTES {
            let cause = format!(
                "expected at most {NAMES_MAX_BYTES} bytes of names of its imports and exports, \
                 found {found}"
            );
            return Err(LoadError::Invalid { file, cause });
        }
        let imports: Vec<String> =
            kind.imports(engine).map(|(name, item)| named((name, item.ty))).collect();
        let exports: Vec<String> = kind
            .exports(engine)
            .map(|(name, item)| named((name, item.ty)))
            .filter(|name| structure.is_err() || name != flat::MAIN_MODULE)
            .collect();
        check_world(&file, &exports)?;
        check_grants(&file, &imports, grants)?;

        let mismatch = |error: wasmtime::Error| LoadError::Mismatch {
            file: file.clone(),
            cause: short(&error),
        };
        let linker = imports::linker(engine, grants, &component).map_err(mismatch)?;
        let pre = linker.instantiate_pre(&component).map_err(mismatch)?;
        let indices = PluginIndices::new(&pre).map_err(mismatch)?;
        let handoff = Handoff::find(&component, &exports);
        let plugin = Plugin {
            pre,
            indices,
            handoff,
            flat: None,
            not_flat: None,
            stateless,
            footprint: Footprint::of(&component),
            engine: self.engine.clone(),
            file: file.clone(),
            name,
            version,
            digest: hex(&digest),
            imports,
            exports,
            cache_use,
            loading: Duration::ZERO,
        };
        let plugin = can_be_made(plugin, structure).map_err(|failed| failed.of(file))?;
        Ok(Plugin { loading: start.elapsed(), ..plugin })
    }

    fn component(&self, bytes: &[u8], digest: &[u8]) -> wasmtime::Result<(Component, CacheUse)> {
        let engine = &self.engine.inner;
        let refused = |why: &str| {
            let component = hex(digest);
            tracing::warn!(
                component,
                why,
                "a file of the cache is not used, and the plugin is compiled again"
            );
        };
        match self.cache.as_ref().map_or(Cached::Nothing, |cache| cache.get(engine, digest)) {
            Cached::Code(code) => match deserialize(engine, &code) {
                Ok(component) => return Ok((component, CacheUse::Cached)),
                Err(_) => refused("the engine cannot run it"),
            },
            Cached::Nothing => {}
            Cached::Refused(why) => refused(why),
        }
        let code = match &self.compiler {
            Some(compiler) => compiler.compile(bytes, &self.stop, &self.quota)?,
            None if self.cache.is_none() => {
                return Ok((compile(engine, bytes)?, CacheUse::Compiled));
            }
            None => compile(engine, bytes)?.serialize()?,
        };
        let component = deserialize(engine, &code)?;
        if let Some(cache) = &self.cache
            && let Err(error) = cache.put(engine, digest, &code)
        {
            tracing::warn!(%error, "compiled code was not kept in the cache");
        }
        Ok((component, CacheUse::Compiled))
    }
}

#[allow(unsafe_code)]
fn deserialize(engine: &wasmtime::Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes are the engine's own `serialize`, from one of two places:
    // - Straight from the thread or the process that compiled, which this process started and which
    //   ended well.
    //   - From a file of `Cache::put`, in a folder that belongs to this user and that no other user
    //   can write, which `Cache::open` checked. `Cache::get` has compared the digests: the bytes
    //   are whole, and belong to this component and this engine. The engine itself refuses bytes of
    //   another version or configuration.
    unsafe { Component::deserialize(engine, code) }
}

fn check_world(file: &Path, exports: &[String]) -> Result<(), LoadError> {
    let versions =
        exports.iter().filter_map(|name| name.strip_prefix(EVENT_PROCEDURE)?.strip_prefix('@'));
    let mut other = None;
    for version in versions {
        if version.starts_with("0.1.") {
            return Ok(());
        }
        other = Some(excerpt(version, NAME_MAX_BYTES));
    }
    if let Some(found) = other {
        let number = |version: &str| -> Vec<u64> {
            version.split('.').map_while(|part| part.parse().ok()).collect()
        };
        let advice = match number(&found) > number(CONTRACT_VERSION) {
            true => "use a newer host, or build the plugin against this version",
            false => "build the plugin again with a current SDK",
        };
        return Err(LoadError::OtherVersion { file: file.into(), found, advice });
    }
    let found = match exports {
        [] => "no exports".to_owned(),
        exports => some_of(exports.iter().map(String::as_str)),
    };
    Err(LoadError::OtherWorld { file: file.into(), found })
}

fn check_grants(file: &Path, imports: &[String], grants: &Grants) -> Result<(), LoadError> {
    let mut missing = Vec::new();
    for name in imports {
        let shown = || excerpt(name, NAME_MAX_BYTES);
        match grants.allow(name) {
            ImportAccess::Allowed => {}
            ImportAccess::Needs(grant) => {
                missing.push(format!("`{}` needs the grant \"{grant}\"", shown()));
            }
            ImportAccess::NotOffered => {
                missing.push(format!("`{}` is not offered by this host, with any grant", shown()));
            }
        }
    }
    let more = missing.len().saturating_sub(NAMES_SHOWN_MAX);
    missing.truncate(NAMES_SHOWN_MAX);
    if more > 0 {
        missing.push(format!("and {more} more"));
    }
    let mut needed: Vec<_> =
        imports.iter().filter_map(|name| grants.allow(name).needed()).collect();
    needed.sort_unstable();
    needed.dedup();
    if !needed.is_empty() {
        let names: Vec<_> = needed.iter().map(|grant| format!("\"{grant}\"")).collect();
        missing.push(format!(
            "to grant what is offered, add {} to the server's `grants`",
            names.join(", ")
        ));
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(LoadError::NotGranted { file: file.into(), missing })
    }
}
