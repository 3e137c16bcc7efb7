//! The process under test: its configuration, its files, and versions of its plugins.

use std::fmt::Write as _;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::certificates::Certificates;
use crate::guests::{built, component, root, wharf_binary};
use crate::load::api::Api;
use crate::load::attacks::made::{kept, marked};
use crate::ports::free_port;
use crate::rng::Rng;

/// The body of `http`'s answers.
const BODY: &str = "The quick brown fox jumps over the lazy dog, and all of it arrives.";
/// Builds of each plugin that are swapped in repeatedly. Other versions are new each time.
const BUILDS: usize = 4;
/// Time that a start and a stop may take.
const START_TIME_MAX: Duration = Duration::from_secs(60);
const STOP_TIME_MAX: Duration = Duration::from_secs(40);
/// The server that operators stop now and then, and that a reload starts again.
pub(super) const SPARE: &str = "spare";
/// The word in the log that reports a panic.
const PANICKED: &str = "panicked";

/// The protocol of a bundled plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Echo,
    Lines,
    Http,
    Chat,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Echo, Self::Lines, Self::Http, Self::Chat];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Lines => "lines",
            Self::Http => "http",
            Self::Chat => "chat",
        }
    }
}

/// The servers: name, plugin, whether it uses TLS, and further lines of its table.
const SERVERS: [(&str, Kind, bool, &str); 9] = [
    // The only plugin here that stores no state of a session in its instance.
    ("echo", Kind::Echo, false, "tenant = 'web'\ninstance = 'server'\nshards = 2\n"),
    ("echo-tls", Kind::Echo, true, "sleep_after = '300ms'\n"),
    ("lines", Kind::Lines, false, "tenant = 'limited'\n"),
    ("lines-tls", Kind::Lines, true, "tenant = 'limited'\n"),
    ("http", Kind::Http, false, "tenant = 'web'\n"),
    ("http-tls", Kind::Http, true, "tenant = 'web'\npriority_max = 'high'\n"),
    ("chat", Kind::Chat, false, "tenant = 'rooms'\n"),
    ("chat-tls", Kind::Chat, true, "tenant = 'rooms'\nsleep_after = '2s'\n"),
    (SPARE, Kind::Echo, false, ""),
];

/// One server of the process.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) secure: bool,
    pub(super) address: SocketAddr,
}

/// A `wharf serve` with several servers and tenants.
pub(super) struct Place {
    folder: TempDir,
    certificates: Certificates,
    child: Child,
    pub(super) servers: Vec<Target>,
    pub(super) api: Api,
}

impl Place {
    /// Starts the process, with room for `sessions_max` instances.
    pub(super) fn start(sessions_max: usize) -> Result<Self> {
        let (folder, certificates) = (tempfile::tempdir()?, Certificates::new());
        let servers: Vec<_> = SERVERS
            .map(|(name, kind, secure, _)| {
                let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
                Target { name, kind, secure, address }
            })
            .into();
        for variant in 0..2 {
            let text = configuration(&servers, &certificates, sessions_max, variant);
            std::fs::write(folder.path().join(format!("variant-{variant}.toml")), text)?;
        }
        std::fs::write(folder.path().join("variant-bad.toml"), "[host]\nsessions_max = 'many'\n")?;
        std::fs::copy(folder.path().join("variant-0.toml"), folder.path().join("wharf.toml"))?;
        builds(folder.path())?;
        let log = File::create(folder.path().join("log"))?;
        let child = Command::new(wharf_binary())
            .arg("serve")
            .current_dir(folder.path())
            .env("XDG_CACHE_HOME", folder.path().join("cache"))
            .env("XDG_STATE_HOME", folder.path().join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let api = Api::at(folder.path().join("control.sock"));
        let mut place = Self { folder, certificates, child, servers, api };
        let start = Instant::now();
        while !place.log()?.contains("the control API is open") {
            ensure!(start.elapsed() < START_TIME_MAX, "it does not start:\n{}", place.log()?);
            if let Some(status) = place.child.try_wait()? {
                bail!("it ended with {status}:\n{}", place.log()?);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(place)
    }

    /// The id of the process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The certificate of the servers' authority.
    pub(super) fn authority(&self) -> PathBuf {
        self.certificates.path("ca.pem")
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(self.folder.path().join("log"))?).into_owned())
    }

    /// Stops the process by a signal. Returns what was wrong with its end and its log.
    pub(super) fn stop(mut self) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        kill_process(Pid::from_child(&self.child), Signal::INT)?;
        let start = Instant::now();
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break Some(status),
                None if start.elapsed() > STOP_TIME_MAX => break None,
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        match status {
            Some(status) if status.success() => {}
            Some(status) => wrong.push(format!("the process ended with {status}")),
            None => wrong.push(format!("the process did not end within {STOP_TIME_MAX:?}")),
        }
        let log = self.log()?;
        wrong.extend(
            log.lines()
                .filter(|line| line.contains(PANICKED))
                .take(10)
                .map(|line| format!("log: {line}")),
        );
        Ok(wrong)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

/// The text of a configuration. The variants differ in limits, so that a reload changes something.
fn configuration(
    servers: &[Target],
    certificates: &Certificates,
    sessions_max: usize,
    variant: usize,
) -> String {
    let mut text = format!(
        "[host]\nsessions_max = {sessions_max}\nstop_grace = '500ms'\n[control]\nsocket = \
         'control.sock'\n\
         [[tenant]]\nname = 'limited'\nmax_clients = 150\ncpus = 0.{}\nmemory_max_bytes = \
         200_000_000\n\
         bytes_per_second = 20_000_000\n",
        5 + variant
    );
    for (target, (_, _, _, more)) in servers.iter().zip(SERVERS) {
        let (folder, grants) = built(&format!("plugins/{}", target.kind.name()));
        let grants: Vec<_> = grants.iter().map(|grant| format!("'{}'", grant.name())).collect();
        let secure = if target.secure { ", 'secure'" } else { "" };
        let (name, port, grants) = (target.name, target.address.port(), grants.join(", "));
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "[[server]]\nname = '{name}'\nhost = '127.0.0.1'\nport = {port}\nplugin = '{}'\ngrants \
             = [{grants}]\n\
             options = ['reuse-address', 'no-delay'{secure}]\n{more}\
             [server.timeouts]\nhandshake = '3s'\nwrite = '{}s'\n[server.breaker]\npause = \
             '200ms'\n\
             pause_max = '1s'\n[server.swap]\nwatch = '4s'\n[server.swap.canary]\nsessions_min = \
             2\n",
            folder.display(),
            3 + variant,
        );
        if target.kind == Kind::Http {
            let _ = write!(text, "[server.settings]\nbody = '{}'\n", BODY.repeat(20));
        }
        if target.secure {
            let [chain, key] = ["server.pem", "server.key"].map(|file| certificates.path(file));
            let _ = write!(
                text,
                "[server.credentials]\ncertificate_chain = '{}'\nprivate_key = '{}'\n",
                chain.display(),
                key.display()
            );
        }
    }
    text
}

/// Writes the builds of every plugin, and the bad versions, into the folder.
fn builds(folder: &Path) -> Result<()> {
    for kind in Kind::ALL {
        let bytes = build(kind)?;
        for number in 0..BUILDS {
            kept(folder, &format!("{}-{number}", kind.name()), &marked(&bytes, number))?;
        }
    }
    let text = std::fs::read_to_string(root().join("tests/guests/bad-version.wat"))?;
    for (name, restore, read) in BAD {
        kept(
            folder,
            &format!("bad-{name}"),
            &component(&text.replace("RESTORE", restore).replace("READ", read)),
        )?;
    }
    std::fs::write(folder.join("bad-bytes.wasm"), b"\0asm and nothing that belongs there")?;
    Ok(())
}

fn build(kind: Kind) -> Result<Vec<u8>> {
    let (folder, _) = built(&format!("plugins/{}", kind.name()));
    let manifest = wharf::plugin::Manifest::read(&folder)?;
    std::fs::read(&manifest.component).context("the plugin is built")
}

const REFUSES: &str = "(i32.store (i32.const 1064) (i32.const 1)) (i32.store (i32.const 1068) \
    (i32.const 1024)) \
                       (i32.store (i32.const 1072) (i32.const 5))";

/// Bad versions: name, code of `restore`, and code of each read. None writes a byte.
const BAD: [(&str, &str, &str); 5] = [
    ("refuses", REFUSES, "unreachable"),
    ("traps", "unreachable", "unreachable"),
    ("loops", "(call $spin)", "(call $spin)"),
    (
        "grows",
        "(loop $more (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 16))))) \
         unreachable",
        "",
    ),
    ("moves", "", "unreachable"),
];

/// Whether a version works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quality {
    Good,
    Bad,
}

impl Place {
    /// A version for this kind of plugin. One good version in four is a new build.
    pub(super) fn version(
        folder: &Path,
        kind: Kind,
        quality: Quality,
        rng: &mut Rng,
    ) -> Result<PathBuf> {
        if quality == Quality::Bad {
            let names: Vec<_> = BAD.iter().map(|(name, ..)| *name).chain(["bytes"]).collect();
            return Ok(folder.join(format!("bad-{}.wasm", rng.one_of(&names))));
        }
        if rng.percent(75) {
            return Ok(folder.join(format!(
                "{}-{}.wasm",
                kind.name(),
                rng.between(0, BUILDS as u64 - 1)
            )));
        }
        let bytes = std::fs::read(folder.join(format!("{}-0.wasm", kind.name())))?;
        // One file for each plugin, so that the folder does not grow.
        let file = folder.join(format!("{}-new.wasm", kind.name()));
        let half = folder.join(format!("{}-half.{}", kind.name(), rng.throw()));
        std::fs::write(&half, marked(&bytes, rng.throw() as usize))?;
        std::fs::rename(half, &file)?;
        Ok(file)
    }

    /// Puts another variant of the configuration in place, for the next reload.
    pub(super) fn configure(folder: &Path, variant: &str) -> Result<()> {
        let half = folder.join(format!("wharf.toml.{variant}"));
        std::fs::copy(folder.join(format!("variant-{variant}.toml")), &half)?;
        Ok(std::fs::rename(half, folder.join("wharf.toml"))?)
    }
}
