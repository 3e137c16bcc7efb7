//! The core values of a value's flat form: their types, known when the host is compiled, and their
//! numbers, without an allocation.

use wasmtime::{Result, Val, ValType, bail};

/// Most core values of the flat form of any type of the contract.
const SLOTS_MAX: usize = 32;

/// A core value's type in a flat form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    I32,
    I64,
}

impl Slot {
    /// The core value of this type with these bits.
    pub(super) fn value(self, bits: u64) -> Val {
        match self {
            Self::I32 => Val::I32((bits as u32).cast_signed()),
            Self::I64 => Val::I64(bits.cast_signed()),
        }
    }
}

impl From<Slot> for ValType {
    fn from(slot: Slot) -> Self {
        match slot {
            Slot::I32 => Self::I32,
            Slot::I64 => Self::I64,
        }
    }
}

/// The bits of a core value.
///
/// # Errors
/// It is no integer.
pub(super) fn bits(value: &Val) -> Result<u64> {
    match value {
        Val::I32(value) => Ok(u64::from(value.cast_unsigned())),
        Val::I64(value) => Ok(value.cast_unsigned()),
        _ => bail!("expected an integer"),
    }
}

/// The types of a flat form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slots {
    all: [Slot; SLOTS_MAX],
    count: usize,
}

impl Slots {
    /// Of no value.
    pub(super) const NONE: Self = Self { all: [Slot::I32; SLOTS_MAX], count: 0 };

    /// Of one core value.
    pub(super) const fn one(slot: Slot) -> Self {
        Self { all: [slot; SLOTS_MAX], count: 1 }
    }

    /// Of one value and then another.
    pub(super) const fn then(mut self, next: Self) -> Self {
        let mut at = 0;
        while at < next.count {
            self.all[self.count] = next.all[at];
            self.count += 1;
            at += 1;
        }
        self
    }

    /// Of a variant with these two cases: the discriminant, and slots that hold either case.
    pub(super) const fn either(one: Self, other: Self) -> Self {
        let mut both = Self::one(Slot::I32);
        let mut at = 0;
        while at < one.count || at < other.count {
            let (one_is_long, other_is_long) = (
                at < one.count && is_long(one.all[at]),
                at < other.count && is_long(other.all[at]),
            );
            both.all[both.count] = if one_is_long || other_is_long { Slot::I64 } else { Slot::I32 };
            both.count += 1;
            at += 1;
        }
        both
    }

    /// How many.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// The types in their order.
    pub(super) fn all(&self) -> &[Slot] {
        &self.all[..self.count]
    }
}

const fn is_long(slot: Slot) -> bool {
    matches!(slot, Slot::I64)
}

/// The numbers of a flat form while it is written.
#[derive(Debug)]
pub(super) struct Numbers {
    all: [u64; SLOTS_MAX],
    count: usize,
}

impl Numbers {
    /// No numbers yet.
    pub(super) const fn new() -> Self {
        Self { all: [0; SLOTS_MAX], count: 0 }
    }

    /// Adds a number. Types never have more than there is room for: see [`Slots`].
    pub(super) fn push(&mut self, number: u64) {
        if let Some(place) = self.all.get_mut(self.count) {
            *place = number;
            self.count += 1;
        }
    }

    /// Adds zeros, so that there are `count` numbers.
    pub(super) fn fill_to(&mut self, count: usize) {
        while self.count < count.min(SLOTS_MAX) {
            self.push(0);
        }
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The numbers in their order.
    pub(super) fn all(&self) -> &[u64] {
        &self.all[..self.count]
    }
}

/// A list that allocates only beyond a few values.
#[derive(Debug)]
pub(super) struct Few<T> {
    first: [T; 4],
    count: usize,
    more: Vec<T>,
}

impl<T: Copy + Default> Few<T> {
    /// An empty list.
    pub(super) fn new() -> Self {
        Self { first: [T::default(); 4], count: 0, more: Vec::new() }
    }

    /// Adds a value.
    pub(super) fn push(&mut self, value: T) {
        match self.first.get_mut(self.count) {
            Some(place) => {
                *place = value;
                self.count += 1;
            }
            None => self.more.push(value),
        }
    }

    /// Whether there is no value.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The value at a place.
    pub(super) fn get(&self, at: usize) -> Option<T> {
        match at.checked_sub(self.first.len()) {
            Some(at) => self.more.get(at).copied(),
            None => self.first[..self.count].get(at).copied(),
        }
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.count + self.more.len()
    }
}
