//! Building a component from its source, by the command in its manifest.

use std::io::{self, IsTerminal, PipeWriter};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::io::retry_on_intr;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::manifest::{Build, MANIFEST_FILE, Manifest};
use super::source;
use crate::work::on_own_thread;

/// The environment variable that tells a build script which `wharf` runs it.
const WHARF: &str = "WHARF";

/// Why a build gave no new component.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The manifest does not say how to build.
    #[error("{}: no `[build]`: it does not say how the component is built", .manifest.display())]
    NoCommand {
        /// The manifest.
        manifest: PathBuf,
    },
    /// The program is missing, or may not be run.
    #[error("{}: `build.command`: cannot run `{command}`: {source}", .manifest.display())]
    NotRun {
        /// The manifest.
        manifest: PathBuf,
        /// The whole command.
        command: String,
        /// The system's error.
        source: io::Error,
    },
    /// The program failed, and gave the reason on its own standard error.
    #[error("{}: `build.command`: `{command}` failed ({status}); its own message is \
        above", .manifest.display())]
    Failed {
        /// The manifest.
        manifest: PathBuf,
        /// The whole command.
        command: String,
        /// Exit status of the program.
        status: ExitStatus,
    },
    /// The build took too long, and was killed.
    #[error(
        "{}: `build.command`: `{command}` was ended, because it took longer than {}; raise \
         `build.timeout` where it needs that",
        .manifest.display(), humantime::format_duration(*.time_max)
    )]
    Late {
        /// The manifest.
        manifest: PathBuf,
        /// The whole command.
        command: String,
        /// How long the build may take.
        time_max: std::time::Duration,
    },
    /// The command succeeded, but there is no component.
    #[error("{}: `component`: `{command}` went well, but {}: \
        {found}", .manifest.display(), .component.display())]
    Missing {
        /// The manifest.
        manifest: PathBuf,
        /// The whole command.
        command: String,
        /// Path where the component should be.
        component: PathBuf,
        /// What is there instead.
        found: String,
    },
}

impl Manifest {
    /// Runs the build command in the folder and waits for it. On success, the component exists.
    ///
    /// - The command's output goes to this process's standard error.
    /// - If it is a cargo command for a target that the toolchain lacks, the target is installed
    ///   first.
    /// - The command has its own process group. Processes that the command leaves in this group are
    ///   killed.
    ///
    /// If the future is dropped, the whole group is killed. Must be called inside a runtime.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn run_build(&self) -> Result<(), BuildError> {
        self.run_build_into(None).await
    }

    /// As [`Manifest::run_build`], but the output goes into this pipe if there is one. Processes
    /// that the command starts in other process groups may hold the pipe open.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn run_build_into(&self, output: Option<PipeWriter>) -> Result<(), BuildError> {
        let manifest = || self.folder.join(MANIFEST_FILE);
        let Some(build) = &self.build else {
            return Err(BuildError::NoCommand { manifest: manifest() });
        };
        let command = build.command.join(" ");
        let all = async {
            if let Some(target) = build.cargo_target() {
                ensure_target(&self.folder, target).await;
            }
            run(&self.folder, &build.command, output).await
        };
        let status = match tokio::time::timeout(build.time_max, all).await {
            Ok(Ok(status)) => status,
            Ok(Err(source)) => {
                return Err(BuildError::NotRun { manifest: manifest(), command, source });
            }
            Err(_) => {
                return Err(BuildError::Late {
                    manifest: manifest(),
                    command,
                    time_max: build.time_max,
                });
            }
        };
        if !status.success() {
            return Err(BuildError::Failed { manifest: manifest(), command, status });
        }
        let found = match std::fs::metadata(&self.component) {
            Ok(seen) if seen.is_file() => match source::no_component_in(&self.component) {
                None => return Ok(()),
                Some(what) => what.to_owned(),
            },
            Ok(seen) if seen.is_dir() => "expected a component, found a folder".to_owned(),
            Ok(_) => "expected a component, found no regular file".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(BuildError::Missing {
            manifest: manifest(),
            command,
            component: self.component.clone(),
            found,
        })
    }

    /// As [`Manifest::run_build`], for callers outside a runtime. Blocks.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn run_build_blocking(&self) -> Result<(), BuildError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(self.run_build()),
            Err(source) => Err(BuildError::NotRun {
                manifest: self.folder.join(MANIFEST_FILE),
                command: self
                    .build
                    .as_ref()
                    .map(|build| build.command.join(" "))
                    .unwrap_or_default(),
                source,
            }),
        }
    }
}

impl Build {
    fn cargo_target(&self) -> Option<&str> {
        let cargo = self.command.first().is_some_and(|program| program == "cargo");
        let flag = self.command.iter().position(|word| word == "--target").filter(|_| cargo)?;
        self.command.get(flag + 1).map(String::as_str)
    }
}

async fn run(
    folder: &Path,
    words: &[String],
    output: Option<PipeWriter>,
) -> io::Result<ExitStatus> {
    let [program, arguments @ ..] = words else { return Ok(ExitStatus::default()) };
    let mut command = with_wharf(Command::new(program));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    match output {
        None => drop(command.stdout(io::stderr())),
        Some(output) => {
            if io::stderr().is_terminal() {
                // Cargo no longer sees the terminal.
                command.env("CARGO_TERM_COLOR", "always");
            }
            command.stdout(output.try_clone()?).stderr(output);
        }
    }
    Running::start(command)?.end().await
}

/// A running command, with all processes of its group.
struct Running {
    child: Child,
    id: Pid,
    /// The process id was given back to the system, and may belong to another process by now.
    is_reaped: bool,
}

impl Running {
    fn start(mut command: Command) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        let id = Pid::from_child(&child);
        Ok(Self { child, id, is_reaped: false })
    }

    /// Waits until the command ends by itself. If the future is dropped, the command is killed.
    async fn end(mut self) -> io::Result<ExitStatus> {
        let id = self.id;
        // `wait` does not reap the command, so the process id stays taken until its group is
        // killed. If this future is dropped, the group is killed, and the wait ends with the
        // command.
        let waiting = on_own_thread("wharf-build", move || wait(id))?;
        waiting.await.map_err(io::Error::other)??;
        self.end_group();
        self.is_reaped = true;
        self.child.wait()
    }

    fn end_group(&self) {
        // If the group has no process left, there is nothing to kill.
        let _ = kill_process_group(self.id, Signal::KILL);
    }
}

/// Waits until the command ends, and does not reap it.
///
/// # Errors
/// The command was stopped because it wants the terminal, and would stay stopped for ever. Or the
/// system's error.
fn wait(id: Pid) -> io::Result<()> {
    let until = |options| retry_on_intr(|| waitid(WaitId::Pid(id), options));
    loop {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let Some(seen) = until(ended | WaitIdOptions::STOPPED)? else { continue };
        if !seen.stopped() {
            return Ok(());
        }
        if [Signal::TTIN, Signal::TTOU]
            .iter()
            .any(|signal| seen.stopping_signal() == Some(signal.as_raw()))
        {
            return Err(io::Error::other("it wants the terminal, which a build does not have"));
        }
        // Another process stopped the command and may continue it. This call consumes the stop, so
        // that the next `waitid` does not report it again.
        let _ = until(WaitIdOptions::STOPPED | WaitIdOptions::NOHANG)?;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.end_group();
            let _ = self.child.wait();
        }
    }
}

/// Tells a build script which `wharf` to use: the one in the variable if it is set, or this
/// program.
fn with_wharf(mut command: Command) -> Command {
    if std::env::var_os(WHARF).is_none()
        && let Ok(own) = std::env::current_exe()
    {
        command.env(WHARF, own);
    }
    command
}

/// Installs a target if the toolchain lacks it and rustup has it. Errors are ignored here, because
/// the build itself reports them better.
async fn ensure_target(folder: &Path, target: &str) {
    let query = ["--print", "target-libdir", "--target", target];
    let mut answer = tokio::process::Command::new("rustc");
    let answer = answer
        .args(query)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let Ok(answer) = answer.output().await else { return };
    let libdir = String::from_utf8_lossy(&answer.stdout);
    if answer.status.success() && !Path::new(libdir.trim()).exists() {
        let words = ["rustup", "target", "add", target].map(str::to_owned);
        let _ = run(folder, &words, None).await;
    }
}
