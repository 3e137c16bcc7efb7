//! New versions under live sessions: which sessions migrate, which stay, and that a bad version
//! changes nothing.

use std::io::Write;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use wharf::event::Priority;
use wharf::plugin::{InstanceLimits, Plugin};
use wharf::server::{
    BreakerLimits, ServerBuilder, ServerHandle, SwapError, SwapPolicy, SwapReport,
};
use wharf::session::SessionStats;
use wharf_tests::clients::Client;
use wharf_tests::control_site::{ControlSite, said};
use wharf_tests::guests::{component, inline, polite, versioned};
use wharf_tests::process::Wharf;
use wharf_tests::servers::{describe, ended, eventually, fuel_alone, start, swap};

fn version(label: char) -> Arc<Plugin> {
    bad(label, "", "")
}

fn bad(label: char, save: &str, restore: &str) -> Arc<Plugin> {
    let name = format!("versioned-{label}-{}-{}", save.len(), restore.len());
    inline(&name, &versioned(label, save, restore))
}

/// `what`, in sessions that have sent something only, so that the trial of the version succeeds.
fn if_used(what: &str) -> String {
    format!("(if (global.get $count) (then {what}))")
}

fn hand_off(server: &ServerHandle, plugin: Arc<Plugin>) -> SwapReport {
    swap(server, plugin, SwapPolicy::HandOff)
}

fn versions() -> ServerBuilder {
    describe(version('a'))
}

/// Sends a byte, and expects the version, the byte and the count.
fn next(client: &mut Client, label: char, byte: u8, count: u8) {
    client.send([byte]).expect([label as u8, byte, count]);
}

#[test]
fn live_sessions_migrate_with_their_state() {
    let server = versions().start().expect("it starts");
    let mut clients: Vec<_> = (0..30).map(|_| Client::connect(server.address())).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        (0..=number as u8).for_each(|count| next(client, 'a', 7, count + 1));
    }
    let report = hand_off(&server, version('b'));
    assert_eq!(
        (report.moved, report.stayed.len(), report.ended, report.revision),
        (30, 0, 0, 2),
        "{report:?}"
    );
    for (number, client) in clients.iter_mut().enumerate() {
        next(client, 'b', 9, number as u8 + 2);
    }
    let mut new_client = Client::connect(server.address());
    next(&mut new_client, 'b', 1, 1);
    let seen = server.sessions(0, 100);
    assert!(seen.iter().all(|session| session.plugin.starts_with("versioned-b")), "{seen:?}");
    // Statistics of a session add up over all of its versions.
    assert!(seen[0].stats.events >= 3 && seen[0].stats.usage.fuel > 0, "{:?}", seen[0]);
    let report = hand_off(&server, version('a'));
    assert_eq!(report.moved, 31);
    next(&mut clients[0], 'a', 3, 3);
    drop((clients, new_client));
    ended(&server, "peer-closed", 31);
    assert!(server.counters().faults.is_empty(), "{:?}", server.counters());
}

#[test]
fn failed_restore_keeps_the_old_version() {
    let refuses = "(i32.store (i32.const 1064) (i32.const 1)) (i32.store (i32.const 1068) \
        (i32.const 1024)) \
                   (i32.store (i32.const 1072) (i32.const 5))";
    let grows = "(loop $more (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 16))))) \
        unreachable";
    let writes = "(drop (call $try-write (i32.const 1024) (i32.const 9))) (drop (call $set-timer \
        (i32.const 1) (i64.const 1)))";
    let server = versions().budget(Priority::Normal, fuel_alone()).start().expect("it starts");
    let mut client = Client::connect(server.address());
    next(&mut client, 'a', 1, 1);
    for (number, (what, reason)) in [
        (refuses, "handoff-refused"),
        ("unreachable", "trap:unreachable"),
        ("(call $spin)", "fuel"),
        (grows, "limit-session-mem"),
    ]
    .into_iter()
    .enumerate()
    {
        let report = hand_off(&server, bad('x', "", &if_used(what)));
        assert_eq!((report.moved, report.stayed.get(reason)), (0, Some(&1)), "{report:?}");
        next(&mut client, 'a', 2, number as u8 + 2);
        // New sessions get the version, because it fails in no other way.
        next(&mut Client::connect(server.address()), 'x', 1, 1);
        eventually("the new connection has ended", || server.session_count() == 1);
    }
    // Host calls of the restore have no effect on the session.
    let report = hand_off(&server, bad('w', "", &if_used(writes)));
    assert_eq!(report.moved, 1, "{report:?}");
    next(&mut client, 'w', 2, 6);
    assert_eq!(server.counters().ended.keys().filter(|reason| *reason != "peer-closed").count(), 0);
}

#[test]
fn version_that_restores_no_session_is_rolled_back() {
    let server = versions().budget(Priority::Normal, fuel_alone()).start().expect("it starts");
    let mut clients: Vec<_> = (0..60).map(|_| Client::connect(server.address())).collect();
    // Three sessions have sent nothing, so they can migrate, and must migrate back.
    clients[3..].iter_mut().for_each(|client| next(client, 'a', 1, 1));
    eventually("all are there", || server.session_count() == 60);
    for (what, reason) in [("unreachable", "trap:unreachable"), ("(call $spin)", "fuel")] {
        let report = hand_off(&server, bad('x', "", &if_used(what)));
        assert!(report.rolled_back && report.moved == 0, "{report:?}");
        assert_eq!(report.stayed.values().sum::<usize>(), 60, "{report:?}");
        // Not every session had to fail, however long a failure takes.
        assert!(report.stayed[reason] < 20, "{report:?}");
    }
    clients[..3].iter_mut().for_each(|client| next(client, 'a', 1, 1));
    clients[3..].iter_mut().for_each(|client| next(client, 'a', 1, 2));
    next(&mut Client::connect(server.address()), 'a', 1, 1);
    assert_eq!(server.counters().notices.get("swap-rolled-back"), Some(&2));
    let report = hand_off(&server, version('b'));
    assert_eq!((report.rolled_back, report.stayed.len()), (false, 0), "{report:?}");
    next(&mut clients[9], 'b', 1, 3);
}

#[test]
fn faulty_version_is_rolled_back_after_its_swap() {
    let server = versions().start().expect("it starts");
    let mut clients: Vec<_> = (0..30).map(|_| Client::connect(server.address())).collect();
    clients.iter_mut().for_each(|client| next(client, 'a', 1, 1));
    // Sessions can migrate to the version, and it faults at the first byte.
    let text = versioned('x', "", "")
        .replace("(local.set $at (i32.const 2048))\n  (loop", "unreachable (loop");
    let report = hand_off(&server, inline("faults-later", &text));
    assert_eq!((report.moved, report.rolled_back), (30, false), "{report:?}");
    for client in &mut clients[..10] {
        client.send("x").expect_gone();
    }
    eventually("it is rolled back", || server.counters().notices.contains_key("swap-rolled-back"));
    // Sessions that sent nothing meanwhile are back as well, with all of their state.
    eventually("they are back", || {
        server.sessions(0, 100).iter().all(|session| session.plugin.starts_with("versioned-a"))
    });
    clients[10..].iter_mut().for_each(|client| next(client, 'a', 1, 2));
    next(&mut Client::connect(server.address()), 'a', 1, 1);
    assert_eq!((server.session_count() >= 20, server.breaker().name()), (true, "closed"));
}

#[test]
fn faults_of_a_superseded_version_trip_no_breaker() {
    let limits = BreakerLimits { faults: 5, ..BreakerLimits::default() };
    let text = versioned('x', "", "")
        .replace("(local.set $at (i32.const 2048))\n  (loop", "unreachable (loop");
    let server = describe(inline("faults", &text)).breaker(limits).start().expect("it starts");
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(server.address())).collect();
    eventually("all are in", || server.session_count() == 20);
    assert_eq!(swap(&server, version('b'), SwapPolicy::Pin).stayed["pinned"], 20);
    for client in &mut clients {
        client.send("x").expect_gone();
    }
    let faults = || server.counters().faults.values().sum::<u64>();
    eventually("all have faulted", || faults() == 20 && server.session_count() == 0);
    assert_eq!(
        (server.breaker().name(), server.counters().notices.get("tripped")),
        ("closed", None)
    );
    next(&mut Client::connect(server.address()), 'b', 1, 1);
}

#[test]
fn version_that_fails_its_trial_changes_nothing() {
    let server = versions().start().expect("it starts");
    let mut client = Client::connect(server.address());
    next(&mut client, 'a', 1, 1);
    let trial = |save: &str, restore: &str| {
        let file =
            wharf_tests::guests::file("bad-trial", &component(&versioned('x', save, restore)));
        let loaded = server.load_for_swap(&file).map_err(SwapError::from);
        let swap =
            |plugin| server.host().runtime().block_on(server.swap(plugin, SwapPolicy::HandOff));
        loaded.and_then(swap).expect_err("it is bad").to_string()
    };
    for (save, restore, says) in [
        ("unreachable", "", "in its `save`: trap:unreachable"),
        ("(call $spin)", "", "in its `save`: fuel"),
        ("", "unreachable", "in its `restore`: trap:unreachable"),
        ("", "(i32.store (i32.const 1064) (i32.const 1))", "in its `restore`: handoff-refused"),
        // A list beyond the guest's memory.
        (
            "(i32.store (i32.const 1056) (i32.const -16)) (i32.store (i32.const 1060) (i32.const \
             64)) (return (i32.const 1056))",
            "",
            "trap:",
        ),
    ] {
        let said = trial(save, restore);
        assert!(said.contains("its trial instance failed") && said.contains(says), "{said}");
    }
    next(&mut client, 'a', 2, 2);
    next(&mut Client::connect(server.address()), 'a', 2, 1);
}

#[test]
fn trap_in_save_ends_only_its_session() {
    let server = describe(bad('a', &if_used("unreachable"), "")).start().expect("it starts");
    let (mut used, mut fresh) =
        (Client::connect(server.address()), Client::connect(server.address()));
    next(&mut used, 'a', 1, 1);
    eventually("both are there", || server.session_count() == 2);
    let report = hand_off(&server, version('b'));
    assert_eq!(
        (report.moved, report.lost.get("trap:unreachable"), report.stayed.len()),
        (1, Some(&1), 0),
        "{report:?}"
    );
    used.expect_gone();
    next(&mut fresh, 'b', 1, 1);
    ended(&server, "trap:unreachable", 1);
}

#[test]
fn session_over_its_state_limit_stays() {
    let limits = |max| InstanceLimits { state_max_bytes: max, ..InstanceLimits::default() };
    for (max, moves) in [(4, 1), (3, 0)] {
        // The plugin saves nothing in a new session; otherwise its trial would fail.
        let empty = "(if (i32.eqz (global.get $count)) (then (i32.store (i32.const 1056) \
            (i32.const 1048)) \
                     (i32.store (i32.const 1060) (i32.const 0)) (return (i32.const 1056))))";
        let server = describe(bad('a', empty, "")).limits(limits(max)).start().expect("it starts");
        let mut client = Client::connect(server.address());
        next(&mut client, 'a', 1, 1);
        let report = hand_off(&server, bad('b', empty, ""));
        assert_eq!(
            (report.moved, report.stayed.get("state-limit").copied()),
            (moves, (moves == 0).then_some(1))
        );
        next(&mut client, if moves == 1 { 'b' } else { 'a' }, 1, 2);
    }
}

#[test]
fn send_buffer_timers_and_class_migrate() {
    // Sets a timer for each byte, and is `versioned` otherwise.
    let with_timer = |label: char| {
        let text = versioned(label, "", "").replace(
            "(drop (call $try-write (i32.const 2048)",
            "(drop (call $set-timer (i32.load8_u (local.get $data)) (i64.const 300)))\n(drop (call \
             $try-write (i32.const 2048)",
        );
        inline(&format!("timed-{label}"), &text)
    };
    let server = describe(with_timer('a')).priority_max(Priority::High).start().expect("it starts");
    let mut client = Client::connect(server.address());
    next(&mut client, 'a', 5, 1);
    server.assign(1, Priority::High).expect("a session");
    server.name_session(1, "carried").expect("a name");
    server.send_to(1, b"mail").expect("it is taken");
    let report = hand_off(&server, with_timer('b'));
    assert_eq!(report.moved, 1, "{report:?}");
    client.expect("mail").expect([b'b', 5]);
    let seen = server.session(1).expect("it is there");
    assert_eq!((seen.stats.priority, seen.name.as_deref()), (Priority::High, Some("carried")));
}

#[test]
fn policies_pin_migrate_or_disconnect() {
    let server = versions().start().expect("it starts");
    let mut client = Client::connect(server.address());
    next(&mut client, 'a', 1, 1);
    let report = swap(&server, version('b'), SwapPolicy::Pin);
    assert_eq!((report.moved, report.stayed.get("pinned")), (0, Some(&1)));
    next(&mut client, 'a', 1, 2);
    next(&mut Client::connect(server.address()), 'b', 1, 1);
    // The same plugin is no new version, and sessions left behind are asked again.
    let report = swap(&server, version('b'), SwapPolicy::HandOff);
    assert_eq!((report.revision, report.moved, report.stayed.len()), (2, 1, 0));
    next(&mut client, 'b', 1, 3);
    let report = swap(&server, version('c'), SwapPolicy::Disconnect);
    assert!(report.ended >= 1, "{report:?}");
    client.expect_closed();
    next(&mut Client::connect(server.address()), 'c', 1, 1);
}

#[test]
fn sessions_without_handoff_keep_their_version() {
    let server = start(polite());
    let mut client = Client::connect(server.address());
    client.echo("on the first");
    let report = hand_off(&server, version('b'));
    assert_eq!(report.stayed.get("no-handoff"), Some(&1), "{report:?}");
    client.echo("still on the first");
    let mut second = Client::connect(server.address());
    next(&mut second, 'b', 1, 1);
    let report = hand_off(&server, inline("polite-again", "(func $unused)"));
    assert_eq!(report.stayed.get("no-handoff"), Some(&2), "{report:?}");
    next(&mut second, 'b', 1, 2);
}

#[test]
fn session_migrates_after_its_running_event() {
    let server = versions().timeout(Duration::from_secs(60)).start().expect("it starts");
    let mut client = Client::connect(server.address());
    next(&mut client, 'a', 1, 1);
    // The client asks for much more than it reads for now, so the session waits within an event.
    let sent = 4 << 20;
    let mut sender = client.0.try_clone().expect("the same connection");
    let asks = std::thread::spawn(move || {
        sender.write_all(&vec![7; sent]).expect("all of it is taken in the end");
        sender.shutdown(Shutdown::Write).expect("it has finished");
    });
    let waits =
        |stats: SessionStats| stats.event == Some("on-read") && stats.queued_bytes >= 256 << 10;
    eventually("it waits", || server.session(1).is_some_and(|session| waits(session.stats)));
    let report = std::thread::scope(|scope| {
        let swapping = scope.spawn(|| hand_off(&server, version('b')));
        eventually("it is asked for", || server.plugin().label().starts_with("versioned-b"));
        let (rest, end) = client.rest();
        end.expect("a proper end");
        assert_eq!(rest.len(), 3 * sent);
        // No answer is missing, none comes twice, and the new version goes on where the old one
        // was.
        for (at, answer) in rest.chunks_exact(3).enumerate() {
            assert_eq!(answer[1..], [7, (at + 2) as u8], "answer {at}");
        }
        let labels: Vec<u8> = rest.chunks_exact(3).map(|answer| answer[0]).collect();
        assert!(labels.is_sorted() && labels.ends_with(b"b"), "never back");
        swapping.join().expect("it is done")
    });
    asks.join().expect("it has sent all");
    assert_eq!(report.moved, 1, "{report:?}");
}

#[test]
fn ending_sessions_delay_no_swap() {
    let server = versions().start().expect("it starts");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let mut client = Client::connect(server.address());
                    client.send([1]).skip(3);
                }
            });
        }
        for round in 0..30 {
            let report = hand_off(&server, version(if round % 2 == 0 { 'b' } else { 'a' }));
            assert!(report.stayed.is_empty() && !report.rolled_back, "{report:?}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(server.counters().faults.is_empty(), "{:?}", server.counters().faults);
}

#[test]
fn racing_swaps_run_one_after_the_other() {
    let server = versions().start().expect("it starts");
    let mut clients: Vec<_> = (0..10).map(|_| Client::connect(server.address())).collect();
    clients.iter_mut().for_each(|client| next(client, 'a', 1, 1));
    std::thread::scope(|scope| {
        for label in ['b', 'c', 'd', 'e'] {
            let server = &server;
            scope.spawn(move || hand_off(server, version(label)));
        }
    });
    let now = server.plugin().label().chars().nth("versioned-".len()).expect("a label");
    clients.iter_mut().for_each(|client| next(client, now, 1, 2));
}

#[test]
fn swap_command_refuses_a_bad_file() {
    let site = ControlSite::default();
    let keep = |name: &str, bytes: &[u8]| std::fs::write(site.path(name), bytes).expect("kept");
    keep("a.wasm", &component(&versioned('a', "", "")));
    keep("b.wasm", &component(&versioned('b', "", "")));
    keep("broken.wasm", b"\0asm");
    let swap = |file: &str| {
        site.wharf_plugin(&["swap", "echo", site.path(file).to_str().expect("a path")])
    };
    assert_eq!(swap("a.wasm").status.code(), Some(0));
    let mut client = Client::connect(site.address());
    next(&mut client, 'a', 1, 1);
    let bad = swap("broken.wasm");
    assert!(bad.status.code() == Some(1) && said(&bad).contains("broken.wasm"), "{}", said(&bad));
    assert_eq!(swap("missing.wasm").status.code(), Some(2));
    next(&mut client, 'a', 1, 2);
    let good = swap("b.wasm");
    assert!(good.status.success() && said(&good).contains("moved"), "{}", said(&good));
    next(&mut client, 'b', 1, 3);
    let answer = site.ok(
        "POST",
        "/v1/servers/echo/plugin/swap",
        json!({ "file": site.path("a.wasm"), "policy": "pin" }),
    );
    assert_eq!((&answer["moved"], &answer["stayed"]["pinned"]), (&json!(0), &json!(1)), "{answer}");
    next(&mut client, 'b', 1, 4);
}

#[test]
fn swap_command_reports_a_roll_back() {
    let site = ControlSite::default();
    let keep = |name: &str, restore: &str| {
        std::fs::write(site.path(name), component(&versioned('a', "", restore))).expect("kept");
        site.path(name).to_str().expect("a path").to_owned()
    };
    let (good, bad) =
        (keep("a.wasm", ""), keep("bad.wasm", "(if (global.get $count) (then unreachable))"));
    assert_eq!(site.wharf_plugin(&["swap", "echo", &good]).status.code(), Some(0));
    let mut clients: Vec<_> = (0..6).map(|_| Client::connect(site.address())).collect();
    clients.iter_mut().for_each(|client| next(client, 'a', 1, 1));
    let rolled_back = "bad unversioned was rolled back, because too many sessions could not move \
        to it; a unversioned goes on serving";
    let called_off = "bad unversioned was not put in force, because not all sessions could move to \
        it; a unversioned goes on serving";
    for (policy, sentence) in [("hand-off", rolled_back), ("all-or-nothing", called_off)] {
        let swap = site.wharf_plugin(&["swap", "echo", &bad, "--policy", policy]);
        assert!(swap.status.code() == Some(1) && said(&swap).contains(sentence), "{}", said(&swap));
    }
    clients.iter_mut().for_each(|client| next(client, 'a', 1, 2));
}

#[test]
fn running_swap_shows_its_progress() {
    let site = ControlSite::default();
    for label in ['a', 'b'] {
        std::fs::write(site.path(&format!("{label}.wasm")), component(&versioned(label, "", "")))
            .expect("kept");
    }
    let (socket, file) = (site.socket(), site.path("b.wasm"));
    site.ok("POST", "/v1/servers/echo/plugin/swap", json!({ "file": site.path("a.wasm") }));
    assert_eq!(site.ok("GET", "/v1/servers/echo/plugin/swap", json!({}))["under_way"], json!(null));
    let (mut idle, mut busy) = (Client::connect(site.address()), Client::connect(site.address()));
    next(&mut idle, 'a', 1, 1);
    // The plugin answers three bytes for one, and the client does not read them yet, so its event
    // goes on.
    let (count, mut writes) = (8 << 20, busy.0.try_clone().expect("a socket"));
    let sender = std::thread::spawn(move || writes.write_all(&vec![b'x'; count]));
    eventually("its event waits for the peer", || {
        let sessions = site.sessions();
        sessions
            .iter()
            .any(|session| session["queued_bytes"].as_u64().is_some_and(|queued| queued > 0))
    });
    let command = [
        "plugin",
        "--socket",
        socket.to_str().expect("a path"),
        "swap",
        "echo",
        file.to_str().expect("a path"),
    ];
    let swap = Wharf::run(&command, site.folder.path());
    swap.says("loading ");
    swap.says("moving to b unversioned: 1 of 2 sessions moved");
    let under_way = &site.ok("GET", "/v1/servers/echo/plugin/swap", json!({}))["under_way"];
    assert_eq!(
        (&under_way["stage"], &under_way["of"], &under_way["moved"]),
        (&json!("moving"), &json!(2), &json!(1))
    );
    busy.skip(count * 3);
    sender.join().expect("no panic").expect("it was sent");
    eventually("the swap is over", || {
        site.ok("GET", "/v1/servers/echo/plugin/swap", json!({}))["under_way"].is_null()
    });
    next(&mut idle, 'b', 1, 2);
}
