//! `wharf serve`.

use anyhow::{Result, anyhow, bail};

use super::args::ServeArgs;
use super::signals::Signals;
use crate::config::{Config, STOP_GRACE_DEFAULT, default_cache_dir};
use crate::net::SocketOptions;
use crate::plugin::Grants;
use crate::server::{Bound, Host, HostConfig, ServerBuilder, ServerHandle};

/// Serves until a signal. All servers are bound before the first accepts; one that cannot be leaves none running.
pub(super) fn run(arguments: &ServeArgs) -> Result<()> {
    if let Some(flag) = arguments.stray_flag() {
        bail!("{flag} describes a server without a file and needs --plugin; with a file, put it into the file");
    }
    let (file, config) = match (&arguments.plugin, arguments.server.listen) {
        (Some(plugin), Some(listen)) => {
            let grants: Grants = arguments.grants.iter().copied().collect();
            let server = arguments.server.describe(listen, SocketOptions::default()).plugin(plugin).grants(grants);
            let host = HostConfig { cache_dir: default_cache_dir(), ..HostConfig::default() };
            let place = "the server of the command line".to_owned();
            let config = Config { host, stop_grace: STOP_GRACE_DEFAULT, servers: vec![(place, server)] };
            (None, config)
        }
        _ => (Some(&arguments.config), Config::read(&arguments.config)?),
    };
    let origin = file.map(|file| format!("{}: ", file.display())).unwrap_or_default();
    let host = Host::new(&config.host).map_err(|error| anyhow!("{origin}{error}"))?;
    let servers: Vec<ServerHandle> = bind_all(&host, &origin, config.servers)?.into_iter().map(Bound::run).collect();
    host.runtime().block_on(async {
        Signals::listen()?.stop_on_signal(&servers, config.stop_grace).await;
        Ok(())
    })
}

fn bind_all(host: &Host, origin: &str, servers: Vec<(String, ServerBuilder)>) -> Result<Vec<Bound>> {
    let (mut bound, mut wrong) = (Vec::new(), Vec::new());
    for (place, server) in servers {
        match server.host(host).bind() {
            Ok(server) => bound.push(server),
            Err(error) => wrong.push(format!("{origin}{place}: {error}")),
        }
    }
    if !wrong.is_empty() {
        bail!("nothing was started:\n{}", wrong.join("\n"));
    }
    Ok(bound)
}
