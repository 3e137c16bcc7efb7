//! One flat instance: made, called once per event, and asked to save and restore.

use wasmtime::{Func, Result, Store, Val, bail, format_err};

use super::FlatPlugin;
use super::abi::{Lift, Lower, PARAMS_FLAT_MAX, RESULTS_FLAT_MAX};
use super::handles::Handles;
use super::passing::{Flat, Lifting, Lowering, Need};
use super::slots::{Few, Numbers, Slot, Slots, bits};
use super::state::{FlatState, Realloc};
use super::structure::Export;
use crate::event::Event;
use crate::plugin::bindings::{Action, DisconnectReason, client_info};
use crate::plugin::host_state::HostState;

/// Name of the event procedure's interface, without its version.
const EVENTS: &str = "wharf:server/inet-event-proc";
/// Name of the hand-over's interface, without its version.
const HANDOFF: &str = "wharf:server/handoff";

/// A flat instance. The store that it is in belongs to it alone.
pub(in crate::plugin) struct FlatInstance {
    on_connect: Call,
    on_read: Call,
    on_write: Call,
    on_timeout: Call,
    on_timer: Call,
    on_end: Call,
    on_disconnect: Call,
    handoff: Option<(Call, Call)>,
}

/// An export, with the function that frees what its result takes.
struct Call {
    function: Func,
    post_return: Option<Func>,
}

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
        let memory =
            structure.memory.as_deref().and_then(|name| instance.get_memory(&mut *store, name));
        let memory = memory.ok_or_else(|| format_err!("it exports no memory"))?;
        let realloc: Option<Realloc> = match &structure.realloc {
            Some(name) => Some(instance.get_typed_func(&mut *store, name)?),
            None => None,
        };
        let handles = Handles::new(handles_max);
        store.data_mut().flat =
            Some(Box::new(FlatState { memory, realloc, handles, may_leave: true }));
        let mut find = |interface: &str, function: &str| -> Option<Call> {
            let fits = |export: &&Export| {
                let of = export.interface.split_once('@').map(|(name, _)| name);
                of == Some(interface) && export.function == function
            };
            let export = structure.exports.iter().find(fits)?;
            let post_return = match &export.post_return {
                Some(name) => Some(instance.get_func(&mut *store, name)?),
                None => None,
            };
            Some(Call { function: instance.get_func(&mut *store, &export.core)?, post_return })
        };
        let handoff = find(HANDOFF, "save").zip(find(HANDOFF, "restore"));
        let mut event = |function: &str| {
            find(EVENTS, function).ok_or_else(|| format_err!("it exports no `{function}`"))
        };
        Ok(FlatInstance {
            on_connect: event("on-connect")?,
            on_read: event("on-read")?,
            on_write: event("on-write")?,
            on_timeout: event("on-timeout")?,
            on_timer: event("on-timer")?,
            on_end: event("on-end")?,
            on_disconnect: event("on-disconnect")?,
            handoff,
        })
    }
}

impl FlatInstance {
    /// Handles one event.
    ///
    /// # Errors
    /// A trap, or an error of a host call. The instance is of no more use.
    pub(in crate::plugin) async fn event(
        &self,
        store: &mut Store<HostState>,
        event: Event<'_>,
    ) -> Result<Action> {
        match event {
            Event::Read(data) => call(store, &self.on_read, data).await,
            Event::Write => call(store, &self.on_write, &()).await,
            Event::Timeout { idle_ms } => call(store, &self.on_timeout, &idle_ms).await,
            Event::Timer { id } => call(store, &self.on_timer, &id).await,
            Event::End => call(store, &self.on_end, &()).await,
            Event::Connect => {
                let port = &store.data().scope.port;
                let client = client_info(port.info(), port.priority());
                call(store, &self.on_connect, &client).await
            }
            Event::Disconnect(reason) => {
                let reason = DisconnectReason::from(reason);
                let () = call(store, &self.on_disconnect, &reason).await?;
                Ok(Action::Proceed)
            }
        }
    }

    /// As the contract's `save`.
    ///
    /// # Errors
    /// As [`FlatInstance::event`].
    pub(in crate::plugin) async fn save(&self, store: &mut Store<HostState>) -> Result<Vec<u8>> {
        let Some((save, _)) = &self.handoff else { bail!("it exports no `save`") };
        call(store, save, &()).await
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
        let Some((_, restore)) = &self.handoff else { bail!("it exports no `restore`") };
        let restored: std::result::Result<(), String> =
            call(store, restore, &(version, state)).await?;
        Ok(restored.err())
    }
}

/// Calls an export with these parameters, and reads its result.
async fn call<P: Lower + ?Sized, R: Lift>(
    store: &mut Store<HostState>,
    export: &Call,
    params: &P,
) -> Result<R> {
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
    let slots = if P::FLAT.count() > PARAMS_FLAT_MAX { Slots::one(Slot::I32) } else { P::FLAT };
    let mut values = [const { Val::I32(0) }; PARAMS_FLAT_MAX];
    for ((place, slot), number) in values.iter_mut().zip(slots.all()).zip(numbers.all()) {
        *place = slot.value(*number);
    }
    let mut results = [Val::I32(0)];
    let results = &mut results[..R::FLAT.count().min(RESULTS_FLAT_MAX)];
    export.function.call_async(&mut *store, &values[..slots.count()], results).await?;
    let number = results.first().map_or(Ok(0), bits)?;
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
    if let Some(post_return) = &export.post_return {
        flat(store)?.may_leave = false;
        post_return.call_async(&mut *store, results, &mut []).await?;
        flat(store)?.may_leave = true;
    }
    Ok(result)
}

fn flat(store: &mut Store<HostState>) -> Result<&mut FlatState> {
    let state = store.data_mut().flat.as_deref_mut();
    state.ok_or_else(|| format_err!("the instance is not made yet"))
}
