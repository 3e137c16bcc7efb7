//! First stages of a start: values checked, plugin and credentials loaded, address bound.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::bound::{Bound, Prepared};
use super::builder::{Procedures, ServerBuilder, StartError};
use super::checks::argument;
use super::handle::ServerHandle;
use super::host::Host;
use crate::handover::InheritedListener;
use crate::net::{Credentials, Security};
use crate::plugin::{Claim, Holding, LoadError, Plugin, try_out};
use crate::rollout::{RecordError, Recorded, Revision, fetch, reverify};
use crate::work::Stop;

/// The plugin that a specification names, loaded, with the result of its trial.
pub(crate) struct Preloaded {
    named: Arc<Plugin>,
    tried: Result<(), LoadError>,
}

/// Result of [`ServerBuilder::verify`].
#[derive(Default)]
pub struct Verified {
    /// The plugin that the specification names, if it loads.
    pub plugin: Option<Arc<Plugin>>,
    /// The version that would start instead, because it was swapped in before the last process
    /// ended.
    pub recorded: Option<Arc<Plugin>>,
    /// All errors.
    pub wrong: Vec<StartError>,
}

impl ServerBuilder {
    /// Starts the server and returns once it listens: a client that connects right after is served.
    /// Blocks while the plugin loads, so not for a runtime's thread.
    ///
    /// # Errors
    /// [`StartError`]; nothing of the server is left.
    pub fn start(self) -> Result<ServerHandle, StartError> {
        Ok(self.bind()?.run())
    }

    /// Does everything that can fail: checks the values, loads the plugin and the credentials,
    /// binds the address. Several servers that start together are all bound before the first runs.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left bound.
    pub fn bind(self) -> Result<Bound, StartError> {
        self.bind_with(&mut HashMap::new())
    }

    /// [`ServerBuilder::bind`] with the listening sockets of the process before, by server names.
    pub(crate) fn bind_with(
        self,
        inherited: &mut HashMap<String, InheritedListener>,
    ) -> Result<Bound, StartError> {
        let host = self.host.clone().map_or_else(Host::shared, Ok)?;
        let mut prepared = self.prepare(&host)?;
        let holding = prepared.spec.open(&host, &prepared.tenant(), &prepared.plugin)?;
        prepared.hold(holding)?;
        // A socket with this address fits, even if its server had another name.
        let address = prepared.spec.address();
        let is_given = inherited.get(&prepared.name).is_some_and(|socket| socket.given);
        let fits = inherited
            .iter()
            .find(|(_, socket)| !is_given && address.is_some() && socket.address() == address);
        let fits = fits.map_or_else(|| prepared.name.clone(), |(name, _)| name.clone());
        prepared.inherited = inherited.remove(&fits);
        Ok(prepared.listen(&host)?)
    }

    /// Returns the specification without its inherited socket, which would stay open as long as the
    /// specification.
    pub(crate) fn without_listener(mut self) -> Self {
        self.listener = None;
        self
    }

    /// Does everything of [`ServerBuilder::bind`] but binding the address. For a running server and
    /// its [`ServerHandle::reconfigure`].
    ///
    /// # Errors
    /// [`StartError`].
    pub fn prepare(self, host: &Host) -> Result<Prepared, StartError> {
        let preloaded = self.preload(host)?;
        self.prepare_with(host, preloaded)
    }

    /// The slow part of [`ServerBuilder::prepare`], which depends on nothing that may change
    /// meanwhile. Checks the values, loads the named plugin and tries it. Blocks as
    /// [`ServerBuilder::start`] does.
    pub(crate) fn preload(&self, host: &Host) -> Result<Preloaded, StartError> {
        self.check()?;
        let named = self.load(host)?;
        let tried = try_out(&named, self.limits, self.budgets.start(self.priority));
        Ok(Preloaded { named, tried })
    }

    /// The other part of [`ServerBuilder::prepare`].
    pub(crate) fn prepare_with(
        self,
        host: &Host,
        preloaded: Preloaded,
    ) -> Result<Prepared, StartError> {
        let Preloaded { named, tried } = preloaded;
        let configured = named.digest().to_owned();
        let name = self.given_name().unwrap_or(named.name()).to_owned();
        let (plugin, recorded) = self.recorded(host, &named)?;
        // If another version is current, the named one does not start, and its trial does not
        // matter.
        match Arc::ptr_eq(&plugin, &named) {
            true => tried?,
            false => try_out(&plugin, self.limits, self.budgets.start(self.priority))?,
        }
        let security = self.security()?;
        let (holding, room) = (None, None);
        Ok(Prepared {
            spec: self,
            name,
            plugin,
            named,
            configured,
            recorded,
            security,
            holding,
            room,
            inherited: None,
        })
    }

    /// Returns the version to start with and the recorded revisions. That version is the last
    /// swapped one, if the specification still names the same plugin; otherwise it is `named`.
    fn recorded(
        &self,
        host: &Host,
        named: &Arc<Plugin>,
    ) -> Result<(Arc<Plugin>, Vec<Revision>), StartError> {
        let name = self.given_name().unwrap_or(named.name());
        let recorded = match host.records() {
            Some(records) => records.read(name, named.digest())?,
            None => None,
        };
        let Some(Recorded { revisions, swapped }) = recorded else {
            return Ok((Arc::clone(named), Vec::new()));
        };
        let plugin = match swapped {
            None => Arc::clone(named),
            Some((current, file)) => {
                let refused = |error| RecordError::distrusted(&file, &current, &error);
                reverify(&current.file, &self.registries, &Stop::default()).map_err(refused)?;
                host.loader().share_as(&file, current.known(), &self.grants)?
            }
        };
        Ok((plugin, revisions))
    }

    /// Claims room for the server's shared instances.
    pub(super) fn claim(
        &self,
        holding: &Arc<Holding>,
        plugin: &Plugin,
    ) -> Result<Option<Arc<Claim>>, StartError> {
        if self.shards == 0 {
            return Ok(None);
        }
        match holding.claim_many(self.shards, plugin.footprint()) {
            Ok(claim) => Ok(Some(Arc::new(claim))),
            Err(shortage) => Err(argument(
                "shards",
                format!("no room for {} more instances: {shortage}", self.shards),
            )),
        }
    }

    /// The server's name, if one was given.
    #[must_use]
    pub fn given_name(&self) -> Option<&str> {
        Some(self.name.as_str()).filter(|name| !name.is_empty())
    }

    /// Whether both listen in the same way: same address, backlog and options, and the same
    /// choice of TLS.
    #[must_use]
    pub fn listens_like(&self, other: &Self) -> bool {
        self.endpoint == other.endpoint && self.secure == other.secure
    }

    /// The credentials, if the server has some.
    #[must_use]
    pub fn credentials_given(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// Finds everything that is wrong with this server short of binding it: values, plugin, record,
    /// credentials, address. Returns the plugins too, if they load. Blocks as
    /// [`ServerBuilder::start`] does.
    #[must_use]
    pub fn verify(&self, host: &Host) -> Verified {
        let mut seen = Verified { wrong: self.problems(), ..Verified::default() };
        let mut note = |error| seen.wrong.push(error);
        let plugin = self.load(host).map_err(&mut note).ok();
        let starts =
            plugin.as_ref().and_then(|plugin| self.recorded(host, plugin).map_err(&mut note).ok());
        let recorded = starts
            .map(|(starts, _)| starts)
            .filter(|starts| plugin.as_ref().is_some_and(|plugin| !Arc::ptr_eq(plugin, starts)));
        for plugin in plugin.iter().chain(&recorded) {
            try_out(plugin, self.limits, self.budgets.start(self.priority))
                .map_err(|error| note(error.into()))
                .ok();
        }
        self.security().map_err(&mut note).ok();
        if self.listener.is_none() {
            self.endpoint.resolve().map_err(|error| note(error.into())).ok();
        }
        Verified { plugin, recorded, ..seen }
    }

    /// The address that the server will listen at. `None` for any free port, or for a name that
    /// does not resolve.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.endpoint.resolve().ok().filter(|address| address.port() != 0)
    }

    fn load(&self, host: &Host) -> Result<Arc<Plugin>, StartError> {
        match &self.plugin {
            Some(Procedures::Loaded(plugin)) => Ok(Arc::clone(plugin)),
            Some(Procedures::Path(path)) => {
                let pull = self.registries.config().pull;
                // The quota matters only if the tenant has one already.
                let owner = self.tenant.as_deref().or(self.given_name());
                let loader = host
                    .loader()
                    .on_behalf_of(owner.map(|owner| host.quota(owner)).unwrap_or_default());
                Ok(fetch(path, (&self.registries, pull), &loader, &self.grants, &Stop::default())?)
            }
            None => Err(argument(
                "plugin",
                "a server needs an event procedure: a folder with plugin.toml, a .wasm file or \
                 oci://...",
            )),
        }
    }

    fn security(&self) -> Result<Security, StartError> {
        match &self.credentials {
            Some(credentials) => Ok(Security::tls(credentials)?),
            None => Ok(Security::plaintext()),
        }
    }
}
