//! The trial: the instance that a plugin must be able to make before it is published. Its session
//! leads nowhere.

use std::sync::Arc;

use wasmtime::Module;

use super::context::{Binding, InstanceLimits};
use super::flat::{FlatPlugin, NotFlat, Structure};
use super::footprint::Footprint;
use super::instance::EventProcedure;
use super::load_error::{IN_ITS, LoadError};
use super::loaded::Plugin;
use super::not_loaded::TrialFailed;
use super::null_scope::scope;
use crate::event::{Budget, EXCERPT_MAX_BYTES, Fault, Instance, Priority, Procedure, excerpt};
use crate::sched::Budgets;

/// Makes one instance under the limits of the server that is to get the plugin, and drops it.
/// Blocks, so do not call this on a runtime's thread.
///
/// # Errors
/// [`LoadError::Trial`]; [`LoadError::System`].
pub fn try_out(
    plugin: &Arc<Plugin>,
    limits: InstanceLimits,
    budget: Budget,
) -> Result<(), LoadError> {
    let procedure = EventProcedure::new(Arc::clone(plugin), on_trial(plugin, limits));
    let made = make_one(&procedure, budget);
    made.map(drop).map_err(|failed| failed.of(plugin.file().to_owned()))
}

/// As [`try_out`], under the largest limits that any server may set. If the component is flat, the
/// plugin that is returned runs so.
pub(super) fn can_be_made(
    plugin: Plugin,
    structure: Result<Structure, NotFlat>,
) -> Result<Plugin, TrialFailed> {
    let (mut plugin, main) = made(plugin)?;
    let linked = match (structure, main) {
        (Ok(structure), Some(main)) => FlatPlugin::link(&main, structure)
            .map(|flat| (flat, Footprint::of_module(&main)))
            .map_err(|error| excerpt(error.root_cause(), EXCERPT_MAX_BYTES)),
        (Ok(_), None) => Err("the engine does not give its main module".to_owned()),
        (Err(not_flat), _) => Err(not_flat.to_string()),
    };
    match linked {
        Ok((flat, footprint)) => (plugin.flat, plugin.footprint) = (Some(flat), footprint),
        Err(not_flat) => {
            plugin.not_flat = Some(not_flat);
            return Ok(plugin);
        }
    }
    made(plugin).map(|(plugin, _)| plugin)
}

/// Makes an instance of the plugin. Returns the plugin with its main module, if it runs as a
/// component that exports it to the host.
fn made(plugin: Plugin) -> Result<(Plugin, Option<Module>), TrialFailed> {
    let plugin = Arc::new(plugin);
    let procedure =
        EventProcedure::new(Arc::clone(&plugin), on_trial(&plugin, InstanceLimits::most()));
    let main = make_one(&procedure, Budgets::default().start(Priority::Critical))?;
    drop(procedure);
    let plugin = Arc::into_inner(plugin)
        .ok_or_else(|| TrialFailed::Plugin("the trial instance outlived its trial".into()))?;
    Ok((plugin, main))
}

fn on_trial(plugin: &Plugin, limits: InstanceLimits) -> Binding {
    let holding = Some(Arc::clone(plugin.engine().trials()));
    Binding { server: "trial".into(), limits, holding, ..Binding::default() }
}

fn make_one(procedure: &EventProcedure, budget: Budget) -> Result<Option<Module>, TrialFailed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|error| TrialFailed::no_room(&error))?;
    let trial = runtime
        .block_on(async { tokio::time::timeout(budget.wall, rehearse(procedure, budget)).await });
    match trial {
        Ok(done) => done.map_err(TrialFailed::Plugin),
        Err(_) => Err(TrialFailed::Plugin("it did not finish starting in time".to_owned())),
    }
}

/// Starts an instance. If the plugin can save and restore sessions, the first instance saves and a
/// second one restores. Returns the main module, as [`PluginInstance::main_module`] does.
async fn rehearse(procedure: &EventProcedure, budget: Budget) -> Result<Option<Module>, String> {
    let of = |function: &'static str| move |fault: Fault| format!("{IN_ITS}{function}`: {fault}");
    let mut first =
        procedure.instantiate(scope(), budget).await.map_err(|fault| fault.to_string())?;
    let main = first.main_module();
    if procedure.hands_over() {
        let state = first.save(budget).await.map_err(of("save"))?;
        drop(first);
        let second = procedure.take_over(scope(), budget, budget, procedure.version(), state);
        second.await.map_err(of("restore"))?;
    }
    Ok(main)
}
