//! `wharf component`: makes a component from a core module, for compilers that make no components.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::Args;

use crate::{authoring, files};

#[derive(Args)]
pub(super) struct ComponentArgs {
    /// A core module, or WebAssembly text.
    file: PathBuf,
    /// Folder with the WIT of its world.
    #[arg(long, default_value = "wit")]
    wit: PathBuf,
    /// Name of the world, if the folder has several.
    #[arg(long)]
    world: Option<String>,
    /// File to write the component to.
    #[arg(long, short)]
    output: PathBuf,
}

pub(super) fn run(arguments: &ComponentArgs) -> Result<()> {
    let ComponentArgs { file, wit, world, output } = arguments;
    let component = authoring::component(file, wit, world.as_deref())?;
    let unwritable =
        |error: std::io::Error| anyhow!("{}: cannot write it: {error}", output.display());
    if let Some(folder) = output.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(unwritable)?;
    }
    files::replace(output, &component).map_err(unwritable)
}
