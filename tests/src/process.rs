//! The `wharf` command as a process of its own, and its output.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::guests::wharf_binary;
use crate::servers::PATIENCE;

/// A running `wharf`, and the lines of its standard error. Dropping it kills the process.
pub struct Wharf {
    /// The process.
    pub child: Child,
    lines: Receiver<String>,
}

impl Wharf {
    /// Runs `wharf` in a folder, with its cache and its records there.
    #[must_use]
    pub fn run(arguments: &[&str], folder: &Path) -> Self {
        let mut command = Command::new(wharf_binary());
        command.args(arguments);
        Self::spawn(command, folder)
    }

    /// Runs a command that becomes a `wharf`.
    #[must_use]
    pub fn spawn(command: Command, folder: &Path) -> Self {
        Self::spawn_with(command, folder, Stdio::null())
    }

    /// Runs a command that becomes a `wharf`, with this standard input.
    #[must_use]
    pub fn spawn_with(mut command: Command, folder: &Path, input: Stdio) -> Self {
        let mut child = command
            .current_dir(folder)
            .env("XDG_CACHE_HOME", folder.join("cache"))
            .env("XDG_STATE_HOME", folder.join("state"))
            .stdin(input)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let (said, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().expect("its words"));
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Waits for a line that contains these words, and returns it.
    pub fn says(&self, words: &str) -> String {
        self.lines_until(words).pop().expect("the line")
    }

    /// Waits for a line that contains these words. Returns all lines since the previous wait, up to
    /// this one.
    pub fn lines_until(&self, words: &str) -> Vec<String> {
        let (start, mut all) = (Instant::now(), Vec::new());
        while let Ok(line) = self.lines.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
            let found = line.contains(words);
            all.push(line);
            if found {
                return all;
            }
        }
        panic!("it never said {words:?}; it said:\n{}", all.join("\n"));
    }

    /// All lines so far since the previous wait.
    #[must_use]
    pub fn said_by_now(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }
}

impl Wharf {
    /// Kills the process, and waits for its end.
    pub fn kill(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

impl Drop for Wharf {
    fn drop(&mut self) {
        self.kill();
    }
}
