//! A plugin bound to a server, and its instances.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use wasmtime::Module;

use super::context::{Binding, Context, InstanceLimits};
use super::ledger::Holding;
use super::loaded::Plugin;
use super::read_only_port::quiet;
use super::shared::{Member, Shards};
use super::store::PluginStore;
use crate::event::{
    Action, Budget, Event, Fault, FaultKind, Instance, Meter, Procedure, Scope, Usage,
};
use crate::telemetry::{Bucket, RevisionMetrics};

/// A plugin as the event procedure of one server. Cheap to clone.
#[derive(Clone)]
pub struct EventProcedure {
    plugin: Arc<Plugin>,
    metrics: Arc<RevisionMetrics>,
    context: Arc<Context>,
    shards: Option<Arc<Shards>>,
}

impl EventProcedure {
    /// Binds a plugin to a server.
    #[must_use]
    pub fn new(plugin: Arc<Plugin>, binding: Binding) -> Self {
        let Binding { server, settings, limits, shards, counters, quota, holding, kept } = binding;
        let metrics = counters.revision(&plugin.label(), plugin.digest());
        let bucket = Bucket::new(limits.log_lines_per_second);
        let holding = holding.unwrap_or_else(|| Arc::clone(plugin.engine().own()));
        let variables = settings.clone().into_iter().collect();
        let context = Context {
            server,
            settings: variables,
            written: settings,
            limits,
            bucket,
            counters,
            quota,
            holding,
            kept,
        };
        let context = Arc::new(context);
        let shards = (shards > 0).then(|| Arc::new(Shards::new(shards)));
        Self { plugin, metrics, context, shards }
    }

    /// The same binding with another plugin. `kept` is as in [`Binding::kept`].
    #[must_use]
    pub fn with_plugin(
        &self,
        plugin: Arc<Plugin>,
        kept: Option<Arc<dyn Any + Send + Sync>>,
    ) -> Self {
        let context = &self.context;
        let binding = Binding {
            server: context.server.clone(),
            settings: context.written.clone(),
            limits: context.limits,
            shards: self.shards(),
            counters: Arc::clone(&context.counters),
            quota: Arc::clone(&context.quota),
            holding: Some(Arc::clone(&context.holding)),
            kept,
        };
        Self::new(plugin, binding)
    }

    /// The same plugin with the binding and the shards of another procedure of this server.
    #[must_use]
    pub fn with_config_of(&self, other: &Self) -> Self {
        other.with_plugin(Arc::clone(&self.plugin), self.context.kept.clone())
    }

    /// The same procedure with one instance per session.
    #[must_use]
    pub fn with_instance_each(&self) -> Self {
        Self { shards: None, ..self.clone() }
    }

    /// Whether instances of both procedures are the same in every respect.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let shards = |of: &Self| of.shards.as_ref().map(|shards| shards.count());
        let (own, others) = (&self.context, &other.context);
        Arc::ptr_eq(&self.plugin, &other.plugin)
            && (&own.written, own.limits) == (&others.written, others.limits)
            && Arc::ptr_eq(&own.quota, &others.quota)
            && shards(self) == shards(other)
    }

    /// Whether live sessions can migrate to another version, and from others to this one. Sessions
    /// that share an instance cannot.
    #[must_use]
    pub fn hands_over(&self) -> bool {
        self.plugin.has_handoff() && self.shards.is_none()
    }

    /// Whether there is room now for `instances` more than the server has.
    #[must_use]
    pub fn has_room_for(&self, instances: usize) -> bool {
        self.context.holding.room_for(self.plugin.footprint(), instances) >= instances
    }

    /// The holding from which instances take room.
    #[must_use]
    pub fn holding(&self) -> &Arc<Holding> {
        &self.context.holding
    }

    /// Limits of each instance.
    #[must_use]
    pub fn limits(&self) -> InstanceLimits {
        self.context.limits
    }

    /// Instances that all sessions share. 0: each session has its own.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.as_ref().map_or(0, |shards| shards.count())
    }

    /// Metrics of this version, which count its sessions.
    #[must_use]
    pub fn metrics(&self) -> &Arc<RevisionMetrics> {
        &self.metrics
    }

    /// The plugin.
    #[must_use]
    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }
}

impl Procedure for EventProcedure {
    type Instance = PluginInstance;

    async fn instantiate(&self, scope: Scope, budget: Budget) -> Result<PluginInstance, Fault> {
        let Self { plugin, context, shards, .. } = self;
        let (copy, usage) = match shards {
            None => {
                let (core, fuel) = PluginStore::make(plugin, context, scope, budget).await?;
                let usage = Usage { fuel, memory_bytes: core.memory_bytes() };
                (Copy::Own(Box::new(core)), usage)
            }
            Some(shards) => {
                let (member, fuel) = shards.join(plugin, context, scope, budget).await?;
                (Copy::Shared(member), Usage { fuel, memory_bytes: 0 })
            }
        };
        Ok(PluginInstance {
            copy,
            usage,
            plugin: Arc::clone(plugin),
            state_max: context.limits.state_max_bytes,
        })
    }

    async fn take_over(
        &self,
        scope: Scope,
        start: Budget,
        event: Budget,
        version: &str,
        state: Vec<u8>,
    ) -> Result<PluginInstance, Fault> {
        // The start of an instance must not act on a session that the instance may then refuse.
        let mut instance = self.instantiate(quiet(&scope), start).await?;
        let Copy::Own(core) = &mut instance.copy else { return Err(pinned()) };
        if self.plugin.is_stateless() {
            core.serve(scope);
            return Ok(instance);
        }
        let Some(handoff) = &self.plugin.handoff else { return Err(pinned()) };
        instance.usage.fuel += core.restore(handoff, scope, version, state, event).await?;
        instance.usage.memory_bytes = core.memory_bytes();
        Ok(instance)
    }

    fn can_sleep(&self) -> bool {
        self.hands_over()
    }

    fn version(&self) -> &str {
        self.plugin.version()
    }

    fn keeps_inputs(&self) -> bool {
        self.metrics.keeps_inputs()
    }

    fn meter(&self) -> &dyn Meter {
        &*self.metrics
    }
}

/// Fault of a session that cannot migrate. Callers ask [`EventProcedure::hands_over`] first.
fn pinned() -> Fault {
    Fault::new(FaultKind::HandoffRefused, "its sessions cannot be handed over")
}

impl fmt::Debug for EventProcedure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventProcedure")
            .field("plugin", &self.plugin.label())
            .finish_non_exhaustive()
    }
}

/// One session's instance, or its part in a shared one. Dropping an own instance wipes its memory
/// and frees its slot.
pub struct PluginInstance {
    copy: Copy,
    usage: Usage,
    plugin: Arc<Plugin>,
    state_max: usize,
}

enum Copy {
    Own(Box<PluginStore>),
    Shared(Member),
}

impl PluginInstance {
    /// The main core module, if the instance is its session's own and runs as a component that
    /// exports it to the host.
    pub(super) fn main_module(&mut self) -> Option<Module> {
        match &mut self.copy {
            Copy::Own(core) => core.main_module(),
            Copy::Shared(_) => None,
        }
    }
}

impl Instance for PluginInstance {
    fn poll_free(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Fault>> {
        match &mut self.copy {
            Copy::Own(_) => Poll::Ready(Ok(())),
            Copy::Shared(member) => member.poll_free(cx),
        }
    }

    fn is_shared(&self) -> bool {
        matches!(self.copy, Copy::Shared(_))
    }

    async fn dispatch(&mut self, event: Event<'_>, budget: Budget) -> Result<Action, Fault> {
        let outcome = match &mut self.copy {
            Copy::Own(core) => core
                .call(event, budget)
                .await
                .map(|(action, fuel)| (action, fuel, core.memory_bytes())),
            Copy::Shared(member) => member.call(event, budget).await,
        };
        match outcome {
            Ok((action, fuel, memory)) => {
                self.usage = Usage { fuel: self.usage.fuel + fuel, memory_bytes: memory };
                Ok(action)
            }
            Err(fault) => {
                // The engine loses count of the fuel spent before a trap, so the whole grant is
                // charged.
                let none_ran = fault.kind == FaultKind::InstanceLost;
                self.usage.fuel += if none_ran { 0 } else { budget.fuel };
                Err(fault)
            }
        }
    }

    async fn save(&mut self, budget: Budget) -> Result<Vec<u8>, Fault> {
        if self.plugin.is_stateless() && matches!(self.copy, Copy::Own(_)) {
            return Ok(Vec::new());
        }
        let (Copy::Own(core), Some(handoff)) = (&mut self.copy, &self.plugin.handoff) else {
            return Err(pinned());
        };
        let (state, fuel) = core.save(handoff, self.state_max, budget).await?;
        self.usage.fuel += fuel;
        Ok(state)
    }

    fn usage(&self) -> Usage {
        self.usage
    }
}
