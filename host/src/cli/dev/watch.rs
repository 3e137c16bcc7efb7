//! Watches the source of a plugin, and names the files that changed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::output::Changed;
use crate::locks::lock;
use crate::plugin::{Build, MANIFEST_FILE, Manifest};

/// Time without a change after which a build starts, because editors write in bursts.
const SETTLE: Duration = Duration::from_millis(150);

/// Changes since the last build began. Changes during a build lead to one more build.
pub(super) struct Changes {
    what: Arc<Mutex<Changed>>,
    some: mpsc::Receiver<()>,
    changed: mpsc::Sender<()>,
    watcher: Option<notify::RecommendedWatcher>,
}

impl Changes {
    pub(super) fn new() -> Self {
        let (changed, some) = mpsc::channel(1);
        Self { what: Arc::default(), some, changed, watcher: None }
    }

    /// Waits for a change, then for [`SETTLE`] without one. Returns the changed files in words.
    /// Cancel safe: dropping the future loses no change.
    pub(super) async fn settled(&mut self) -> String {
        if self.some.recv().await.is_none() {
            // The watcher is gone. Only a signal can end the wait.
            std::future::pending::<()>().await;
        }
        while let Ok(Some(())) = tokio::time::timeout(SETTLE, self.some.recv()).await {}
        std::mem::take(&mut *lock(&self.what)).named()
    }

    /// Watches the manifest and the paths that the manifest names.
    ///
    /// Must be called before each build: watched files may have been replaced, and the manifest
    /// may name other paths. Files are watched through their folder, because most editors replace
    /// a file instead of writing into it. After an error the previous paths stay watched.
    ///
    /// # Errors
    /// A path does not exist or cannot be watched, or the component lies in it.
    pub(super) fn watch(&mut self, manifest: &Manifest, build: &Build) -> Result<()> {
        let folder = &manifest.folder;
        if let Some(path) =
            build.watch.iter().find(|path| holds(&folder.join(path), &manifest.component))
        {
            bail!(
                "{}: `build.watch`: `{}` holds the component, so that each build would be a change \
                 and the next one would follow \
                 without end; name what it is built from",
                folder.join(MANIFEST_FILE).display(),
                path.display()
            );
        }
        let root = folder
            .canonicalize()
            .map_err(|error| anyhow!("cannot watch {}: {error}", folder.display()))?;
        let named = build.watch.iter().map(PathBuf::as_path).chain([Path::new(MANIFEST_FILE)]);
        let watched: Vec<PathBuf> = named.map(|path| root.join(path)).collect();
        let folders = folders(&watched, &root);
        let (noted, changed) = (Arc::clone(&self.what), self.changed.clone());
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                let Ok(event) = event else { return };
                // The watcher may have missed events.
                let missed = event.need_rescan();
                let ours = event
                    .paths
                    .into_iter()
                    .filter(|path| watched.iter().any(|watched| path.starts_with(watched)));
                let mut ours = ours
                    .map(|path| path.strip_prefix(&root).map(Path::to_owned).unwrap_or(path))
                    .peekable();
                if !missed && (event.kind.is_access() || ours.peek().is_none()) {
                    return;
                }
                lock(&noted).add(ours);
                // The channel holds one message. If it is full, a build follows anyway.
                let _ = changed.try_send(());
            })?;
        for (path, mode) in folders {
            watcher.watch(&path, mode).map_err(|error| {
                let manifest = folder.join(MANIFEST_FILE);
                anyhow!(
                    "{}: `build.watch`: cannot watch {}: {error}",
                    manifest.display(),
                    path.display()
                )
            })?;
        }
        self.watcher = Some(watcher);
        Ok(())
    }
}

/// The folders to watch, so that every change of the paths is seen.
fn folders(watched: &[PathBuf], root: &Path) -> Vec<(PathBuf, RecursiveMode)> {
    let of = |path: &PathBuf| match path.is_dir() {
        true => (path.clone(), RecursiveMode::Recursive),
        false => (path.parent().unwrap_or(root).to_owned(), RecursiveMode::NonRecursive),
    };
    let mut folders: Vec<_> = watched.iter().map(of).collect();
    // If a folder is listed twice, the recursive entry comes first and stays.
    folders.sort_by_key(|(path, mode)| (path.clone(), *mode != RecursiveMode::Recursive));
    folders.dedup_by(|one, other| one.0 == other.0);
    folders
}

/// Whether `file` is `path` or lies below it. Neither has to exist yet.
fn holds(path: &Path, file: &Path) -> bool {
    let real = |path: &Path| {
        let real =
            |above: &Path| Some(above.canonicalize().ok()?.join(path.strip_prefix(above).ok()?));
        path.ancestors().find_map(real)
    };
    real(path).zip(real(file)).is_some_and(|(path, file)| file.starts_with(path))
}
