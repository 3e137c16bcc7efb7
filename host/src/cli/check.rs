//! `wharf check`.

use anyhow::{Result, anyhow, bail};

use super::args::CheckArgs;
use super::inspect;
use crate::config::Config;
use crate::plugin::{CacheUse, Plugin};
use crate::server::Host;

/// Prints what each server's plugin is, and fails with everything that is wrong, all of it at once.
pub(super) fn run(arguments: &CheckArgs) -> Result<()> {
    if arguments.path.is_dir() || arguments.path.extension().is_some_and(|extension| extension == "wasm") {
        return inspect::run(&arguments.path);
    }
    let config = Config::read(&arguments.path)?;
    let host = Host::new(&config.host).map_err(|error| anyhow!("{}: {error}", arguments.path.display()))?;
    let (file, plan) = (arguments.path.display(), config.plan());
    let mut wrong: Vec<_> = plan.excess().into_iter().map(|excess| format!("{file}: {excess}")).collect();
    for (place, server) in plan.servers {
        let (plugin, errors) = server.verify(&host);
        wrong.extend(errors.into_iter().map(|error| format!("{file}: {place}: {error}")));
        if let Some(plugin) = plugin {
            println!("{place}: {}", describe(&plugin));
        }
    }
    if !wrong.is_empty() {
        bail!("{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    }
    println!("{}: ok", arguments.path.display());
    Ok(())
}

pub(super) fn describe(plugin: &Plugin) -> String {
    let mut text = format!("plugin {}, {}\n", plugin.label(), plugin.file().display());
    text.push_str(&format!("  sha256 {}\n", plugin.digest()));
    let how = match plugin.cache_use() {
        CacheUse::Compiled => "compiled",
        CacheUse::Cached => "from the cache",
    };
    text.push_str(&format!("  loaded {how} in {:.1?}\n", plugin.loading()));
    for name in plugin.imports() {
        text.push_str(&format!("  imports {name}\n"));
    }
    for name in plugin.exports() {
        text.push_str(&format!("  exports {name}\n"));
    }
    text
}
