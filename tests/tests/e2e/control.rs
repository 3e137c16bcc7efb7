//! The control API through `curl` alone, through `wharf ctl`, and by unauthorised peers.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use wharf_tests::clients::Client;
use wharf_tests::control_site::{ControlSite, configure, said};
use wharf_tests::guests::{component, wharf_binary};
use wharf_tests::ports::free_port;
use wharf_tests::process::Wharf;
use wharf_tests::servers::{PATIENCE, eventually};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn curl_alone_drives_everything() {
    let site = ControlSite::default();
    let server = "/v1/servers/echo";
    let mut clients: Vec<_> = (0..50).map(|_| Client::connect(site.address())).collect();
    for client in &mut clients {
        client.echo("hello");
    }
    assert_eq!(site.curl(&[], "/livez"), (200, "live\n".into()));
    assert_eq!(site.curl(&[], "/readyz"), (200, "ready\n".into()));
    let shown = site.ok("GET", server, json!({}));
    assert_eq!((&shown["status"], &shown["sessions"]), (&json!("listening"), &json!(50)));
    assert!(
        shown["latency_seconds"]["normal"]["p99"].as_f64().is_some_and(|p99| p99 > 0.0),
        "{shown}"
    );

    let suspended = site.ok("POST", &format!("{server}/suspend"), json!({ "newcomers": "reject" }));
    assert_eq!(suspended["status"], "suspended");
    Client::connect(site.address()).expect_gone();
    clients[0].echo("kept");
    assert_eq!(site.ok("POST", &format!("{server}/resume"), json!({}))["status"], "listening");

    let limits = site.ok(
        "PATCH",
        &format!("{server}/throttle"),
        json!({ "max_clients": 50, "accept_interval": "1ms" }),
    );
    assert_eq!((&limits["max_clients"], &limits["accept_interval"]), (&json!(50), &json!("1ms")));
    Client::connect(site.address()).expect_gone();

    let lock = site.ok("POST", &format!("{server}/lock"), json!({ "hold": "30s" }));
    assert_eq!(site.ok("GET", server, json!({}))["locked"], true);
    clients[1].send("held");
    let other = site.refused("POST", &format!("{server}/lock"), json!({ "wait": "10ms" }));
    assert_eq!(other, (409, "locked".into()));
    site.ok("POST", &format!("{server}/unlock"), json!({ "token": lock["token"] }));
    clients[1].expect("held");

    let id = site.sessions()[0]["id"].as_u64().expect("a number");
    site.ok("PUT", &format!("{server}/sessions/{id}/name"), json!({ "name": "Front Desk" }));
    let found = site.ok("GET", &format!("{server}/sessions?name=front%20desk"), json!({}));
    assert_eq!(found["sessions"][0]["id"], id);
    let before = site.ok(
        "PUT",
        &format!("{server}/sessions/{id}/priority"),
        json!({ "priority": "critical" }),
    );
    assert_eq!(before["before"], "normal");
    assert_eq!(
        site.ok("GET", &format!("{server}/sessions/{id}"), json!({}))["priority"],
        "critical"
    );
    site.ok("POST", &format!("{server}/sessions/{id}/disconnect"), json!({}));
    assert_eq!(
        site.refused("POST", &format!("{server}/sessions/{id}/disconnect"), json!({})).0,
        404
    );
    let id = site.sessions()[0]["id"].as_u64().expect("a number");
    site.ok("POST", &format!("{server}/sessions/{id}/abort"), json!({}));
    assert_eq!(
        site.curl(&["--data-binary", "news"], &format!("{server}/broadcast")).1,
        "{\"refused\":0,\"taken\":48}\n"
    );
    let id = site.sessions()[0]["id"].as_u64().expect("a number");
    assert_eq!(
        site.curl(&["--data-binary", "you"], &format!("{server}/sessions/{id}/send")).0,
        200
    );

    site.ok("PUT", &format!("{server}/priority"), json!({ "priority": "low" }));
    site.ok("PUT", &format!("{server}/data"), json!({ "data": "rack 7" }));
    let shown = site.ok("GET", server, json!({}));
    assert_eq!((&shown["data"], &shown["priority"]), (&json!("rack 7"), &json!("low")));

    assert_eq!(site.ok("POST", &format!("{server}/restart"), json!({}))["cut_off"], 0);
    assert_eq!(site.ok("GET", server, json!({}))["sessions"], 0);
    Client::connect(site.address()).echo("fresh");
    assert_eq!(
        site.ok("POST", &format!("{server}/stop"), json!({ "grace": "1s" }))["status"],
        "stopped"
    );
    assert!(std::net::TcpStream::connect(site.address()).is_err());
    assert_eq!(
        site.refused("POST", &format!("{server}/resume"), json!({})),
        (409, "stopping".into())
    );
}

#[test]
fn bad_requests_get_stable_codes() {
    let site = ControlSite::default();
    let server = "/v1/servers/echo";
    let wrong = [
        ("GET", "/v1/servers/none", json!({}), 404, "not-found"),
        ("GET", "/nowhere", json!({}), 404, "not-found"),
        ("DELETE", "/v1/servers", json!({}), 405, "wrong-method"),
        ("GET", "/v1/servers/echo/sessions/99", json!({}), 404, "not-found"),
        ("GET", "/v1/servers/echo/sessions/abc", json!({}), 400, "bad-id"),
        ("GET", "/v1/servers/echo/sessions?limit=0", json!({}), 400, "bad-value"),
        ("GET", "/v1/servers/echo/sessions?limit=x", json!({}), 400, "bad-query"),
        ("GET", "/v1/servers/echo/sessions?size=3", json!({}), 400, "bad-query"),
        ("PATCH", "/v1/servers/echo/throttle", json!({ "max_clients": "many" }), 400, "bad-json"),
        ("PATCH", "/v1/servers/echo/throttle", json!({ "max_client": 3 }), 400, "bad-json"),
        ("PATCH", "/v1/servers/echo/throttle", json!({ "rate_per_address": -1 }), 400, "bad-value"),
        ("PATCH", "/v1/servers/echo/throttle", json!([1, 2]), 400, "bad-json"),
        ("POST", "/v1/servers/echo/suspend", json!({ "sessions": "drain" }), 400, "bad-value"),
        ("POST", "/v1/servers/echo/lock", json!({ "hold": "1h" }), 400, "bad-value"),
        ("PUT", "/v1/servers/echo/priority", json!({ "priority": "urgent" }), 400, "bad-value"),
        ("PUT", "/v1/servers/echo/data", json!({ "data": "x".repeat(70_000) }), 413, "too-large"),
        ("POST", "/v1/servers/echo/credentials/renew", json!({}), 409, "not-secure"),
    ];
    for (method, path, body, code, word) in wrong {
        assert_eq!(site.refused(method, path, body), (code, word.to_owned()), "{method} {path}");
    }
    let brackets = "[".repeat(10_000);
    let (code, text) = site
        .curl(&["--request", "PATCH", "--data-binary", &brackets], &format!("{server}/throttle"));
    assert!(code == 400 && text.contains("bad-json"), "{code} {text}");
    // The host does not read a body of a gigabyte, and cuts off a long body without a length.
    let huge = site.curl(
        &["--header", "content-length: 1073741824", "--data-binary", "x"],
        &format!("{server}/broadcast"),
    );
    assert_eq!((huge.0, huge.1.contains("too-large")), (413, true));
    let chunked = ["--header", "transfer-encoding: chunked", "--data-binary", &"x".repeat(100_000)];
    assert_eq!(site.curl(&chunked, &format!("{server}/broadcast")).0, 200);
    let foreign = site
        .curl(&["--header", "origin: http://evil.example", "--data-binary", "{}"], "/v1/reload");
    assert_eq!((foreign.0, foreign.1.contains("foreign-origin")), (403, true));
    Client::connect(site.address()).echo("untouched");
}

#[test]
fn socket_is_private_and_replaces_only_stale_ones() {
    let site = ControlSite::default();
    let mode = std::fs::metadata(site.socket()).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Another process with the same socket does not start, and removes nothing.
    let other = free_port();
    let run = |folder: &Path| {
        let listen = format!("127.0.0.1:{other}");
        let arguments =
            ["serve", "--plugin", "polite.wasm", "--control", "control.sock", "--listen", &listen];
        let mut command = Command::new(wharf_binary());
        command.args(arguments).current_dir(folder).env("XDG_CACHE_HOME", folder.join("cache"));
        command.output().expect("it runs")
    };
    let refused = run(site.folder.path());
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        said(&refused).contains("another process serves its control API there"),
        "{}",
        said(&refused)
    );
    assert_eq!(site.curl(&[], "/livez").0, 200);

    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("polite.wasm"), component("")).expect("kept");
    std::fs::write(folder.path().join("control.sock"), "precious").expect("kept");
    assert!(said(&run(folder.path())).contains("in the way and no socket"));
    std::fs::remove_file(folder.path().join("control.sock")).expect("gone");
    // The stale socket of a killed process.
    drop(UnixListener::bind(folder.path().join("control.sock")).expect("a socket"));
    configure(folder.path(), free_port(), "", "");
    let wharf = Wharf::run(&["serve"], folder.path());
    wharf.says("server started");
    let ready = || {
        let output = Command::new(wharf_binary())
            .args(["ctl", "ready", "--socket"])
            .arg(folder.path().join("control.sock"))
            .output()
            .expect("it runs");
        output.status.success()
    };
    eventually("it is replaced", ready);
}

#[test]
fn ctl_has_tables_json_and_distinct_exit_codes() {
    let site = ControlSite::default();
    let mut client = Client::connect(site.address());
    client.echo("hello");
    let codes = [
        (&["servers"][..], 0, "listening"),
        (&["show", "echo"], 0, "counters.accepted"),
        (&["sessions", "echo"], 0, "127.0.0.1"),
        (&["session", "echo", "1"], 0, "bytes_in"),
        (&["--json", "servers"], 0, "{\"servers\":["),
        (&["throttle", "echo", "--max-per-address", "9"], 0, "max_per_address    9"),
        (&["suspend", "echo", "--newcomers", "reject"], 0, "suspended"),
        (&["resume", "echo"], 0, "listening"),
        (&["priority", "echo", "high", "--session", "1"], 0, "before"),
        (&["name", "echo", "1", "desk"], 0, "desk"),
        (&["sessions", "echo", "--name", "DESK"], 0, "desk"),
        (&["data", "echo", "rack 7"], 0, "rack 7"),
        (&["metrics"], 0, "# EOF"),
        (&["ready"], 0, "ready"),
        (&["reload"], 0, "changed"),
        (&["show", "none"], 4, "there is no server `none`"),
        (&["session", "echo", "77"], 4, "there is no session `77`"),
        (&["unlock", "echo", "77"], 5, "not held any more"),
        (&["priority", "echo", "urgent"], 2, "is no priority"),
        (&["sail"], 2, "unrecognized"),
    ];
    for (arguments, code, words) in codes {
        let output = site.ctl(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(words), "{arguments:?}: {}", said(&output));
    }
    assert!(site.ctl(&["send", "echo", "news"]).status.success());
    client.expect("news");
    assert!(site.ctl(&["disconnect", "echo", "1"]).status.success());
    client.expect_closed();
    let unserved = Command::new(wharf_binary())
        .args(["ctl", "--socket", "/nowhere/at/all", "servers"])
        .output();
    assert_eq!(unserved.expect("it runs").status.code(), Some(3));
    let mut top = Command::new(wharf_binary());
    let top = top
        .args(["top", "--looks", "2", "--every", "50ms", "--socket"])
        .arg(site.socket())
        .output();
    let top = said(&top.expect("it runs"));
    assert!(top.contains("EVENTS/s") && top.contains("echo"), "{top}");
    for shell in ["bash", "zsh", "fish"] {
        let output =
            Command::new(wharf_binary()).args(["completions", shell]).output().expect("it runs");
        assert!(said(&output).contains("ctl"), "{shell}");
    }
}

#[test]
fn metrics_are_openmetrics_and_name_no_session() {
    let site = ControlSite::default();
    Client::connect(site.address()).echo("hello");
    let (code, text) = site.curl(&[], "/metrics");
    assert_eq!(code, 200);
    assert!(text.ends_with("# EOF\n"), "{text}");
    for line in [
        "# TYPE wharf_event_duration_seconds histogram",
        "wharf_accepted_total{server=\"echo\"} 1",
        "wharf_server_status{server=\"echo\",status=\"listening\"} 1",
        "wharf_event_duration_seconds_bucket{le=\"+Inf\",server=\"echo\",plugin=\"polite\",version=\"unversioned\",class=\"normal\"}",
    ] {
        assert!(text.contains(line), "no {line} in:\n{text}");
    }
    // Cumulative buckets never decrease, and the last is the count.
    let class = "class=\"normal\"} ";
    let value = |line: &str| {
        line.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok()).expect("a number")
    };
    let buckets: Vec<_> = text
        .lines()
        .filter(|line| line.contains("_bucket") && line.contains(class))
        .map(value)
        .collect();
    assert!(buckets.is_sorted() && buckets.last() >= Some(&2), "{buckets:?}");
    let count = text
        .lines()
        .find(|line| line.contains("duration_seconds_count") && line.contains(class))
        .map(value);
    assert_eq!(buckets.last().copied(), count);
    assert!(!text.contains("127.0.0.1"), "{text}");
}

#[test]
fn notices_are_streamed_at_once() {
    let site = ControlSite::default();
    let mut listener = Command::new(wharf_binary());
    let mut listener = listener
        .args(["ctl", "events", "--socket"])
        .arg(site.socket())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    let lines = std::io::BufRead::lines(std::io::BufReader::new(
        listener.stdout.take().expect("its words"),
    ));
    // The test cannot see when the command starts to listen, so it causes notices until one
    // arrives.
    let (heard, hears) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(heard.send(line))));
    let mut first = None;
    eventually("it hears", || {
        site.ctl(&["suspend", "echo"]);
        site.ctl(&["resume", "echo"]);
        first = hears.recv_timeout(Duration::from_millis(10)).ok();
        first.is_some()
    });
    Client::connect(site.address()).echo("hello");
    let mut seen = vec![first.expect("a line")];
    while !seen.iter().any(|line| line.contains("idle")) {
        seen.push(hears.recv_timeout(PATIENCE).expect("it hears of the last client's leaving"));
    }
    assert!(seen.iter().all(|line| line.contains("\"server\":\"echo\"")), "{seen:?}");
    listener.kill().expect("it runs");
    listener.wait().expect("it ends");
}

#[test]
fn loopback_address_needs_token_and_refuses_foreign_pages() {
    let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
    let file = folder.path().join("token");
    std::fs::write(&file, TOKEN).expect("kept");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    let control = format!("listen = '127.0.0.1:{port}'\ntoken_file = '{}'", file.display());
    let site = ControlSite::with(&control, "");
    let curl = |arguments: &[&str], path: &str| {
        let output = Command::new("curl")
            .args(["--silent", "--include", "--max-time", "20"])
            .args(arguments)
            .arg(format!("http://127.0.0.1:{port}{path}"))
            .output();
        said(&output.expect("curl runs"))
    };
    let bearer = format!("authorization: Bearer {TOKEN}");
    assert!(curl(&["--header", &bearer], "/v1/servers").contains("\"echo\""));
    assert!(curl(&[], "/v1/servers").contains("401"));
    assert!(curl(&["--header", "authorization: Bearer guess"], "/metrics").contains("401"));
    let rebound = curl(&["--header", &bearer, "--header", "host: evil.example"], "/v1/servers");
    assert!(rebound.contains("421") && rebound.contains("foreign-host"), "{rebound}");
    let foreign = curl(
        &["--header", &bearer, "--header", "origin: http://evil.example", "--data", "{}"],
        "/v1/reload",
    );
    assert!(foreign.contains("403") && foreign.contains("foreign-origin"), "{foreign}");
    let page = curl(&[], "/");
    assert!(
        page.contains("content-security-policy: default-src 'none'")
            && page.contains("<!doctype html>"),
        "{page}"
    );
    assert!(!page.contains("__NONCE__"));
    // The host also checks the mode of the token's file.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    let refused = site.ask("POST", "/v1/reload", &json!({})).1;
    assert!(
        refused["error"]["message"].as_str().expect("words").contains("others may read it"),
        "{refused}"
    );
}

#[test]
fn openapi_document_matches_the_api() {
    let site = ControlSite::default();
    let (code, text) = site.curl(&[], "/v1/openapi.json");
    let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &document["info"]["version"]), (200, &json!("1")));
    let mut operations = 0;
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for method in
            methods.as_object().expect("methods").keys().filter(|key| *key != "parameters")
        {
            // No server has this name, so the calls change nothing.
            let asked = path.replace("{server}", "none").replace("{id}", "1");
            if ["/v1/reload", "/v1/upgrade", "/v1/events"].contains(&path.as_str()) {
                continue;
            }
            let (code, answer) =
                site.curl(&["--request", &method.to_uppercase(), "--data-binary", "{}"], &asked);
            let there = code == 200 || (code == 404 && answer.contains("there is no server"));
            assert!(there, "{method} {path}: {answer}");
            operations += 1;
        }
    }
    assert!(operations > 20, "{operations}");
}

/// Sends a request for the lock, and does not wait for the answer.
fn ask_for_lock(site: &ControlSite, hold: &str, ahead: &str) -> UnixStream {
    use std::io::Write;
    let mut asks = UnixStream::connect(site.socket()).expect("the socket");
    let body = json!({ "wait": "20s", "hold": hold }).to_string();
    let length = body.len();
    let head = format!(
        "POST /v1/servers/echo/lock HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"
    );
    asks.write_all(format!("{head}{body}{ahead}").as_bytes()).expect("it is sent");
    asks.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    asks
}

#[test]
fn disconnected_api_peer_gets_no_lock() {
    let site = ControlSite::default();
    let held = site.ok("POST", "/v1/servers/echo/lock", json!({ "hold": "60s" }));
    let gone = ask_for_lock(&site, "60s", "GET");
    // The host answers this call after it has read the request above.
    assert_eq!(site.curl(&[], "/livez").0, 200);
    drop(gone);
    site.ok("POST", "/v1/servers/echo/unlock", json!({ "token": held["token"] }));
    // The disconnected API peer was first in the queue.
    let next = site.ok("POST", "/v1/servers/echo/lock", json!({ "wait": "20s", "hold": "1s" }));
    assert!(next["token"].as_u64() > held["token"].as_u64());
}

#[test]
fn waiting_calls_leave_room_for_unlock() {
    use std::io::Read;
    let site = ControlSite::default();
    let held = site.ok("POST", "/v1/servers/echo/lock", json!({ "hold": "60s" }));
    let waits: Vec<_> = (0..60).map(|_| ask_for_lock(&site, "1ms", "")).collect();
    assert_eq!(site.curl(&[], "/livez").0, 200);
    site.ok("POST", "/v1/servers/echo/unlock", json!({ "token": held["token"] }));
    let answers = waits.into_iter().map(|mut waits| {
        let mut start = [0; 12];
        waits.read_exact(&mut start).expect("an answer");
        String::from_utf8_lossy(&start).into_owned()
    });
    let answers: Vec<_> = answers.collect();
    let count = |status: &str| answers.iter().filter(|answer| answer.ends_with(status)).count();
    assert!(count("503") >= 28 && count("200") >= 1, "{answers:?}");
}

#[test]
fn api_is_reported_open_once_it_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("polite.wasm"), component("")).expect("kept");
    configure(folder.path(), free_port(), "", "");
    let wharf = Wharf::run(&["serve"], folder.path());
    let lines = wharf.lines_until("the control API is open");
    assert!(lines.iter().any(|line| line.contains("listening server")), "{lines:?}");
}

#[test]
fn impossible_canary_value_is_bad_usage() {
    let site = ControlSite::of_versions("", &['b']);
    let file = site.path("b.wasm").display().to_string();
    for (flag, value) in [("--share", "2"), ("--share", "0"), ("--duration", "1ms")] {
        let output = site.wharf_plugin(&["canary", "echo", &file, flag, value]);
        assert_eq!(output.status.code(), Some(2), "{flag} {value}: {}", said(&output));
        assert!(said(&output).contains("swap.canary."), "{}", said(&output));
    }
}
