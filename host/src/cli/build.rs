//! `wharf build`: a plugin by the command that its plugin.toml names.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::plugin::{MANIFEST_FILE, Manifest};

#[derive(Args)]
pub(super) struct BuildArgs {
    /// The plugin's folder, with plugin.toml.
    #[arg(default_value = ".")]
    folder: PathBuf,
}

pub(super) fn run(arguments: &BuildArgs) -> Result<()> {
    let manifest = Manifest::read(&arguments.folder)?;
    let Some(build) = &manifest.build else {
        bail!("{}: no `[build]` says how", arguments.folder.join(MANIFEST_FILE).display());
    };
    build.run(&arguments.folder)?;
    say!("{}", manifest.component.display());
    Ok(())
}
