//! Who starts the new process of an upgrade: a process of this program that does nothing else, and
//! goes before systemd is told.
//!
//! When a unit stops, systemd waits for the end of its main process only where that is a child of
//! its own; another one it kills at once, with its sessions. Whose child it is, it looks up once,
//! when it hears of it. The new process is systemd's child once the one that started it is gone,
//! and the old process cannot be the one to go.
//!
//! It ends with the program, and the program with the old process: where that is gone before it has
//! let the program go, nobody would ever tell the program what to do with the sockets it holds.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::ctl;
use crate::net::FdChannel;

/// The hidden verb.
pub(super) const VERB: &str = "launch";
/// How long it may take to start a program, which is not yet to serve.
const LAUNCH_MAX: Duration = Duration::from_secs(10);
/// How long a program that said nothing more may take to end, and then its launcher.
const END_MAX: Duration = Duration::from_secs(1);

#[derive(Serialize, Deserialize)]
enum Launched {
    /// With a descriptor of the process, which is nobody else's even once the number is.
    Process(u32),
    Problem(String),
}

/// A process that does not serve yet. Dropping it ends it.
pub(super) struct Spawned {
    /// Its parent, which ends as it does.
    launcher: Option<Child>,
    /// By which the parent sees that this process is gone, and ends it.
    lead: FdChannel,
    /// Once it is known.
    program: Option<(u32, OwnedFd)>,
}

impl Spawned {
    /// Starts a program; `end` is its standard input, and `prepare` says what else is its own.
    /// Blocks.
    pub(super) fn start(
        program: &Path,
        arguments: &[OsString],
        end: OwnedFd,
        prepare: impl FnOnce(&mut Command),
    ) -> io::Result<Self> {
        let (lead, far) = FdChannel::pair()?;
        lead.set_timeout(LAUNCH_MAX)?;
        // This very program, whatever lies by now where it was started from.
        let mut command = Command::new("/proc/self/exe");
        command.args([VERB, "--"]).arg(program).args(arguments).stdin(Stdio::from(far));
        prepare(&mut command);
        let mut spawned = Self { launcher: Some(command.spawn()?), lead, program: None };
        // Nobody else may have the other ends, or it is not seen when they are gone.
        drop(command);
        spawned.lead.send(&[], &[], Some(end.as_fd()))?;
        drop(end);
        let word = spawned.lead.receive()?;
        match serde_json::from_slice(&word.head)? {
            Launched::Process(number) => {
                spawned.program =
                    Some((number, word.descriptor.ok_or(io::ErrorKind::InvalidData)?));
            }
            Launched::Problem(problem) => return Err(io::Error::other(problem)),
        }
        Ok(spawned)
    }

    pub(super) fn id(&self) -> u32 {
        self.program.as_ref().map_or(0, |(number, _)| *number)
    }

    /// Whether it has ended, or does so in this time. Blocks.
    pub(super) fn ends_within(&self, patience: Duration) -> bool {
        self.program.as_ref().is_some_and(|(_, process)| ends_within(process, patience))
    }

    /// It goes on by itself, and is nobody's child here. Blocks for a moment.
    pub(super) fn release(&mut self) {
        if let Some(mut launcher) = self.launcher.take() {
            // A signal that it cannot see, so that it does not touch the program.
            let _ = (launcher.kill(), launcher.wait());
        }
    }

    /// Waits a moment for it to end, and ends it. How it ended, where it did so by itself and that
    /// is known. Blocks.
    pub(super) fn end(&mut self) -> Option<ExitStatus> {
        let by_itself = self.ends_within(END_MAX);
        // A launcher that was killed does not say how the program ended.
        self.kill().filter(|status| by_itself && status.code().is_some())
    }

    fn kill(&mut self) -> Option<ExitStatus> {
        let mut launcher = self.launcher.take()?;
        match &self.program {
            // Whatever became of the launcher. One that has ended is not touched.
            Some((_, process)) => drop(pidfd_send_signal(process, Signal::KILL)),
            // It may have been started, and only the launcher knows.
            None => self.lead.close(),
        }
        if let Ok(process) = pidfd_open(Pid::from_child(&launcher), PidfdFlags::empty()) {
            ends_within(&process, END_MAX);
        }
        let _ = launcher.kill();
        launcher.wait().ok()
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        self.kill();
    }
}

fn ends_within(process: &OwnedFd, patience: Duration) -> bool {
    let start = Instant::now();
    loop {
        let left = Timespec::try_from(patience.saturating_sub(start.elapsed())).unwrap_or_default();
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            seen => return seen.is_ok_and(|ready| ready > 0),
        }
    }
}

/// Starts the program of this command line with what comes through standard input as that of its
/// own, says which process it is, and ends as it does.
pub(super) fn run(command: &[OsString]) -> ExitCode {
    let (lead, end) = match asked() {
        Ok(asked) => asked,
        Err(error) => {
            let told = format!(
                "{VERB} is how a running `wharf serve` starts the process that takes its place, \
                 and none asks for one here ({error}); \
                 use `wharf upgrade`"
            );
            return ctl::fail(&told, 2);
        }
    };
    // Where it fails, whoever waits for word sees that none comes.
    launch(command, lead, end).map_or(ExitCode::FAILURE, |status| {
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
    })
}

/// The way to the old process, and what the program is to have.
fn asked() -> io::Result<(OwnedFd, OwnedFd)> {
    let lead = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let mut fd_channel = FdChannel::given(lead.try_clone()?);
    fd_channel.set_timeout(LAUNCH_MAX)?;
    let end = fd_channel.receive()?.descriptor.ok_or(io::ErrorKind::InvalidData)?;
    Ok((lead, end))
}

fn launch(command: &[OsString], lead: OwnedFd, end: OwnedFd) -> io::Result<ExitStatus> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut fd_channel = FdChannel::given(lead.try_clone()?);
    let mut say = |said: &Launched, process: Option<&OwnedFd>| {
        fd_channel.send(&serde_json::to_vec(said)?, &[], process.map(AsFd::as_fd))
    };
    let mut child = match Command::new(program).args(arguments).stdin(Stdio::from(end)).spawn() {
        Ok(child) => child,
        Err(error) => {
            say(&Launched::Problem(error.to_string()), None)?;
            return Err(error);
        }
    };
    match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
        Ok(process) => {
            if say(&Launched::Process(child.id()), Some(&process)).is_ok() {
                watch(&process, &lead);
            }
        }
        Err(error) => drop(say(&Launched::Problem(format!("it cannot be watched: {error}")), None)),
    }
    // Nobody is there any more who wants it; one that has ended is not touched.
    let _ = child.kill();
    child.wait()
}

/// Waits until the program has ended, or the old process is gone.
fn watch(process: &OwnedFd, lead: &OwnedFd) {
    // Nothing more comes through, so that only its end is looked for.
    let mut watched = [PollFd::new(process, PollFlags::IN), PollFd::new(lead, PollFlags::empty())];
    let _ = retry_on_intr(|| poll(&mut watched, None));
}
