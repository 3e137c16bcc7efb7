//! Buffers that live on a thread and not in a session, so that an idle session has none.

use std::cell::RefCell;

use crate::event::READ_MAX_BYTES;

/// Spare buffers kept per thread and kind. A thread makes more when needed and frees the surplus.
const SPARE_MAX: usize = 16;
/// Largest capacity of a send buffer that is kept as a spare, in bytes.
const OUTGOING_KEEP_BYTES: usize = 64 << 10;
/// Capacity of a new send buffer, in bytes.
const OUTGOING_START_BYTES: usize = 4 << 10;

thread_local! {
    static INCOMING: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static OUTGOING: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A read buffer of [`READ_MAX_BYTES`], given back to its thread when dropped or shrunk.
#[derive(Debug)]
pub(super) struct Incoming(Box<[u8]>);

impl Incoming {
    pub(super) fn take() -> Self {
        let spare = INCOMING.with_borrow_mut(Vec::pop);
        Self(spare.unwrap_or_else(|| vec![0; READ_MAX_BYTES].into_boxed_slice()))
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Keeps the first `count` bytes, and gives the whole buffer back. An event that waits holds
    /// hardly more memory than its own bytes: a buffer that is more than half full stays.
    pub(super) fn shrink(&mut self, count: usize) {
        if count > READ_MAX_BYTES / 2 {
            return;
        }
        let own = Box::from(&self.0[..count]);
        give_incoming(std::mem::replace(&mut self.0, own));
    }
}

/// Gives a whole read buffer back to the thread's spares.
fn give_incoming(buffer: Box<[u8]>) {
    if buffer.len() == READ_MAX_BYTES {
        // An exiting thread keeps no spare buffers.
        let _ = INCOMING.try_with(|spare| keep(&mut spare.borrow_mut(), buffer));
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        give_incoming(std::mem::take(&mut self.0));
    }
}

/// Takes an empty send buffer from the thread's spares, or makes one.
pub(super) fn outgoing() -> Vec<u8> {
    OUTGOING.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(OUTGOING_START_BYTES))
}

/// Gives a send buffer back to the thread's spares.
pub(super) fn give_outgoing(mut buffer: Vec<u8>) {
    if (1..=OUTGOING_KEEP_BYTES).contains(&buffer.capacity()) {
        buffer.clear();
        let _ = OUTGOING.try_with(|spare| keep(&mut spare.borrow_mut(), buffer));
    }
}

fn keep<T>(spare: &mut Vec<T>, buffer: T) {
    if spare.len() < SPARE_MAX {
        spare.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_event_holds_its_own_bytes_only() {
        for count in [0, 1, 64, 4_096, READ_MAX_BYTES / 2] {
            let mut buffer = Incoming::take();
            buffer.bytes()[..count].fill(7);
            let whole = buffer.bytes().as_ptr();
            buffer.shrink(count);
            assert_eq!(buffer.bytes(), vec![7; count]);
            let mut next = Incoming::take();
            assert_eq!(next.bytes().as_ptr(), whole, "the whole buffer is not used again");
            drop(buffer);
            assert_eq!(Incoming::take().bytes().len(), READ_MAX_BYTES, "a part became a spare");
        }
        let mut full = Incoming::take();
        full.shrink(READ_MAX_BYTES / 2 + 1);
        assert_eq!(full.bytes().len(), READ_MAX_BYTES, "a copy would hold as much");
    }
}
