//! `wharf build`: builds a plugin by the command that its plugin.toml names.

use std::path::PathBuf;
use std::thread;

use anyhow::{Result, bail};
use clap::Args;

use super::signals::Signals;
use crate::plugin::Manifest;

/// Exit code after a signal.
const INTERRUPTED: i32 = 1;

#[derive(Args)]
pub(super) struct BuildArgs {
    /// The plugin's folder, with plugin.toml.
    #[arg(default_value = ".")]
    folder: PathBuf,
}

pub(super) fn run(arguments: &BuildArgs) -> Result<()> {
    let manifest = Manifest::read(&arguments.folder)?;
    build(&manifest)?;
    say!("{}", manifest.component.display());
    Ok(())
}

/// Runs the build of a plugin. A signal ends the build and every process in its group: the build
/// has a process group of its own, so the terminal's signals do not reach it. A signal after the
/// build ends this process.
pub(super) fn build(manifest: &Manifest) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        tokio::select! {
            built = manifest.run_build() => built?,
            _ = signals.next() => bail!("{}: its build was interrupted by a signal, and \
                ended", manifest.folder.display()),
        }
        Ok(signals)
    })?;
    // Once this process has listened for a signal, the signal no longer ends it by default.
    thread::Builder::new().name("wharf-signals".into()).spawn(move || {
        runtime.block_on(signals.next());
        std::process::exit(INTERRUPTED);
    })?;
    Ok(())
}
