//! A `wharf serve` with a control API, and the ways to call it.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::guests::{component, versioned, wharf_binary};
use crate::ports::free_port;
use crate::process::Wharf;
use crate::servers::eventually;

/// A `wharf serve` with one server called `echo` and its control API.
pub struct ControlSite {
    /// The folder with the process's files.
    pub folder: TempDir,
    /// The port of `echo`.
    pub port: u16,
    /// The process.
    pub wharf: Wharf,
}

impl Default for ControlSite {
    fn default() -> Self {
        Self::with("", "")
    }
}

impl ControlSite {
    /// Starts a process with more lines in `[control]` and in the server's table.
    #[must_use]
    pub fn with(control: &str, server: &str) -> Self {
        let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
        std::fs::write(folder.path().join("polite.wasm"), component("")).expect("kept");
        configure(folder.path(), port, control, server);
        let wharf = Wharf::run(&["serve"], folder.path());
        wharf.says("server started");
        let site = Self { folder, port, wharf };
        eventually("the control API is open", || site.socket().exists());
        site
    }

    /// The path of a file in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The path of the control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("control.sock")
    }

    /// The address of `echo`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Sends a request by curl. Returns the status and the body.
    #[must_use]
    pub fn curl(&self, arguments: &[&str], path: &str) -> (u16, String) {
        let output = Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--max-time",
                "20",
                "--write-out",
                "\n%{http_code}",
                "--unix-socket",
            ])
            .arg(self.socket())
            .args(arguments)
            .arg(format!("http://localhost{path}"))
            .output()
            .expect("curl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, code) = text.rsplit_once('\n').expect("a code");
        (code.parse().expect("a number"), body.to_owned())
    }

    /// Sends a request, and returns the status and the JSON answer.
    #[must_use]
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let arguments = ["--request", method, "--data-binary", &body];
        let (code, text) = self.curl(if method == "GET" { &[] } else { &arguments }, path);
        (
            code,
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}")),
        )
    }

    /// Sends a request that must succeed, and returns the answer.
    pub fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let (code, answer) = self.ask(method, path, &body);
        assert_eq!(code, 200, "{method} {path}: {answer}");
        answer
    }

    /// Sends a request that must be refused. Returns the status and the problem's code.
    #[must_use]
    pub fn refused(&self, method: &str, path: &str, body: Value) -> (u16, String) {
        let (code, answer) = self.ask(method, path, &body);
        assert!(
            answer["error"]["message"].as_str().is_some_and(|message| !message.is_empty()),
            "{answer}"
        );
        (code, answer["error"]["code"].as_str().expect("a code").to_owned())
    }

    /// Runs `wharf ctl`.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(wharf_binary());
        command
            .arg("ctl")
            .arg("--socket")
            .arg(self.socket())
            .args(arguments)
            .output()
            .expect("it runs")
    }

    /// Runs `wharf plugin`.
    pub fn wharf_plugin(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(wharf_binary());
        command
            .arg("plugin")
            .arg("--socket")
            .arg(self.socket())
            .args(arguments)
            .output()
            .expect("it runs")
    }

    /// Runs `wharf check` on the process's configuration, as the same user with the same folders.
    pub fn check(&self) -> Output {
        let mut command = Command::new(wharf_binary());
        command.arg("check").current_dir(self.folder.path());
        command.env("XDG_CACHE_HOME", self.path("cache")).env("XDG_STATE_HOME", self.path("state"));
        command.output().expect("it runs")
    }

    /// Kills the process, and starts a new one with the same files.
    pub fn start_again(&mut self) {
        self.wharf.kill();
        // A compiler process that it was starting holds its descriptors for a moment longer.
        eventually("no process has its sockets", || UnixStream::connect(self.socket()).is_err());
        self.wharf = Wharf::run(&["serve"], self.folder.path());
        self.wharf.says("server started");
        eventually("the control API is open", || UnixStream::connect(self.socket()).is_ok());
    }

    /// Starts a process that can be killed and started again, with versions to swap in: `a.wasm`
    /// and so on, one for each label.
    #[must_use]
    pub fn of_versions(server: &str, labels: &[char]) -> Self {
        let site = Self::with("", &format!("options = ['reuse-address']\n{server}"));
        for label in labels {
            std::fs::write(
                site.path(&format!("{label}.wasm")),
                component(&versioned(*label, "", "")),
            )
            .expect("kept");
        }
        site
    }

    /// Runs `wharf plugin VERB echo`, with a file of the folder if one is named. The command must
    /// succeed. Returns its answer.
    pub fn plugin(&self, verb: &[&str], file: Option<&str>) -> Value {
        let file = file.map(|file| self.path(file).to_str().expect("a path").to_owned());
        let output =
            self.wharf_plugin(&[verb, &["echo"], file.as_deref().as_slice(), &["--json"]].concat());
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).expect("an answer")
    }

    /// All sessions of `echo`.
    #[must_use]
    pub fn sessions(&self) -> Vec<Value> {
        let answer = self.ok("GET", "/v1/servers/echo/sessions?limit=1000", json!({}));
        answer["sessions"].as_array().expect("a list").clone()
    }
}

/// Writes the configuration of a [`ControlSite`].
pub fn configure(folder: &Path, port: u16, control: &str, server: &str) {
    let text = format!(
        "[host]\nsessions_max = 256\nstop_grace = '200ms'\n[control]\nsocket = \
         'control.sock'\n{control}\n\
         [[server]]\nname = 'echo'\nhost = '127.0.0.1'\nport = {port}\nplugin = \
         'polite.wasm'\n{server}\n"
    );
    std::fs::write(folder.join("wharf.toml"), text).expect("kept");
}

/// The whole output of a command: standard output, then standard error.
#[must_use]
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
