//! Talking to a process through pipes, on one thread, until a deadline or a cancellation.
//!
//! The deadline is needed because a pipe may never end: the process may pass its pipes on.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;

use crate::work::Stop;

/// Interval at which a talk checks whether it was cancelled.
const LOOKED_EVERY: Duration = Duration::from_millis(20);
/// Bytes that are read at once.
const PIECE_BYTES: usize = 64 << 10;
/// Bytes of standard error that are read at once. They are on the stack.
const HEARD_BYTES: usize = 4 << 10;
/// Reads of standard error between two looks at the other pipes.
const HEARD_READS_MAX: usize = 16;

/// A deadline, and a way to cancel the waits that it limits.
pub(super) struct DeadlineIo {
    until: Instant,
    stop: Stop,
}

/// The pipes of a process.
pub(super) struct Pipes<I, O, E> {
    /// Standard input of the process. Closed once everything is written, or once the process reads
    /// no more.
    pub(super) input: Option<I>,
    /// Standard output of the process.
    pub(super) output: O,
    /// Standard error of the process, and the kept part of its text.
    pub(super) said: Heard<E>,
}

/// A pipe whose first bytes are kept. The others are read and dropped.
pub(super) struct Heard<E> {
    pipe: Option<E>,
    kept: Vec<u8>,
    max: usize,
}

impl<E: Read + AsFd> Heard<E> {
    /// Keeps at most `max` bytes.
    pub(super) fn new(pipe: E, max: usize) -> Self {
        Self { pipe: Some(pipe), kept: Vec::new(), max }
    }

    /// Reads the bytes that are there, with [`HEARD_READS_MAX`] reads at most. Does not wait.
    pub(super) fn hear(&mut self) {
        let mut piece = [0; HEARD_BYTES];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        for _ in 0..HEARD_READS_MAX {
            let Some(pipe) = &mut self.pipe else { return };
            match poll(&mut [PollFd::new(&*pipe, PollFlags::IN)], Some(&at_once)) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            match pipe.read(&mut piece) {
                Ok(count) if count > 0 => {
                    let room = self.max - self.kept.len();
                    self.kept.extend_from_slice(&piece[..count.min(room)]);
                }
                // A read error is treated like the end of the pipe.
                _ => self.pipe = None,
            }
        }
    }

    /// The kept bytes.
    pub(super) fn kept(&self) -> &[u8] {
        &self.kept
    }
}

impl DeadlineIo {
    /// A deadline `time` from now, which `stop` can cancel.
    pub(super) fn of(time: Duration, stop: Stop) -> Self {
        Self { until: Instant::now() + time, stop }
    }

    /// Checks whether to go on.
    ///
    /// # Errors
    /// `TimedOut` after the deadline; `Interrupted` if the talk was cancelled.
    pub(super) fn lasts(&self) -> io::Result<()> {
        if self.stop.is_asked() {
            return Err(ErrorKind::Interrupted.into());
        }
        if Instant::now() >= self.until { Err(ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    /// Writes `bytes` to the process and reads its output to the end, or up to one byte more than
    /// `max`. Meanwhile reads the process's standard error.
    ///
    /// # Errors
    /// Those of [`DeadlineIo::lasts`], or the system's.
    pub(super) fn talk<I, O, E>(
        &self,
        pipes: &mut Pipes<I, O, E>,
        mut bytes: &[u8],
        max: u64,
    ) -> io::Result<Vec<u8>>
    where
        I: Write + AsFd,
        O: Read + AsFd,
        E: Read + AsFd,
    {
        if let Some(input) = &pipes.input {
            ioctl_fionbio(input, true)?;
        }
        let slice = Timespec::try_from(LOOKED_EVERY).map_err(io::Error::other)?;
        let (mut read, mut piece) = (Vec::new(), vec![0; PIECE_BYTES]);
        loop {
            self.lasts()?;
            if bytes.is_empty() {
                pipes.input = None;
            }
            let mut watched = vec![PollFd::new(&pipes.output, PollFlags::IN)];
            watched.extend(pipes.said.pipe.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            watched.extend(pipes.input.iter().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
            match poll(&mut watched, Some(&slice)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            let (has_output, is_writable) = {
                let ready = |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| !fd.revents().is_empty());
                (ready(watched.first()), pipes.input.is_some() && ready(watched.last()))
            };
            pipes.said.hear();
            if let Some(input) = pipes.input.as_mut().filter(|_| is_writable) {
                match input.write(bytes) {
                    Ok(count) => bytes = &bytes[count..],
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    // If the process dies early, its exit tells the reason.
                    Err(_) => bytes = &[],
                }
            }
            if has_output {
                let left = usize::try_from(max + 1 - read.len() as u64)
                    .unwrap_or(PIECE_BYTES)
                    .min(PIECE_BYTES);
                match pipes.output.read(&mut piece[..left])? {
                    0 => return Ok(read),
                    count => read.extend_from_slice(&piece[..count]),
                }
                if read.len() as u64 > max {
                    return Ok(read);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// A talk with a process that never stops writing, one byte at a time.
    fn talk(deadline_io: &DeadlineIo) -> io::Error {
        let (from, mut to) = io::pipe().expect("a pipe");
        let (said, _silent) = io::pipe().expect("a pipe");
        let sends = thread::spawn(move || {
            while to.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
        });
        let mut pipes =
            Pipes { input: None::<io::PipeWriter>, output: from, said: Heard::new(said, 16) };
        let error = deadline_io.talk(&mut pipes, b"", 1 << 20).expect_err("it never ends");
        drop(pipes);
        sends.join().expect("the pipe is closed");
        error
    }

    #[test]
    fn slow_bytes_do_not_extend_the_deadline() {
        let deadline_io = DeadlineIo::of(Duration::from_millis(30), Stop::default());
        assert_eq!(talk(&deadline_io).kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn talk_ends_when_it_is_cancelled() {
        let stop = Stop::default();
        let deadline_io = DeadlineIo::of(Duration::from_secs(600), stop.clone());
        let calls = thread::spawn(move || {
            thread::sleep(Duration::from_millis(10));
            stop.ask();
        });
        assert_eq!(talk(&deadline_io).kind(), ErrorKind::Interrupted);
        calls.join().expect("no panic");
    }
}
