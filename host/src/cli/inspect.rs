//! `wharf check PLUGIN`: shows what a component is, which grants it needs and what it costs.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};

use super::check::describe;
use super::test;
use crate::authoring::{Act, Manner, Transcript, advice, rehearse};
use crate::plugin::{Grants, InstanceLimits, MANIFEST_FILE, Manifest};

pub(super) fn run(path: &Path) -> Result<()> {
    let manifest = Manifest::find(path)?;
    // The load has all grants, so that it finds every other mistake too.
    let plugin =
        test::loader()?.load(path, &Grants::all()).map_err(|error| match advice(&error) {
            Some(advice) => anyhow!("{error}\n{advice}"),
            None => anyhow!("{error}"),
        })?;
    let plugin = Arc::new(plugin);
    say!("{}", describe(&plugin).trim_end());
    let needed = Grants::needed_by(plugin.imports());
    say!("  needs {}", grants(&needed));
    let handoff = match plugin.has_handoff() {
        true => "hands its sessions over to the next version",
        false => {
            "does not hand its sessions over: it exports no `wharf:server/handoff`, so they end on \
             the version they have"
        }
    };
    say!("  {handoff}");
    let story = Transcript { settings: Vec::new(), acts: vec![(0, Act::Finish)] };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let rehearsal =
        runtime.block_on(rehearse(&plugin, &story, InstanceLimits::most(), Manner::Whole));
    for cost in rehearsal.costs.iter().take(2) {
        say!(
            "  {}: {} fuel, {} us of CPU time, {} KiB of memory; fits {}",
            cost.event,
            cost.fuel,
            cost.cpu.as_micros(),
            cost.memory_bytes >> 10,
            test::classes(cost)
        );
    }
    let (memory, usual) =
        (rehearsal.costs.iter().map(|cost| cost.memory_bytes).max(), InstanceLimits::default());
    if let Some(memory) = memory.filter(|memory| *memory > usual.memory_max_bytes as u64) {
        say!(
            "  takes more memory than a server allows by default: raise `limits.memory_max_bytes` \
             to {memory} at least"
        );
    }
    if let Some(problem) = rehearsal.problem {
        bail!(
            "{}: a session that only connects and finishes fails: {problem}",
            plugin.file().display()
        );
    }
    let Some(manifest) = manifest else { return Ok(()) };
    let asked: Grants = manifest.grants.iter().copied().collect();
    let lacks: Grants = needed.iter().filter(|grant| !asked.has(*grant)).collect();
    let spare: Grants = asked.iter().filter(|grant| !needed.has(*grant)).collect();
    if spare.iter().next().is_some() {
        say!("  does not use {}, which {MANIFEST_FILE} asks for", grants(&spare));
    }
    if lacks.iter().next().is_some() {
        bail!(
            "{}: `grants` lacks {}",
            manifest.folder.join(MANIFEST_FILE).display(),
            grants(&lacks)
        );
    }
    Ok(())
}

fn grants(grants: &Grants) -> String {
    let names: Vec<_> = grants.iter().map(|grant| format!("\"{grant}\"")).collect();
    match names.as_slice() {
        [] => "no grant".to_owned(),
        [one] => format!("the grant {one}"),
        many => format!("the grants {}", many.join(", ")),
    }
}
