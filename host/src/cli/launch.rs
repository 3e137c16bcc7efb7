//! Who starts the new process of an upgrade: a process of this program that does nothing else, and goes before systemd is told.
//!
//! When a unit stops, systemd waits for the end of its main process only where that is a child of its own; another one it kills at
//! once, with its sessions. Whose child it is, it looks up once, when it hears of it. The new process is systemd's child once the one
//! that started it is gone, and the old process cannot be the one to go.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::net::Passage;

/// The hidden verb.
pub(super) const VERB: &str = "launch";
/// How long it may take to start a program, which is not yet to serve.
const LAUNCH_MAX: Duration = Duration::from_secs(10);
/// How long a program that said nothing more may take to end.
const END_MAX: Duration = Duration::from_secs(1);

#[derive(Serialize, Deserialize)]
enum Launched {
    Process(u32),
    Problem(String),
}

/// A process that does not serve yet. Dropping it ends it.
pub(super) struct Spawned {
    /// Its parent, which ends as it does.
    launcher: Option<Child>,
    process: u32,
}

impl Spawned {
    /// Starts a program; `end` is its standard input, and `prepare` says what else is its own. Blocks.
    pub(super) fn start(
        program: &Path,
        arguments: &[OsString],
        end: OwnedFd,
        prepare: impl FnOnce(&mut Command),
    ) -> io::Result<Self> {
        let (mut lead, far) = Passage::pair()?;
        lead.set_patience(LAUNCH_MAX)?;
        // This very program, whatever lies by now where it was started from.
        let mut command = Command::new("/proc/self/exe");
        command.args([VERB, "--"]).arg(program).args(arguments).stdin(Stdio::from(far));
        prepare(&mut command);
        let mut spawned = Self { launcher: Some(command.spawn()?), process: 0 };
        // Nobody else may have the other ends, or it is not seen when they are gone.
        drop(command);
        lead.send(&[], &[], Some(end.as_fd()))?;
        drop(end);
        match serde_json::from_slice(&lead.receive()?.head)? {
            Launched::Process(process) => spawned.process = process,
            Launched::Problem(problem) => return Err(io::Error::other(problem)),
        }
        Ok(spawned)
    }

    pub(super) fn id(&self) -> u32 {
        self.process
    }

    /// It goes on by itself, and is nobody's child here. Blocks for a moment.
    pub(super) fn release(&mut self) {
        if let Some(mut launcher) = self.launcher.take() {
            let _ = (launcher.kill(), launcher.wait());
        }
    }

    /// Waits a moment for it to end, and ends it. How it ended, where it did so by itself. Blocks.
    pub(super) fn end(&mut self) -> Option<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < END_MAX {
            if let Ok(Some(status)) = self.launcher.as_mut()?.try_wait() {
                self.launcher = None;
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
        None
    }

    fn kill(&mut self) {
        let Some(mut launcher) = self.launcher.take() else { return };
        // As long as its parent lives, its number is nobody else's.
        if let (Ok(None), Some(process)) =
            (launcher.try_wait(), i32::try_from(self.process).ok().and_then(Pid::from_raw))
        {
            let _ = kill_process(process, Signal::KILL);
        }
        let _ = (launcher.kill(), launcher.wait());
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts the program of this command line with what comes through standard input as that of its own, says which process it is, and
/// ends as it does.
pub(super) fn run(command: &[OsString]) -> ExitCode {
    // Where it fails, whoever waits for word sees that none comes.
    launch(command).map_or(ExitCode::FAILURE, |status| {
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
    })
}

fn launch(command: &[OsString]) -> io::Result<ExitStatus> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut lead = Passage::given(io::stdin().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    lead.set_patience(LAUNCH_MAX)?;
    let end = lead.receive()?.descriptor.ok_or(io::ErrorKind::InvalidData)?;
    let started = Command::new(program).args(arguments).stdin(Stdio::from(end)).spawn();
    let said = match &started {
        Ok(child) => Launched::Process(child.id()),
        Err(error) => Launched::Problem(error.to_string()),
    };
    lead.send(&serde_json::to_vec(&said)?, &[], None)?;
    started?.wait()
}
