//! `wharf plugin push` and `wharf plugin pull`: plugins to and from OCI registries.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use super::answer;
use super::text::in_one_line;
use crate::config::{CONFIG_FILE, registries};
use crate::oci::{PullPolicy, PushedComponent, Reference, Registries, SigningKey};
use crate::plugin::{Engine, EngineConfig, Grants, Loader, MANIFEST_FILE, Manifest, Source};

#[derive(Args)]
pub(super) struct PushArgs {
    /// Where to, such as oci://registry.example.com/echo:1.0.
    reference: String,
    /// A folder with plugin.toml, or a .wasm component. It must load; no session runs it.
    file: PathBuf,
    /// Sign it with this ECDSA P-256 key: a PEM file that only its owner can read.
    #[arg(long, value_name = "KEY")]
    sign: Option<PathBuf>,
    #[command(flatten)]
    terms: RegistryArgs,
}

#[derive(Args)]
pub(super) struct PullArgs {
    /// Where from, such as oci://registry.example.com/echo:1.0. The registry is asked for a tag
    /// even if the store has it.
    reference: String,
    /// Write the component to this file, too.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    terms: RegistryArgs,
}

#[derive(Args)]
struct RegistryArgs {
    /// Configuration file with the `[registry]` to use; by default wharf.toml if there is one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl RegistryArgs {
    fn read(&self) -> Result<Registries> {
        let usual = || Some(PathBuf::from(CONFIG_FILE)).filter(|file| file.exists());
        Ok(registries(self.config.clone().or_else(usual).as_deref())?)
    }
}

pub(super) fn push(arguments: &PushArgs, json: bool) -> ExitCode {
    let reference: Reference = match arguments.reference.parse() {
        Ok(reference) => reference,
        Err(error) => return answer::fail(&error.to_string(), 2),
    };
    finish(send(arguments, &reference), json)
}

pub(super) fn pull(arguments: &PullArgs, json: bool) -> ExitCode {
    let reference: Reference = match arguments.reference.parse() {
        Ok(reference) => reference,
        Err(error) => return answer::fail(&error.to_string(), 2),
    };
    finish(receive(arguments, &reference), json)
}

fn send(arguments: &PushArgs, reference: &Reference) -> Result<Value> {
    let registries = arguments.terms.read()?;
    let key = arguments.sign.as_deref().map(SigningKey::read).transpose()?;
    let component = component(&arguments.file)?;
    let version = component.version.clone();
    let digest = registries.push(reference, component, key.as_ref())?;
    Ok(json!({
        "reference": reference.pinned(&digest).to_string(),
        "digest": digest.as_str(),
        "version": version,
        "signed": key.is_some(),
    }))
}

/// Reads and loads a plugin for a push. The load has every grant: a plugin that loads here can load
/// on every server that grants its imports.
fn component(path: &Path) -> Result<PushedComponent> {
    let folder = match path.file_name() {
        Some(name) if name == MANIFEST_FILE => path.parent(),
        _ => Some(path).filter(|path| path.is_dir()),
    };
    let manifest = folder.map(Manifest::read).transpose()?;
    let source = Source::read(path)?;
    let (name, bytes) = (source.name.clone(), source.bytes.clone());
    let engine = Engine::new(EngineConfig { sessions_max: 1, ..EngineConfig::default() })?;
    let plugin = Loader::without_cache(engine).load_source(source, &Grants::all())?;
    let (version, description) =
        manifest.map(|manifest| (manifest.version, manifest.description)).unzip();
    let (imports, exports) = (plugin.imports().to_vec(), plugin.exports().to_vec());
    Ok(PushedComponent {
        name,
        version,
        description: description.unwrap_or_default(),
        bytes,
        imports,
        exports,
    })
}

fn receive(arguments: &PullArgs, reference: &Reference) -> Result<Value> {
    let pulled = arguments.terms.read()?.fetch_by(reference, PullPolicy::Always)?;
    if let Some(file) = &arguments.output {
        crate::files::replace(file, &pulled.bytes)
            .with_context(|| format!("{}: cannot write it", file.display()))?;
    }
    Ok(json!({
        "reference": pulled.reference.to_string(),
        "digest": pulled.digest.as_str(),
        "version": pulled.version,
        "bytes": pulled.bytes.len(),
        "signed_by": pulled.signed_by,
    }))
}

/// Prints the result. Without `json`, prints one line that a configuration file can use: the
/// reference with its digest.
fn finish(done: Result<Value>, json: bool) -> ExitCode {
    match done {
        Ok(answer) if json => println!("{answer}"),
        Ok(answer) => println!("{}", in_one_line(answer["reference"].as_str().unwrap_or_default())),
        Err(error) => return answer::fail(&format!("{error:#}"), 1),
    }
    ExitCode::SUCCESS
}
