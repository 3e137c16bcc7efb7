//! Work that sessions cause outside of their events is charged to their tenant: CPU time, memory
//! and slices.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};
use wharf_tests::clients::Client;
use wharf_tests::control_site::ControlSite;
use wharf_tests::guests::{component, component_for};
use wharf_tests::imports::open_contract;
use wharf_tests::ports::free_port;
use wharf_tests::process::Wharf;
use wharf_tests::rng::Rng;
use wharf_tests::servers::eventually;

/// A guest that gets an order of three bytes and repeats it each millisecond.
///
/// - The first byte selects the work: `b` broadcasts, `s` sends to each of the first 255 sessions,
///   `w` writes, `t` sets 60 timers, `l` prints lines, `p` asks for a class.
/// - The second byte is the number of repetitions, the third the KiB of each.
const WORKER: &str = r#"
(import "wharf:server/server@0.1.0" "broadcast" (func $broadcast (param i32 i32) (result i32)))
(import "wharf:server/server@0.1.0" "send-to" (func $send-to (param i64 i32 i32 i32)))
(import "wasi:cli/stdout@0.2.6" "get-stdout" (func $get-stdout (result i32)))
(import "wasi:io/streams@0.2.6" "[method]output-stream.write" (func $print (param i32 i32 i32 i32)))
(global $what (mut i32) (i32.const 0))
(global $times (mut i32) (i32.const 0))
(global $size (mut i32) (i32.const 0))
(global $out (mut i32) (i32.const -1))
(func $on-connect (param $client i32) (result i32) (i32.const 0))
(func $work
  (local $i i32) (local $id i64)
  (loop $more
    (if (i32.eq (global.get $what) (i32.const 98)) (then
      (drop (call $broadcast (i32.const 2048) (global.get $size)))))
    (if (i32.eq (global.get $what) (i32.const 115)) (then
      (local.set $id (i64.const 1))
      (loop $next
        (call $send-to (local.get $id) (i32.const 2048) (global.get $size) (i32.const 1056))
        (local.set $id (i64.add (local.get $id) (i64.const 1)))
        (br_if $next (i64.lt_u (local.get $id) (i64.const 256))))))
    (if (i32.eq (global.get $what) (i32.const 119)) (then
      (drop (call $try-write (i32.const 2048) (global.get $size)))))
    (if (i32.eq (global.get $what) (i32.const 108)) (then
      (i32.store8 (i32.const 1040) (i32.const 10))
      (call $print (global.get $out) (i32.const 1040) (i32.const 1) (i32.const 1056))))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br_if $more (i32.lt_u (local.get $i) (global.get $times))))
  (if (i32.eq (global.get $what) (i32.const 116)) (then
    (loop $timers
      (drop (call $set-timer (local.get $i) (i64.const 1)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $timers (i32.lt_u (local.get $i) (i32.const 60))))))
  (drop (call $set-timer (i32.const 0) (i64.const 1))))
(func $on-timer (param $id i32) (result i32)
  (if (i32.eqz (local.get $id)) (then (call $work)))
  (i32.const 0))
(func $on-read (param $data i32) (param $length i32) (result i32)
  (if (i32.eq (i32.load8_u (local.get $data)) (i32.const 112)) (then
    (drop (call $set-priority (i32.load8_u offset=1 (local.get $data))))
    (return (i32.const 0))))
  (global.set $what (i32.load8_u (local.get $data)))
  (global.set $times (i32.load8_u offset=1 (local.get $data)))
  (global.set $size (i32.shl (i32.load8_u offset=2 (local.get $data)) (i32.const 10)))
  (if (i32.eq (global.get $out) (i32.const -1)) (then (global.set $out (call $get-stdout))))
  (call $work)
  (i32.const 0))
"#;

/// A process with the worker of tenant `a` on one port and an echo of tenant `b` on another.
struct Plant {
    site: ControlSite,
    echo: SocketAddr,
}

impl Plant {
    fn new(limits: &str) -> Self {
        let (folder, port, other) =
            (tempfile::tempdir().expect("a folder"), free_port(), free_port());
        std::fs::write(
            folder.path().join("worker.wasm"),
            component_for(WORKER, &open_contract(), "0.1.0"),
        )
        .expect("kept");
        std::fs::write(folder.path().join("echo.wasm"), component("")).expect("kept");
        let text = format!(
            "[host]\nsessions_max = 700\nworkers = 2\n[control]\nsocket = 'control.sock'\n\
             [[tenant]]\nname = 'a'\n{limits}\n\
             [[server]]\nname = 'worker'\ntenant = 'a'\nhost = '127.0.0.1'\nport = {port}\nplugin \
             = 'worker.wasm'\n\
             grants = ['server', 'stdio']\npriority_max = 'critical'\ntimeout = '10m'\n\
             [server.limits]\nlog_lines_per_second = 100000\n\
             [server.budgets.normal]\nfuel = 100000000000\ncpu = '10m'\nwall = '10m'\n\
             [[server]]\nname = 'echo'\ntenant = 'b'\nhost = '127.0.0.1'\nport = {other}\nplugin = \
             'echo.wasm'\n"
        );
        std::fs::write(folder.path().join("wharf.toml"), text).expect("kept");
        let wharf = Wharf::run(&["serve"], folder.path());
        wharf.says("server started");
        wharf.says("server started");
        let site = ControlSite { folder, port, wharf };
        eventually("the control API is open", || site.socket().exists());
        Self { site, echo: SocketAddr::from(([127, 0, 0, 1], other)) }
    }

    fn tenant(&self) -> Value {
        let all = self.site.ok("GET", "/v1/tenants", Value::Null);
        all["tenants"]
            .as_array()
            .and_then(|all| all.iter().find(|one| one["name"] == "a"))
            .expect("it is there")
            .clone()
    }

    /// CPU time of the whole process.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.site.wharf.child.id()))
            .expect("it runs");
        let fields = stat.rsplit_once(')').expect("a name").1;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().expect("ticks"))
            .sum();
        Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Resident memory of the process, in bytes.
    fn resident(&self) -> usize {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.site.wharf.child.id()))
                .expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("kB") << 10
    }

    /// Connects sessions of the worker whose peers have hardly any receive buffer.
    fn silent(&self, count: usize) -> Vec<TcpStream> {
        let connect = |_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_recv_buffer_size(4 << 10).expect("a small buffer");
            socket.connect(&self.site.address().into()).expect("it listens");
            socket.into()
        };
        let all = (0..count).map(connect).collect();
        // A tenant with little CPU time accepts sessions no faster than it can pay for their
        // instances.
        let (begun, patience) = (Instant::now(), Duration::from_secs(120));
        while self.site.ok("GET", "/v1/servers/worker", Value::Null)["sessions"].as_u64()
            < Some(count as u64)
        {
            assert!(begun.elapsed() < patience, "{count} clients are not served");
            thread::sleep(Duration::from_millis(20));
        }
        all
    }
}

/// Reads from all clients until `stop` is set.
fn read_all(
    mut clients: Vec<TcpStream>,
    stop: &Arc<AtomicBool>,
) -> thread::JoinHandle<Vec<TcpStream>> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let mut seen = vec![0; 64 << 10];
        for client in &clients {
            SockRef::from(client).set_recv_buffer_size(1 << 20).expect("a large buffer");
            client.set_nonblocking(true).expect("a socket");
        }
        while !stop.load(Ordering::Relaxed) {
            let mut any = false;
            for client in &mut clients {
                match client.read(&mut seen) {
                    Ok(count) => any |= count > 0,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
            if !any {
                thread::sleep(Duration::from_millis(1));
            }
        }
        clients
    })
}

/// Runs one random order of a limited tenant, and checks that the process stays near the tenant's
/// share. Returns a report, and whether the tenant reached its limit.
fn work_within_share(what: u8, seed: u64) -> (String, bool) {
    let mut rng = Rng::seeded(seed << 8 | u64::from(what));
    let cpus = 0.1 + 0.05 * rng.below(3) as f64;
    let (workers, others) = (1 + rng.below(4) as usize, 50 + rng.below(150) as usize);
    let (reads, class) = (rng.below(3) > 0, rng.below(5) as u8);
    // Work without receivers costs little, and so is repeated more often.
    let often = if b"wl".contains(&what) { 120 } else { 1 };
    let order = [what, often + rng.below(30) as u8, 1 + rng.below(16) as u8];
    let case = format!(
        "{} {order:?}, {workers} of {others}, read: {reads}, class {class}, {cpus} CPUs",
        what as char
    );
    let plant = Plant::new(&format!("cpus = {cpus}"));
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = plant.silent(others);
    // Receivers in another class, and so maybe in another lane, are charged to the tenant as well.
    for client in &mut clients[workers..] {
        client.write_all(&[b'p', class]).expect("it is read");
    }
    for client in &mut clients[..workers] {
        client.write_all(&order).expect("it is read");
    }
    // The peer of a session that writes reads, because the session would have nothing to do
    // otherwise.
    let reading = (reads || what == b'w').then(|| read_all(std::mem::take(&mut clients), &stop));
    // The burst does not count towards the share, so it is used up first. A slow machine may never
    // use it up.
    let begun = Instant::now();
    let is_held = || plant.tenant()["cpu_waits"].as_u64() > Some(2);
    while begun.elapsed() < Duration::from_secs(5) && !is_held() {
        thread::sleep(Duration::from_millis(10));
    }
    let (start, before) = (Instant::now(), plant.cpu());
    thread::sleep(Duration::from_secs(3));
    let (used, took) = (plant.cpu() - before, start.elapsed());
    stop.store(true, Ordering::Relaxed);
    if let Some(reading) = reading {
        drop(reading.join().expect("it reads"));
    }
    let share = used.as_secs_f64() / took.as_secs_f64();
    let said = format!("{case}: used {share:.3}, charged {}", plant.tenant()["cpu_seconds"]);
    assert!(used <= took.mul_f64(cpus * 1.5) + Duration::from_millis(150), "{said}");
    (said, is_held())
}

#[test]
fn limited_tenant_pays_for_all_it_causes() {
    let seed = std::env::var("WHARF_SEED").map_or(3, |seed| seed.parse().expect("a number"));
    let cases: Vec<_> =
        b"bswtl".iter().map(|&what| thread::spawn(move || work_within_share(what, seed))).collect();
    let mut held = 0;
    for case in cases {
        let (said, is_held) = case.join().expect("it keeps its share");
        eprintln!("{said}");
        held += usize::from(is_held);
    }
    assert!(held >= 3, "{held} of them came to their share, so that nothing was tried");
}

/// Echoes until `stop` is set, and returns the slowest answer.
fn worst_echo(address: SocketAddr, stop: &Arc<AtomicBool>) -> thread::JoinHandle<Duration> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let mut client = Client::connect(address);
        let mut worst = Duration::ZERO;
        while !stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            client.echo("are you there?");
            worst = worst.max(start.elapsed());
            thread::sleep(Duration::from_millis(5));
        }
        worst
    })
}

#[test]
fn broadcasters_delay_no_neighbour_and_take_no_memory() {
    const BROADCASTERS: usize = 20;
    const SILENT: usize = 500;
    const MAIL_MAX: usize = 4 << 20;
    /// Bytes for buffers of threads and for what the system's allocator keeps.
    const SPARE: usize = 48 << 20;
    let plant = Plant::new(&format!("mail_max_bytes = {MAIL_MAX}"));
    let mut clients = plant.silent(SILENT + BROADCASTERS);
    let before = plant.resident();
    let stop = Arc::new(AtomicBool::new(false));
    let worst = worst_echo(plant.echo, &stop);
    let mut rng =
        Rng::seeded(std::env::var("WHARF_SEED").map_or(1, |seed| seed.parse().expect("a number")));
    for client in &mut clients[..BROADCASTERS] {
        let order = [b'b', 1 + rng.below(100) as u8, 1 + rng.below(40) as u8];
        client.write_all(&order).expect("it is read");
    }
    let (mut most, mut refused) = (0, 0);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        most = most.max(plant.resident());
        let tenant = plant.tenant();
        assert!(tenant["mail_bytes"].as_u64() <= Some(MAIL_MAX as u64), "{tenant}");
        // The sender learns that some receivers refused.
        let sent =
            plant.site.ok("POST", "/v1/servers/worker/broadcast", Value::from("z".repeat(4 << 10)));
        refused = refused.max(sent["refused"].as_u64().expect("a number"));
        thread::sleep(Duration::from_millis(50));
    }
    stop.store(true, Ordering::Relaxed);
    let worst = worst.join().expect("it is answered");
    let tenant = plant.tenant();
    eprintln!("worst echo {worst:?}, memory +{} MiB, {tenant}", most.saturating_sub(before) >> 20);
    assert!(tenant["mail_refused"].as_u64() > Some(0), "{tenant}");
    assert!(most <= before + MAIL_MAX * 5 / 4 + SPARE, "{most} bytes, and {before} before");
    assert!(worst < Duration::from_secs(1), "{worst:?}");
    assert!(refused > 0, "all of them took everything");
}

#[test]
fn calls_are_charged_to_the_server_they_ask() {
    let plant = Plant::new("cpus = 0.5");
    let _sessions = plant.silent(30);
    let used = || plant.tenant()["cpu_seconds"].as_f64().expect("it is limited");
    let mut rng = Rng::seeded(5);
    let calls = [
        "",
        "/limits",
        "/sessions",
        "/sessions?limit=30",
        "/throttle",
        "/plugin/history",
        "/nothing",
    ];
    eventually("its sessions are at rest", || {
        let before = used();
        thread::sleep(Duration::from_millis(50));
        used() == before
    });
    let before = used();
    for _ in 0..20 {
        let call = calls[rng.below(calls.len() as u64) as usize];
        let _ = plant.site.ask("GET", &format!("/v1/servers/echo{call}"), &Value::Null);
    }
    assert_eq!(used(), before, "calls of a server of another tenant");
    for _ in 0..20 {
        let (call, before) = (calls[rng.below(6) as usize], used());
        let (code, _) = plant.site.ask("GET", &format!("/v1/servers/worker{call}"), &Value::Null);
        assert_eq!(code, 200, "{call}");
        // Half of the fixed charge of a call.
        assert!(used() >= before + 0.000_025, "{call}");
    }
    // Another process compiles a version that is swapped in.
    let other = component_for(
        &WORKER.replace("(i32.const 60)", "(i32.const 61)"),
        &open_contract(),
        "0.1.0",
    );
    std::fs::write(plant.site.path("other.wasm"), other).expect("kept");
    let before = used();
    let swap = json!({ "file": plant.site.path("other.wasm") });
    plant.site.ok("POST", "/v1/servers/worker/plugin/swap", swap);
    assert!(used() >= before + 0.01, "{} and {before} before", used());
}

#[test]
fn suspended_server_pays_for_clients_it_rejects() {
    const CLIENTS: u32 = 50;
    /// A little less than the fixed charge of a client, for rounding.
    const CHARGE_MIN: f64 = 0.000_019;
    let plant = Plant::new("cpus = 0.5");
    plant.site.ok("POST", "/v1/servers/worker/suspend", json!({ "newcomers": "reject" }));
    let used = || plant.tenant()["cpu_seconds"].as_f64().expect("it is limited");
    let before = used();
    for _ in 0..CLIENTS {
        Client::connect(plant.site.address()).expect_gone();
    }
    assert!(used() >= before + f64::from(CLIENTS) * CHARGE_MIN, "{} and {before} before", used());
}
