//! Swaps that meet another change of the same server: its end, a reload, a crash, or an API peer
//! that disconnects.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::Write;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;
use wharf::plugin::{InstanceLimits, Plugin};
use wharf::server::{
    BreakerLimits, BreakerState, CanaryOptions, CanaryRules, HISTORY_MAX, HostConfig, Quantity,
    RevisionState, ServerBuilder, ServerHandle, SwapError, SwapPolicy, SwapRules,
};
use wharf::servers::{Plan, Servers};
use wharf::session::SessionStats;
use wharf_tests::clients::Client;
use wharf_tests::control_site::ControlSite;
use wharf_tests::guests::{component, inline, root, versioned};
use wharf_tests::servers::{describe, eventually, host, swap};

fn version(label: char) -> Arc<Plugin> {
    inline(&format!("raced-{label}"), &versioned(label, "", ""))
}

fn versions(rules: SwapRules) -> ServerBuilder {
    describe(version('a')).swap_rules(rules)
}

fn next(client: &mut Client, label: char, count: u8) {
    client.send([1]).expect([label as u8, 1, count]);
}

/// Keeps a client's session in one event: the client asks for much more than it reads.
fn busy(client: &Client) -> std::thread::JoinHandle<()> {
    let mut sender = client.0.try_clone().expect("the same connection");
    std::thread::spawn(move || drop(sender.write_all(&vec![7; 4 << 20])))
}

fn is_busy(server: &ServerHandle) -> bool {
    let waits =
        |stats: &SessionStats| stats.event == Some("on-read") && stats.queued_bytes >= 256 << 10;
    server.sessions(0, 9).iter().any(|session| waits(&session.stats))
}

#[test]
fn going_back_passes_a_version_that_came_twice() {
    let server = versions(SwapRules::default()).start().expect("it starts");
    swap(&server, version('b'), SwapPolicy::HandOff);
    swap(&server, version('a'), SwapPolicy::HandOff);
    let back = || host().runtime().block_on(server.roll_back());
    assert_eq!(back().expect("it goes back").revision, 2);
    assert_eq!(back().expect("and further").revision, 1);
    let again = back();
    assert!(matches!(again, Err(SwapError::NothingBefore)), "{again:?}");
    let rolled_back = || RevisionState::RolledBack("asked".into());
    let states: Vec<_> =
        server.revisions().into_iter().map(|(revision, _)| revision.state).collect();
    assert_eq!(states, [RevisionState::Current, rolled_back(), rolled_back()]);
}

#[test]
fn swap_during_a_stop_publishes_nothing() {
    // In some attempts the trial is over before the stop.
    for _ in 0..50 {
        let server = versions(SwapRules::default()).start().expect("it starts");
        let plugin = version('b');
        let met = host().runtime().block_on(async {
            let mut swap = pin!(server.swap(plugin, SwapPolicy::HandOff));
            // The swap has begun, so the new version is on trial.
            if poll_fn(|cx| Poll::Ready(swap.as_mut().poll(cx))).await.is_ready() {
                return false;
            }
            server.stop(Duration::from_secs(5)).await;
            let swapped = swap.await;
            assert!(matches!(swapped, Err(SwapError::Stopping)), "{swapped:?}");
            true
        });
        if met {
            assert_eq!(server.revisions().len(), 1);
            return;
        }
    }
    panic!("no swap ever met the end of its server");
}

#[test]
fn canary_ends_although_its_starter_is_gone() {
    let canary =
        CanaryRules { duration: Duration::from_secs(1), sessions_min: 1, ..CanaryRules::default() };
    let server = versions(SwapRules { canary, ..SwapRules::default() }).start().expect("it starts");
    let (slow, mut quick) = (Client::connect(server.address()), Client::connect(server.address()));
    let asks = busy(&slow);
    eventually("it waits", || is_busy(&server));
    let (plugin, options) =
        (version('b'), CanaryOptions { share: Some(1.0), live: Some(true), duration: None });
    host().runtime().block_on(async {
        let mut canary = pin!(server.canary(plugin, options));
        // One of the live sessions is busy, so the call does not finish meanwhile.
        while server.canary_seen().is_none() {
            let begun = timeout(Duration::from_millis(10), &mut canary).await;
            assert!(begun.is_err(), "{begun:?}");
        }
    });
    drop(slow);
    asks.join().expect("it has ended");
    eventually("it is over", || server.canary_seen().is_none());
    quick.send([1]).take(3);
}

/// One server with a limit that a reload may change.
fn described(copy_max_bytes: usize) -> ServerBuilder {
    let rules = SwapRules { prepare: Duration::from_secs(20), ..SwapRules::default() };
    let limits = InstanceLimits { copy_max_bytes, ..InstanceLimits::default() };
    versions(rules).name("raced").limits(limits)
}

fn plan(copy_max_bytes: usize) -> Plan {
    let servers = vec![("[[server]]".to_owned(), described(copy_max_bytes))];
    let (stop_grace, tenants) = (Duration::from_secs(1), BTreeMap::new());
    Plan {
        host: HostConfig::default(),
        stop_grace,
        tenants,
        servers,
        inherited: Default::default(),
    }
}

fn servers() -> (Arc<Servers>, Arc<ServerHandle>) {
    let servers = Servers::start(host(), plan(1 << 20)).expect("it starts");
    let server = servers.get("raced").expect("it runs");
    (servers, server)
}

fn reload(servers: &Arc<Servers>) {
    let reloaded = host().runtime().block_on(servers.reload(plan(2 << 20)));
    assert_eq!(reloaded.expect("it holds").changed, ["raced"]);
}

fn are_all_on(server: &ServerHandle, label: char) -> bool {
    server
        .sessions(0, 100)
        .iter()
        .all(|session| session.plugin.starts_with(&format!("raced-{label}")))
}

#[test]
fn probation_goes_on_over_a_reload() {
    let (servers, server) = servers();
    let mut clients: Vec<_> = (0..30).map(|_| Client::connect(server.address())).collect();
    clients.iter_mut().for_each(|client| next(client, 'a', 1));
    let faulty = versioned('x', "", "")
        .replace("(local.set $at (i32.const 2048))\n  (loop", "unreachable (loop");
    assert_eq!(swap(&server, inline("raced-x", &faulty), SwapPolicy::HandOff).moved, 30);
    reload(&servers);
    for client in &mut clients[..10] {
        client.send("x").expect_gone();
    }
    eventually("it is rolled back", || server.counters().notices.contains_key("swap-rolled-back"));
    eventually("they are back", || are_all_on(&server, 'a'));
    clients[10..].iter_mut().for_each(|client| next(client, 'a', 2));
    next(&mut Client::connect(server.address()), 'a', 1);
    let copy = server
        .limits()
        .into_iter()
        .find(|limit| limit.key == "limits.copy_max_bytes")
        .expect("a limit");
    assert_eq!(copy.value, Quantity::Bytes(2 << 20), "what came back has the terms of the reload");
}

#[test]
fn reload_that_ends_a_canary_returns_its_sessions() {
    let (servers, server) = servers();
    let mut clients: Vec<_> = (0..10).map(|_| Client::connect(server.address())).collect();
    clients.iter_mut().for_each(|client| next(client, 'a', 1));
    let options = CanaryOptions { share: Some(1.0), live: Some(true), duration: None };
    let tried =
        host().runtime().block_on(server.canary(version('b'), options)).expect("it is good");
    assert_eq!(tried.moved, 10, "{tried:?}");
    clients.push(Client::connect(server.address()));
    next(&mut clients[10], 'b', 1);
    clients[..10].iter_mut().for_each(|client| next(client, 'b', 2));
    reload(&servers);
    assert_eq!(server.canary_seen(), None);
    assert!(are_all_on(&server, 'a'));
    clients[..10].iter_mut().for_each(|client| next(client, 'a', 3));
    next(&mut clients[10], 'a', 2);
    next(&mut Client::connect(server.address()), 'a', 1);
}

#[test]
fn new_configuration_waits_for_a_swap() {
    let server = Arc::new(described(1 << 20).start().expect("it starts"));
    let (slow, mut quick, finish) = half_way(&server);
    let prepared = described(2 << 20).prepare(&host()).expect("it holds");
    host().runtime().block_on(async {
        let mut reconfigure = pin!(server.reconfigure(prepared));
        assert!(
            timeout(Duration::from_millis(500), &mut reconfigure).await.is_err(),
            "it did not wait"
        );
        drop(slow);
        reconfigure.await.expect("a free place");
    });
    finish();
    next(&mut quick, 'b', 2);
    next(&mut Client::connect(server.address()), 'a', 1);
}

#[test]
fn stop_during_a_migration_undoes_the_swap() {
    for policy in [SwapPolicy::AllOrNothing, SwapPolicy::HandOff] {
        let server = Arc::new(described(1 << 20).start().expect("it starts"));
        let (slow, mut quick) =
            (Client::connect(server.address()), Client::connect(server.address()));
        next(&mut quick, 'a', 1);
        let asks = busy(&slow);
        eventually("it waits", || is_busy(&server));
        let moving = Arc::clone(&server);
        let work = move || moving.host().runtime().block_on(moving.swap(version('b'), policy));
        let work = std::thread::spawn(work);
        let begun = || prepares(&server) || server.plugin().name() == "raced-b";
        eventually("it has begun", begun);
        server.stop_blocking(Duration::ZERO);
        let swapped = work.join().expect("no panic");
        assert!(matches!(swapped, Err(SwapError::Stopping)), "{policy:?}: {swapped:?}");
        assert_eq!(server.plugin().name(), "raced-a", "{policy:?}");
        asks.join().expect("it has ended");
    }
}

/// Begins an atomic migration of two sessions, of which one is ready and one is busy until its
/// client goes. Returns both clients, and a check of the outcome for after that.
fn half_way(server: &Arc<ServerHandle>) -> (Client, Client, impl FnOnce() + use<>) {
    let (slow, mut quick) = (Client::connect(server.address()), Client::connect(server.address()));
    next(&mut quick, 'a', 1);
    let asks = busy(&slow);
    eventually("it waits", || is_busy(server));
    let moving = Arc::clone(server);
    let work = std::thread::spawn(move || swap(&moving, version('b'), SwapPolicy::AllOrNothing));
    eventually("the other one is ready", || prepares(server));
    let finish = move || {
        let moved = work.join().expect("no panic").moved;
        assert!((1..=2).contains(&moved), "{moved}: the slow one either ends or comes along");
        asks.join().expect("it has ended");
    };
    (slow, quick, finish)
}

fn prepares(server: &ServerHandle) -> bool {
    server.sessions(0, 9).iter().any(|session| session.stats.event == Some("hand-over"))
}

#[test]
fn reload_and_swap_do_not_undo_each_other() {
    let (servers, server) = servers();
    let (slow, mut quick, finish) = half_way(&server);
    let next_plan = plan(2 << 20);
    host().runtime().block_on(async {
        let mut reload = pin!(servers.reload(next_plan));
        assert!(timeout(Duration::from_millis(500), &mut reload).await.is_err(), "it did not wait");
        // From here on no session is busy.
        drop(slow);
        assert_eq!(reload.await.expect("it holds").changed, ["raced"]);
    });
    finish();
    let copy = server
        .limits()
        .into_iter()
        .find(|limit| limit.key == "limits.copy_max_bytes")
        .expect("a limit");
    assert_eq!(copy.value, Quantity::Bytes(2 << 20));
    next(&mut quick, 'b', 2);
    next(&mut Client::connect(server.address()), 'b', 1);
}

fn states(site: &ControlSite) -> Vec<Value> {
    let history = site.plugin(&["history"], None);
    history["generations"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["state"].clone())
        .collect()
}

#[test]
fn promoted_canary_starts_again_after_a_crash() {
    let mut site = ControlSite::of_versions("[server.swap.canary]\nsessions_min = 1", &['a', 'b']);
    site.plugin(&["swap"], Some("a.wasm"));
    site.plugin(&["canary", "--share", "1", "--duration", "1s"], Some("b.wasm"));
    next(&mut Client::connect(site.address()), 'b', 1);
    eventually("it is promoted", || states(&site).last() == Some(&json!("in-force")));
    // The host records the promotion a moment later.
    let recorded = || {
        site.path("state/wharf").read_dir().expect("a folder").any(|one| {
            let record = one.expect("one").path().join("echo/record.json");
            std::fs::read_to_string(record).is_ok_and(|text| text.contains("b.wasm"))
        })
    };
    eventually("it is recorded", recorded);
    site.start_again();
    next(&mut Client::connect(site.address()), 'b', 1);
}

#[test]
fn canary_does_not_survive_a_crash() {
    let mut site = ControlSite::of_versions("", &['a', 'b']);
    site.plugin(&["swap"], Some("a.wasm"));
    site.plugin(&["canary", "--share", "1"], Some("b.wasm"));
    site.ok("POST", "/v1/reload", json!({}));
    assert_eq!(
        states(&site),
        ["superseded", "in-force", "canary"],
        "a reload that changes nothing leaves it alone"
    );
    site.start_again();
    next(&mut Client::connect(site.address()), 'a', 1);
    assert_eq!(states(&site), ["superseded", "in-force", "taken-back"]);
}

#[test]
fn abandoned_swaps_still_count_against_the_limit() {
    let site = ControlSite::of_versions("[server.swap]\nprepare = '60s'", &['a', 'b']);
    site.plugin(&["swap"], Some("a.wasm"));
    let slow = Client::connect(site.address());
    let asks = busy(&slow);
    let waits =
        |one: &Value| one["event"] == "on-read" && one["queued_bytes"].as_u64() >= Some(256 << 10);
    eventually("it waits", || site.sessions().iter().any(waits));
    let body = json!({ "file": site.path("b.wasm"), "policy": "all-or-nothing" }).to_string();
    let ask = |_| {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--max-time",
            "1",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
        ]);
        curl.arg("--unix-socket").arg(site.socket()).args(["--data-binary", &body]);
        curl.arg("http://localhost/v1/servers/echo/plugin/swap")
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl runs")
    };
    let is_refused = |curl: Child| curl.wait_with_output().expect("it ended").stdout == b"503";
    // Each API peer gives up, and the first swap keeps the others waiting.
    let some = |_| {
        let asking: Vec<_> = (0..16).map(ask).collect();
        asking.into_iter().map(is_refused).fold(false, |one, other| one | other)
    };
    assert!((0..20).any(some), "none was refused");
    drop(slow);
    asks.join().expect("it has ended");
}

#[test]
fn long_history_keeps_the_version_to_return_to() {
    let server = versions(SwapRules::default()).start().expect("it starts");
    let back = || host().runtime().block_on(server.roll_back());
    swap(&server, version('b'), SwapPolicy::HandOff);
    let bad = version('c');
    for _ in 0..=HISTORY_MAX {
        swap(&server, Arc::clone(&bad), SwapPolicy::HandOff);
        assert_eq!(back().expect("it goes back").revision, 2);
    }
    assert_eq!(server.revisions().len(), HISTORY_MAX);
    assert_eq!(back().expect("and further").revision, 1);
    next(&mut Client::connect(server.address()), 'a', 1);
}

#[test]
fn rolled_back_version_leaves_a_closed_breaker() {
    let rules = SwapRules { failures_min: 1, failures_share: 0.0, ..SwapRules::default() };
    let limits = BreakerLimits { pause: Duration::from_secs(60), ..BreakerLimits::default() };
    let server = versions(rules).breaker(limits).start().expect("it starts");
    let mut slow = Client::connect(server.address());
    let asks = busy(&slow);
    eventually("it waits", || is_busy(&server));
    // Traps when the session comes to it, and in each event of its own sessions.
    let text = std::fs::read_to_string(root().join("tests/guests/bad-version.wat")).expect("it");
    let trap = "unreachable";
    let bad = inline("raced-bad", &text.replace("RESTORE", trap).replace("READ", trap));
    let tripped = || server.counters().notices.get("tripped").copied().unwrap_or(0);
    std::thread::scope(|scope| {
        let swapped = scope.spawn(|| swap(&server, Arc::clone(&bad), SwapPolicy::HandOff));
        eventually("it is current", || server.plugin().digest() == bad.digest());
        let mut others = Vec::new();
        eventually("its sessions trip the breaker", || {
            let mut other = Client::connect(server.address());
            other.send([1]);
            others.push(other);
            tripped() == 1
        });
        assert_ne!(server.breaker(), BreakerState::Closed);
        // The busy session goes on, and cannot move.
        let mut reader = slow.0.try_clone().expect("the same connection");
        let reads = scope.spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        let report = swapped.join().expect("the swap ends");
        assert!(report.rolled_back, "{report:?}");
        assert_eq!(server.breaker(), BreakerState::Closed);
        next(&mut Client::connect(server.address()), 'a', 1);
        asks.join().expect("it has ended");
        _ = slow.finish();
        reads.join().expect("it has ended").expect("no error");
    });
}

#[test]
fn replaced_file_is_a_conflict() {
    let site = ControlSite::with("", "");
    let (file, draft) = (site.path("next.wasm"), site.path("draft.wasm"));
    let builds = AtomicU64::new(0);
    // Another build each time: a custom section, which changes nothing but the digest.
    let replace = || {
        let number = builds.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let section = [&[0, 9, 0][..], &number].concat();
        std::fs::write(&draft, [component(&versioned('b', "", "")), section].concat())
            .expect("kept");
        std::fs::rename(&draft, &file).expect("moved into place");
    };
    replace();
    let done = AtomicBool::new(false);
    let answers: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                replace();
            }
        });
        let body = json!({ "file": file }).to_string();
        let asked = ["--data-binary", &body];
        let swap = |_| site.curl(&asked, "/v1/servers/echo/plugin/swap");
        let answers = (0..12).map(swap).collect();
        done.store(true, Ordering::Relaxed);
        answers
    });
    let is_conflict =
        |(code, text): &(u16, String)| *code == 409 && text.contains("\"file-changed\"");
    for answer in &answers {
        assert!(answer.0 == 200 || is_conflict(answer), "{answer:?}");
    }
    assert!(answers.iter().any(is_conflict), "no file changed while it was loaded");
    // Once the file stays, the same request works.
    site.ok("POST", "/v1/servers/echo/plugin/swap", json!({ "file": file }));
}
