//! The descriptor channel between two processes of this machine: messages in order, each with at
//! most one open descriptor.
//!
//! The channel blocks. It is a socket pair between two programs that trust each other, and no other
//! program can reach it. The channel does not interpret the messages.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Largest head of a message, which says what the message is.
pub(super) const HEAD_MAX_BYTES: usize = 256 << 10;
/// Largest body of a message, which has its raw bytes.
pub const BODY_MAX_BYTES: usize = 64 << 20;
/// Size of the frame before a message: the lengths of its head and its body.
pub(super) const FRAME_BYTES: usize = 8;

/// One end of the channel.
#[derive(Debug)]
pub struct FdChannel(UnixStream);

/// One message.
#[derive(Debug)]
pub struct FdMessage {
    /// The text of the message.
    pub head: Vec<u8>,
    /// The raw bytes of the message.
    pub body: Vec<u8>,
    /// A descriptor for the receiver.
    pub descriptor: Option<OwnedFd>,
}

impl FdChannel {
    /// Creates both ends.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (near, far) = UnixStream::pair()?;
        Ok((Self(near), far.into()))
    }

    /// Wraps the end that another process gave to this one.
    #[must_use]
    pub fn given(end: OwnedFd) -> Self {
        Self(end.into())
    }

    /// Sets the time that sending and receiving a message may take.
    ///
    /// # Errors
    /// The time is zero.
    pub fn set_timeout(&self, patience: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(patience))?;
        self.0.set_write_timeout(Some(patience))
    }

    /// Sends a message. After an error the channel must not be used again.
    ///
    /// # Errors
    /// The message is too large, which sends nothing; sending took too long; or the other end is
    /// gone.
    pub fn send(
        &mut self,
        head: &[u8],
        body: &[u8],
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let frame = frame(head.len(), body.len())?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = descriptor.into_iter().collect();
        if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("there is no room for a descriptor"));
        }
        // The descriptor goes with the first byte, so the rest may follow without it. If a process
        // is stopped and continued, its calls with a timeout are interrupted.
        let sent = retry_on_intr(|| {
            sendmsg(&self.0, &[IoSlice::new(&frame)], &mut beside, SendFlags::NOSIGNAL)
        })?;
        self.0.write_all(&frame[sent..])?;
        self.0.write_all(head)?;
        self.0.write_all(body)
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// `UnexpectedEof` if the other end is gone; the message took too long; or it is no message.
    pub fn receive(&mut self) -> io::Result<FdMessage> {
        let mut frame = [0; FRAME_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut frame)];
        let came =
            retry_on_intr(|| recvmsg(&self.0, into, &mut beside, RecvFlags::CMSG_CLOEXEC))?.bytes;
        let mut descriptor = None;
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                descriptor = descriptors.last();
            }
        }
        if came == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.read_exact(&mut frame[came..])?;
        let (head_bytes, body_bytes) = lengths(frame)?;
        let (mut head, mut body) = (vec![0; head_bytes], vec![0; body_bytes]);
        self.0.read_exact(&mut head)?;
        self.0.read_exact(&mut body)?;
        Ok(FdMessage { head, body, descriptor })
    }

    /// Closes the channel in both directions.
    pub fn close(&self) {
        // If this fails, the other end is gone already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Returns the frame before a head and a body of these lengths.
pub(super) fn frame(head_bytes: usize, body_bytes: usize) -> io::Result<[u8; FRAME_BYTES]> {
    let within = |bytes: usize, max: usize| u32::try_from(bytes).ok().filter(|_| bytes <= max);
    let (Some(head), Some(body)) =
        (within(head_bytes, HEAD_MAX_BYTES), within(body_bytes, BODY_MAX_BYTES))
    else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is too large to be handed over",
        ));
    };
    let mut frame = [0; FRAME_BYTES];
    frame[..4].copy_from_slice(&head.to_le_bytes());
    frame[4..].copy_from_slice(&body.to_le_bytes());
    Ok(frame)
}

/// Returns the lengths of head and body in a frame.
pub(super) fn lengths(frame: [u8; FRAME_BYTES]) -> io::Result<(usize, usize)> {
    let length =
        |part: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| frame[part + byte])) as usize;
    let (head_bytes, body_bytes) = (length(0), length(4));
    if head_bytes > HEAD_MAX_BYTES || body_bytes > BODY_MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the message is larger than any can be",
        ));
    }
    Ok((head_bytes, body_bytes))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn messages_arrive_in_order_with_their_own_descriptors() {
        let (mut near, far) = FdChannel::pair().expect("a pair");
        let mut far = FdChannel::given(far);
        let (mut reader, writer) = io::pipe().expect("a pipe");
        near.send(b"one", b"", None).expect("it passes");
        near.send(b"two", &[7; 1_000], Some(writer.as_fd())).expect("it passes");
        near.send(b"three", b"", None).expect("it passes");
        drop(writer);
        assert!(far.receive().expect("a message").descriptor.is_none());
        let two = far.receive().expect("a message");
        assert_eq!((&*two.head, two.body.len()), (&b"two"[..], 1_000));
        assert!(far.receive().expect("a message").descriptor.is_none());
        let mut pipe = std::fs::File::from(two.descriptor.expect("a descriptor"));
        pipe.write_all(b"through").expect("it is the pipe");
        drop(pipe);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("text");
        assert_eq!(text, "through");
        drop(near);
        assert_eq!(far.receive().expect_err("it is gone").kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn oversized_message_is_neither_sent_nor_read() {
        let (mut near, far) = FdChannel::pair().expect("a pair");
        let too_large = vec![0; HEAD_MAX_BYTES + 1];
        assert_eq!(
            near.send(&too_large, b"", None).expect_err("a limit").kind(),
            io::ErrorKind::InvalidInput
        );
        let mut raw = UnixStream::from(far);
        raw.write_all(&[0xff; FRAME_BYTES]).expect("it passes");
        assert_eq!(near.receive().expect_err("a limit").kind(), io::ErrorKind::InvalidData);
    }
}
