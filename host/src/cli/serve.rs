//! `wharf serve`.

use anyhow::{Result, bail};

use super::args::ServeArgs;
use super::signals::Signals;
use crate::config::{Config, STOP_GRACE_DEFAULT, default_cache_dir};
use crate::plugin::Grants;
use crate::server::{Bound, Host, HostConfig, ServerBuilder, ServerHandle};

/// Serves until a signal. All servers are bound before the first accepts; one that cannot be leaves none running.
pub(super) fn run(arguments: &ServeArgs) -> Result<()> {
    let config = match (&arguments.plugin, arguments.server.listen) {
        (Some(plugin), Some(listen)) => {
            let grants: Grants = arguments.grants.iter().copied().collect();
            let server = arguments.server.describe(listen).plugin(plugin).grants(grants);
            let host = HostConfig { cache_dir: default_cache_dir(), ..HostConfig::default() };
            Config { host, stop_grace: STOP_GRACE_DEFAULT, servers: vec![(plugin.display().to_string(), server)] }
        }
        _ => Config::read(&arguments.config)?,
    };
    let host = Host::new(&config.host)?;
    let servers: Vec<ServerHandle> = bind_all(&host, config.servers)?.into_iter().map(Bound::run).collect();
    host.runtime().block_on(async {
        Signals::listen()?.stop_on_signal(&servers, config.stop_grace).await;
        Ok(())
    })
}

fn bind_all(host: &Host, servers: Vec<(String, ServerBuilder)>) -> Result<Vec<Bound>> {
    let (mut bound, mut wrong) = (Vec::new(), Vec::new());
    for (place, server) in servers {
        match server.host(host).bind() {
            Ok(server) => bound.push(server),
            Err(error) => wrong.push(format!("{place}: {error}")),
        }
    }
    if !wrong.is_empty() {
        bail!("nothing was started:\n{}", wrong.join("\n"));
    }
    Ok(bound)
}
