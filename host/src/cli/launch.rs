//! The launcher: a process of this program that starts the new process of an upgrade, and ends
//! before systemd is told of the new process.
//!
//! When a unit stops, systemd waits for its main process only if that is systemd's own child.
//! systemd kills any other main process at once, with its sessions. systemd looks up the parent
//! once, when it is told of a new main process. A process becomes systemd's child when the process
//! that started it ends. The old process cannot end then, so the launcher does.
//!
//! The launcher ends when the program ends. The launcher kills the program if the old process ends
//! before it has released the program: nothing could then tell the program what to do with its
//! sockets.

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

use super::answer;
use crate::net::FdChannel;

/// The hidden verb of the command line.
pub(super) const VERB: &str = "launch";
/// Time that the start of a program may take. The program need not serve yet.
const LAUNCH_MAX: Duration = Duration::from_secs(10);
/// Time that a program may take to end by itself, and then its launcher.
const END_MAX: Duration = Duration::from_secs(1);

#[derive(Serialize, Deserialize)]
enum Launched {
    /// The id of the started process. Its process descriptor comes with the message: it names the
    /// same process even after the id is reused.
    Process(u32),
    Problem(String),
}

/// A started process that does not serve yet. Dropping this kills the process.
pub(super) struct Spawned {
    /// The launcher, which is the program's parent and ends with the program's exit code.
    launcher: Option<Child>,
    /// The channel to the launcher. If this process ends, the channel closes, and the launcher
    /// kills the program.
    lead: FdChannel,
    /// Id and descriptor of the program, once the launcher has sent them.
    program: Option<(u32, OwnedFd)>,
}

impl Spawned {
    /// Starts a program through a launcher. `end` becomes the program's standard input, and
    /// `prepare` changes the rest of its environment. Blocks.
    pub(super) fn start(
        program: &Path,
        arguments: &[OsString],
        end: OwnedFd,
        prepare: impl FnOnce(&mut Command),
    ) -> io::Result<Self> {
        let (lead, far) = FdChannel::pair()?;
        lead.set_timeout(LAUNCH_MAX)?;
        // The running program, even if another file lies at its path by now.
        let mut command = Command::new("/proc/self/exe");
        command.args([VERB, "--"]).arg(program).args(arguments).stdin(Stdio::from(far));
        prepare(&mut command);
        let mut spawned = Self { launcher: Some(command.spawn()?), lead, program: None };
        // No copy of the far end may stay in this process, or its closing is not seen.
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

    /// Whether the program has ended, or ends within this time. Blocks for up to that time.
    pub(super) fn ends_within(&self, patience: Duration) -> bool {
        self.program.as_ref().is_some_and(|(_, process)| ends_within(process, patience))
    }

    /// Releases the program: kills the launcher, so that the program is no longer a descendant of
    /// this process. Blocks for a moment.
    pub(super) fn release(&mut self) {
        if let Some(mut launcher) = self.launcher.take() {
            // The launcher cannot handle this signal, so it does not kill the program.
            let _ = (launcher.kill(), launcher.wait());
        }
    }

    /// Waits up to [`END_MAX`] for the program to end, then kills it. Returns its exit status if it
    /// ended by itself and the status is known. Blocks.
    pub(super) fn end(&mut self) -> Option<ExitStatus> {
        let by_itself = self.ends_within(END_MAX);
        // If the launcher was killed, the program's exit status is unknown.
        self.kill().filter(|status| by_itself && status.code().is_some())
    }

    fn kill(&mut self) -> Option<ExitStatus> {
        let mut launcher = self.launcher.take()?;
        match &self.program {
            // The descriptor works in any state of the launcher, and never hits another process.
            Some((_, process)) => drop(pidfd_send_signal(process, Signal::KILL)),
            // The launcher may have started the program. If so, it kills the program once the
            // channel closes.
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

/// Runs the launcher: starts the program of this command line, with a standard input that the old
/// process sends. Reports the program's process to the old process, and exits with its exit code.
pub(super) fn run(command: &[OsString]) -> ExitCode {
    let (lead, end) = match asked() {
        Ok(asked) => asked,
        Err(error) => {
            let told = format!(
                "{VERB} is how a running `wharf serve` starts the process that takes its place, \
                 and none asks for one here ({error}); \
                 use `wharf upgrade`"
            );
            return answer::fail(&told, 2);
        }
    };
    // If the launch fails, the channel closes, and the old process sees that no message comes.
    launch(command, lead, end).map_or(ExitCode::FAILURE, |status| {
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
    })
}

/// The channel to the old process, and the descriptor for the program's standard input.
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
    // The program has ended, or the old process is gone. `kill` does nothing to a program that has
    // ended.
    let _ = child.kill();
    child.wait()
}

/// Waits until the program or the old process has ended.
fn watch(process: &OwnedFd, lead: &OwnedFd) {
    // The channel carries no further message, so this waits only for its close.
    let mut watched = [PollFd::new(process, PollFlags::IN), PollFd::new(lead, PollFlags::empty())];
    let _ = retry_on_intr(|| poll(&mut watched, None));
}
