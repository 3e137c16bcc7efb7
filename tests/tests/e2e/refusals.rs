//! Refusals by the operating system: each call of the control API names them in one clear error, no
//! thread panics, and the same call works once the limit is lifted.
//!
//! Where threads cannot be limited, a test says so and checks nothing.
//! `WHARF_TESTS_MACHINE=required` makes that a failure.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use wharf_tests::certificates::Certificates;
use wharf_tests::control_site::ControlSite;
use wharf_tests::guests::{component, versioned, wharf_binary};
use wharf_tests::machine::skipped;
use wharf_tests::ports::free_port;
use wharf_tests::process::Wharf;
use wharf_tests::rng::Rng;
use wharf_tests::servers::eventually;

/// A control group that limits the number of threads and processes. It must be dropped after its
/// processes have ended.
struct Pids(PathBuf);

impl Pids {
    /// Makes a control group. `None` if this system does not let the test make one.
    fn new() -> Option<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        for root in ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"] {
            let group = Path::new(root).join(format!("wharf-test-{}-{number}", std::process::id()));
            if fs::create_dir(&group).is_ok() {
                let group = Self(group);
                if group.0.join("pids.max").exists() {
                    return Some(group);
                }
            }
        }
        None
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn put(&self, process: u32) {
        fs::write(self.file("cgroup.procs"), process.to_string()).expect("it moves");
    }

    fn limit(&self, most: &str) {
        fs::write(self.file("pids.max"), most).expect("a limit");
    }

    fn current(&self) -> usize {
        fs::read_to_string(self.file("pids.current"))
            .expect("a count")
            .trim()
            .parse()
            .expect("a number")
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        // The group can be removed once its last process has ended.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// A limit on the threads and processes of a process.
enum Threads {
    /// A control group with a limit on its threads and processes.
    Group(Pids),
    /// The limit of the process's user, which root ignores.
    OfUser(Pid),
}

impl Threads {
    fn of(process: &Wharf) -> Option<Self> {
        if let Some(group) = Pids::new() {
            group.put(process.child.id());
            return Some(Self::Group(group));
        }
        let user = (!rustix::process::getuid().is_root())
            .then(|| Self::OfUser(Pid::from_child(&process.child)));
        if user.is_none() {
            skipped("nothing limits the threads of a process of root here");
        }
        user
    }

    /// Allows `more` threads than the process has now. The limit of a user allows none instead.
    fn allow(&self, more: usize) {
        match self {
            Self::Group(group) => group.limit(&(group.current() + more).to_string()),
            Self::OfUser(process) => nproc(*process, Some(1)),
        }
    }

    fn lift(&self) {
        match self {
            Self::Group(group) => group.limit("max"),
            Self::OfUser(process) => {
                nproc(*process, rustix::process::getrlimit(Resource::Nproc).current);
            }
        }
    }
}

fn nproc(process: Pid, most: Option<u64>) {
    let maximum = rustix::process::getrlimit(Resource::Nproc).maximum;
    prlimit(Some(process), Resource::Nproc, Rlimit { current: most, maximum }).expect("a limit");
}

/// Versions to swap in, each of which must be compiled.
const LABELS: &str = "bcdefghijklmnopqrstuvwxyz";

/// A process with a server `echo` that has TLS.
struct Limited {
    site: ControlSite,
    versions: std::vec::IntoIter<char>,
    _certificates: Certificates,
}

impl Limited {
    fn new() -> Self {
        let (folder, certificates, port) =
            (tempfile::tempdir().expect("a folder"), Certificates::new(), free_port());
        for label in LABELS.chars().chain(['a']) {
            let bytes = component(&versioned(label, "", ""));
            fs::write(folder.path().join(format!("{label}.wasm")), bytes).expect("kept");
        }
        let text = format!(
            "[host]\nsessions_max = 64\nworkers = 1\nstop_grace = '200ms'\n[control]\nsocket = \
             'control.sock'\n\
             [[server]]\nname = 'echo'\nhost = '127.0.0.1'\nport = {port}\nplugin = \
             'a.wasm'\noptions = ['secure']\n\
             [server.credentials]\ncertificate_chain = '{}'\nprivate_key = '{}'\n",
            certificates.path("server.pem").display(),
            certificates.path("server.key").display()
        );
        fs::write(folder.path().join("wharf.toml"), text).expect("kept");
        let wharf = Wharf::run(&["serve"], folder.path());
        wharf.says("server started");
        let site = ControlSite { folder, port, wharf };
        eventually("the control API is open", || UnixStream::connect(site.socket()).is_ok());
        let versions = LABELS.chars().collect::<Vec<_>>().into_iter();
        let mut limited = Self { site, versions, _certificates: certificates };
        // The first use of each call starts threads, so that they exist before the limit.
        for call in CALLS {
            assert_eq!(limited.call(call).0, 200, "{call}");
        }
        limited
    }

    fn process(&self) -> Pid {
        Pid::from_child(&self.site.wharf.child)
    }

    /// Makes a call that succeeds if the system refuses nothing.
    fn call(&mut self, call: &str) -> (u16, Value) {
        let server = "/v1/servers/echo";
        let post = |path: &str, body: Value| self.site.ask("POST", path, &body);
        match call {
            "renew" => post(&format!("{server}/credentials/renew"), json!({})),
            "reload" => post("/v1/reload", json!({})),
            "restart" => post(&format!("{server}/restart"), json!({})),
            "suspend" => {
                let answer = post(&format!("{server}/suspend"), json!({ "newcomers": "queue" }));
                if answer.0 == 200 { post(&format!("{server}/resume"), json!({})) } else { answer }
            }
            "lock" => {
                let answer = post(&format!("{server}/lock"), json!({}));
                let token = answer.1["token"].clone();
                if answer.0 == 200 {
                    post(&format!("{server}/unlock"), json!({ "token": token }))
                } else {
                    answer
                }
            }
            "swap" | "canary" => {
                let label = self.versions.next().expect("enough versions");
                let file = self.site.path(&format!("{label}.wasm"));
                let answer = self.site.ask(
                    "POST",
                    &format!("{server}/plugin/{call}"),
                    &json!({ "file": file }),
                );
                match answer.0 {
                    // Ends the canary, so that the next call finds the server as before.
                    200 => self.site.ask("POST", &format!("{server}/plugin/rollback"), &json!({})),
                    _ => answer,
                }
            }
            "upgrade" => post("/v1/upgrade", json!({ "timeout": "20s" })),
            _ => unreachable!("{call}"),
        }
    }

    /// Makes five random calls while the system refuses things, and returns how many of them were
    /// refused.
    fn refused(&mut self, rng: &mut Rng, calls: &[&str], words: &[&str]) -> usize {
        let mut refused = 0;
        for _ in 0..5 {
            let call = calls[rng.index(calls.len())];
            let (code, answer) = self.call(call);
            println!("{call}: {code}: {answer}");
            let message = answer["error"]["message"].as_str().unwrap_or_default();
            let named = words.iter().any(|word| message.contains(word));
            let known = answer["error"]["code"] == "refused-by-system";
            assert!(code == 200 || (code == 503 && known && named), "{call}: {code}: {answer}");
            refused += usize::from(code != 200);
            self.lives();
        }
        refused
    }

    /// Checks that the process lives, and that none of its threads has panicked.
    fn lives(&mut self) {
        assert_eq!(self.site.wharf.child.try_wait().expect("it can be asked"), None, "it ended");
        let said = self.site.wharf.said_by_now();
        assert!(!said.iter().any(|line| line.contains("panicked")), "{}", said.join("\n"));
        assert_eq!(self.site.curl(&[], "/livez").0, 200);
    }

    /// Checks that every call works.
    fn recovers(&mut self) {
        for call in CALLS.into_iter().filter(|call| *call != "canary") {
            let (code, answer) = self.call(call);
            assert_eq!(code, 200, "{call}: {answer}");
        }
        self.lives();
    }
}

/// Calls that may be repeated.
const CALLS: [&str; 7] = ["renew", "swap", "canary", "reload", "lock", "suspend", "restart"];

#[test]
fn refused_threads_are_named() {
    let mut limited = Limited::new();
    let Some(threads) = Threads::of(&limited.site.wharf) else { return };
    let mut all = 0;
    for seed in [5, 23] {
        let mut rng = Rng::seeded(seed);
        // The compiler is a process with threads of its own: it may start and get no more.
        let more = rng.index(3);
        println!("seed {seed}: {more} more than there are");
        threads.allow(more);
        all += limited.refused(&mut rng, &CALLS, &["EAGAIN"]);
        threads.lift();
        limited.recovers();
    }
    threads.allow(0);
    for call in ["swap", "upgrade"] {
        let (code, answer) = limited.call(call);
        assert_eq!(
            (code, &answer["error"]["code"]),
            (503, &json!("refused-by-system")),
            "{call}: {answer}"
        );
        all += 1;
    }
    for call in ["renew", "lock", "suspend", "restart"] {
        assert_eq!(limited.call(call).0, 200, "{call} needs no thread");
    }
    limited.lives();
    threads.lift();
    assert!(all > 0);
    // The group can be removed only after its processes have ended.
    drop(limited);
}

#[test]
fn refused_descriptors_are_named() {
    let mut limited = Limited::new();
    let process = limited.process();
    let before = prlimit(
        Some(process),
        Resource::Nofile,
        Rlimit { current: Some(4_096), maximum: Some(4_096) },
    );
    before.expect("a limit");
    let mut all = 0;
    for seed in [7, 41] {
        let mut rng = Rng::seeded(seed);
        let descriptors =
            fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero())).expect("a list");
        let open: BTreeSet<u64> =
            descriptors.filter_map(|one| one.ok()?.file_name().to_str()?.parse().ok()).collect();
        // Room for one connection and few more descriptors.
        let most = (0..4_096)
            .filter(|number| !open.contains(number))
            .nth(1 + rng.index(3))
            .expect("a gap");
        println!("seed {seed}: up to {most} descriptors");
        let limit = |most| Rlimit { current: Some(most), maximum: Some(4_096) };
        prlimit(Some(process), Resource::Nofile, limit(most)).expect("a limit");
        all += limited.refused(&mut rng, &CALLS, &["EMFILE"]);
        prlimit(Some(process), Resource::Nofile, limit(4_096)).expect("a limit");
        limited.recovers();
    }
    assert!(all > 0, "nothing was refused");
}

#[test]
fn refused_memory_is_named() {
    let mut limited = Limited::new();
    let (process, mut all) = (limited.process(), 0);
    for seed in [11, 29] {
        let mut rng = Rng::seeded(seed);
        let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero()))
            .expect("its state");
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("a size");
        let kibibytes: u64 = size.trim().trim_end_matches(" kB").parse().expect("a number");
        // No room for a thread's stack or a copy of the process. Memory that threads have reserved
        // stays theirs.
        let most = (kibibytes + rng.index(4) as u64 * 16) << 10;
        println!("seed {seed}: up to {most} bytes of address space");
        let limit = |current| Rlimit { current, maximum: None };
        prlimit(Some(process), Resource::As, limit(Some(most))).expect("a limit");
        all += limited.refused(&mut rng, &CALLS, &["ENOMEM", "EAGAIN"]);
        prlimit(Some(process), Resource::As, limit(None)).expect("a limit");
        limited.recovers();
    }
    assert!(all > 0, "nothing was refused");
}

#[test]
fn refused_file_sizes_are_named() {
    let mut limited = Limited::new();
    let (process, mut all) = (limited.process(), 0);
    for seed in [3, 17, 23] {
        let mut rng = Rng::seeded(seed);
        let most = [0, 100, 4_096, 20_000][rng.index(4)];
        println!("seed {seed}: files of up to {most} bytes");
        let limit = |current| Rlimit { current, maximum: None };
        prlimit(Some(process), Resource::Fsize, limit(Some(most))).expect("a limit");
        all += limited.refused(&mut rng, &["swap", "canary", "reload"], &["EFBIG"]);
        prlimit(Some(process), Resource::Fsize, limit(None)).expect("a limit");
        limited.recovers();
    }
    assert!(all > 0, "nothing was refused");
}

#[test]
fn compiler_without_memory_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("polite.wasm");
    // So much code that its compiler allocates for a while.
    let body = "(local.set 0 (i32.add (i32.mul (local.get 0) (i32.const 7)) (i32.const 4095)))\n"
        .repeat(400);
    let one =
        |number| format!("(func $fat{number} (param i32) (result i32)\n{body}(local.get 0))\n");
    fs::write(&file, component(&(0..40).map(one).collect::<String>())).expect("kept");
    let (mut rng, mut failed) = (Rng::seeded(1), 0);
    for _ in 0..14 {
        // From the 256 MiB for the stack of its reader and nothing more, up to what compiling
        // needs.
        let most = (255 << 10) + rng.index(16 << 10);
        let script = format!("ulimit -d {most}; exec \"$0\" compile 2147483648 60");
        let mut command = Command::new("bash");
        command
            .args(["-c", &script])
            .arg(wharf_binary())
            .stdin(fs::File::open(&file).expect("it is there"));
        let output = command.env("RUST_BACKTRACE", "0").output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        println!("{most} KiB: {:?}: {said}", output.status);
        if output.status.success() {
            continue;
        }
        failed += 1;
        // The error that the host reads from the compiler names the cause, in one line.
        let memory = ["memory allocation of", "annot allocate memory", "os error 12", "code: 12"];
        let threads = ["os error 11", "code: 11"];
        let named = memory.iter().chain(&threads).any(|words| said.contains(words));
        assert!(named && !said.contains("panicked at"), "{most} KiB: {said}");
        assert!(!said.contains("of its own"), "{most} KiB: {said}");
    }
    assert!(failed > 0, "nothing was refused");
}

#[test]
fn start_without_threads_is_an_error() {
    let Some(group) = Pids::new() else {
        return skipped("no control group with a limit on processes can be made here");
    };
    let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
    fs::write(folder.path().join("polite.wasm"), component("")).expect("kept");
    wharf_tests::control_site::configure(folder.path(), port, "", "");
    let mut rng = Rng::seeded(1);
    for _ in 0..8 {
        let most = 2 + rng.index(26);
        group.limit(&most.to_string());
        let script = format!(
            "echo $$ > {}; exec timeout -s KILL 60 \"$0\" serve",
            group.file("cgroup.procs").display()
        );
        let mut command = Command::new("bash");
        command.args(["-c", &script]).arg(wharf_binary()).current_dir(folder.path());
        command.env("XDG_CACHE_HOME", folder.path()).env("XDG_STATE_HOME", folder.path());
        let output = command.output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        println!("{most}: {:?}: {said}", output.status);
        assert_eq!(output.status.code(), Some(1), "{most}: {said}");
        let named = said.contains("os error 11") || said.contains("EAGAIN");
        assert!(named && !said.contains("panicked"), "{most}: {said}");
    }
}
