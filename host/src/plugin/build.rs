//! Building a component from its source, by the command that its own manifest names.

use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use super::Build;

/// The variable by which a build script finds the `wharf` that runs it.
const WHARF: &str = "WHARF";

/// Why there is no new component.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The program is not there, or may not be run.
    #[error("cannot run `{command}`: {source}")]
    NotRun {
        /// The whole command.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// The program said why on its own standard error.
    #[error("`{command}` failed ({status}); its own message is above")]
    Failed {
        /// The whole command.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
}

impl Build {
    /// Runs the command in `folder` and waits for it. Its output goes to this process's standard error. Where it is a
    /// cargo command for a target that the toolchain lacks, the target is installed first.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn run(&self, folder: &Path) -> Result<(), BuildError> {
        self.ensure_target(folder);
        run(folder, &self.command)
    }

    /// The command as [`Build::run`] would run it, for who wants to hear its output. Its target is installed where that is
    /// missing: blocks. `None`: there is nothing to run.
    #[must_use]
    pub fn prepared(&self, folder: &Path) -> Option<Command> {
        self.ensure_target(folder);
        command(folder, &self.command)
    }

    fn ensure_target(&self, folder: &Path) {
        if let Some(target) = self.cargo_target() {
            ensure_target(folder, target);
        }
    }

    fn cargo_target(&self) -> Option<&str> {
        let cargo = self.command.first().is_some_and(|program| program == "cargo");
        let flag = self.command.iter().position(|word| word == "--target").filter(|_| cargo)?;
        self.command.get(flag + 1).map(String::as_str)
    }
}

fn run(folder: &Path, words: &[String]) -> Result<(), BuildError> {
    let Some(mut prepared) = command(folder, words) else { return Ok(()) };
    let command = words.join(" ");
    let status = prepared
        .stdout(io::stderr())
        .status()
        .map_err(|source| BuildError::NotRun { command: command.clone(), source })?;
    if status.success() { Ok(()) } else { Err(BuildError::Failed { command, status }) }
}

fn command(folder: &Path, words: &[String]) -> Option<Command> {
    let [program, arguments @ ..] = words else { return None };
    let mut command = with_wharf(Command::new(program));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    Some(command)
}

/// Tells a build script which `wharf` to use: the variable that is set, or else this program.
fn with_wharf(mut command: Command) -> Command {
    if std::env::var_os(WHARF).is_none()
        && let Ok(own) = std::env::current_exe()
    {
        command.env(WHARF, own);
    }
    command
}

/// Installs a target where rustup can and the toolchain lacks it. Whatever goes wrong here, the build itself says it
/// better.
fn ensure_target(folder: &Path, target: &str) {
    let query = ["--print", "target-libdir", "--target", target];
    let answer = Command::new("rustc").args(query).current_dir(folder).stderr(Stdio::null()).output();
    let Ok(answer) = answer else { return };
    let libdir = String::from_utf8_lossy(&answer.stdout);
    if answer.status.success() && !Path::new(libdir.trim()).exists() {
        let words = ["rustup", "target", "add", target].map(str::to_owned);
        let _ = run(folder, &words);
    }
}
