//! One flat instance: made, called once per event, and asked to save and restore.

use std::sync::Arc;

use wasmtime::{Instance, Result, Store, Trap, bail, format_err};

use super::FlatPlugin;
use super::abi::{Lift, Lower, PARAMS_FLAT_MAX, RESULTS_FLAT_MAX};
use super::core_call::CoreCall;
use super::handles::Handles;
use super::passing::{Flat, Layout, Lifting, Lowering, Need};
use super::slots::{Few, Numbers};
use super::state::{FlatState, Realloc};
use super::structure::{Export, Structure};
use crate::event::Event;
use crate::plugin::bindings::{Action, ClientInfo, DisconnectReason, client_info};
use crate::plugin::host_state::HostState;

/// Name of the event procedure's interface, without its version.
const EVENTS: &str = "wharf:server/inet-event-proc";
/// Name of the hand-over's interface, without its version.
const HANDOFF: &str = "wharf:server/handoff";

/// A flat instance. The store that it is in belongs to it alone.
pub(in crate::plugin) struct FlatInstance {
    instance: Instance,
    structure: Arc<Structure>,
    on_connect: Option<Call>,
    on_read: Option<Call>,
    on_write: Option<Call>,
    on_timeout: Option<Call>,
    on_timer: Option<Call>,
    on_end: Option<Call>,
    on_disconnect: Option<Call>,
}

/// An export, with the function that frees what its result takes. Found at its first use, because
/// most sessions use few.
struct Call {
    function: CoreCall,
    /// Boxed, because no event has one.
    post_return: Option<Box<CoreCall>>,
}

/// The plugin's answer to `restore`.
type Restored = std::result::Result<(), String>;

impl FlatPlugin {
    /// Makes an instance in a new store.
    ///
    /// # Errors
    /// The plugin's start trapped, or the engine has no room.
    pub(in crate::plugin) async fn make(
        &self,
        store: &mut Store<HostState>,
        handles_max: usize,
    ) -> Result<FlatInstance> {
        let instance = self.pre.instantiate_async(&mut *store).await?;
        let structure = &self.structure;
        let memory = structure.memory.as_deref();
        let memory = memory.and_then(|name| instance.get_memory(&mut *store, name));
        let memory = memory.ok_or_else(|| format_err!("it exports no memory"))?;
        let realloc: Option<Realloc> = match &structure.realloc {
            Some(name) => Some(instance.get_typed_func(&mut *store, name)?),
            None => None,
        };
        let handles = Handles::new(handles_max);
        store.data_mut().flat =
            Some(Box::new(FlatState { memory, realloc, handles, entered: false, may_leave: true }));
        Ok(FlatInstance {
            instance,
            structure: Arc::clone(structure),
            on_connect: None,
            on_read: None,
            on_write: None,
            on_timeout: None,
            on_timer: None,
            on_end: None,
            on_disconnect: None,
        })
    }
}

/// Finds an exported function of an interface.
///
/// # Errors
/// There is none, or it has another type.
fn find<P: Layout + ?Sized, R: Layout>(
    instance: &Instance,
    structure: &Structure,
    store: &mut Store<HostState>,
    interface: &str,
    function: &str,
) -> Result<Call> {
    let fits = |export: &&Export| {
        let of = export.interface.split_once('@').map(|(name, _)| name);
        export.function == function && of == Some(interface)
    };
    let export = structure.exports.iter().find(fits);
    let export = export.ok_or_else(|| format_err!("it exports no `{function}`"))?;
    let post_return = match &export.post_return {
        // It takes what the function returns.
        Some(name) if R::FLAT.count() == 0 => {
            Some(Box::new(CoreCall::find::<(), ()>(store, instance, name)?))
        }
        Some(name) => Some(Box::new(CoreCall::find::<u32, ()>(store, instance, name)?)),
        None => None,
    };
    Ok(Call { function: CoreCall::find::<P, R>(store, instance, &export.core)?, post_return })
}

impl FlatInstance {
    /// Handles one event.
    ///
    /// # Errors
    /// A trap, or an error of a host call. The instance is of no more use.
    pub(in crate::plugin) async fn event(
        &mut self,
        store: &mut Store<HostState>,
        event: Event<'_>,
    ) -> Result<Action> {
        let name = event.name();
        let Self { instance, structure, .. } = self;
        match event {
            Event::Read(data) => {
                let call = ready(&mut self.on_read, || {
                    find::<[u8], Action>(instance, structure, store, EVENTS, name)
                })?;
                call.with(store, data).await
            }
            Event::Write => {
                let call = ready(&mut self.on_write, || {
                    find::<(), Action>(instance, structure, store, EVENTS, name)
                })?;
                call.with(store, &()).await
            }
            Event::Timeout { idle_ms } => {
                let call = ready(&mut self.on_timeout, || {
                    find::<u64, Action>(instance, structure, store, EVENTS, name)
                })?;
                call.with(store, &idle_ms).await
            }
            Event::Timer { id } => {
                let call = ready(&mut self.on_timer, || {
                    find::<u32, Action>(instance, structure, store, EVENTS, name)
                })?;
                call.with(store, &id).await
            }
            Event::End => {
                let call = ready(&mut self.on_end, || {
                    find::<(), Action>(instance, structure, store, EVENTS, name)
                })?;
                call.with(store, &()).await
            }
            Event::Connect => {
                let call = ready(&mut self.on_connect, || {
                    find::<ClientInfo, Action>(instance, structure, store, EVENTS, name)
                })?;
                let port = &store.data().scope.port;
                let client = client_info(port.info(), port.priority());
                call.with(store, &client).await
            }
            Event::Disconnect(reason) => {
                let call = ready(&mut self.on_disconnect, || {
                    find::<DisconnectReason, ()>(instance, structure, store, EVENTS, name)
                })?;
                let () = call.with(store, &DisconnectReason::from(reason)).await?;
                Ok(Action::Proceed)
            }
        }
    }

    /// As the contract's `save`.
    ///
    /// # Errors
    /// As [`FlatInstance::event`].
    pub(in crate::plugin) async fn save(&self, store: &mut Store<HostState>) -> Result<Vec<u8>> {
        let (instance, structure) = (&self.instance, &self.structure);
        let save = find::<(), Vec<u8>>(instance, structure, store, HANDOFF, "save")?;
        save.with(store, &()).await
    }

    /// As the contract's `restore`. Returns the plugin's refusal, if it refuses.
    ///
    /// # Errors
    /// As [`FlatInstance::event`].
    pub(in crate::plugin) async fn restore(
        &self,
        store: &mut Store<HostState>,
        version: String,
        state: Vec<u8>,
    ) -> Result<Option<String>> {
        type Params = (String, Vec<u8>);
        let (instance, structure) = (&self.instance, &self.structure);
        let restore = find::<Params, Restored>(instance, structure, store, HANDOFF, "restore")?;
        let restored: Restored = restore.with(store, &(version, state)).await?;
        Ok(restored.err())
    }
}

/// The call in a slot, which is found at its first use.
fn ready(slot: &mut Option<Call>, found: impl FnOnce() -> Result<Call>) -> Result<&Call> {
    match slot {
        Some(call) => Ok(call),
        None => Ok(slot.insert(found()?)),
    }
}

impl Call {
    /// Calls an export with these parameters, and reads its result.
    async fn with<P: Lower + ?Sized, R: Lift>(
        &self,
        store: &mut Store<HostState>,
        params: &P,
    ) -> Result<R> {
        if std::mem::replace(&mut flat(store)?.entered, true) {
            // A call trapped, or its future was dropped in the middle of the guest.
            bail!(Trap::CannotEnterComponent);
        }
        let (mut needs, mut given) = (Few::new(), Few::new());
        if P::FLAT.count() > PARAMS_FLAT_MAX {
            needs.push(Need { align: P::ALIGN, size: P::SIZE });
        }
        params.ask(&mut needs);
        if !needs.is_empty() {
            let realloc = flat(store)?.realloc.clone();
            let realloc = realloc.ok_or_else(|| format_err!("it has no `cabi_realloc`"))?;
            flat(store)?.may_leave = false;
            for need in (0..needs.len()).filter_map(|at| needs.get(at)) {
                let ask = (0, 0, u32::try_from(need.align)?, u32::try_from(need.size)?);
                given.push(realloc.call_async(&mut *store, ask).await?);
            }
            flat(store)?.may_leave = true;
        }
        let mut numbers = Numbers::new();
        {
            let memory = flat(store)?.memory;
            let (memory, state) = memory.data_and_store_mut(&mut *store);
            let Some(flat) = &mut state.flat else { bail!("no flat instance") };
            let mut to = Lowering { memory, handles: &mut flat.handles, given: &given, used: 0 };
            if P::FLAT.count() > PARAMS_FLAT_MAX {
                let at = to.given(Need { align: P::ALIGN, size: P::SIZE })?;
                params.store(at, &mut to)?;
                numbers.push(at as u64);
            } else {
                params.lower(&mut numbers, &mut to)?;
            }
        }
        let number = self.function.call(store, numbers.all()).await?;
        let result = {
            let left = store.hostcall_fuel();
            let memory = flat(store)?.memory;
            let (memory, state) = memory.data_and_store_mut(&mut *store);
            let Some(flat) = &mut state.flat else { bail!("no flat instance") };
            let mut from = Lifting { memory, handles: &mut flat.handles, left };
            match R::FLAT.count() > RESULTS_FLAT_MAX {
                true => {
                    let at = from.single::<R>(number)?;
                    R::load(at, &mut from)?
                }
                false => R::lift(&mut Flat(&[number]), &mut from)?,
            }
        };
        if let Some(post_return) = &self.post_return {
            flat(store)?.may_leave = false;
            post_return.call(store, &[number]).await?;
            flat(store)?.may_leave = true;
        }
        flat(store)?.entered = false;
        Ok(result)
    }
}

fn flat(store: &mut Store<HostState>) -> Result<&mut FlatState> {
    let state = store.data_mut().flat.as_deref_mut();
    state.ok_or_else(|| format_err!("the instance is not made yet"))
}
