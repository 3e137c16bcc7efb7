//! The handles that a flat instance holds of the host's resources.

use std::any::TypeId;

use wasmtime::component::Resource;
use wasmtime::{Result, bail};

/// One handle: the resource's type, and its number in the host's table.
#[derive(Debug, Clone, Copy)]
struct Handle {
    kind: TypeId,
    number: u32,
}

/// The handles of one instance. The numbers that a guest sees begin at 1, as in a component.
#[derive(Debug, Default)]
pub(super) struct Handles {
    all: Vec<Option<Handle>>,
    free: Vec<u32>,
    max: usize,
}

impl Handles {
    /// Makes an empty table for at most `max` handles at a time.
    pub(super) fn new(max: usize) -> Self {
        Self { all: Vec::new(), free: Vec::new(), max }
    }

    /// The guest's handle, lent to the host for one call.
    ///
    /// # Errors
    /// The guest has no such handle, or it is of another type.
    pub(super) fn lend<T: 'static>(&self, handle: u32) -> Result<Resource<T>> {
        Ok(Resource::new_borrow(self.find(handle, TypeId::of::<T>())?))
    }

    /// Gives the guest a new handle.
    ///
    /// # Errors
    /// The guest holds too many.
    pub(super) fn give<T: 'static>(&mut self, resource: &Resource<T>) -> Result<u32> {
        let handle = Some(Handle { kind: TypeId::of::<T>(), number: resource.rep() });
        if let Some(free) = self.free.pop() {
            self.all[free as usize] = handle;
            return Ok(free + 1);
        }
        if self.all.len() >= self.max {
            bail!("{TOO_MANY}");
        }
        self.all.push(handle);
        Ok(u32::try_from(self.all.len())?)
    }

    /// Takes a handle that the guest drops.
    ///
    /// # Errors
    /// As [`Handles::lend`].
    pub(super) fn take<T: 'static>(&mut self, handle: u32) -> Result<Resource<T>> {
        let number = self.find(handle, TypeId::of::<T>())?;
        self.all[handle as usize - 1] = None;
        self.free.push(handle - 1);
        Ok(Resource::new_own(number))
    }

    fn find(&self, handle: u32, kind: TypeId) -> Result<u32> {
        let at = (handle as usize).checked_sub(1);
        match at.and_then(|at| *self.all.get(at)?) {
            Some(found) if found.kind == kind => Ok(found.number),
            Some(_) => bail!("handle index {handle} used with the wrong type"),
            None => bail!("unknown handle index {handle}"),
        }
    }
}

/// The engine's message for the same error, which the fault's kind depends on.
const TOO_MANY: &str = "store handle limit exceeded";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct One;
    struct Other;

    proptest! {
        /// Steps of a guest against a plain list of what it holds.
        #[test]
        fn guests_reach_only_handles_they_hold(
            steps in proptest::collection::vec(0_u32..40, 0..200),
        ) {
            const MAX: usize = 5;
            let mut handles = Handles::new(MAX);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (number, step) in (0..).zip(steps) {
                if step % 3 == 0 {
                    match handles.give(&Resource::<One>::new_own(number)) {
                        Ok(handle) => {
                            prop_assert!(held.iter().all(|(other, _)| *other != handle));
                            held.push((handle, number));
                        }
                        Err(_) => prop_assert_eq!(held.len(), MAX),
                    }
                    continue;
                }
                let known = held.iter().position(|(handle, _)| *handle == step);
                let expected = known.map(|at| held[at].1);
                prop_assert!(handles.lend::<Other>(step).is_err());
                prop_assert!(handles.take::<Other>(step).is_err());
                let lent = handles.lend::<One>(step).ok().map(|resource| resource.rep());
                prop_assert_eq!(lent, expected);
                if step % 3 == 1 {
                    let taken = handles.take::<One>(step).ok().map(|resource| resource.rep());
                    prop_assert_eq!(taken, expected);
                    known.map(|at| held.swap_remove(at));
                }
            }
        }
    }

    #[test]
    fn zero_and_large_numbers_are_no_handles() {
        let mut handles = Handles::new(2);
        handles.give(&Resource::<One>::new_own(7)).expect("room");
        for handle in [0, 2, 3, u32::MAX] {
            assert!(handles.lend::<One>(handle).is_err(), "{handle}");
            assert!(handles.take::<One>(handle).is_err(), "{handle}");
        }
    }
}
