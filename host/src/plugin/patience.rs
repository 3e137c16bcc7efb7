//! Reading and writing pipes that may never end, because whoever was given the other end gave it on: for a limited time only.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;

/// How often it is looked whether all of it is over.
const LOOKED_EVERY: Duration = Duration::from_millis(20);
/// Bytes that are read at once.
const PIECE_BYTES: usize = 64 << 10;

/// So long at most.
pub(super) struct Patience {
    until: Instant,
    over: AtomicBool,
}

/// Says when it is dropped that it is over.
pub(super) struct Over<'a>(&'a Patience);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

impl Patience {
    pub(super) fn of(time: Duration) -> Self {
        Self { until: Instant::now() + time, over: AtomicBool::new(false) }
    }

    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Once this is dropped what has not come by then is not waited for.
    pub(super) fn over_at_drop(&self) -> Over<'_> {
        Over(self)
    }

    /// Up to one byte more than `max`, to the end, or what has come when it is over.
    ///
    /// # Errors
    /// `TimedOut`, or what the system said.
    pub(super) fn read(&self, from: &mut (impl Read + AsFd), max: u64) -> io::Result<Vec<u8>> {
        let (mut bytes, mut piece) = (Vec::new(), vec![0; PIECE_BYTES]);
        while bytes.len() as u64 <= max {
            if !self.ready(&*from, PollFlags::IN)? {
                break;
            }
            let left = usize::try_from(max + 1 - bytes.len() as u64).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            match from.read(&mut piece[..left])? {
                0 => break,
                count => bytes.extend_from_slice(&piece[..count]),
            }
        }
        Ok(bytes)
    }

    /// Writes all of it, where that is read before it is over.
    ///
    /// # Errors
    /// `TimedOut`, or what the system said.
    pub(super) fn write(&self, to: &mut (impl Write + AsFd), mut bytes: &[u8]) -> io::Result<()> {
        ioctl_fionbio(&*to, true)?;
        while !bytes.is_empty() && self.ready(&*to, PollFlags::OUT)? {
            match to.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether there is something to do; false where it is over.
    fn ready(&self, pipe: &impl AsFd, flags: PollFlags) -> io::Result<bool> {
        let slice = Timespec::try_from(LOOKED_EVERY).map_err(io::Error::other)?;
        loop {
            // Asked before it is looked, so that what came before it was over is read.
            let over = self.over.load(Ordering::Relaxed);
            match poll(&mut [PollFd::new(pipe, flags)], Some(&slice)) {
                Ok(0) if over => return Ok(false),
                // Whatever comes: somebody may send a byte now and then for ever.
                Ok(_) if Instant::now() >= self.until => return Err(io::ErrorKind::TimedOut.into()),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_byte_now_and_then_keeps_nobody_for_longer() {
        let (mut from, mut to) = io::pipe().expect("a pipe");
        let sends = thread::spawn(move || {
            while to.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
        });
        let read = Patience::of(Duration::from_millis(30)).read(&mut from, 1 << 20);
        assert_eq!(read.expect_err("it never ends").kind(), io::ErrorKind::TimedOut);
        drop(from);
        sends.join().expect("the pipe is closed");
    }
}
