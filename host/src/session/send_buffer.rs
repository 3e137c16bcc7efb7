//! A buffer for bytes on their way to the peer, in order. It has memory only while it holds bytes.

use super::buffers;

/// From this many bytes on, a buffer grows more slowly.
const LARGE_BYTES: usize = 64 << 10;

/// A byte queue. It has no limit of its own; the session handle keeps the watermarks.
#[derive(Debug, Default)]
pub(super) struct SendBuffer {
    bytes: Vec<u8>,
    sent: usize,
}

impl SendBuffer {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        if self.bytes.capacity() == 0 {
            self.bytes = buffers::outgoing();
        }
        // The rest moves to the front only once half of the buffer is sent, so that the move pays.
        if self.sent > 0 && self.sent >= self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        // A large buffer grows by a quarter instead of doubling. Its tenant's memory counts only
        // the bytes in it, not its capacity.
        let (len, room) = (self.bytes.len(), self.bytes.capacity() - self.bytes.len());
        if len >= LARGE_BYTES && room < data.len() {
            self.bytes.reserve_exact(data.len().max(len / 4));
        }
        self.bytes.extend_from_slice(data);
    }

    pub(super) fn front(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Removes `count` sent bytes from the front.
    pub(super) fn advance(&mut self, count: usize) {
        self.sent += count;
        debug_assert!(self.sent <= self.bytes.len());
        if self.is_empty() {
            self.clear();
        }
    }

    /// Discards all bytes and gives the buffer back.
    pub(super) fn clear(&mut self) {
        self.sent = 0;
        buffers::give_outgoing(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_their_order_across_any_cut() {
        let mut send_buffer = SendBuffer::default();
        let (mut expected, mut seen) = (Vec::new(), Vec::new());
        for round in 0..200_usize {
            let data: Vec<u8> = (0..round * 7 % 23).map(|i| (round + i) as u8).collect();
            send_buffer.push(&data);
            expected.extend_from_slice(&data);
            let count = (round * 5 % 19).min(send_buffer.len());
            seen.extend_from_slice(&send_buffer.front()[..count]);
            send_buffer.advance(count);
        }
        seen.extend_from_slice(send_buffer.front());
        assert_eq!(seen, expected);
    }

    #[test]
    fn empty_send_buffer_holds_no_memory() {
        let mut send_buffer = SendBuffer::default();
        send_buffer.push(b"some");
        send_buffer.advance(4);
        assert_eq!(send_buffer.bytes.capacity(), 0);
    }
}
