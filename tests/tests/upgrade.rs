//! A new process takes the place of a running one, and clients do not notice.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use wharf_tests::clients::Client;
use wharf_tests::guests::wharf_binary;
use wharf_tests::servers::{PATIENCE, eventually};
use wharf_tests::site::{Site, configure, said};

/// A process that nobody else ends.
struct Heir(Pid);

impl Heir {
    fn of(answer: &Value) -> Self {
        let id = answer["process"].as_i64().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw).unwrap_or_else(|| panic!("a process in {answer}")))
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

fn upgrade(site: &Site, arguments: &[&str]) -> Output {
    let mut command = Command::new(wharf_binary());
    command.arg("upgrade").arg("--socket").arg(site.socket()).args(arguments).output().expect("it runs")
}

fn upgraded(site: &Site, arguments: &[&str]) -> (Heir, Value) {
    let output = upgrade(site, &[&["--json"], arguments].concat());
    assert!(output.status.success(), "{}", said(&output));
    let answer = serde_json::from_slice(&output.stdout).expect("JSON");
    (Heir::of(&answer), answer)
}

fn status(site: &Site) -> Value {
    site.ok("GET", "/v1/servers/echo", json!({}))
}

/// Newcomers, as many as a second has room for, each of which is answered.
struct Newcomers {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    work: Vec<JoinHandle<()>>,
}

impl Newcomers {
    fn at(address: SocketAddr, per_second: u32, question: &'static [u8], answer: &'static [u8]) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = 4;
        let work = (0..threads).map(|_| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            std::thread::spawn(move || {
                let (start, step) = (Instant::now(), Duration::from_secs(1) * threads / per_second);
                let mut due = Duration::ZERO;
                while !stop.load(Ordering::Relaxed) {
                    let mut client = TcpStream::connect(address).expect("nobody is refused");
                    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                    client.write_all(question).expect("nobody is reset");
                    let mut heard = vec![0; answer.len()];
                    client.read_exact(&mut heard).expect("everybody is answered");
                    assert_eq!(heard, answer);
                    served.fetch_add(1, Ordering::Relaxed);
                    due += step;
                    // The pace, and no wait for anything.
                    std::thread::sleep(due.saturating_sub(start.elapsed()));
                }
            })
        });
        let work = work.collect();
        Self { stop, served, work }
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    /// Waits until so many more were served.
    fn more(&self, count: usize) {
        let before = self.served();
        eventually("newcomers are served", || {
            self.served() >= before + count || self.work.iter().any(JoinHandle::is_finished)
        });
    }

    /// Ends them; how many were served.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for work in self.work {
            work.join().expect("nobody was refused, reset or unanswered");
        }
        self.served.load(Ordering::Relaxed)
    }
}

fn echoes(site: &Site) {
    Client::connect(site.address()).send("and?").expect("and?");
}

fn program(folder: &Path, text: &str) -> String {
    let file = folder.join("another");
    std::fs::write(&file, text).expect("kept");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    file.display().to_string()
}

#[test]
fn a_new_process_takes_the_sockets_over_and_the_old_one_ends() {
    let mut site = Site::default();
    let newcomers = Newcomers::at(site.address(), 200, b"hello", b"hello");
    newcomers.more(50);
    let (heir, answer) = upgraded(&site, &[]);
    newcomers.more(50);
    assert!(site.wharf.child.wait().expect("it ends").success(), "{answer}");
    newcomers.more(50);
    // The control API is where it was, and answers for the new process; from it the next one comes.
    assert_eq!(status(&site)["status"], "listening");
    assert_eq!(site.curl(&[], "/readyz").0, 200);
    let (again, _) = upgraded(&site, &[]);
    assert_ne!(again.0, heir.0);
    eventually("the second has ended", || rustix::process::test_kill_process(heir.0).is_err());
    newcomers.more(50);
    newcomers.end();
    echoes(&site);
    assert!(site.socket().exists());
    kill_process(again.0, Signal::TERM).expect("it runs");
    eventually("the socket is removed by whoever has it", || !site.socket().exists());
}

#[test]
fn an_upgrade_that_fails_leaves_everything_as_it_was() {
    let site = Site::default();
    let mut old = Client::connect(site.address());
    old.send("one").expect("one");
    let newcomers = Newcomers::at(site.address(), 100, b"hello", b"hello");
    let folder = site.folder.path();
    let fails = |arguments: &[&str], words: &[&str]| {
        let output = upgrade(&site, arguments);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        words.iter().for_each(|words| assert!(text.contains(words), "no {words:?} in {text}"));
    };
    fails(&["--program", "/nowhere/wharf"], &["/nowhere/wharf", "cannot be started", "nothing was changed"]);
    fails(&["--program", "/bin/true"], &["/bin/true", "ended before it served", "exit status: 0"]);
    let slow = program(folder, "#!/bin/sh\nexec sleep 600\n");
    fails(&["--program", &slow, "--timeout", "300ms"], &[&slow, "did not serve in time"]);
    let odd = program(folder, "#!/bin/sh\nprintf '\\002\\000\\000\\000\\000\\000\\000\\000{}' >&0\nexec sleep 600\n");
    fails(&["--program", &odd], &["does not speak as this program does"]);
    configure(folder, site.port, "", "max_clients = 'many'");
    fails(&[], &["max_clients"]);
    configure(folder, site.port, "", "");
    assert_eq!(site.refused("POST", "/v1/upgrade", json!({ "timeout": "0s" })), (400, "bad-value".into()));
    assert_eq!(site.refused("POST", "/v1/upgrade", json!({ "program": "wharf" })), (400, "bad-value".into()));
    newcomers.more(20);
    newcomers.end();
    old.send("two").expect("two");
    assert_eq!(status(&site)["status"], "listening");
    // And it can be tried again.
    let _heir = upgraded(&site, &[]);
    echoes(&site);
}

#[test]
fn a_server_follows_the_configuration_that_the_new_process_reads() {
    let site = Site::default();
    let elsewhere = wharf_tests::clients::free_port();
    configure(site.folder.path(), elsewhere, "", "max_clients = 7");
    let mut old = Client::connect(site.address());
    old.send("one").expect("one");
    let (_heir, _) = upgraded(&site, &["--drain", "1h"]);
    let at = SocketAddr::from(([127, 0, 0, 1], elsewhere));
    Client::connect(at).send("moved").expect("moved");
    assert_eq!(status(&site)["throttle"]["max_clients"], 7);
    eventually("the address is given up", || TcpStream::connect(site.address()).is_err());
    // Who is in the old process is served there.
    old.send("two").expect("two");
}
