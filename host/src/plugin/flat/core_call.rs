//! A core function that the host calls, with its type checked once.

use wasmtime::{Func, Instance, Result, Store, TypedFunc, Val, format_err};

use super::abi::{PARAMS_FLAT_MAX, RESULTS_FLAT_MAX};
use super::passing::Layout;
use super::slots::{Slot, Slots, bits};
use crate::plugin::host_state::HostState;

/// A core function. The types that occur in events are known to the compiler, so that a call of
/// them is not checked again.
pub(super) enum CoreCall {
    Plain(TypedFunc<(), u32>),
    Int(TypedFunc<(u32,), u32>),
    Long(TypedFunc<(u64,), u32>),
    Pair(TypedFunc<(u32, u32), u32>),
    Silent(TypedFunc<(u32,), ()>),
    Other(Box<Unusual>),
}

/// A core function of another type, which is checked at each call. Boxed, because it is large.
pub(super) struct Unusual {
    function: Func,
    params: Slots,
    results: Slots,
}

impl CoreCall {
    /// Finds the export that takes `P` and returns `R`.
    ///
    /// # Errors
    /// There is none, or it has another type.
    pub(super) fn find<P: Layout + ?Sized, R: Layout>(
        store: &mut Store<HostState>,
        instance: &Instance,
        name: &str,
    ) -> Result<Self> {
        let pointer = Slots::one(Slot::I32);
        let params = if P::FLAT.count() > PARAMS_FLAT_MAX { pointer } else { P::FLAT };
        let results = if R::FLAT.count() > RESULTS_FLAT_MAX { pointer } else { R::FLAT };
        let function = instance.get_func(&mut *store, name);
        let function = function.ok_or_else(|| format_err!("it exports no `{name}`"))?;
        Ok(match (params.all(), results.all()) {
            ([], [Slot::I32]) => Self::Plain(function.typed(&*store)?),
            ([Slot::I32], [Slot::I32]) => Self::Int(function.typed(&*store)?),
            ([Slot::I64], [Slot::I32]) => Self::Long(function.typed(&*store)?),
            ([Slot::I32, Slot::I32], [Slot::I32]) => Self::Pair(function.typed(&*store)?),
            ([Slot::I32], []) => Self::Silent(function.typed(&*store)?),
            _ => Self::Other(Box::new(Unusual { function, params, results })),
        })
    }

    /// Calls the function. Returns its result, or 0 if it has none.
    ///
    /// # Errors
    /// A trap, or an error of a host call.
    pub(super) async fn call(&self, store: &mut Store<HostState>, numbers: &[u64]) -> Result<u64> {
        let number = |at: usize| numbers.get(at).copied().unwrap_or_default();
        let int = |at: usize| number(at) as u32;
        Ok(match self {
            Self::Plain(function) => function.call_async(store, ()).await?.into(),
            Self::Int(function) => function.call_async(store, (int(0),)).await?.into(),
            Self::Long(function) => function.call_async(store, (number(0),)).await?.into(),
            Self::Pair(function) => function.call_async(store, (int(0), int(1))).await?.into(),
            Self::Silent(function) => {
                function.call_async(store, (int(0),)).await?;
                0
            }
            Self::Other(unusual) => {
                let Unusual { function, params, results } = &**unusual;
                let given = params.all().iter().zip(numbers);
                let given: Vec<Val> = given.map(|(slot, number)| slot.value(*number)).collect();
                let mut returned = vec![Val::I32(0); results.count()];
                function.call_async(store, &given, &mut returned).await?;
                returned.first().map_or(Ok(0), bits)?
            }
        })
    }
}
