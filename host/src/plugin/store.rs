//! One instance of a plugin with its store: made, called once per event, and dropped.

use std::sync::Arc;

use wasmtime::component::Instance;
use wasmtime::{Module, Store};

use super::Engine;
use super::bindings::{self, client_info};
use super::context::Context;
use super::engine::Live;
use super::flat::{FlatInstance, MAIN_MODULE};
use super::host_state::{HostState, apart_from_others, on_tick};

use super::ledger::Room;
use super::loaded::Plugin;
use super::trap::fault;
use crate::event::{Action, Budget, Event, Fault, FaultKind, Scope};

/// The way in which a plugin runs.
pub(super) enum Guest {
    /// As a component, with the engine's component layer.
    Component { instance: Instance, exports: bindings::Plugin },
    /// As its main core module.
    Flat(Box<FlatInstance>),
}

/// An instance and its store. Dropping it wipes its memory and frees its slot.
pub(super) struct PluginStore {
    pub(super) store: Store<HostState>,
    pub(super) guest: Guest,
    engine: Engine,
    /// Dropped after the store, so that no instance is left when none is counted.
    _live: Live,
    /// Dropped last, after the store has given back all that the room covers.
    _room: Room,
}

impl PluginStore {
    /// Makes an instance for this session. Returns it with the fuel spent. Dropping the future is
    /// safe.
    pub(super) async fn make(
        plugin: &Plugin,
        context: &Arc<Context>,
        scope: Scope,
        budget: Budget,
    ) -> Result<(Self, u64), Fault> {
        let engine = plugin.engine();
        let limits = context.limits;
        let room = context.holding.enter(plugin.footprint(), budget.wall / 2).await;
        let room =
            room.map_err(|shortage| Fault::new(FaultKind::Capacity, shortage.to_string()))?;
        let mut store = Store::new(
            &engine.inner,
            HostState::new(scope, Arc::clone(context), engine.ticker.clone()),
        );
        store.limiter(|guest| &mut guest.limiter);
        store.set_hostcall_fuel(limits.copy_max_bytes);
        store.set_max_component_handles(limits.handles_max);
        store.epoch_deadline_callback(on_tick);
        engine.ticker.touch();
        begin(&mut store, budget)
            .map_err(|error| Fault::new(FaultKind::Host, format!("{error:#}")))?;
        match Self::instantiate(plugin, &mut store).await {
            Ok(guest) => {
                let spent = spent(&store, budget);
                let (engine, live) = (engine.clone(), engine.lives());
                Ok((Self { store, guest, engine, _live: live, _room: room }, spent))
            }
            Err(error) => Err(fault(&error, &mut store)),
        }
    }

    async fn instantiate(plugin: &Plugin, store: &mut Store<HostState>) -> wasmtime::Result<Guest> {
        if let Some(flat) = &plugin.flat {
            let handles_max = store.data().context.limits.handles_max;
            return Ok(Guest::Flat(Box::new(flat.make(store, handles_max).await?)));
        }
        let instance = plugin.pre.instantiate_async(&mut *store).await?;
        let exports = plugin.indices.load(&mut *store, &instance)?;
        Ok(Guest::Component { instance, exports })
    }

    /// The main core module of a component that exports it to the host.
    pub(super) fn main_module(&mut self) -> Option<Module> {
        match &self.guest {
            Guest::Component { instance, .. } => instance.get_module(&mut self.store, MAIN_MODULE),
            Guest::Flat(_) => None,
        }
    }

    /// Handles one event of the present session. Returns the answer with the fuel spent.
    ///
    /// After a fault, or if the future is dropped, the instance is of no more use.
    pub(super) async fn call(
        &mut self,
        event: Event<'_>,
        budget: Budget,
    ) -> Result<(Action, u64), Fault> {
        self.engine.ticker.touch();
        let store = &mut self.store;
        store.data_mut().limiter.refused = None;
        let guest = &mut self.guest;
        let slice = store.data().clock.slice();
        let outcome = match begin(store, budget) {
            Err(error) => Err(error),
            Ok(()) => {
                let handled = async {
                    let guest = match guest {
                        Guest::Component { exports, .. } => exports.wharf_server_inet_event_proc(),
                        Guest::Flat(flat) => return flat.event(store, event).await,
                    };
                    match event {
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
                        Event::Disconnect(reason) => guest
                            .call_on_disconnect(store, reason.into())
                            .await
                            .map(|()| bindings::Action::Proceed),
                    }
                };
                apart_from_others(slice, handled).await
            }
        };
        match outcome {
            Ok(action) => Ok((action.into(), spent(&self.store, budget))),
            Err(error) => Err(fault(&error, &mut self.store)),
        }
    }

    /// Sets the session that the instance acts on from now on.
    pub(super) fn serve(&mut self, scope: Scope) {
        self.store.data_mut().serve(scope);
    }

    /// Bytes of linear memory now.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.store.data().limiter.memory as u64
    }
}

pub(super) fn begin(store: &mut Store<HostState>, budget: Budget) -> wasmtime::Result<()> {
    store.set_fuel(budget.fuel)?;
    store.set_epoch_deadline(1);
    store.data_mut().clock.begin(budget.cpu);
    Ok(())
}

pub(super) fn spent(store: &Store<HostState>, budget: Budget) -> u64 {
    budget.fuel.saturating_sub(store.get_fuel().unwrap_or(0))
}
