//! `wharf dev`: build, serve, and build again when the source changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::args::DevArgs;
use super::signals::Signals;
use crate::config::default_cache_dir;
use crate::net::SocketOptions;
use crate::plugin::{Build, Compiler, Grants, MANIFEST_FILE, Manifest, Plugin};
use crate::server::{Host, HostConfig, ServerHandle, SwapPolicy};

/// Where a plugin in development listens.
const LISTEN_DEFAULT: &str = "127.0.0.1:7000";
/// Editors write in bursts: a build starts when nothing changed for so long.
const SETTLE: Duration = Duration::from_millis(150);
/// How long live sessions may take to end at the end.
const STOP_GRACE: Duration = Duration::from_secs(2);

pub(super) fn run(arguments: &DevArgs) -> Result<()> {
    let manifest = Manifest::read(&arguments.folder)?;
    let folder = manifest.folder.clone();
    let Some(build) = &manifest.build else {
        bail!(
            "{}: no `[build]`: `wharf dev` needs to know how to build the plugin; `wharf serve --plugin` serves one \
             that is built",
            folder.join(MANIFEST_FILE).display()
        );
    };
    let host = Host::new(&HostConfig {
        cache_dir: default_cache_dir(),
        compiler: Some(Compiler::this_program()),
        ..HostConfig::default()
    })?;
    let (changed, changes) = mpsc::channel(1);
    let _watcher = watch(&manifest, build, changed)?;
    let runtime = host.runtime().clone();
    runtime.block_on(develop(arguments, host, folder, changes))
}

/// Reports changes of what the manifest names, and of the manifest. Files are watched through their folder, because most
/// editors replace a file and do not write into it.
fn watch(manifest: &Manifest, build: &Build, changed: mpsc::Sender<()>) -> Result<impl Watcher + use<>> {
    let folder = &manifest.folder;
    if let Some(path) = build.watch.iter().find(|path| holds(&folder.join(path), &manifest.component)) {
        bail!(
            "{}: `build.watch`: `{}` holds the component, so that each build would be a change and the next one would follow without \
             end; name what it is built from",
            folder.join(MANIFEST_FILE).display(),
            path.display()
        );
    }
    let root = folder.canonicalize().map_err(|error| anyhow!("cannot watch {}: {error}", folder.display()))?;
    let named = build.watch.iter().map(PathBuf::as_path).chain([Path::new(MANIFEST_FILE)]);
    let watched: Vec<PathBuf> = named.map(|path| root.join(path)).collect();
    let mut folders: Vec<(PathBuf, RecursiveMode)> = watched
        .iter()
        .map(|path| match path.is_dir() {
            true => (path.clone(), RecursiveMode::Recursive),
            false => (path.parent().unwrap_or(&root).to_owned(), RecursiveMode::NonRecursive),
        })
        .collect();
    // Of two ways to watch one folder the one that sees more comes first and stays.
    folders.sort_by_key(|(path, mode)| (path.clone(), *mode != RecursiveMode::Recursive));
    folders.dedup_by(|one, other| one.0 == other.0);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let ours = |path: &PathBuf| watched.iter().any(|watched| path.starts_with(watched));
        if event.is_ok_and(|event| !event.kind.is_access() && event.paths.iter().any(ours)) {
            // One change that waits is as good as many.
            let _ = changed.try_send(());
        }
    })?;
    for (path, mode) in folders {
        watcher.watch(&path, mode).map_err(|error| {
            let manifest = folder.join(MANIFEST_FILE);
            anyhow!("{}: `build.watch`: cannot watch {}: {error}", manifest.display(), path.display())
        })?;
    }
    Ok(watcher)
}

/// Whether a file is this one, or in this folder. Neither has to be there yet.
fn holds(path: &Path, file: &Path) -> bool {
    let real = |path: &Path| {
        let real = |above: &Path| Some(above.canonicalize().ok()?.join(path.strip_prefix(above).ok()?));
        path.ancestors().find_map(real)
    };
    real(path).zip(real(file)).is_some_and(|(path, file)| file.starts_with(path))
}

async fn develop(arguments: &DevArgs, host: Host, folder: PathBuf, mut changes: mpsc::Receiver<()>) -> Result<()> {
    let mut signals = Signals::listen()?;
    let mut server: Option<ServerHandle> = None;
    loop {
        let attempt = tokio::select! {
            attempt = build_and_load(&host, &folder) => attempt,
            _ = signals.next() => break,
        };
        match (attempt, &server) {
            (Ok(plugin), Some(server)) => {
                if let Err(error) = server.swap(plugin, SwapPolicy::HandOff).await {
                    tracing::error!("{error}; the build before it goes on serving");
                }
            }
            (Ok(plugin), None) => server = Some(start(arguments, &host, plugin).await?),
            (Err(error), Some(_)) => tracing::error!("{error}; the build before it goes on serving"),
            (Err(error), None) => tracing::error!("{error}; waiting for a change"),
        }
        tokio::select! {
            () = settled(&mut changes) => tracing::info!("changed: building again"),
            _ = signals.next() => break,
        }
    }
    if let Some(server) = server {
        tracing::info!(grace = ?STOP_GRACE, "stopping");
        signals.stop(&server, STOP_GRACE).await;
    }
    Ok(())
}

/// Waits for a change, then for quiet.
async fn settled(changes: &mut mpsc::Receiver<()>) {
    if changes.recv().await.is_none() {
        // The watcher is gone; there is nothing to wait for but a signal.
        std::future::pending::<()>().await;
    }
    while let Ok(Some(())) = tokio::time::timeout(SETTLE, changes.recv()).await {}
}

/// Dropping the future ends a build.
async fn build_and_load(host: &Host, folder: &Path) -> Result<Arc<Plugin>> {
    // Read again each time: the manifest may be what changed.
    let manifest = Manifest::read(folder)?;
    manifest.run_build().await?;
    let (host, folder) = (host.clone(), folder.to_owned());
    let grants: Grants = manifest.grants.iter().copied().collect();
    Ok(Arc::new(tokio::task::spawn_blocking(move || host.loader().load(&folder, &grants)).await??))
}

async fn start(arguments: &DevArgs, host: &Host, plugin: Arc<Plugin>) -> Result<ServerHandle> {
    let fallback = LISTEN_DEFAULT.parse().context("the default address")?;
    let listen = arguments.server.listen.unwrap_or(fallback);
    // Development restarts often, so lingering connections of the last run are no obstacle.
    let options = SocketOptions { reuse_address: true, no_delay: true, ..SocketOptions::default() };
    let server = arguments.server.describe(listen, options).host(host).loaded_plugin(plugin);
    Ok(tokio::task::spawn_blocking(move || server.start()).await??)
}
