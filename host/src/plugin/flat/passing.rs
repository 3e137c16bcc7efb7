//! What lies between host and guest while a call is made: the guest's memory and handles, and the
//! core values. Everything that a guest says is checked here.

use wasmtime::{Result, bail, format_err};

use super::handles::Handles;
use super::slots::{Few, Slots};

/// The size of a value of the contract, and its flat form.
pub(super) trait Layout {
    /// Bytes in memory.
    const SIZE: usize;
    /// Alignment in memory, in bytes.
    const ALIGN: usize;
    /// The core types of the flat form.
    const FLAT: Slots;
}

/// The offset of the first place from `offset` on that has this alignment.
pub(super) const fn aligned(offset: usize, align: usize) -> usize {
    offset.div_ceil(align) * align
}

/// The greater of two numbers.
pub(super) const fn greater(one: usize, other: usize) -> usize {
    if one > other { one } else { other }
}

/// Memory that a value needs in the guest, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Need {
    pub(super) align: usize,
    pub(super) size: usize,
}

/// The core values of a flat form that are still to be read.
pub(super) struct Flat<'a>(pub(super) &'a [u64]);

impl Flat<'_> {
    /// The next core value.
    pub(super) fn next(&mut self) -> Result<u64> {
        let (first, rest) = self.0.split_first().ok_or_else(|| format_err!("too few values"))?;
        self.0 = rest;
        Ok(*first)
    }
}

/// What lifting reads from.
pub(super) struct Lifting<'a> {
    pub(super) memory: &'a [u8],
    pub(super) handles: &'a mut Handles,
    /// Bytes that may still be copied.
    pub(super) left: usize,
}

impl<'a> Lifting<'a> {
    /// The place of `count` values of a type, which a guest said.
    ///
    /// # Errors
    /// It is not aligned, or reaches beyond the memory.
    pub(super) fn place<T: Layout>(&self, at: u64, count: u64) -> Result<(usize, usize)> {
        let (at, count) = (at as u32 as usize, count as u32 as usize);
        let within = count
            .checked_mul(T::SIZE)
            .and_then(|size| at.checked_add(size))
            .is_some_and(|end| end <= self.memory.len());
        if !within {
            bail!("list pointer/length out of bounds of memory");
        }
        if !at.is_multiple_of(T::ALIGN) {
            bail!("list pointer is not aligned");
        }
        Ok((at, count))
    }

    /// The place of one value, as [`Lifting::place`].
    ///
    /// # Errors
    /// As [`Lifting::place`].
    pub(super) fn single<T: Layout + ?Sized>(&self, at: u64) -> Result<usize> {
        let at = at as u32 as usize;
        if at.checked_add(T::SIZE).is_none_or(|end| end > self.memory.len()) {
            bail!("pointer out of bounds of memory");
        }
        if !at.is_multiple_of(T::ALIGN) {
            bail!("pointer not aligned");
        }
        Ok(at)
    }

    pub(super) fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        let end = at.saturating_add(N);
        let bytes = self.memory.get(at..end).and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or_else(|| format_err!("pointer out of bounds of memory"))
    }

    /// Counts bytes that are copied.
    pub(super) fn copies(&mut self, count: usize, size: usize) -> Result<()> {
        let left = count.checked_mul(size).and_then(|bytes| self.left.checked_sub(bytes));
        match left {
            Some(left) => self.left = left,
            None => bail!("{TOO_MUCH_COPIED}"),
        }
        Ok(())
    }

    pub(super) fn text(&mut self, at: u64, len: u64) -> Result<&'a str> {
        let (at, len) = self.place::<u8>(at, len)?;
        self.copies(len, 1)?;
        Ok(std::str::from_utf8(&self.memory[at..at + len])?)
    }
}

/// The engine's message for the same error, which the fault's kind depends on.
const TOO_MUCH_COPIED: &str = "too much data is being copied between the host and the guest";

/// What lowering writes to.
pub(super) struct Lowering<'a> {
    pub(super) memory: &'a mut [u8],
    pub(super) handles: &'a mut Handles,
    /// The pointers that the guest's allocator gave for what [`super::abi::Lower::ask`] asked, in
    /// its order.
    pub(super) given: &'a Few<u32>,
    /// How many of them were used.
    pub(super) used: usize,
}

impl Lowering<'_> {
    /// The next pointer that the allocator gave, if it is aligned and within the memory.
    pub(super) fn given(&mut self, need: Need) -> Result<usize> {
        let given = self.given.get(self.used);
        self.used += 1;
        let at = given.ok_or_else(|| format_err!("nothing was allocated"))? as usize;
        if !at.is_multiple_of(need.align) {
            bail!("realloc return: result not aligned");
        }
        if at.checked_add(need.size).is_none_or(|end| end > self.memory.len()) {
            bail!("realloc return: beyond end of memory");
        }
        Ok(at)
    }

    pub(super) fn place(&mut self, at: usize, len: usize) -> Result<&mut [u8]> {
        let place = self.memory.get_mut(at..at.saturating_add(len));
        place.ok_or_else(|| format_err!("pointer out of bounds of memory"))
    }

    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        self.place(at, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }
}
