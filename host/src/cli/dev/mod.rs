//! `wharf dev`: builds a plugin, serves it, and builds it again when its source changes.

mod build;
mod output;
mod watch;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::output::{say, swapped, took};
use self::watch::Changes;
use super::args::DevArgs;
use super::signals::Signals;
use crate::config::default_cache_dir;
use crate::net::SocketOptions;
use crate::plugin::{Compiler, Grants, MANIFEST_FILE, Manifest, Plugin};
use crate::server::{Host, HostConfig, ServerHandle, SwapPolicy};
use crate::work::WorkKind;

/// Default address of a plugin in development.
const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7000);
/// Time that live sessions may take to end when `wharf dev` ends.
const STOP_GRACE: Duration = Duration::from_secs(2);

pub(super) fn run(arguments: &DevArgs) -> Result<()> {
    let manifest = Manifest::read(&arguments.folder)?;
    let folder = manifest.folder.clone();
    let Some(build) = &manifest.build else {
        bail!(
            "{}: no `[build]`: `wharf dev` needs to know how to build the plugin; `wharf serve \
             --plugin` serves one \
             that is built",
            folder.join(MANIFEST_FILE).display()
        );
    };
    say(&first_line(&manifest, listen(arguments)));
    let host = Host::new(&HostConfig {
        cache_dir: default_cache_dir(),
        compiler: Some(Compiler::this_program()),
        ..HostConfig::default()
    })?;
    let mut changes = Changes::new();
    changes.watch(&manifest, build)?;
    let runtime = host.runtime().clone();
    runtime.block_on(develop(arguments, host, folder, changes))
}

/// What happens now. A first build is slow, and some compilers say nothing meanwhile.
fn first_line(manifest: &Manifest, listen: SocketAddr) -> String {
    let Manifest { name, version, .. } = manifest;
    let mut line = format!("{name} {version}: builds the plugin, checks it, serves it on {listen}");
    if !manifest.component.exists() {
        line += "; the first build compiles its dependencies, too, which can take minutes";
    }
    line
}

/// The address from the command line, or else the one for development.
fn listen(arguments: &DevArgs) -> SocketAddr {
    arguments.server.listen.unwrap_or(LISTEN_DEFAULT)
}

async fn develop(
    arguments: &DevArgs,
    host: Host,
    folder: PathBuf,
    mut changes: Changes,
) -> Result<()> {
    let mut signals = Signals::listen()?;
    let mut server: Option<ServerHandle> = None;
    let mut why = None;
    loop {
        let attempt = tokio::select! {
            attempt = build_and_load(&host, &folder, &mut changes, why.as_deref()) => attempt,
            _ = signals.next() => break,
        };
        match (attempt, &server) {
            (Ok(plugin), Some(server)) => swap(server, plugin).await,
            (Ok(plugin), None) => {
                let started = start(arguments, &host, plugin).await?;
                say(&format!(
                    "version 1 is in force: {}; listening on {}",
                    started.plugin().label(),
                    started.address()
                ));
                server = Some(started);
            }
            (Err(error), Some(_)) => {
                say(&format!("{}the build before it goes on serving", before(&error)));
            }
            (Err(error), None) => say(&format!("{}waiting for a change", before(&error))),
        }
        tokio::select! {
            changed = changes.settled() => why = Some(changed),
            _ = signals.next() => break,
        }
    }
    if let Some(server) = server {
        tracing::info!(grace = ?STOP_GRACE, "stopping");
        signals.stop(&server, STOP_GRACE).await;
    }
    Ok(())
}

/// An error's text and the separator before its consequence: a line break if the text has several
/// lines, else a semicolon.
fn before(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let end = if text.contains('\n') { "\n" } else { "; " };
    text + end
}

/// Builds and loads the plugin. Dropping the future ends a running build.
async fn build_and_load(
    host: &Host,
    folder: &Path,
    changes: &mut Changes,
    why: Option<&str>,
) -> Result<Arc<Plugin>> {
    // The manifest is read each time, because it may have changed.
    let manifest = Manifest::read(folder)?;
    if let Some(build) = &manifest.build {
        changes.watch(&manifest, build)?;
        let why = why.map(|why| format!(", {why}")).unwrap_or_default();
        say(&format!("building{why}: {}", build.command.join(" ")));
        let start = Instant::now();
        let built = build::run(&manifest).await;
        let took = took(start.elapsed());
        built.with_context(|| format!("the build failed after {took}"))?;
        say(&format!("built in {took}"));
    }
    let component =
        manifest.component.strip_prefix(folder).unwrap_or(&manifest.component).display();
    say(&format!("compiling and checking {component}"));
    let (host, folder, start) = (host.clone(), folder.to_owned(), Instant::now());
    let grants: Grants = manifest.grants.iter().copied().collect();
    let threads = host.clone();
    let plugin =
        threads.work(WorkKind::Long, move || host.loader().load(&folder, &grants)).await??;
    say(&format!("checked in {}", took(start.elapsed())));
    Ok(Arc::new(plugin))
}

async fn swap(server: &ServerHandle, plugin: Arc<Plugin>) {
    let (start, before) = (Instant::now(), server.plugin());
    let same = before.digest() == plugin.digest() && before.label() == plugin.label();
    match server.swap(plugin, SwapPolicy::HandOff).await {
        Ok(report) if same && report.moved == 0 => {
            say("the component is the same as before: nothing to swap");
        }
        Ok(report) => say(&swapped(&report, &took(start.elapsed()))),
        Err(error) => say(&format!("{error}; the build before it goes on serving")),
    }
}

async fn start(arguments: &DevArgs, host: &Host, plugin: Arc<Plugin>) -> Result<ServerHandle> {
    // Development restarts often. With this option, lingering connections of the last run do not
    // prevent the bind.
    let options = SocketOptions { reuse_address: true, no_delay: true, ..SocketOptions::default() };
    let server =
        arguments.server.describe(listen(arguments), options).host(host).loaded_plugin(plugin);
    Ok(host.work(WorkKind::Long, move || server.start()).await??)
}
