//! The canonical ABI: how a value of the contract lies in a guest's memory, and in the arguments
//! and results of core functions.
//!
//! Everything that a guest says is checked: pointers, lengths, alignment, text and discriminants.
//! Values of types that wit-bindgen generates get their layout from the macros at the end.

use wasmtime::bail;

type Result<T, E = wasmtime::Error> = std::result::Result<T, E>;

use super::passing::{Flat, Layout, Lifting, Lowering, Need, aligned, greater};
use super::slots::{Few, Numbers, Slot, Slots};

/// Results of the canonical ABI that are flat. More lie in memory.
pub(super) const RESULTS_FLAT_MAX: usize = 1;
/// Parameters of the canonical ABI that are flat. More lie in memory.
pub(super) const PARAMS_FLAT_MAX: usize = 16;

/// A value that a guest passes.
pub(super) trait Lift: Layout + Sized {
    /// Reads the value from its flat form.
    ///
    /// # Errors
    /// The guest broke the ABI, or too many bytes would be copied.
    fn lift(flat: &mut Flat<'_>, from: &mut Lifting<'_>) -> Result<Self>;

    /// Reads the value from memory at this place, which is aligned and within the memory.
    ///
    /// # Errors
    /// As [`Lift::lift`].
    fn load(at: usize, from: &mut Lifting<'_>) -> Result<Self>;

    /// Reads values side by side, the first at this place. All are within the memory.
    ///
    /// # Errors
    /// As [`Lift::lift`].
    fn load_all(at: usize, count: usize, from: &mut Lifting<'_>) -> Result<Vec<Self>> {
        (0..count).map(|index| Self::load(at + index * Self::SIZE, from)).collect()
    }
}

/// A value that the host passes. First [`Lower::ask`] collects the memory that the value needs, the
/// guest allocates it, and then the value is written.
pub(super) trait Lower: Layout {
    /// Whether a value may need memory beside its own place.
    const ASKS: bool = false;

    /// Adds the memory that the value needs beside its own place, in the order of the ABI.
    fn ask(&self, needs: &mut Few<Need>) {
        let _ = needs;
    }

    /// Adds the flat form.
    ///
    /// # Errors
    /// The guest's allocator answered with a bad pointer, or there are too many handles.
    fn lower(&self, flat: &mut Numbers, to: &mut Lowering<'_>) -> Result<()>;

    /// Writes the value to memory at this place, which is aligned and within the memory.
    ///
    /// # Errors
    /// As [`Lower::lower`].
    fn store(&self, at: usize, to: &mut Lowering<'_>) -> Result<()>;

    /// Writes values side by side, the first at this place.
    ///
    /// # Errors
    /// As [`Lower::lower`].
    fn store_all(values: &[Self], at: usize, to: &mut Lowering<'_>) -> Result<()>
    where
        Self: Sized,
    {
        let places = (at..).step_by(Self::SIZE);
        values.iter().zip(places).try_for_each(|(value, at)| value.store(at, to))
    }
}

/// Reads one case of a variant, which takes the place of the largest case.
fn case<T: Lift>(flat: &mut Flat<'_>, slots: usize, from: &mut Lifting<'_>) -> Result<T> {
    let Some((own, rest)) = flat.0.split_at_checked(slots) else { bail!("too few values") };
    flat.0 = rest;
    T::lift(&mut Flat(own), from)
}

macro_rules! number {
    ($($kind:ty: $slot:ident),* $(,)?) => {$(
        impl Layout for $kind {
            const SIZE: usize = size_of::<$kind>();
            const ALIGN: usize = size_of::<$kind>();
            const FLAT: Slots = Slots::one(Slot::$slot);
        }

        impl Lift for $kind {
            fn lift(flat: &mut Flat<'_>, _: &mut Lifting<'_>) -> Result<Self> {
                // The ABI takes the low bits.
                Ok(flat.next()? as $kind)
            }

            fn load(at: usize, from: &mut Lifting<'_>) -> Result<Self> {
                Ok(<$kind>::from_le_bytes(from.bytes(at)?))
            }
        }

        impl Lower for $kind {
            fn lower(&self, flat: &mut Numbers, _: &mut Lowering<'_>) -> Result<()> {
                flat.push(*self as u64);
                Ok(())
            }

            fn store(&self, at: usize, to: &mut Lowering<'_>) -> Result<()> {
                to.write(at, &self.to_le_bytes())
            }

            fn store_all(
                values: &[Self],
                at: usize,
                to: &mut Lowering<'_>,
            ) -> Result<()> {
                let bytes = values.iter().flat_map(|value| value.to_le_bytes());
                to.place(at, values.len() * Self::SIZE)?.iter_mut().zip(bytes).for_each(
                    |(place, byte)| *place = byte,
                );
                Ok(())
            }
        }
    )*};
}

number!(u16: I32, u32: I32, u64: I64, i64: I64);

impl Layout for bool {
    const SIZE: usize = 1;
    const ALIGN: usize = 1;
    const FLAT: Slots = Slots::one(Slot::I32);
}

impl Lower for bool {
    fn lower(&self, flat: &mut Numbers, to: &mut Lowering<'_>) -> Result<()> {
        u8::from(*self).lower(flat, to)
    }

    fn store(&self, at: usize, to: &mut Lowering<'_>) -> Result<()> {
        u8::from(*self).store(at, to)
    }
}

/// No value.
impl Layout for () {
    const SIZE: usize = 0;
    const ALIGN: usize = 1;
    const FLAT: Slots = Slots::NONE;
}

impl Lift for () {
    fn lift(_: &mut Flat<'_>, _: &mut Lifting<'_>) -> Result<Self> {
        Ok(())
    }

    fn load(_: usize, _: &mut Lifting<'_>) -> Result<Self> {
        Ok(())
    }
}

impl Lower for () {
    fn lower(&self, _: &mut Numbers, _: &mut Lowering<'_>) -> Result<()> {
        Ok(())
    }

    fn store(&self, _: usize, _: &mut Lowering<'_>) -> Result<()> {
        Ok(())
    }
}

/// A pointer and a length: the layout of lists and of text.
macro_rules! pair {
    ($([$($of:tt)*] $kind:ty),* $(,)?) => {$(
        impl<$($of)*> Layout for $kind {
            const SIZE: usize = 8;
            const ALIGN: usize = 4;
            const FLAT: Slots = Slots::one(Slot::I32).then(Slots::one(Slot::I32));
        }
    )*};
}

pair!([] String, [] str, [T] Vec<T>, [T] [T], [] Bytes, [] Text);

/// A list of bytes in the guest's memory, which is not copied: its place, within the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bytes {
    pub(super) at: usize,
    pub(super) len: usize,
}

impl Lift for Bytes {
    fn lift(flat: &mut Flat<'_>, from: &mut Lifting<'_>) -> Result<Self> {
        let (at, len) = from.place::<u8>(flat.next()?, flat.next()?)?;
        from.copies(len, 1)?;
        Ok(Self { at, len })
    }

    fn load(at: usize, from: &mut Lifting<'_>) -> Result<Self> {
        let (start, len) = (u32::load(at, from)?, u32::load(at + 4, from)?);
        Self::lift(&mut Flat(&[start.into(), len.into()]), from)
    }
}

impl Bytes {
    /// The bytes, in the guest's memory of now.
    pub(super) fn of(self, memory: &[u8]) -> &[u8] {
        memory.get(self.at..self.at.saturating_add(self.len)).unwrap_or_default()
    }
}

/// Text in the guest's memory, which is not copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Text(pub(super) Bytes);

impl Text {
    /// The text, in the guest's memory of now.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub(super) fn of(self, memory: &[u8]) -> Result<&str> {
        Ok(std::str::from_utf8(self.0.of(memory))?)
    }
}

impl Lift for Text {
    fn lift(flat: &mut Flat<'_>, from: &mut Lifting<'_>) -> Result<Self> {
        Bytes::lift(flat, from).map(Self)
    }

    fn load(at: usize, from: &mut Lifting<'_>) -> Result<Self> {
        Bytes::load(at, from).map(Self)
    }
}

impl Lift for String {
    fn lift(flat: &mut Flat<'_>, from: &mut Lifting<'_>) -> Result<Self> {
        from.text(flat.next()?, flat.next()?).map(str::to_owned)
    }

    fn load(at: usize, from: &mut Lifting<'_>) -> Result<Self> {
        let (start, len) = (u32::load(at, from)?, u32::load(at + 4, from)?);
        from.text(start.into(), len.into()).map(str::to_owned)
    }
}

impl<T: Lift> Lift for Vec<T> {
    fn lift(flat: &mut Flat<'_>, from: &mut Lifting<'_>) -> Result<Self> {
        let (at, count) = from.place::<T>(flat.next()?, flat.next()?)?;
        from.copies(count, size_of::<T>().max(T::SIZE))?;
        T::load_all(at, count, from)
    }

    fn load(at: usize, from: &mut Lifting<'_>) -> Result<Self> {
        let (start, len) = (u32::load(at, from)?, u32::load(at + 4, from)?);
        Self::lift(&mut Flat(&[start.into(), len.into()]), from)
    }
}

impl<T: Lower> Lower for [T] {
    const ASKS: bool = true;

    fn ask(&self, needs: &mut Few<Need>) {
        needs.push(Need { align: T::ALIGN, size: size_of_val_in_guest(self) });
        self.iter().for_each(|value| value.ask(needs));
    }

    fn lower(&self, flat: &mut Numbers, to: &mut Lowering<'_>) -> Result<()> {
        let at = to.given(Need { align: T::ALIGN, size: size_of_val_in_guest(self) })?;
        T::store_all(self, at, to)?;
        flat.push(at as u64);
        flat.push(self.len() as u64);
        Ok(())
    }

    fn store(&self, at: usize, to: &mut Lowering<'_>) -> Result<()> {
        let mut flat = Numbers::new();
        self.lower(&mut flat, to)?;
        // The pointer, then the length.
        for (number, at) in flat.all().iter().zip([at, at + 4]) {
            to.write(at, &(*number as u32).to_le_bytes())?;
        }
        Ok(())
    }
}

fn size_of_val_in_guest<T: Layout>(list: &[T]) -> usize {
    list.len().saturating_mul(T::SIZE)
}

/// Passes a list as its slice.
macro_rules! as_slice {
    ($([$($of:tt)*] $kind:ty: $slice:ident),* $(,)?) => {$(
        impl<$($of)*> Lower for $kind {
            const ASKS: bool = true;

            fn ask(&self, needs: &mut Few<Need>) {
                self.$slice().ask(needs);
            }

            fn lower(&self, flat: &mut Numbers, to: &mut Lowering<'_>) -> Result<()> {
                self.$slice().lower(flat, to)
            }

            fn store(&self, at: usize, to: &mut Lowering<'_>) -> Result<()> {
                self.$slice().store(at, to)
            }
        }
    )*};
}

as_slice!([] str: as_bytes, [] String: as_bytes, [T: Lower] Vec<T>: as_slice);

impl Layout for u8 {
    const SIZE: usize = 1;
    const ALIGN: usize = 1;
    const FLAT: Slots = Slots::one(Slot::I32);
}

impl Lift for u8 {
    fn lift(flat: &mut Flat<'_>, _: &mut Lifting<'_>) -> Result<Self> {
        Ok(flat.next()? as Self)
    }

    fn load(at: usize, from: &mut Lifting<'_>) -> Result<Self> {
        Ok(Self::from_le_bytes(from.bytes(at)?))
    }

    /// Copies all bytes at once.
    fn load_all(at: usize, count: usize, from: &mut Lifting<'_>) -> Result<Vec<Self>> {
        Ok(Bytes { at, len: count }.of(from.memory).to_vec())
    }
}

impl Lower for u8 {
    fn lower(&self, flat: &mut Numbers, _: &mut Lowering<'_>) -> Result<()> {
        flat.push((*self).into());
        Ok(())
    }

    fn store(&self, at: usize, to: &mut Lowering<'_>) -> Result<()> {
        to.write(at, &[*self])
    }

    /// Copies all bytes at once.
    fn store_all(values: &[Self], at: usize, to: &mut Lowering<'_>) -> Result<()> {
        to.write(at, values)
    }
}

/// The place of a variant's value behind its discriminant of one byte.
const fn payload(one: usize, other: usize) -> usize {
    aligned(1, greater(one, other))
}

impl<T: Layout, E: Layout> Layout for Result<T, E> {
    const SIZE: usize =
        aligned(payload(T::ALIGN, E::ALIGN) + greater(T::SIZE, E::SIZE), Self::ALIGN);
    const ALIGN: usize = greater(T::ALIGN, E::ALIGN);
    const FLAT: Slots = Slots::either(T::FLAT, E::FLAT);
}

impl<T: Lift, E: Lift> Lift for Result<T, E> {
    fn lift(flat: &mut Flat<'_>, from: &mut Lifting<'_>) -> Result<Self> {
        Ok(match flat.next()? as u32 {
            0 => Ok(case(flat, Self::FLAT.count() - 1, from)?),
            1 => Err(case(flat, Self::FLAT.count() - 1, from)?),
            other => bail!("discriminant {other} out of range [0..2)"),
        })
    }

    fn load(at: usize, from: &mut Lifting<'_>) -> Result<Self> {
        let inner = at + payload(T::ALIGN, E::ALIGN);
        Ok(match u8::load(at, from)? {
            0 => Ok(T::load(inner, from)?),
            1 => Err(E::load(inner, from)?),
            other => bail!("discriminant {other} out of range [0..2)"),
        })
    }
}

impl<T: Lower, E: Lower> Lower for Result<T, E> {
    const ASKS: bool = T::ASKS || E::ASKS;

    fn ask(&self, needs: &mut Few<Need>) {
        match self {
            Ok(value) => value.ask(needs),
            Err(error) => error.ask(needs),
        }
    }

    fn lower(&self, flat: &mut Numbers, to: &mut Lowering<'_>) -> Result<()> {
        let end = flat.count() + Self::FLAT.count();
        flat.push(u64::from(self.is_err()));
        match self {
            Ok(value) => value.lower(flat, to)?,
            Err(error) => error.lower(flat, to)?,
        }
        flat.fill_to(end);
        Ok(())
    }

    fn store(&self, at: usize, to: &mut Lowering<'_>) -> Result<()> {
        self.is_err().store(at, to)?;
        let inner = at + payload(T::ALIGN, E::ALIGN);
        match self {
            Ok(value) => value.store(inner, to),
            Err(error) => error.store(inner, to),
        }
    }
}

impl<T: Layout> Layout for Option<T> {
    const SIZE: usize = Result::<T, ()>::SIZE;
    const ALIGN: usize = T::ALIGN;
    const FLAT: Slots = Slots::either(Slots::NONE, T::FLAT);
}

impl<T: Lift> Lift for Option<T> {
    fn lift(flat: &mut Flat<'_>, from: &mut Lifting<'_>) -> Result<Self> {
        Ok(match flat.next()? as u32 {
            0 => case::<()>(flat, T::FLAT.count(), from).map(|()| None)?,
            1 => Some(case(flat, T::FLAT.count(), from)?),
            other => bail!("discriminant {other} out of range [0..2)"),
        })
    }

    fn load(at: usize, from: &mut Lifting<'_>) -> Result<Self> {
        Ok(match u8::load(at, from)? {
            0 => None,
            1 => Some(T::load(at + payload(T::ALIGN, 1), from)?),
            other => bail!("discriminant {other} out of range [0..2)"),
        })
    }
}

impl<T: Lower> Lower for Option<T> {
    const ASKS: bool = T::ASKS;

    fn ask(&self, needs: &mut Few<Need>) {
        self.iter().for_each(|value| value.ask(needs));
    }

    fn lower(&self, flat: &mut Numbers, to: &mut Lowering<'_>) -> Result<()> {
        let end = flat.count() + Self::FLAT.count();
        flat.push(u64::from(self.is_some()));
        self.iter().try_for_each(|value| value.lower(flat, to))?;
        flat.fill_to(end);
        Ok(())
    }

    fn store(&self, at: usize, to: &mut Lowering<'_>) -> Result<()> {
        self.is_some().store(at, to)?;
        self.iter().try_for_each(|value| value.store(at + payload(T::ALIGN, 1), to))
    }
}

#[cfg(test)]
mod tests;
