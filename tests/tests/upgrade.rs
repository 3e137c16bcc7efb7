//! A new process takes the place of a running one, and clients do not notice.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use wharf_tests::clients::Client;
use wharf_tests::guests::{component, versioned, wharf_binary};
use wharf_tests::heir::Heir;
use wharf_tests::newcomers::Newcomers;
use wharf_tests::process::Wharf;
use wharf_tests::servers::{PATIENCE, eventually};
use wharf_tests::site::{Site, configure, said};

fn upgrade(site: &Site, arguments: &[&str]) -> Output {
    let mut command = Command::new(wharf_binary());
    command.arg("upgrade").arg("--socket").arg(site.socket()).args(arguments).output().expect("it runs")
}

fn upgraded(site: &Site, arguments: &[&str]) -> (Heir, Value) {
    let output = upgrade(site, &[&["--json"], arguments].concat());
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    let heir = Heir::of(&answer);
    let stays = |(why, _): (&String, &Value)| !["ended", "ending", "fault"].contains(&why.as_str());
    let stayed = answer["stayed"].as_object().into_iter().flatten().any(stays);
    assert_eq!(output.status.code(), Some(if stayed { 5 } else { 0 }), "{}", said(&output));
    (heir, answer)
}

fn status(site: &Site) -> Value {
    site.ok("GET", "/v1/servers/echo", json!({}))
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

/// An upgrade to a program that begins to be this one when a gate is opened.
struct Gated {
    gate: PathBuf,
    asking: Child,
}

impl Gated {
    fn begins(site: &Site) -> Self {
        let (gate, asked) = (site.path("gate"), site.path("asked"));
        assert!(Command::new("mkfifo").arg(&gate).status().expect("it runs").success());
        let [begun, waits, wharf] = [&asked, &gate, &wharf_binary()].map(|path| path.display().to_string());
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

    /// What whoever asked hears in the end.
    fn ends(self) -> Output {
        self.asking.wait_with_output().expect("it ends")
    }
}

#[test]
fn the_api_stays_where_it_is_after_two_upgrades_at_once_of_which_one_is_not_waited_for() {
    let mut site = Site::default();
    let mut first = Gated::begins(&site);
    let second = upgrade(&site, &[]);
    assert!(said(&second).contains("another upgrade is under way") && !second.status.success(), "{}", said(&second));
    // Whoever asked goes.
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
fn a_swap_that_waits_for_an_upgrade_is_not_done_by_the_process_that_leaves() {
    let mut site = counting("", "", "");
    let file = site.path("b.wasm");
    std::fs::write(&file, component(&versioned('b', "", ""))).expect("kept");
    // Compiled by then, so that it waits for the upgrade and for nothing else.
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
    let _heir = Heir::of(&serde_json::from_slice(&upgrade.ends().stdout).expect("an answer"));
    swap.says("stopping");
    assert!(site.wharf.child.wait().expect("it ends").success());
    next(&mut Client::connect(site.address()), 1);
}

#[test]
fn a_process_that_is_told_to_stop_while_it_is_replaced_stops() {
    let mut site = Site::default();
    // So that it has not ended by the time that the other one would serve.
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
    eventually("nobody listens", || TcpStream::connect(site.address()).is_err());
}

#[test]
fn a_process_that_is_held_and_goes_on_is_replaced_all_the_same() {
    let mut site = Site::default();
    let upgrade = Gated::begins(&site);
    let process = Pid::from_child(&site.wharf.child);
    for signal in [Signal::STOP, Signal::CONT] {
        kill_process(process, signal).expect("it runs");
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).expect("it runs");
        let held = |state: &str| state.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'));
        eventually("it is held, or goes on", || held(&state()) == (signal == Signal::STOP));
    }
    upgrade.opens();
    let heard = upgrade.ends();
    let _heir = Heir::of(&serde_json::from_slice(&heard.stdout).unwrap_or_else(|_| panic!("{}", said(&heard))));
    assert!(site.wharf.child.wait().expect("it ends").success());
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

/// A site whose plugin counts what each session has sent, and hands over.
fn counting(save: &str, restore: &str, more: &str) -> Site {
    let (folder, port) = (tempfile::tempdir().expect("a folder"), wharf_tests::clients::free_port());
    plugin(folder.path(), save, restore);
    let text = format!(
        "[host]\nsessions_max = 1024\nstop_grace = '200ms'\n[control]\nsocket = 'control.sock'\n\
         [[server]]\nname = 'echo'\nhost = '127.0.0.1'\nport = {port}\nplugin = 'polite.wasm'\n{more}\n"
    );
    std::fs::write(folder.path().join("wharf.toml"), text).expect("kept");
    serving(&["serve"], folder, port)
}

fn serving(arguments: &[&str], folder: tempfile::TempDir, port: u16) -> Site {
    let wharf = Wharf::run(arguments, folder.path());
    wharf.says("server started");
    let site = Site { folder, port, wharf };
    eventually("the control API is open", || site.socket().exists());
    site
}

fn plugin(folder: &Path, save: &str, restore: &str) {
    std::fs::write(folder.join("polite.wasm"), component(&versioned('a', save, restore))).expect("kept");
}

fn next(client: &mut Client, count: u8) {
    client.send([1]).expect([b'a', 1, count]);
}

#[test]
fn sessions_move_with_their_connections_and_their_state_under_a_stream_of_newcomers() {
    let mut site = counting("", "", "");
    let mut clients: Vec<_> = (0..200).map(|_| Client::connect(site.address())).collect();
    clients.iter_mut().for_each(|client| next(client, 1));
    let ids: Vec<_> = site.sessions().iter().map(|session| session["id"].as_u64()).collect();
    site.ok("PUT", &format!("/v1/servers/echo/sessions/{}/name", ids[0].expect("an id")), json!({ "name": "first" }));
    let newcomers = Newcomers::at(site.address(), 500, &[1], &[b'a', 1, 1]);
    newcomers.more(100);
    let (before, start) = (newcomers.served(), newcomers.elapsed());
    // What this machine does while nothing is replaced, beside whatever else it does.
    let quiet = (before as f64 / start.as_secs_f64()).min(500.0);
    let (_heir, answer) = upgraded(&site, &[]);
    clients.iter_mut().for_each(|client| next(client, 2));
    newcomers.more(100);
    let (served, lasted) = (newcomers.served() - before, newcomers.elapsed() - start);
    newcomers.end();
    let rate = served as f64 / lasted.as_secs_f64();
    println!("{served} newcomers in {lasted:?}, {rate:.0} a second, while the process was replaced");
    assert!(rate >= 0.5 * quiet, "{served} newcomers in {lasted:?} are {rate:.0} a second, and were {quiet:.0} before");
    assert!(site.wharf.child.wait().expect("it ends").success());
    clients.iter_mut().for_each(|client| next(client, 3));
    assert!(answer["moved"].as_u64().is_some_and(|moved| moved >= 200), "{answer}");
    assert!(answer["stayed"].get("busy").is_none() && answer["stayed"].get("new-process-gone").is_none(), "{answer}");
    let after = site.sessions();
    let first = after.iter().find(|session| session["name"] == "first").expect("it has its name");
    assert_eq!(first["id"].as_u64(), ids[0]);
    assert!(first["events"].as_u64().is_some_and(|events| events >= 4), "{first}");
    assert!(ids.iter().all(|id| after.iter().any(|session| session["id"].as_u64() == *id)), "a number was lost");
    // Numbers of the new process are above them.
    let mut later = Client::connect(site.address());
    next(&mut later, 1);
    let latest = site.sessions().iter().filter_map(|session| session["id"].as_u64()).max();
    assert!(latest > ids.iter().flatten().copied().max().map(|id| id + 1_000), "{latest:?}");
    assert!(status(&site)["counters"]["faults"].as_object().is_some_and(serde_json::Map::is_empty));
}

#[test]
fn a_session_that_the_new_process_cannot_restore_goes_on_where_it_was() {
    let site = counting("", "", "");
    let mut clients: Vec<_> = (0..5).map(|_| Client::connect(site.address())).collect();
    clients.iter_mut().for_each(|client| next(client, 1));
    // It passes its own trial, which has counted nothing, and takes nobody else over.
    plugin(site.folder.path(), "", "(if (i32.gt_u (global.get $count) (i32.const 0)) (then unreachable))");
    let (_heir, answer) = upgraded(&site, &["--drain", "1h"]);
    assert_eq!(answer["moved"], 0, "{answer}");
    let stayed: u64 = answer["stayed"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
    assert_eq!(stayed, 5, "{answer}");
    clients.iter_mut().for_each(|client| next(client, 2));
    let mut fresh = Client::connect(site.address());
    next(&mut fresh, 1);
    assert_eq!(site.sessions().len(), 1);
}

#[test]
fn where_nothing_is_recorded_no_session_goes_back_to_the_version_before_a_swap() {
    let (folder, port) = (tempfile::tempdir().expect("a folder"), wharf_tests::clients::free_port());
    plugin(folder.path(), "", "");
    let next_version = folder.path().join("b.wasm");
    std::fs::write(&next_version, component(&versioned('b', "", ""))).expect("kept");
    let listen = format!("127.0.0.1:{port}");
    let flags = ["serve", "--plugin", "polite.wasm", "--listen", &listen, "--control", "control.sock"];
    let site = serving(&flags, folder, port);
    let name = site.ok("GET", "/v1/servers", json!({}))["servers"][0]["name"].as_str().expect("a name").to_owned();
    let mut client = Client::connect(site.address());
    next(&mut client, 1);
    let to = next_version.display().to_string();
    assert!(site.wharf_plugin(&["swap", &name, &to]).status.success());
    client.send([1]).expect([b'b', 1, 2]);
    let (_heir, answer) = upgraded(&site, &["--drain", "1h"]);
    assert_eq!((&answer["moved"], &answer["stayed"]["other-version"]), (&json!(0), &json!(1)), "{answer}");
    client.send([1]).expect([b'b', 1, 3]);
    // Newcomers get what the new process was started with, as the manual says.
    next(&mut Client::connect(site.address()), 1);
}

#[test]
fn whoever_asks_for_another_process_is_told_how_many_stayed() {
    let site = Site::default();
    let mut clients: Vec<_> = (0..3).map(|_| Client::connect(site.address())).collect();
    for client in &mut clients {
        client.echo("one");
    }
    let output = upgrade(&site, &["--drain", "1h"]);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("3 sessions stayed in the old process"), "{told}");
    // Nobody is in the new one, so that nobody stays.
    let output = upgrade(&site, &["--json"]);
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]), "{}", said(&output));
    let _heir = Heir::of(&serde_json::from_slice(&output.stdout).expect("JSON"));
    for client in &mut clients {
        client.echo("two");
    }
}

#[test]
fn a_session_that_sleeps_moves_and_its_timer_moves_along() {
    let site = counting("", "", "sleep_after = '100ms'");
    let tells = versioned('a', "", "").replace(
        "(func $on-connect (param $client i32) (result i32) (i32.const 0))",
        "(func $on-connect (param $client i32) (result i32)
           (drop (call $set-timer (i32.const 9) (i64.const 6000))) (i32.const 0))",
    );
    std::fs::write(site.path("polite.wasm"), component(&tells)).expect("kept");
    site.ok("POST", "/v1/servers/echo/plugin/swap", json!({ "file": site.path("polite.wasm") }));
    let mut client = Client::connect(site.address());
    let start = Instant::now();
    next(&mut client, 1);
    let asleep = || site.sessions().iter().all(|session| session["asleep"] == true);
    eventually("it sleeps", asleep);
    let (_heir, answer) = upgraded(&site, &[]);
    assert_eq!(answer["moved"], 1, "{answer}");
    next(&mut client, 2);
    eventually("it sleeps again", asleep);
    client.expect([b'a', 9]);
    assert!(start.elapsed() >= Duration::from_secs(5), "{:?}", start.elapsed());
    next(&mut client, 3);
}

#[test]
fn what_is_queued_for_a_client_that_does_not_read_arrives_once_and_in_order() {
    let site = counting("", "", "");
    let mut client = TcpStream::connect(site.address()).expect("it is served");
    eventually("it is served", || site.sessions().len() == 1);
    let id = site.sessions()[0]["id"].as_u64().expect("an id");
    let path = format!("/v1/servers/echo/sessions/{id}/send");
    let (mut sent, mut piece) = (Vec::new(), 0_u8);
    loop {
        let text = char::from(b'a' + piece % 26).to_string().repeat(60_000);
        let (code, answer) = site.curl(&["--request", "POST", "--data-binary", &text], &path);
        if code == 409 {
            break;
        }
        assert_eq!(code, 200, "{answer}");
        sent.extend_from_slice(text.as_bytes());
        piece += 1;
    }
    let (_heir, answer) = upgraded(&site, &[]);
    assert_eq!(answer["moved"], 1, "{answer}");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut heard = vec![0; sent.len()];
    client.read_exact(&mut heard).expect("all of it");
    assert!(heard == sent, "something was lost, doubled or turned around");
    client.write_all(&[1]).expect("it is served");
    let mut answer = [0; 3];
    client.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, [b'a', 1, 1]);
}

/// A program that keeps its number, and waits for ever once it has said this.
fn waiting(site: &Site, before: &str) -> String {
    let text = format!(
        "#!/bin/sh\necho $$ >{0}.part\nmv {0}.part {0}\n{before}\nexec sleep 600\n",
        site.path("pid").display()
    );
    program(site.folder.path(), &text)
}

/// The program that waits, and who started it.
fn program_and_launcher(site: &Site) -> [Heir; 2] {
    let file = site.path("pid");
    eventually("the program runs", || file.exists());
    let number = std::fs::read_to_string(&file).expect("its number");
    let program = Heir(number.trim().parse().ok().and_then(Pid::from_raw).expect("a process"));
    let launcher = Heir(parent(&program));
    [program, launcher]
}

fn parent(process: &Heir) -> Pid {
    let status = format!("/proc/{}/status", process.0.as_raw_nonzero());
    let status = std::fs::read_to_string(status).expect("it runs");
    let number = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    number.trim().parse().ok().and_then(Pid::from_raw).expect("a process")
}

fn is_gone(process: &Heir) -> bool {
    rustix::process::test_kill_process(process.0).is_err()
}

fn begin_upgrade(site: &Site, program: &str) -> Child {
    let mut command = Command::new(wharf_binary());
    command.args(["upgrade", "--program", program, "--socket"]).arg(site.socket());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
}

#[test]
fn a_process_that_ends_during_an_upgrade_leaves_nobody_behind_who_holds_its_sockets() {
    for signal in [Signal::TERM, Signal::KILL] {
        let mut site = Site::default();
        let asks = begin_upgrade(&site, &waiting(&site, ""));
        let [program, launcher] = program_and_launcher(&site);
        site.wharf.signal(signal);
        site.wharf.child.wait().expect("it ends");
        eventually("the program is gone", || is_gone(&program));
        eventually("its launcher is gone", || is_gone(&launcher));
        assert_eq!(TcpStream::connect(site.address()).expect_err("nobody").kind(), ErrorKind::ConnectionRefused);
        let output = asks.wait_with_output().expect("it ends");
        assert!(!output.status.success(), "{}", said(&output));
    }
}

#[test]
fn a_program_whose_launcher_was_killed_ends_with_its_upgrade() {
    let site = Site::default();
    let gate = site.path("gate");
    assert!(Command::new("mkfifo").arg(&gate).status().expect("it runs").success());
    let odd = format!("read word <{}\nprintf '\\002\\000\\000\\000\\000\\000\\000\\000{{}}' >&0", gate.display());
    let asks = begin_upgrade(&site, &waiting(&site, &odd));
    let [program, launcher] = program_and_launcher(&site);
    kill_process(launcher.0, Signal::KILL).expect("it runs");
    eventually("the program is another's", || parent(&program) != launcher.0);
    std::fs::write(&gate, "go\n").expect("it waits at the gate");
    let output = asks.wait_with_output().expect("it ends");
    assert!(said(&output).contains("does not speak as this program does"), "{}", said(&output));
    eventually("the program is gone", || is_gone(&program));
    echoes(&site);
}

#[test]
fn a_program_that_says_that_it_serves_and_ends_changes_nothing() {
    let site = Site::default();
    let mut old = Client::connect(site.address());
    old.send("one").expect("one");
    let text = "#!/bin/sh\n\
        while heard=$(dd bs=4096 count=1 2>/dev/null | tr -d '\\000'); [ -n \"$heard\" ]; do\n\
        case \"$heard\" in *start*)\n\
        printf '\\032\\000\\000\\000\\000\\000\\000\\000{\"is\":\"serves\",\"doors\":[]}' >&0\n\
        exit 3;; esac; done\n";
    let output = upgrade(&site, &["--program", &program(site.folder.path(), text)]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for words in ["it said that it serves, and ended", "exit status: 3", "nothing was changed"] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    old.send("two").expect("two");
    assert_eq!(status(&site)["status"], "listening");
    echoes(&site);
    let _heir = upgraded(&site, &["--drain", "1h"]);
}
