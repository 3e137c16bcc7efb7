//! A plugin bound to a server, and its living copies.

use std::sync::Arc;

use wasmtime::Store;
use wasmtime_wasi_config::WasiConfigVariables;

use super::bindings::{self, client_info};
use super::failure::fault;
use super::guest::{Guest, on_tick};
use super::loader::Plugin;
use crate::event::{Action, Budget, Event, Fault, Instance, Procedure, Scope, Usage};
use crate::telemetry::{Bucket, Counters, Edition};

/// What an instance may have. Set by the operator for each server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceLimits {
    /// Linear memory, all memories together. Up to 256 MiB. Default 32 MiB.
    pub memory_max_bytes: usize,
    /// Bytes one host call may carry, in either direction. Default 1 MiB.
    pub copy_max_bytes: usize,
    /// Handles it may hold. Default 1,024.
    pub handles_max: usize,
    /// Log lines per second of all instances of the server together, with bursts of twice as many. Default 100.
    pub log_lines_per_second: u32,
}

impl Default for InstanceLimits {
    fn default() -> Self {
        Self { memory_max_bytes: 32 << 20, copy_max_bytes: 1 << 20, handles_max: 1_024, log_lines_per_second: 100 }
    }
}

/// What a server gives every instance of its plugin.
pub(super) struct Context {
    pub(super) server: String,
    pub(super) settings: WasiConfigVariables,
    pub(super) limits: InstanceLimits,
    pub(super) bucket: Bucket,
    pub(super) counters: Arc<Counters>,
}

/// A plugin as the event procedure of one server. Cheap to clone.
#[derive(Clone)]
pub struct EventProcedure {
    plugin: Arc<Plugin>,
    edition: Arc<Edition>,
    context: Arc<Context>,
}

impl EventProcedure {
    /// Binds a plugin to a server: its name in logs, the plugin's settings and limits, and the counters for its
    /// output.
    #[must_use]
    pub fn new(
        plugin: Arc<Plugin>,
        server: &str,
        settings: impl IntoIterator<Item = (String, String)>,
        limits: InstanceLimits,
        counters: Arc<Counters>,
    ) -> Self {
        let settings = settings.into_iter().collect();
        let bucket = Bucket::new(limits.log_lines_per_second);
        let edition = counters.edition(&plugin.label().into());
        let context = Arc::new(Context { server: server.into(), settings, limits, bucket, counters });
        Self { plugin, edition, context }
    }

    /// The same server with another build.
    #[must_use]
    pub fn with_plugin(&self, plugin: Arc<Plugin>) -> Self {
        let edition = self.context.counters.edition(&plugin.label().into());
        Self { plugin, edition, context: Arc::clone(&self.context) }
    }

    /// Where its sessions are counted.
    #[must_use]
    pub fn edition(&self) -> &Arc<Edition> {
        &self.edition
    }

    /// The plugin.
    #[must_use]
    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }
}

impl Procedure for EventProcedure {
    type Instance = GuestInstance;

    async fn instantiate(&self, scope: Scope, budget: Budget) -> Result<GuestInstance, Fault> {
        let engine = self.plugin.engine();
        let limits = self.context.limits;
        let mut store = Store::new(&engine.inner, Guest::new(scope, Arc::clone(&self.context)));
        store.limiter(|guest| &mut guest.limiter);
        store.set_hostcall_fuel(limits.copy_max_bytes);
        store.set_max_component_handles(limits.handles_max);
        store.epoch_deadline_callback(on_tick);
        engine.ticker.touch();
        let broken = |error| Fault::new(crate::event::FaultKind::Host, format!("{error:#}"));
        begin(&mut store, budget).map_err(broken)?;
        match self.plugin.pre.instantiate_async(&mut store).await {
            Ok(exports) => {
                let spent = spent(&store, budget);
                Ok(GuestInstance { store, exports, fuel: spent, engine: engine.clone() })
            }
            Err(error) => Err(fault(&error, &mut store)),
        }
    }
}

/// One living copy with its store. Dropping it wipes its memory and frees its slot.
pub struct GuestInstance {
    store: Store<Guest>,
    exports: bindings::Plugin,
    fuel: u64,
    engine: super::Engine,
}

fn begin(store: &mut Store<Guest>, budget: Budget) -> wasmtime::Result<()> {
    store.set_fuel(budget.fuel)?;
    store.set_epoch_deadline(1);
    store.data_mut().clock.begin(budget.cpu);
    Ok(())
}

fn spent(store: &Store<Guest>, budget: Budget) -> u64 {
    budget.fuel.saturating_sub(store.get_fuel().unwrap_or(0))
}

impl Instance for GuestInstance {
    async fn dispatch(&mut self, event: Event<'_>, budget: Budget) -> Result<Action, Fault> {
        self.engine.ticker.touch();
        let store = &mut self.store;
        store.data_mut().limiter.refused = false;
        let guest = self.exports.wharf_server_inet_event_proc();
        let outcome = match begin(store, budget) {
            Err(error) => Err(error),
            Ok(()) => match event {
                Event::Read(data) => guest.call_on_read(store, data).await,
                Event::Write => guest.call_on_write(store).await,
                Event::Timeout { idle_ms } => guest.call_on_timeout(store, idle_ms).await,
                Event::Timer { id } => guest.call_on_timer(store, id).await,
                Event::End => guest.call_on_end(store).await,
                Event::Connect => {
                    let port = &store.data().scope.port;
                    let client = client_info(port.info(), port.priority());
                    guest.call_on_connect(store, &client).await
                }
                Event::Disconnect(reason) => {
                    guest.call_on_disconnect(store, reason.into()).await.map(|()| bindings::Action::Proceed)
                }
            },
        };
        match outcome {
            Ok(action) => {
                self.fuel += spent(&self.store, budget);
                Ok(action.into())
            }
            Err(error) => {
                // The engine loses count of what was spent before a trap, so the whole grant is charged.
                self.fuel += budget.fuel;
                Err(fault(&error, &mut self.store))
            }
        }
    }

    fn usage(&self) -> Usage {
        Usage { fuel: self.fuel, memory_bytes: self.store.data().limiter.memory as u64 }
    }
}
