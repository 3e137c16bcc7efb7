//! `wharf test`: plays the transcripts of a plugin without sockets, and shows the cost of each
//! event.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use clap::Args;

use super::build;
use crate::authoring::{
    Cost, Manner, Replay, START, TRANSCRIPT_FILE, Transcript, TranscriptError, advice, rehearse,
};
use crate::config::default_cache_dir;
use crate::event::Priority;
use crate::plugin::{
    Engine, EngineConfig, Grant, Grants, InstanceLimits, LoadError, Loader, MANIFEST_FILE,
    Manifest, Plugin,
};

/// Most instances at a time. Two are needed at once: one plays, and one takes over its session.
const INSTANCES_MAX: usize = 4;

#[derive(Args)]
pub(super) struct TestArgs {
    /// The plugin's folder, with plugin.toml; or a .wasm component.
    #[arg(default_value = ".")]
    plugin: PathBuf,
    /// Transcript to play; by default transcript.txt beside the plugin. May be repeated.
    #[arg(long, value_name = "FILE")]
    transcript: Vec<PathBuf>,
    /// Most linear memory of an instance, as `limits.memory_max_bytes` of a server.
    #[arg(long, value_name = "BYTES")]
    memory_max_bytes: Option<usize>,
    /// Do not build the plugin first.
    #[arg(long)]
    no_build: bool,
    /// Import granted to the plugin beside those in its plugin.toml. May be repeated.
    #[arg(long = "grant", value_name = "NAME")]
    grants: Vec<Grant>,
}

pub(super) fn run(arguments: &TestArgs) -> Result<()> {
    let path = &arguments.plugin;
    let manifest = Manifest::find(path)?;
    let folder = manifest.as_ref().map(|manifest| manifest.folder.as_path()).or(path.parent());
    let usual = folder.map(|folder| folder.join(TRANSCRIPT_FILE));
    let files = if arguments.transcript.is_empty() {
        usual.into_iter().collect()
    } else {
        arguments.transcript.clone()
    };
    if manifest.is_none() && !path.exists() {
        bail!(
            "{}: there is nothing of this name; expected a folder with {MANIFEST_FILE}, or a .wasm \
             component",
            path.display()
        );
    }
    // Transcripts are read before the build, which may take minutes, so a mistake is found at once.
    let mut stories = Vec::new();
    for file in files {
        let is_usual = arguments.transcript.is_empty();
        let story = Transcript::read(&file)
            .map_err(|error| anyhow!("{error}{}", hint(&error, is_usual)))?;
        stories.push((file, story));
    }
    let plugin = load(arguments, manifest.as_ref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let mut limits = InstanceLimits::default();
    limits.memory_max_bytes = arguments.memory_max_bytes.unwrap_or(limits.memory_max_bytes);
    let (mut failed, mut played) = (0, 0);
    say!("{}", plugin.label());
    for (file, story) in stories {
        let mut manners =
            vec![(Manner::Whole, "as it was sent"), (Manner::SingleBytes, "in single bytes")];
        if plugin.has_handoff() {
            manners.push((Manner::HandedOver, "handed over before each event"));
        }
        for (manner, words) in manners {
            let rehearsal = runtime.block_on(rehearse(&plugin, &story, limits, manner));
            played += 1;
            match &rehearsal.problem {
                None if rehearsal.unexpected > 0 => {
                    say!(
                        "ok      {}, {words}; no line expects its last {} bytes",
                        file.display(),
                        rehearsal.unexpected
                    );
                }
                None => say!("ok      {}, {words}", file.display()),
                Some(problem) => {
                    failed += 1;
                    say!(
                        "FAILED  {}, {words}: {}",
                        file.display(),
                        super::text::printable(problem)
                    );
                }
            }
            if manner == Manner::Whole {
                costs(&rehearsal);
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {played} failed");
    }
    Ok(())
}

/// What to do if a transcript cannot be read. `is_usual`: no option names the file.
fn hint(error: &TranscriptError, is_usual: bool) -> &'static str {
    let is_missing = matches!(
        error,
        TranscriptError::Unreadable { source, .. } if source.kind() == ErrorKind::NotFound
    );
    match (is_usual, is_missing) {
        (true, true) => {
            "; write one (docs/writing-plugins.md#testing), or name another with `--transcript`"
        }
        (true, false) => "; `--transcript` names another file",
        (false, _) => "",
    }
}

fn load(arguments: &TestArgs, manifest: Option<&Manifest>) -> Result<Arc<Plugin>> {
    let mut grants: Vec<Grant> = arguments.grants.clone();
    if let Some(manifest) = manifest {
        grants.extend(&manifest.grants);
        if manifest.build.is_some() && !arguments.no_build {
            build::build(manifest)?;
        }
    }
    let grants: Grants = grants.into_iter().collect();
    let loaded = loader()?.load(&arguments.plugin, &grants);
    Ok(Arc::new(loaded.map_err(|error| match (&error, manifest) {
        (LoadError::NotGranted { .. }, Some(manifest)) => {
            anyhow!(
                "{error}\nhere: to `grants` in {}",
                manifest.folder.join(MANIFEST_FILE).display()
            )
        }
        (LoadError::NotGranted { .. }, None) => {
            anyhow!("{error}\nhere: by `--grant NAME` for each")
        }
        (error, _) => match advice(error) {
            Some(advice) => anyhow!("{error}\n{advice}"),
            None => anyhow!("{error}"),
        },
    })?))
}

/// A loader for a few instances, without the threads of a host. Compiled components are cached if
/// there is a folder for the cache.
pub(super) fn loader() -> Result<Loader> {
    let engine =
        Engine::new(EngineConfig { sessions_max: INSTANCES_MAX, ..EngineConfig::default() })?;
    let cached = default_cache_dir().map(|folder| Loader::with_cache(engine.clone(), &folder));
    Ok(cached.and_then(Result::ok).unwrap_or_else(|| Loader::without_cache(engine)))
}

fn costs(rehearsal: &Replay) {
    say!(
        "{:>6}  {:<13} {:>7} {:>12} {:>8} {:>11}  FITS",
        "LINE",
        "EVENT",
        "BYTES",
        "FUEL",
        "CPU us",
        "MEMORY KiB"
    );
    for cost in &rehearsal.costs {
        let Cost { line, event, bytes, fuel, cpu, memory_bytes } = cost;
        let (cpu, memory, fits) = (cpu.as_micros(), memory_bytes >> 10, classes(cost));
        say!("{line:>6}  {event:<13} {bytes:>7} {fuel:>12} {cpu:>8} {memory:>11}  {fits}");
    }
    let dearest =
        rehearsal.costs.iter().filter(|cost| cost.event != START).max_by_key(|cost| cost.fuel);
    if let Some(cost) = dearest {
        say!(
            "dearest event: {} of line {} with {} fuel, {}",
            cost.event,
            cost.line,
            cost.fuel,
            classes(cost)
        );
    }
}

pub(super) fn classes(cost: &Cost) -> String {
    match cost.fits() {
        None => "no class's default budget".to_owned(),
        Some(Priority::Background) => "every class".to_owned(),
        Some(class) => format!("{class} and above"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_transcript_error_says_to_write_one() {
        let failed = |kind: ErrorKind| TranscriptError::Unreadable {
            file: TRANSCRIPT_FILE.into(),
            source: kind.into(),
        };
        let missing = failed(ErrorKind::NotFound);
        assert!(hint(&missing, true).contains("write one"), "{}", hint(&missing, true));
        assert!(hint(&failed(ErrorKind::InvalidData), true).contains("another file"));
        assert_eq!(hint(&missing, false), "");
    }
}
