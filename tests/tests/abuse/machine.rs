//! The machine under the host, short of address space, CPU, disk or names. The host says so at the
//! start, or serves on.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use wharf::server::Timeouts;
use wharf_tests::clients::Client;
use wharf_tests::guests::{component, guest, polite, wharf_binary};
use wharf_tests::oracle::{alone, judge, only_ends};
use wharf_tests::ports::free_port;
use wharf_tests::process::Wharf;
use wharf_tests::servers::{PATIENCE, describe, eventually, host};

/// A folder with a server `echo` at the address `name`. `host` is the text of its `[host]` table.
fn folder(name: &str, host: &str) -> (tempfile::TempDir, SocketAddr) {
    let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
    std::fs::write(folder.path().join("polite.wasm"), component("")).expect("kept");
    let text = format!(
        "[host]\n{host}\n[[server]]\nname = 'echo'\nhost = '{name}'\nport = {port}\nplugin = \
         'polite.wasm'\n"
    );
    std::fs::write(folder.path().join("wharf.toml"), text).expect("kept");
    (folder, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// `wharf serve` from a shell that first runs `before`.
fn shell(before: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg("-c").arg(format!("{before}; exec \"$0\" serve")).arg(wharf_binary());
    command
}

fn output(before: &str, folder: &tempfile::TempDir) -> (Output, Duration) {
    let start = Instant::now();
    let output =
        shell(before).current_dir(folder.path()).env("XDG_CACHE_HOME", folder.path()).output();
    (output.expect("it runs"), start.elapsed())
}

#[test]
fn address_space_error_names_the_size_it_needs() {
    let _alone = alone();
    let (folder, _) = folder("127.0.0.1", "sessions_max = 100");
    let (output, _) = output("ulimit -v 4000000", &folder);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("`sessions_max` = 100")
            && said.contains("3 GiB of address space (`ulimit -v`)"),
        "{said}"
    );
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn default_sessions_max_shrinks_with_address_space() {
    let _alone = alone();
    let (folder, address) = folder("127.0.0.1", "");
    let mut command = shell("ulimit -v 8000000000");
    command.env("RUST_BACKTRACE", "0");
    let mut wharf = Wharf::spawn(command, folder.path());
    wharf.says("server started");
    Client::connect(address).echo("served").finish().expect_closed();
    assert!(wharf.child.try_wait().expect("it can be asked").is_none());
}

#[test]
fn too_few_descriptors_fail_the_start() {
    let _alone = alone();
    let (folder, _) = folder("127.0.0.1", "");
    let (output, _) = output("ulimit -n 16", &folder);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("ulimit -n") && !said.contains("panicked"), "{said}");
}

/// Processes that do nothing but burn CPU.
struct Burners(Vec<Child>);

impl Burners {
    fn start(count: usize) -> Self {
        let burn =
            |_| Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("a shell");
        Self((0..count).map(burn).collect())
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        for burner in &mut self.0 {
            let _ = (burner.kill(), burner.wait());
        }
    }
}

#[test]
fn busy_cpu_delays_timers_and_ends_no_session() {
    let cpus = thread::available_parallelism().map_or(2, usize::from);
    // No client idles for the length of this timeout, and each stays longer than that.
    let timeouts = Timeouts { idle: Duration::from_secs(1), ..Timeouts::default() };
    let counters = judge(
        || describe(guest("ordered-timers")).timeouts(timeouts),
        |server| {
            let _burners = Burners::start(2 * cpus);
            let start = Instant::now();
            let mut clients: Vec<_> = (0..10).map(|_| Client::connect(server.address())).collect();
            for client in &mut clients {
                client.expect("12345678");
            }
            assert!(start.elapsed() >= Duration::from_millis(200), "they fired early");
            while start.elapsed() < Duration::from_secs(2) {
                for client in &mut clients {
                    client.echo("not idle");
                }
                thread::sleep(Duration::from_millis(50));
            }
            assert!(
                host().runtime().block_on(host().is_well(PATIENCE)),
                "a thread takes up no work"
            );
            clients.iter_mut().for_each(|client| client.finish().expect_closed());
        },
    );
    only_ends(&counters, "peer-closed", 10);
}

#[test]
fn full_disk_does_not_stop_service() {
    let _alone = alone();
    let full = || OpenOptions::new().write(true).open("/dev/full").expect("a full disk");
    for (before, cache) in [
        // A folder that cannot be made, and one in which no file may have more than a kilobyte.
        ("true", "cache_dir = '/proc/no-cache'"),
        ("trap '' XFSZ; ulimit -f 1", "cache_dir = 'cache'"),
    ] {
        let (folder, address) = folder("127.0.0.1", &format!("sessions_max = 64\n{cache}"));
        let mut command = shell(before);
        let mut wharf = command
            .current_dir(folder.path())
            .stderr(full())
            .stdout(full())
            .spawn()
            .expect("it runs");
        eventually("it serves", || std::net::TcpStream::connect(address).is_ok());
        for _ in 0..50 {
            Client::connect(address).echo("served").finish().expect_closed();
        }
        assert!(wharf.try_wait().expect("it can be asked").is_none(), "it ended");
        let _ = (wharf.kill(), wharf.wait());
    }
}

#[test]
fn unwritable_cache_is_only_a_warning() {
    let _alone = alone();
    let (folder, address) = folder("127.0.0.1", "sessions_max = 64\ncache_dir = '/proc/no-cache'");
    let wharf = Wharf::run(&["serve"], folder.path());
    assert!(wharf.says("no compile cache").contains("/proc/no-cache"));
    wharf.says("server started");
    Client::connect(address).echo("served").finish().expect_closed();
    drop(wharf);

    let (folder, address) = self::folder("127.0.0.1", "sessions_max = 64\ncache_dir = 'cache'");
    let wharf = Wharf::spawn(shell("trap '' XFSZ; ulimit -f 1"), folder.path());
    wharf.says("compiled code was not kept in the cache");
    wharf.says("server started");
    Client::connect(address).echo("served").finish().expect_closed();
    let kept = std::fs::read_dir(folder.path().join("cache")).expect("the cache").count();
    assert_eq!(kept, 0, "half a file was left behind");
}

#[test]
fn unreadable_cache_files_are_not_used() {
    let _alone = alone();
    let (folder, address) = folder("127.0.0.1", "sessions_max = 64\ncache_dir = 'cache'");
    let run = || {
        let wharf = Wharf::run(&["serve"], folder.path());
        wharf.says("server started");
        Client::connect(address).echo("served").finish().expect_closed();
    };
    run();
    for entry in std::fs::read_dir(folder.path().join("cache")).expect("the cache") {
        // An empty file, which a full disk leaves.
        File::create(entry.expect("a file").path()).expect("it is empty now");
    }
    run();
}

#[test]
fn unresolved_host_name_is_an_error_without_hang() {
    let _alone = alone();
    let (folder, _) = folder("no-such-host.invalid", "sessions_max = 64");
    let (output, took) = output("true", &folder);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("no-such-host.invalid") && said.contains("nothing was started"),
        "{said}"
    );
    assert!(took < PATIENCE, "it took {took:?}");
}

#[test]
fn unread_log_delays_no_session() {
    let _alone = alone();
    let (folder, address) = folder("127.0.0.1", "sessions_max = 64");
    let mut command = shell("export WHARF_LOG=debug");
    command.current_dir(folder.path()).env("XDG_CACHE_HOME", folder.path()).stderr(Stdio::piped());
    let mut wharf = command.spawn().expect("it runs");
    eventually("it serves", || std::net::TcpStream::connect(address).is_ok());
    // Each session logs some hundred bytes, and a pipe holds 64 KiB.
    for _ in 0..1_500 {
        Client::connect(address).echo("served");
    }
    assert!(wharf.try_wait().expect("it can be asked").is_none(), "it ended");
    let _ = (wharf.kill(), wharf.wait());
}

#[test]
fn oracle_accepts_an_honest_server() {
    // A correct run must pass the oracle.
    let counters = judge(
        || describe(polite()),
        |server| Client::connect(server.address()).echo("x").finish().expect_closed(),
    );
    only_ends(&counters, "peer-closed", 1);
}
