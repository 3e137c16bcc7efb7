//! The oracle: checks what must hold after anything that a guest or a peer tries.
//!
//! - The process goes on, and nothing in it panicked.
//! - An honest session of another tenant is answered in time throughout.
//! - Descriptors, threads, tasks, instances, places and memory are given back.
//! - Every accepted client is counted once, for one reason.

use std::fs;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use wharf::server::{ServerBuilder, ServerHandle, Status};
use wharf::telemetry::Snapshot;

use crate::clients::Client;
use crate::guests::polite;
use crate::load::memory::Weight;
use crate::servers::{describe, eventually, host};

/// Tasks that may stay: the probation of a swapped version is a task of its server, for a minute.
const WATCHING: usize = 1;
/// Time within which an honest session must have its answer, on a busy machine too.
pub const IN_TIME: Duration = Duration::from_secs(2);
/// Resident memory that may stay, in KiB: warm slots, buffers of threads, the allocator's own.
const KEPT_KIB: u64 = 96 << 10;

/// A lock: no other test of this process measures while it is held.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the server, lets `provoke` do its worst to it, and checks all that must hold. Returns the
/// counters at the end.
pub fn judge(
    server: impl FnOnce() -> ServerBuilder,
    provoke: impl FnOnce(&ServerHandle),
) -> Snapshot {
    let _alone = alone();
    count_panics();
    let server = server().tenant("abuser").start().expect("it starts");
    let honest = Honest::begin();
    let before = Holdings::now();
    provoke(&server);
    eventually("all clients left", || server.clients() == 0 && server.session_count() == 0);
    before.are_back();
    honest.end();
    assert_eq!(server.status(), Status::Listening);
    let counters = server.counters();
    balanced(&counters);
    let panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(panics.is_empty(), "the host panicked: {panics:?}");
    counters
}

/// Checks that every accepted client was refused, failed its handshake, or ended, once, and that no
/// client is left.
pub fn balanced(counters: &Snapshot) {
    let of = [&counters.ended, &counters.refused, &counters.handshakes_failed];
    let gone: u64 = of.iter().flat_map(|reasons| reasons.values()).sum();
    assert_eq!(counters.accepted, gone, "{counters:?}");
}

/// Checks that `times` sessions ended by a fault of these kinds, and that none ended or failed in
/// another way. Which of several kinds comes first depends on the machine.
pub fn only_faults(counters: &Snapshot, reasons: &[&str], times: u64) {
    for (what, seen) in [("ended", &counters.ended), ("faults", &counters.faults)] {
        let known: u64 = reasons.iter().filter_map(|reason| seen.get(*reason)).sum();
        let all: u64 = seen.values().sum();
        assert_eq!((known, all), (times, times), "{what}: {seen:?}, expected {reasons:?}");
    }
}

/// Checks that `times` sessions ended for this reason, none for another, and that no event failed.
pub fn only_ends(counters: &Snapshot, reason: &str, times: u64) {
    assert_eq!(counters.ended.get(reason), Some(&times), "{counters:?}");
    assert_eq!(counters.ended.len(), 1, "{:?}", counters.ended);
    assert!(counters.faults.is_empty(), "{:?}", counters.faults);
}

/// The resources that the process holds.
#[derive(Debug)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    tasks: usize,
    instances: u64,
    resident_kib: u64,
}

impl Holdings {
    fn now() -> Self {
        Self {
            descriptors: fs::read_dir("/proc/self/fd").expect("descriptors").count(),
            threads: host_threads(),
            tasks: host().runtime().metrics().num_alive_tasks(),
            instances: host().engine().instances(),
            resident_kib: Weight::now().expect("a weight").resident_kib,
        }
    }

    /// Waits until the process holds no more than this.
    fn are_back(&self) {
        let start = Instant::now();
        loop {
            let now = Self::now();
            let back = now.descriptors <= self.descriptors
                && now.threads <= self.threads
                && now.tasks <= self.tasks + WATCHING
                && now.instances <= self.instances
                && now.resident_kib <= self.resident_kib + KEPT_KIB;
            if back {
                return;
            }
            assert!(
                start.elapsed() < crate::servers::PATIENCE,
                "not given back: {now:?}, before: {self:?}"
            );
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The number of the host's threads, found by their names. Threads of tests come and go.
fn host_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("threads").filter_map(Result::ok);
    let name =
        |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    tasks.map(name).filter(|name| name.starts_with("wharf")).count()
}

/// A session that does nothing wrong, on a server of another tenant, and a thread that talks to it
/// all the time.
struct Honest {
    server: ServerHandle,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, Duration)>,
}

impl Honest {
    fn begin() -> Self {
        let server = describe(polite()).tenant("honest").start().expect("it starts");
        let mut client = Client::connect(server.address());
        client.echo("in");
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut echoes, mut slowest) = (0, Duration::ZERO);
            while !seen.load(Ordering::Relaxed) || echoes == 0 {
                let start = Instant::now();
                client.echo("are you there?");
                slowest = slowest.max(start.elapsed());
                echoes += 1;
                thread::sleep(Duration::from_millis(1));
            }
            (echoes, slowest)
        });
        Self { server, stop, thread }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (echoes, slowest) = self.thread.join().expect("the honest session is answered");
        assert!(
            echoes > 0 && slowest < IN_TIME,
            "the honest session waited {slowest:?} for one of {echoes} answers"
        );
        eventually("the honest session left", || self.server.clients() == 0);
        let counters = self.server.counters();
        only_ends(&counters, "peer-closed", 1);
    }
}

/// Panics of the host's code and of its dependencies.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // Panics of the tests' own code are not counted.
            if info.location().is_none_or(|location| !location.file().starts_with("tests/")) {
                PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(info.to_string());
            }
            before(info);
        }));
    });
}
