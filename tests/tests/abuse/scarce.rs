//! A tenant that takes all that its limits allow, with the plugin that takes the most, on a system
//! that gives little. The process survives and serves others. The tenant is served again once there
//! is room.
//!
//! Where the limits of the machine cannot be lowered, a test says so and checks nothing.
//! `WHARF_TESTS_MACHINE=required` makes that a failure.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tempfile::TempDir;
use wharf_tests::clients::Client;
use wharf_tests::guests::{component, wharf_binary};
use wharf_tests::machine::skipped;
use wharf_tests::oracle::alone;
use wharf_tests::ports::free_port;
use wharf_tests::process::Wharf;
use wharf_tests::servers::eventually;
use wharf_tests::shapes::{Module, Writes, with_modules, worst};

/// Sessions that the good server is promised.
const GOOD: usize = 20;

struct ScarceSite {
    folder: TempDir,
    bad: SocketAddr,
    good: SocketAddr,
    wharf: Wharf,
}

impl ScarceSite {
    /// Starts the process after `before`, a line of a shell. `clients` is the maximum of the bad
    /// server.
    fn start(before: &str, clients: usize, modules: &[Module]) -> Self {
        Self::with(before, clients, &component(""), modules)
    }

    /// [`Self::start`], with `plugin` as the bad server's component.
    fn with(before: &str, clients: usize, plugin: &[u8], modules: &[Module]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let keep =
            |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("kept");
        keep("polite.wasm", &component(""));
        keep("worst.wasm", &with_modules(plugin, modules));
        keep("worse.wasm", &with_modules(plugin, &[modules, &[Module::default()]].concat()));
        let (bad, good) = (free_port(), free_port());
        let server = |name: &str, port, plugin: &str, more: &str| {
            format!(
                "[[server]]\nname = '{name}'\nhost = '127.0.0.1'\nport = {port}\nplugin = \
                 '{plugin}'\n{more}\n"
            )
        };
        let text = format!(
            "[host]\nstop_grace = '100ms'\n[control]\nsocket = 'control.sock'\n{}{}",
            server("bad", bad, "worst.wasm", &format!("max_clients = {clients}")),
            server(
                "good",
                good,
                "polite.wasm",
                &format!("max_clients = {GOOD}\ninstances_min = {GOOD}")
            ),
        );
        keep("wharf.toml", text.as_bytes());
        let mut command = Command::new("bash");
        command
            .arg("-c")
            .arg(format!("{before}\nexec \"$0\" serve"))
            .arg(wharf_binary())
            .env("RUST_BACKTRACE", "0");
        let wharf = Wharf::spawn(command, folder.path());
        wharf.lines_until("server started");
        wharf.says("server started");
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let site = Self { folder, bad: address(bad), good: address(good), wharf };
        eventually("the control API is open", || site.path("control.sock").exists());
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(wharf_binary());
        command.arg("ctl").args(arguments).arg("--socket").arg(self.path("control.sock"));
        let output = command.output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    }

    /// Connects a client of the bad server. `None` if it is not served.
    fn intrude(&self) -> Option<TcpStream> {
        Self::enter(self.bad)
    }

    /// Connects a client. `None` if it is not served.
    fn enter(address: SocketAddr) -> Option<TcpStream> {
        let mut socket = TcpStream::connect(address).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        socket.write_all(b"x").ok()?;
        let mut byte = [0];
        (socket.read(&mut byte).ok()? == 1).then_some(socket)
    }

    /// Checks that all promised clients of the good server are served at once.
    fn serves_good(&mut self) {
        let mut clients = Vec::new();
        // Clients of an earlier check have closed, and the server may not have noticed yet.
        let start = Instant::now();
        while clients.len() < GOOD {
            clients.extend(Self::enter(self.good).map(Client));
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{} of {GOOD} are served",
                clients.len()
            );
        }
        assert!(
            self.wharf.child.try_wait().expect("it can be asked").is_none(),
            "the process ended"
        );
        let status = self.ctl(&["servers"]);
        assert!(status.contains("good") && status.contains("bad"), "{status}");
        clients.iter_mut().for_each(|client| client.finish().expect_closed());
    }

    /// Fills the bad server while it swaps and reloads, then empties it, and checks the good server
    /// throughout. Returns how many of the bad server's clients were served.
    fn is_besieged(&mut self, clients: usize) -> usize {
        self.serves_good();
        let mut inside: Vec<_> = (0..clients / 2).filter_map(|_| self.intrude()).collect();
        self.serves_good();
        // A swap and a reload while hardly anything is left.
        let worse = self.path("worse.wasm");
        let swapped = Command::new(wharf_binary())
            .args(["plugin", "swap", "bad"])
            .arg(worse)
            .arg("--socket")
            .arg(self.path("control.sock"))
            .output();
        assert!(swapped.is_ok());
        self.ctl(&["reload"]);
        inside.extend((clients / 2..clients).filter_map(|_| self.intrude()));
        self.serves_good();
        let most = inside.len();
        drop(inside);
        let start = Instant::now();
        while self.intrude().is_none() {
            assert!(start.elapsed() < Duration::from_secs(20), "it is never served again");
        }
        self.serves_good();
        most
    }
}

/// A lowered setting of the machine, restored when this is dropped.
struct Lowered {
    file: &'static str,
    before: String,
}

impl Lowered {
    fn to(file: &'static str, value: u64) -> Option<Self> {
        let before = fs::read_to_string(file).unwrap_or_default();
        let is_above = before.trim().parse::<u64>().is_ok_and(|now| value < now);
        if !is_above || fs::write(file, value.to_string()).is_err() {
            skipped(&format!("{file} is `{}` and cannot be lowered to {value}", before.trim()));
            return None;
        }
        Some(Self { file, before })
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        fs::write(self.file, &self.before).expect("it is as it was");
    }
}

#[test]
fn few_mappings_end_no_process() {
    let _alone = alone();
    let Some(lowered) = Lowered::to("/proc/sys/vm/max_map_count", 20_000) else { return };
    let mut site = ScarceSite::start("true", 540, &worst());
    let inside = site.is_besieged(540);
    assert!((100..540).contains(&inside), "{inside} of 540 were let in");
    // With the limit lifted, the process serves as before.
    drop(lowered);
    site.serves_good();
}

#[test]
fn little_address_space_ends_no_process() {
    let _alone = alone();
    // Enough for some sessions beyond the spare slots, each with four memories, and little more.
    for sessions in [30_u64, 45] {
        let kibibytes = (8 << 20) + (64 + sessions) * 4 * ((4 << 20) + (33 << 10));
        let mut site = ScarceSite::start(
            &format!("ulimit -v {kibibytes}"),
            sessions as usize - GOOD,
            &worst(),
        );
        let clients = sessions as usize - GOOD;
        let inside = site.is_besieged(2 * clients);
        assert!(inside >= clients / 2, "{inside} of {clients} were let in");
    }
}

/// A handler that grows its memory by `pages` at a time until the host refuses.
fn hog(pages: u32) -> String {
    format!(
        "(func $on-read (param $data i32) (param $length i32) (result i32)
           (loop $more (br_if $more (i32.ne (memory.grow (i32.const {pages})) (i32.const -1))))
           (drop (call $try-write (local.get $data) (i32.const 1))) (i32.const 0))"
    )
}

/// Bytes of the process that count against `ulimit -d`.
fn data_bytes(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).expect("it lives");
    let line = text.lines().find_map(|line| line.strip_prefix("VmData:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[test]
fn little_private_memory_ends_no_process() {
    let _alone = alone();
    for (mebibytes, pages) in [(700_u64, 1), (700, 100), (900, 7)] {
        let mut site = ScarceSite::with(
            &format!("ulimit -d {}", mebibytes << 10),
            60,
            &component(&hog(pages)),
            &[],
        );
        site.serves_good();
        let inside: Vec<_> = (0..60).filter_map(|_| site.intrude()).collect();
        assert!(!inside.is_empty(), "{mebibytes} MiB, {pages} pages: none was let in");
        site.serves_good();
    }
}

#[test]
fn private_memory_may_run_short_later() {
    let _alone = alone();
    for (mebibytes, pages) in [(300_u64, 1), (500, 100)] {
        let mut site = ScarceSite::with("true", 60, &component(&hog(pages)), &[]);
        site.serves_good();
        let process = site.wharf.child.id();
        let most = Some(data_bytes(process) + (mebibytes << 20));
        let pid = Pid::from_child(&site.wharf.child);
        let set = |current| {
            prlimit(Some(pid), Resource::Data, Rlimit { current, maximum: None }).expect("a limit")
        };
        set(most);
        // The host looks at its limits once a second.
        std::thread::sleep(Duration::from_secs(2));
        let inside: Vec<_> = (0..60).filter_map(|_| site.intrude()).collect();
        site.serves_good();
        assert!(most.is_some_and(|most| data_bytes(process) <= most));
        set(None);
        drop(inside);
        let start = Instant::now();
        while site.intrude().is_none() {
            assert!(start.elapsed() < Duration::from_secs(20), "it is never served again");
        }
        site.serves_good();
    }
}

/// A control group with a memory limit, removed when this is dropped.
struct Group(PathBuf);

impl Group {
    fn of(bytes: u64) -> Option<Self> {
        let group = Self::with(bytes);
        if group.is_none() {
            skipped("no control group with a memory limit can be made");
        }
        group
    }

    fn with(bytes: u64) -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = |controller: &str| {
            let line = own.lines().find_map(|line| {
                line.split_once(':')?.1.strip_prefix(controller)?.strip_prefix(':')
            });
            line.map(|path| path.trim_start_matches('/').to_owned())
        };
        let places = [
            (Path::new("/sys/fs/cgroup").join(path("")?), "memory.max"),
            (
                Path::new("/sys/fs/cgroup/memory").join(path("memory").unwrap_or_default()),
                "memory.limit_in_bytes",
            ),
        ];
        for (parent, file) in places {
            // If this is no control group, a folder in it is none either.
            if !parent.join("cgroup.procs").exists() {
                continue;
            }
            let group = Self(parent.join(format!("wharf-{}", std::process::id())));
            let limit = group.0.join(file);
            if fs::create_dir(&group.0).is_ok()
                && limit.exists()
                && fs::write(limit, bytes.to_string()).is_ok()
            {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let gone = || fs::remove_dir(&self.0).is_ok() || !self.0.exists();
        let start = Instant::now();
        while !gone() && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn little_memory_ends_no_process() {
    let _alone = alone();
    let Some(group) = Group::of(400 << 20) else { return };
    let enters = format!("echo $$ > {}/cgroup.procs", group.0.display());
    // Each session writes to six megabytes.
    let module = Module {
        pages: 1,
        data: vec![(0, 8)],
        grows: 31,
        writes: Writes::Everything,
        tables: vec![],
    };
    let mut site = ScarceSite::start(&enters, 90, &vec![module; 3]);
    let inside = site.is_besieged(90);
    assert!((10..90).contains(&inside), "{inside} of 90 were let in");
}
