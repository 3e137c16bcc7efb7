//! `wharf check`: verifies a configuration file, or shows what a plugin is.

use std::path::Path;

use anyhow::{Result, anyhow, bail};

use super::args::CheckArgs;
use super::inspect;
use crate::config::{CONFIG_FILE, Config};
use crate::plugin::{CacheUse, Manifest, Plugin, looks_like_wasm};
use crate::server::{Host, Promised};

/// The kinds of files that can be checked, for messages.
const EXPECTED: &str = "a configuration file, a folder with plugin.toml, or a .wasm component";

/// Prints the plugin of each server. Fails with all mistakes at once.
pub(super) fn run(arguments: &CheckArgs) -> Result<()> {
    if Manifest::find(&arguments.path)?.is_some() || is_component(&arguments.path) {
        return inspect::run(&arguments.path);
    }
    if !arguments.path.exists() && arguments.path != Path::new(CONFIG_FILE) {
        bail!("{}: there is nothing of this name; expected {EXPECTED}", arguments.path.display());
    }
    let is_config = arguments.path.extension().is_some_and(|extension| extension == "toml");
    let config = Config::read(&arguments.path).map_err(|error| match is_config {
        true => anyhow!("{error}"),
        false => anyhow!("{error}\nit was taken for a configuration file; expected {EXPECTED}"),
    })?;
    let host = Host::new(&config.host)
        .map_err(|error| anyhow!("{}: {error}", arguments.path.display()))?;
    let (file, plan) = (arguments.path.display(), config.plan());
    let mut wrong: Vec<_> =
        plan.excess().into_iter().map(|excess| format!("{file}: {excess}")).collect();
    let mut promised = Promised::none(&host);
    for (place, server) in plan.servers {
        let seen = server.verify(&host);
        let starts = seen.recorded.as_ref().or(seen.plugin.as_ref());
        let excess = starts.and_then(|plugin| promised.add(&server, plugin));
        wrong.extend(excess.map(|error| format!("{file}: {place}: {error}")));
        wrong.extend(seen.wrong.into_iter().map(|error| format!("{file}: {place}: {error}")));
        if let Some(plugin) = seen.plugin {
            println!("{place}: {}", describe(&plugin));
        }
        if let Some(plugin) = seen.recorded {
            println!("{place}: what was swapped in starts: {}", describe(&plugin));
        }
    }
    if !wrong.is_empty() {
        bail!("{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    }
    println!("{}: ok", arguments.path.display());
    Ok(())
}

/// Whether a path names a component, by its ending or by its first bytes.
fn is_component(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "wasm" || extension == "wat")
        || looks_like_wasm(path)
}

pub(super) fn describe(plugin: &Plugin) -> String {
    let mut text = format!("plugin {}, {}\n", plugin.label(), plugin.file().display());
    text.push_str(&format!("  sha256 {}\n", plugin.digest()));
    let how = match plugin.cache_use() {
        CacheUse::Compiled => "compiled",
        CacheUse::Cached => "from the cache",
    };
    text.push_str(&format!("  loaded {how} in {:.1?}\n", plugin.loading()));
    match plugin.needs_component_layer() {
        None => text.push_str("  runs as a core module\n"),
        Some(why) => text.push_str(&format!("  runs as a component: {why}\n")),
    }
    for name in plugin.imports() {
        text.push_str(&format!("  imports {name}\n"));
    }
    for name in plugin.exports() {
        text.push_str(&format!("  exports {name}\n"));
    }
    text
}
