//! Sessions that transfer to the new process with their connections and their state.

use super::*;

/// A site whose plugin counts the bytes of each session, and can save and restore.
pub(crate) fn counting(save: &str, restore: &str, more: &str) -> ControlSite {
    let (folder, port) = (tempfile::tempdir().expect("a folder"), wharf_tests::ports::free_port());
    plugin(folder.path(), save, restore);
    let text = format!(
        "[host]\nsessions_max = 1024\nstop_grace = '200ms'\n[control]\nsocket = 'control.sock'\n\
         [[server]]\nname = 'echo'\nhost = '127.0.0.1'\nport = {port}\nplugin = \
         'polite.wasm'\n{more}\n"
    );
    std::fs::write(folder.path().join("wharf.toml"), text).expect("kept");
    serving(&["serve"], folder, port)
}

fn serving(arguments: &[&str], folder: tempfile::TempDir, port: u16) -> ControlSite {
    let wharf = Wharf::run(arguments, folder.path());
    wharf.says("server started");
    let site = ControlSite { folder, port, wharf };
    eventually("the control API is open", || site.socket().exists());
    site
}

fn plugin(folder: &Path, save: &str, restore: &str) {
    std::fs::write(folder.join("polite.wasm"), component(&versioned('a', save, restore)))
        .expect("kept");
}

pub(crate) fn next(client: &mut Client, count: u8) {
    client.send([1]).expect([b'a', 1, count]);
}

#[test]
fn sessions_transfer_while_new_clients_connect() {
    let mut site = counting("", "", "");
    let mut clients: Vec<_> = (0..200).map(|_| Client::connect(site.address())).collect();
    clients.iter_mut().for_each(|client| next(client, 1));
    let ids: Vec<_> = site.sessions().iter().map(|session| session["id"].as_u64()).collect();
    site.ok(
        "PUT",
        &format!("/v1/servers/echo/sessions/{}/name", ids[0].expect("an id")),
        json!({ "name": "first" }),
    );
    let new_clients = NewClients::at(site.address(), 500, &[1], &[b'a', 1, 1]);
    new_clients.more(100);
    let (before, start) = (new_clients.served(), new_clients.elapsed());
    // The rate of new clients without an upgrade, on this machine and beside its other work.
    let quiet = (before as f64 / start.as_secs_f64()).min(500.0);
    let (_new_process, answer) = upgraded(&site, &[]);
    clients.iter_mut().for_each(|client| next(client, 2));
    new_clients.more(100);
    let (served, lasted) = (new_clients.served() - before, new_clients.elapsed() - start);
    new_clients.end();
    let rate = served as f64 / lasted.as_secs_f64();
    println!(
        "{served} new clients in {lasted:?}, {rate:.0} a second, while the process was replaced"
    );
    assert!(
        rate >= 0.5 * quiet,
        "{served} new clients in {lasted:?} are {rate:.0} a second, and were {quiet:.0} before"
    );
    assert!(site.wharf.child.wait().expect("it ends").success());
    clients.iter_mut().for_each(|client| next(client, 3));
    assert!(answer["moved"].as_u64().is_some_and(|moved| moved >= 200), "{answer}");
    assert!(
        answer["stayed"].get("busy").is_none()
            && answer["stayed"].get("new-process-gone").is_none(),
        "{answer}"
    );
    let after = site.sessions();
    let first = after.iter().find(|session| session["name"] == "first").expect("it has its name");
    assert_eq!(first["id"].as_u64(), ids[0]);
    assert!(first["events"].as_u64().is_some_and(|events| events >= 4), "{first}");
    assert!(
        ids.iter().all(|id| after.iter().any(|session| session["id"].as_u64() == *id)),
        "a number was lost"
    );
    // The new process gives out higher numbers.
    let mut later = Client::connect(site.address());
    next(&mut later, 1);
    let latest = site.sessions().iter().filter_map(|session| session["id"].as_u64()).max();
    assert!(latest > ids.iter().flatten().copied().max().map(|id| id + 1_000), "{latest:?}");
    assert!(status(&site)["counters"]["faults"].as_object().is_some_and(serde_json::Map::is_empty));
}

#[test]
fn failed_restore_keeps_session_in_old_process() {
    let site = counting("", "", "");
    let mut clients: Vec<_> = (0..5).map(|_| Client::connect(site.address())).collect();
    clients.iter_mut().for_each(|client| next(client, 1));
    // The plugin passes its own trial, which has counted nothing, and restores no other session.
    plugin(
        site.folder.path(),
        "",
        "(if (i32.gt_u (global.get $count) (i32.const 0)) (then unreachable))",
    );
    let (_new_process, answer) = upgraded(&site, &["--drain", "1h"]);
    assert_eq!(answer["moved"], 0, "{answer}");
    let stayed: u64 = answer["stayed"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, count)| count.as_u64())
        .sum();
    assert_eq!(stayed, 5, "{answer}");
    clients.iter_mut().for_each(|client| next(client, 2));
    let mut fresh = Client::connect(site.address());
    next(&mut fresh, 1);
    assert_eq!(site.sessions().len(), 1);
}

#[test]
fn unrecorded_version_keeps_sessions_in_old_process() {
    let (folder, port) = (tempfile::tempdir().expect("a folder"), wharf_tests::ports::free_port());
    plugin(folder.path(), "", "");
    let next_version = folder.path().join("b.wasm");
    std::fs::write(&next_version, component(&versioned('b', "", ""))).expect("kept");
    let listen = format!("127.0.0.1:{port}");
    let flags =
        ["serve", "--plugin", "polite.wasm", "--listen", &listen, "--control", "control.sock"];
    let site = serving(&flags, folder, port);
    let name = site.ok("GET", "/v1/servers", json!({}))["servers"][0]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    let mut client = Client::connect(site.address());
    next(&mut client, 1);
    let to = next_version.display().to_string();
    assert!(site.wharf_plugin(&["swap", &name, &to]).status.success());
    client.send([1]).expect([b'b', 1, 2]);
    let (_new_process, answer) = upgraded(&site, &["--drain", "1h"]);
    assert_eq!(
        (&answer["moved"], &answer["stayed"]["other-version"]),
        (&json!(0), &json!(1)),
        "{answer}"
    );
    client.send([1]).expect([b'b', 1, 3]);
    // New connections get the plugin that the new process was started with, as the manual says.
    next(&mut Client::connect(site.address()), 1);
}

#[test]
fn upgrade_command_reports_sessions_that_stayed() {
    let site = ControlSite::default();
    let mut clients: Vec<_> = (0..3).map(|_| Client::connect(site.address())).collect();
    for client in &mut clients {
        client.echo("one");
    }
    let output = upgrade(&site, &["--drain", "1h"]);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("3 sessions stayed in the old process"), "{told}");
    // The new process has no sessions, so none stays.
    let output = upgrade(&site, &["--json"]);
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]), "{}", said(&output));
    let _new_process = NewProcess::of(&serde_json::from_slice(&output.stdout).expect("JSON"));
    for client in &mut clients {
        client.echo("two");
    }
}

#[test]
fn sleeping_session_transfers_with_its_timer() {
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
    let (_new_process, answer) = upgraded(&site, &[]);
    assert_eq!(answer["moved"], 1, "{answer}");
    next(&mut client, 2);
    eventually("it sleeps again", asleep);
    client.expect([b'a', 9]);
    assert!(start.elapsed() >= Duration::from_secs(5), "{:?}", start.elapsed());
    next(&mut client, 3);
}

#[test]
fn queued_bytes_arrive_once_after_a_transfer() {
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
    let (_new_process, answer) = upgraded(&site, &[]);
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
