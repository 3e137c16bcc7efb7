//! Upgrades: a new process takes the place of a running one, and clients do not notice.

mod processes;
mod sessions;

use self::sessions::{counting, next};

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use wharf_tests::clients::Client;
use wharf_tests::control_site::{ControlSite, configure, said};
use wharf_tests::guests::{component, versioned, wharf_binary};
use wharf_tests::new_clients::NewClients;
use wharf_tests::new_process::NewProcess;
use wharf_tests::process::Wharf;
use wharf_tests::servers::{PATIENCE, eventually};

fn upgrade(site: &ControlSite, arguments: &[&str]) -> Output {
    let mut command = Command::new(wharf_binary());
    command
        .arg("upgrade")
        .arg("--socket")
        .arg(site.socket())
        .args(arguments)
        .output()
        .expect("it runs")
}

fn upgraded(site: &ControlSite, arguments: &[&str]) -> (NewProcess, Value) {
    let output = upgrade(site, &[&["--json"], arguments].concat());
    let answer: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    let new_process = NewProcess::of(&answer);
    let stays = |(why, _): (&String, &Value)| !["ended", "ending", "fault"].contains(&why.as_str());
    let stayed = answer["stayed"].as_object().into_iter().flatten().any(stays);
    assert_eq!(output.status.code(), Some(if stayed { 5 } else { 0 }), "{}", said(&output));
    (new_process, answer)
}

fn status(site: &ControlSite) -> Value {
    site.ok("GET", "/v1/servers/echo", json!({}))
}

fn echoes(site: &ControlSite) {
    Client::connect(site.address()).send("and?").expect("and?");
}

/// A program of that text. Another process writes its file. Otherwise a process that another test
/// starts just now inherits the open file, and the system refuses to run it.
fn program(folder: &Path, text: &str) -> String {
    let file = folder.join("another");
    let status = Command::new("sh")
        .args(["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""])
        .arg(&file)
        .arg(text)
        .status()
        .expect("a shell");
    assert!(status.success(), "{status}");
    file.display().to_string()
}

#[test]
fn new_process_takes_sockets_and_old_one_ends() {
    let mut site = ControlSite::default();
    let new_clients = NewClients::at(site.address(), 200, b"hello", b"hello");
    new_clients.more(50);
    let (new_process, answer) = upgraded(&site, &[]);
    new_clients.more(50);
    assert!(site.wharf.child.wait().expect("it ends").success(), "{answer}");
    new_clients.more(50);
    // The control API has the same address and answers for the new process, which upgrades again.
    assert_eq!(status(&site)["status"], "listening");
    assert_eq!(site.curl(&[], "/readyz").0, 200);
    let (again, _) = upgraded(&site, &[]);
    assert_ne!(again.0, new_process.0);
    eventually("the second has ended", || {
        rustix::process::test_kill_process(new_process.0).is_err()
    });
    new_clients.more(50);
    new_clients.end();
    echoes(&site);
    assert!(site.socket().exists());
    kill_process(again.0, Signal::TERM).expect("it runs");
    eventually("the process that has the socket removes it", || !site.socket().exists());
}

#[test]
fn failed_upgrade_changes_nothing() {
    let site = ControlSite::default();
    let mut old = Client::connect(site.address());
    old.send("one").expect("one");
    let new_clients = NewClients::at(site.address(), 100, b"hello", b"hello");
    let folder = site.folder.path();
    let fails = |arguments: &[&str], words: &[&str]| {
        let output = upgrade(&site, arguments);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        words.iter().for_each(|words| assert!(text.contains(words), "no {words:?} in {text}"));
    };
    fails(
        &["--program", "/nowhere/wharf"],
        &["/nowhere/wharf", "cannot be started", "nothing was changed"],
    );
    fails(&["--program", "/bin/true"], &["/bin/true", "ended before it served", "exit status: 0"]);
    let slow = program(folder, "#!/bin/sh\nexec sleep 600\n");
    fails(&["--program", &slow, "--timeout", "300ms"], &[&slow, "did not serve in time"]);
    let odd = program(
        folder,
        "#!/bin/sh\nprintf '\\002\\000\\000\\000\\000\\000\\000\\000{}' >&0\nexec sleep 600\n",
    );
    fails(&["--program", &odd], &["sent a message that this program does not know"]);
    configure(folder, site.port, "", "max_clients = 'many'");
    fails(&[], &["max_clients"]);
    configure(folder, site.port, "", "");
    assert_eq!(
        site.refused("POST", "/v1/upgrade", json!({ "timeout": "0s" })),
        (400, "bad-value".into())
    );
    assert_eq!(
        site.refused("POST", "/v1/upgrade", json!({ "program": "wharf" })),
        (400, "bad-value".into())
    );
    new_clients.more(20);
    new_clients.end();
    old.send("two").expect("two");
    assert_eq!(status(&site)["status"], "listening");
    // The next attempt succeeds.
    let _new_process = upgraded(&site, &[]);
    echoes(&site);
}

/// An upgrade to a script that becomes this program when a gate is opened.
struct Gated {
    gate: PathBuf,
    asking: Child,
}

impl Gated {
    fn begins(site: &ControlSite) -> Self {
        let (gate, asked) = (site.path("gate"), site.path("asked"));
        assert!(Command::new("mkfifo").arg(&gate).status().expect("it runs").success());
        let [begun, waits, wharf] =
            [&asked, &gate, &wharf_binary()].map(|path| path.display().to_string());
        let text = format!("#!/bin/sh\necho >{begun}\nread word <{waits}\nexec {wharf} \"$@\"\n");
        let slow = program(site.folder.path(), &text);
        let mut asking = Command::new(wharf_binary());
        asking.args(["upgrade", "--json", "--program", &slow, "--socket"]).arg(site.socket());
        let asking = asking.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        eventually("it is under way", || asked.exists());
        Self { gate, asking }
    }

    fn opens(&self) {
        std::fs::write(&self.gate, "go\n").expect("it waits at the gate");
    }

    /// The output of the command that asked for the upgrade, at its end.
    fn ends(self) -> Output {
        self.asking.wait_with_output().expect("it ends")
    }
}

#[test]
fn abandoned_upgrade_keeps_the_control_api() {
    let mut site = ControlSite::default();
    let mut first = Gated::begins(&site);
    let second = upgrade(&site, &[]);
    assert!(
        said(&second).contains("another upgrade is under way") && !second.status.success(),
        "{}",
        said(&second)
    );
    // The command that asked for the upgrade is killed.
    first.asking.kill().expect("it runs");
    first.opens();
    first.ends();
    assert!(site.wharf.child.wait().expect("it ends").success());
    let now = status(&site);
    assert_eq!(now["status"], "listening", "{now}");
    echoes(&site);
    let (_last, _) = upgraded(&site, &[]);
}

#[test]
fn old_process_refuses_swaps_that_wait_for_upgrades() {
    let mut site = counting("", "", "");
    let file = site.path("b.wasm");
    std::fs::write(&file, component(&versioned('b', "", ""))).expect("kept");
    // The versions are compiled before, so that the swap waits only for the upgrade.
    for file in [&file, &site.path("polite.wasm")] {
        site.ok("POST", "/v1/servers/echo/plugin/swap", json!({ "file": file }));
    }
    let upgrade = Gated::begins(&site);
    let socket = site.socket().display().to_string();
    let swap = Wharf::run(
        &["plugin", "--socket", &socket, "swap", "echo", file.to_str().expect("a path")],
        site.folder.path(),
    );
    swap.says("loading ");
    upgrade.opens();
    let _new_process =
        NewProcess::of(&serde_json::from_slice(&upgrade.ends().stdout).expect("an answer"));
    swap.says("stopping");
    assert!(site.wharf.child.wait().expect("it ends").success());
    next(&mut Client::connect(site.address()), 1);
}

#[test]
fn stop_during_an_upgrade_ends_the_process() {
    let mut site = ControlSite::default();
    // A session keeps the old process from ending before the new one would serve.
    let mut stays = Client::connect(site.address());
    stays.send("one").expect("one");
    let upgrade = Gated::begins(&site);
    let process = Pid::from_child(&site.wharf.child);
    kill_process(process, Signal::TERM).expect("it runs");
    site.wharf.says("stopping");
    upgrade.opens();
    let heard = upgrade.ends();
    assert!(!heard.status.success(), "{}", said(&heard));
    drop(stays);
    site.wharf.child.wait().expect("it ends");
    eventually("no process listens", || TcpStream::connect(site.address()).is_err());
}

#[test]
fn stopped_and_continued_process_is_still_upgraded() {
    let mut site = ControlSite::default();
    let upgrade = Gated::begins(&site);
    let process = Pid::from_child(&site.wharf.child);
    for signal in [Signal::STOP, Signal::CONT] {
        kill_process(process, signal).expect("it runs");
        let state = || {
            std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()))
                .expect("it runs")
        };
        let held = |state: &str| {
            state.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        };
        eventually("it is held, or goes on", || held(&state()) == (signal == Signal::STOP));
    }
    upgrade.opens();
    let heard = upgrade.ends();
    let _new_process = NewProcess::of(
        &serde_json::from_slice(&heard.stdout).unwrap_or_else(|_| panic!("{}", said(&heard))),
    );
    assert!(site.wharf.child.wait().expect("it ends").success());
    echoes(&site);
}

#[test]
fn new_process_reads_the_configuration_again() {
    let site = ControlSite::default();
    let elsewhere = wharf_tests::ports::free_port();
    configure(site.folder.path(), elsewhere, "", "max_clients = 7");
    let mut old = Client::connect(site.address());
    old.send("one").expect("one");
    let (_new_process, _) = upgraded(&site, &["--drain", "1h"]);
    let at = SocketAddr::from(([127, 0, 0, 1], elsewhere));
    Client::connect(at).send("moved").expect("moved");
    assert_eq!(status(&site)["throttle"]["max_clients"], 7);
    eventually("the address is given up", || TcpStream::connect(site.address()).is_err());
    // Sessions in the old process are served there.
    old.send("two").expect("two");
}
