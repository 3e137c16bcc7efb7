//! Host functions for flat instances, each declared once by its Rust types.
//!
//! A function that waits, or whose answer needs memory of the guest, runs on the engine's fiber.
//! Any other is a plain call.

use std::collections::HashMap;
use std::future::{Future, poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use wasmtime::component::Resource;
use wasmtime::{
    Caller, Engine, FuncType, Linker, Memory, Result, Trap, Val, ValType, bail, format_err,
};

use super::abi::{Lift, Lower, PARAMS_FLAT_MAX, RESULTS_FLAT_MAX};
use super::passing::{Flat, Layout, Lifting, Lowering};
use super::slots::{Few, Numbers, Slot, Slots, bits};
use super::state::FlatState;
use super::structure::Target;
use crate::plugin::host_state::HostState;
use crate::plugin::imports::CALL_FUEL;

/// A future that borrows the guest's host state.
pub(super) type Waiting<'a, R> = Pin<Box<dyn Future<Output = Result<R>> + Send + 'a>>;
type Define = dyn Fn(&mut Linker<HostState>, FuncType, &str, &str) -> Result<()> + Send + Sync;

/// The engine's future of a call without a result.
type Done<'a> = Box<dyn Future<Output = Result<()>> + Send + 'a>;

/// Prefix of a resource's name for the function that drops it.
const DROP: &str = "[resource-drop]";

/// An interface's name without the part of its version in which compatible versions differ.
fn compatible(interface: &str) -> &str {
    let Some((name, version)) = interface.split_once('@') else { return interface };
    let mut parts = version.splitn(3, '.');
    let (major, minor, patch) = (parts.next(), parts.next(), parts.next());
    let (Some(major), Some(minor), Some(patch)) = (major, minor, patch) else { return interface };
    if patch.contains('-') {
        return interface;
    }
    let kept = if major == "0" { major.len() + 1 + minor.len() } else { major.len() };
    &interface[..name.len() + 1 + kept]
}

/// Whether calls of an interface take fuel.
fn is_charged(interface: &str) -> bool {
    interface.starts_with("wharf:")
}

/// The host functions that flat instances may import, by interface and name.
#[derive(Default)]
pub(super) struct Functions {
    all: HashMap<(&'static str, &'static str), Function>,
}

/// One host function.
struct Function {
    define: Arc<Define>,
    types: Types,
}

/// The core types of a function's parameters and results.
#[derive(Debug, Clone, Copy)]
pub(super) struct Types {
    pub(super) params: Slots,
    pub(super) results: Slots,
}

impl Types {
    /// Of an imported function.
    fn of<P: Layout, R: Layout>() -> Self {
        let pointer = Slots::one(Slot::I32);
        let params = if P::FLAT.count() <= PARAMS_FLAT_MAX { P::FLAT } else { pointer };
        match R::FLAT.count() <= RESULTS_FLAT_MAX {
            true => Self { params, results: R::FLAT },
            false => Self { params: params.then(pointer), results: Slots::NONE },
        }
    }

    fn signature(&self, engine: &Engine) -> FuncType {
        let all = |slots: &Slots| -> Vec<ValType> {
            slots.all().iter().map(|slot| ValType::from(*slot)).collect()
        };
        FuncType::new(engine, all(&self.params), all(&self.results))
    }
}

impl Functions {
    /// Defines a function, or the drop of a resource, as an import of a core module.
    ///
    /// # Errors
    /// There is no such function.
    pub(super) fn define(
        &self,
        linker: &mut Linker<HostState>,
        target: &Target,
        (module, field): (&str, &str),
    ) -> Result<()> {
        let (interface, name) = match target {
            Target::Call { interface, function, .. } => (interface, function.clone()),
            Target::Drop { interface, resource } => (interface, format!("{DROP}{resource}")),
        };
        match self.all.get(&(compatible(interface), name.as_str())) {
            Some(Function { define, types }) => {
                let ty = types.signature(linker.engine());
                define(linker, ty, module, field)
            }
            None => bail!("`{name}` of `{interface}` is not offered to flat instances"),
        }
    }

    /// The core types of a function's parameters and results.
    #[cfg(test)]
    pub(super) fn signature(&self, interface: &str, name: &str) -> Option<Types> {
        self.all.get(&(compatible(interface), name)).map(|function| function.types)
    }

    /// Adds a resource, of which guests hold handles. `dropped` is called when the guest drops one.
    pub(super) fn resource<T: 'static>(
        &mut self,
        interface: &'static str,
        name: &'static str,
        dropped: fn(&mut HostState, Resource<T>) -> Result<()>,
    ) {
        let define: Arc<Define> = Arc::new(move |linker, _, module, field| {
            linker.func_wrap(
                module,
                field,
                move |mut caller: Caller<'_, HostState>, handle: u32| {
                    let flat = FlatState::of(&mut caller)?;
                    let resource = flat.handles.take::<T>(handle)?;
                    dropped(caller.data_mut(), resource)
                },
            )?;
            Ok(())
        });
        self.all.insert((interface, name), Function { define, types: Types::of::<(u32,), ()>() });
    }

    /// Adds a call that does not wait.
    pub(super) fn call<P, R>(
        &mut self,
        interface: &'static str,
        name: &'static str,
        call: impl Fn(&mut Caller<'_, HostState>, P) -> Result<R> + Send + Sync + Copy + 'static,
    ) where
        P: Lift + Send + 'static,
        R: Lower + Send + Sync + 'static,
    {
        let is_charged = is_charged(interface);
        let define: Arc<Define> = if R::ASKS {
            Arc::new(move |linker, ty, module, field| {
                linker.func_new_async(module, field, ty, move |mut caller, params, results| {
                    Box::new(async move {
                        let (params, place) = lift::<P, R>(&mut caller, is_charged, params)?;
                        let answer = call(&mut caller, params)?;
                        answer_later(&mut caller, &answer, place, results).await
                    })
                })?;
                Ok(())
            })
        } else {
            Arc::new(move |linker, ty, module, field| {
                linker.func_new(module, field, ty, move |mut caller, params, results| {
                    let (params, place) = lift::<P, R>(&mut caller, is_charged, params)?;
                    let answer = call(&mut caller, params)?;
                    give(&mut caller, &answer, &Few::new(), place, results)
                })?;
                Ok(())
            })
        };
        self.all.insert((interface, name), Function { define, types: Types::of::<P, R>() });
    }

    /// As [`Functions::resource`], if the drop may wait.
    pub(super) fn resource_that_waits<T: Send + 'static>(
        &mut self,
        interface: &'static str,
        name: &'static str,
        dropped: for<'a> fn(&'a mut HostState, Resource<T>) -> Waiting<'a, ()>,
    ) {
        let define: Arc<Define> = Arc::new(move |linker, _, module, field| {
            linker.func_wrap_async(module, field, move |mut caller, (handle,): (u32,)| {
                let resource =
                    FlatState::of(&mut caller).and_then(|flat| flat.handles.take::<T>(handle));
                Box::new(async move { dropped(caller.data_mut(), resource?).await })
            })?;
            Ok(())
        });
        self.all.insert((interface, name), Function { define, types: Types::of::<(u32,), ()>() });
    }

    /// Adds a call of three core parameters and no core result, which is polled until it is done.
    /// It is tried at once, without a future.
    pub(super) fn poll<P, R>(
        &mut self,
        interface: &'static str,
        name: &'static str,
        call: fn(&mut Caller<'_, HostState>, P, &mut Context<'_>) -> Poll<Result<R>>,
    ) where
        P: Lift + Copy + Send + 'static,
        R: Lower + Send + Sync + 'static,
    {
        let is_charged = is_charged(interface);
        let define: Arc<Define> = Arc::new(move |linker, _, module, field| {
            linker.func_wrap_async(module, field, move |mut caller, params: (u32, u32, u32)| {
                let numbers = [params.0.into(), params.1.into(), params.2.into()];
                let begun = begin::<P, R>(&mut caller, is_charged, &numbers);
                let (params, place) = match begun {
                    Ok(begun) => begun,
                    Err(error) => return Box::new(ready(Err(error))) as Done<'_>,
                };
                let mut cx = Context::from_waker(Waker::noop());
                if let Poll::Ready(answer) = call(&mut caller, params, &mut cx) {
                    let done = answer
                        .and_then(|answer| finish(&mut caller, &answer, &Few::new(), place))
                        .map(drop);
                    return Box::new(ready(done));
                }
                Box::new(async move {
                    let guest = &mut caller;
                    let answer = poll_fn(move |cx| call(guest, params, cx)).await?;
                    finish(&mut caller, &answer, &Few::new(), place).map(drop)
                })
            })?;
            Ok(())
        });
        self.all.insert((interface, name), Function { define, types: Types::of::<P, R>() });
    }

    /// Adds a call that may wait.
    pub(super) fn wait<P, R>(
        &mut self,
        interface: &'static str,
        name: &'static str,
        call: impl for<'a, 'b> Fn(&'a mut Caller<'b, HostState>, P) -> Waiting<'a, R>
        + Send
        + Sync
        + Copy
        + 'static,
    ) where
        P: Lift + Send + 'static,
        R: Lower + Send + Sync + 'static,
    {
        let is_charged = is_charged(interface);
        let define: Arc<Define> = Arc::new(move |linker, ty, module, field| {
            linker.func_new_async(module, field, ty, move |mut caller, params, results| {
                Box::new(async move {
                    let (params, place) = lift::<P, R>(&mut caller, is_charged, params)?;
                    let answer = call(&mut caller, params).await?;
                    answer_later(&mut caller, &answer, place, results).await
                })
            })?;
            Ok(())
        });
        self.all.insert((interface, name), Function { define, types: Types::of::<P, R>() });
    }
}

/// As [`begin`], with the parameters as the engine passes them.
fn lift<P: Lift, R: Lower>(
    caller: &mut Caller<'_, HostState>,
    is_charged: bool,
    params: &[Val],
) -> Result<(P, Option<usize>)> {
    let mut numbers = [0; PARAMS_FLAT_MAX + 1];
    for (number, value) in numbers.iter_mut().zip(params) {
        *number = bits(value)?;
    }
    begin::<P, R>(caller, is_charged, &numbers)
}

/// Reads the parameters, and the place for a result that is not flat. Charges the call with its
/// bytes if it is one of the contract's: the engine's own calls are free, as in a component.
fn begin<P: Lift, R: Lower>(
    caller: &mut Caller<'_, HostState>,
    is_charged: bool,
    numbers: &[u64],
) -> Result<(P, Option<usize>)> {
    let flat = FlatState::of(caller)?;
    if !flat.may_leave {
        bail!(Trap::CannotLeaveComponent);
    }
    let memory = flat.memory;
    let (memory, state) = memory.data_and_store_mut(&mut *caller);
    let most = state.context.limits.copy_max_bytes;
    let Some(flat) = &mut state.flat else { bail!("no flat instance") };
    let mut from = Lifting { memory, handles: &mut flat.handles, left: most };
    let mut numbers = Flat(numbers);
    let value = match P::FLAT.count() <= PARAMS_FLAT_MAX {
        true => P::lift(&mut numbers, &mut from)?,
        false => {
            let at = from.single::<P>(numbers.next()?)?;
            P::load(at, &mut from)?
        }
    };
    let place = match R::FLAT.count() <= RESULTS_FLAT_MAX {
        true => None,
        false => Some(from.single::<R>(numbers.next()?)?),
    };
    let copied = most - from.left;
    if is_charged {
        charge(caller, CALL_FUEL + copied as u64)?;
    }
    Ok((value, place))
}

/// Takes fuel from the event. The next operator of the guest traps if nothing is left.
pub(super) fn charge(caller: &mut Caller<'_, HostState>, fuel: u64) -> Result<()> {
    let left = caller.get_fuel()?.saturating_sub(fuel);
    caller.set_fuel(left)
}

/// As [`finish`], with the results as the engine passes them.
fn give<R: Lower>(
    caller: &mut Caller<'_, HostState>,
    answer: &R,
    given: &Few<u32>,
    place: Option<usize>,
    results: &mut [Val],
) -> Result<()> {
    let number = finish(caller, answer, given, place)?;
    if let (Some(result), Some(slot)) = (results.first_mut(), R::FLAT.all().first()) {
        *result = slot.value(number);
    }
    Ok(())
}

/// Writes an answer for which the guest has allocated what it needs. Returns the flat result, or 0
/// if there is none.
fn finish<R: Lower>(
    caller: &mut Caller<'_, HostState>,
    answer: &R,
    given: &Few<u32>,
    place: Option<usize>,
) -> Result<u64> {
    let memory = FlatState::of(caller)?.memory;
    let (memory, state) = memory.data_and_store_mut(&mut *caller);
    let Some(flat) = &mut state.flat else { bail!("no flat instance") };
    let mut to = Lowering { memory, handles: &mut flat.handles, given, used: 0 };
    if let Some(at) = place {
        answer.store(at, &mut to)?;
        return Ok(0);
    }
    let mut numbers = Numbers::new();
    answer.lower(&mut numbers, &mut to)?;
    Ok(numbers.all().first().copied().unwrap_or_default())
}

/// Lets the guest allocate what the answer needs, then writes it.
async fn answer_later<R: Lower>(
    caller: &mut Caller<'_, HostState>,
    answer: &R,
    place: Option<usize>,
    results: &mut [Val],
) -> Result<()> {
    let (mut needs, mut given) = (Few::new(), Few::new());
    answer.ask(&mut needs);
    if !needs.is_empty() {
        let realloc = FlatState::of(caller)?.realloc.clone();
        let realloc = realloc.ok_or_else(|| format_err!("it has no `cabi_realloc`"))?;
        FlatState::of(caller)?.may_leave = false;
        for need in (0..needs.len()).filter_map(|at| needs.get(at)) {
            let ask = (0, 0, u32::try_from(need.align)?, u32::try_from(need.size)?);
            given.push(realloc.call_async(&mut *caller, ask).await?);
        }
        FlatState::of(caller)?.may_leave = true;
    }
    give(caller, answer, &given, place, results)
}

/// The memory of the calling instance.
pub(super) fn memory(caller: &mut Caller<'_, HostState>) -> Result<Memory> {
    Ok(FlatState::of(caller)?.memory)
}
