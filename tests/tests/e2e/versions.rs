//! Versions of a server's plugin: canaries, atomic migrations, roll-backs, and the record that a
//! killed process starts from.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use wharf::event::Priority;
use wharf::plugin::Plugin;
use wharf::sched::BudgetChange;
use wharf::server::{
    CanaryOptions, CanaryRules, RevisionState, ServerBuilder, ServerHandle, SwapError, SwapPolicy,
    SwapReport, SwapRules,
};
use wharf_tests::clients::Client;
use wharf_tests::control_site::{ControlSite, configure, said};
use wharf_tests::guests::{component, inline, loops_and_traps, versioned};
use wharf_tests::process::Wharf;
use wharf_tests::servers::{describe, eventually, fuel_alone, host, swap};

/// Long enough for sessions that prepare together on a busy machine.
const PREPARE: Duration = Duration::from_secs(60);

fn bad(label: char, save: &str, restore: &str) -> Arc<Plugin> {
    let name = format!("version-{label}-{}-{}", save.len(), restore.len());
    inline(&name, &versioned(label, save, restore))
}

fn version(label: char) -> Arc<Plugin> {
    bad(label, "", "")
}

/// A version that sessions can migrate to, and that faults at the first byte.
fn faulty() -> Arc<Plugin> {
    let text = versioned('x', "", "")
        .replace("(local.set $at (i32.const 2048))\n  (loop", "unreachable (loop");
    inline("version-faulty", &text)
}

fn versions() -> ServerBuilder {
    describe(version('a'))
}

fn with(canary: CanaryRules) -> ServerBuilder {
    versions().swap_rules(SwapRules { canary, ..SwapRules::default() })
}

/// Sends a byte, and expects the version, the byte and the count.
fn next(client: &mut Client, label: char, byte: u8, count: u8) {
    client.send([byte]).expect([label as u8, byte, count]);
}

fn clients(server: &ServerHandle, count: usize) -> Vec<Client> {
    (0..count).map(|_| Client::connect(server.address())).collect()
}

/// The version that answers.
fn label(client: &mut Client) -> char {
    let (bytes, _) = client.send([1]).finish().rest();
    char::from(bytes[0])
}

fn canary(
    server: &ServerHandle,
    plugin: Arc<Plugin>,
    options: CanaryOptions,
) -> Result<SwapReport, SwapError> {
    host().runtime().block_on(server.canary(plugin, options))
}

fn states(server: &ServerHandle) -> Vec<(u64, RevisionState)> {
    server.revisions().into_iter().map(|(revision, _)| (revision.number, revision.state)).collect()
}

#[test]
fn atomic_migration_moves_all_sessions_or_none() {
    let server = versions().start().expect("it starts");
    let mut all = clients(&server, 20);
    all.iter_mut().for_each(|client| next(client, 'a', 1, 1));
    // One of the sessions cannot migrate.
    next(&mut all[7], 'a', 1, 2);
    let refuses = "(if (i32.eq (global.get $count) (i32.const 2)) (then unreachable))";
    let report = swap(&server, bad('b', "", refuses), SwapPolicy::AllOrNothing);
    assert_eq!((report.moved, report.rolled_back, report.revision), (0, true, 0), "{report:?}");
    assert_eq!(report.stayed["trap:unreachable"], 1, "{report:?}");
    assert_eq!(report.stayed["called-off"], 19, "{report:?}");
    assert_eq!(server.counters().notices.get("swap-refused"), Some(&1));
    next(&mut Client::connect(server.address()), 'a', 1, 1);
    next(&mut all[7], 'a', 1, 3);
    assert_eq!(states(&server), [(1, RevisionState::Current)]);
    // The instances that sessions prepared are gone again.
    eventually("one instance each", || host().engine().instances() <= 21 + 64);
    let report = swap(&server, version('b'), SwapPolicy::AllOrNothing);
    assert_eq!((report.moved, report.stayed.len(), report.revision), (20, 0, 2), "{report:?}");
    next(&mut all[7], 'b', 1, 4);
    next(&mut all[0], 'b', 1, 2);
    next(&mut Client::connect(server.address()), 'b', 1, 1);
}

#[test]
fn few_sessions_prepare_for_a_looping_version() {
    // So little fuel that the first session has failed before the others are asked.
    let budget = BudgetChange { fuel: Some(5_000_000), ..fuel_alone() };
    let rules = SwapRules { prepare: PREPARE, ..SwapRules::default() };
    let server =
        versions().budget(Priority::Normal, budget).swap_rules(rules).start().expect("it starts");
    let mut all = clients(&server, 60);
    all.iter_mut().for_each(|client| next(client, 'a', 1, 1));
    let report = swap(
        &server,
        bad('b', "", "(if (global.get $count) (then (call $spin)))"),
        SwapPolicy::AllOrNothing,
    );
    assert_eq!(
        (report.stayed.get("fuel"), report.stayed.get("called-off")),
        (Some(&1), Some(&59)),
        "{report:?}"
    );
    all.iter_mut().for_each(|client| next(client, 'a', 1, 2));
}

#[test]
fn first_failure_calls_off_preparing_sessions() {
    let rules = SwapRules { prepare: PREPARE, ..SwapRules::default() };
    let server = versions()
        .budget(Priority::Normal, fuel_alone())
        .swap_rules(rules)
        .start()
        .expect("it starts");
    let mut all = clients(&server, 60);
    // The first session can migrate. The others cannot, some of them later than others.
    let count = |number: usize| if number == 0 { 1 } else { 2 + (number / 4) as u8 };
    for (number, client) in all.iter_mut().enumerate() {
        (1..=count(number)).for_each(|count| next(client, 'a', 1, count));
    }
    let report =
        swap(&server, inline("version-slow", &loops_and_traps('c')), SwapPolicy::AllOrNothing);
    let of = |reason: &str| report.stayed.get(reason).copied().unwrap_or(0);
    let failed = of("trap:unreachable");
    assert!((1..40).contains(&failed), "{report:?}");
    assert_eq!((failed + of("called-off"), report.moved), (60, 0), "{report:?}");
    for (number, client) in all.iter_mut().enumerate() {
        next(client, 'a', 1, count(number) + 1);
    }
}

#[test]
fn new_connections_wait_for_an_atomic_migration() {
    let server = Arc::new(versions().start().expect("it starts"));
    let mut all = clients(&server, 40);
    all.iter_mut().for_each(|client| next(client, 'a', 1, 1));
    let moving = Arc::clone(&server);
    let plugin = version('b');
    let work = std::thread::spawn(move || swap(&moving, plugin, SwapPolicy::AllOrNothing));
    let mut seen: Vec<char> = Vec::new();
    while !work.is_finished() || seen.last() != Some(&'b') {
        seen.push(label(&mut Client::connect(server.address())));
    }
    assert!(work.join().expect("no panic").moved >= 40);
    // After the first session on the new version, no session starts on the old one.
    let first = seen.iter().position(|label| *label == 'b').expect("the last one is");
    assert!(seen[first..].iter().all(|label| *label == 'b'), "{seen:?}");
}

#[test]
fn canary_gets_its_share_and_is_promoted() {
    let rules =
        CanaryRules { share: 0.25, duration: Duration::from_secs(2), ..CanaryRules::default() };
    let server = with(rules).start().expect("it starts");
    let mut old = Client::connect(server.address());
    next(&mut old, 'a', 1, 1);
    let report = canary(&server, version('b'), CanaryOptions::default()).expect("it begins");
    assert_eq!((report.moved, report.revision), (0, 2), "{report:?}");
    let mut new_clients = clients(&server, 40);
    let tried = new_clients
        .iter_mut()
        .filter_map(|client| (client.send([1]).take(3)[0] == b'b').then_some(()));
    assert_eq!(tried.count(), 10);
    let seen = server.canary_seen().expect("it runs");
    assert_eq!((seen.sessions, seen.faulted, seen.revision), (10, 0, 2), "{seen:?}");
    // Other swaps are refused while a canary runs.
    let refused = host().runtime().block_on(server.swap(version('c'), SwapPolicy::HandOff));
    assert!(matches!(refused, Err(SwapError::CanaryRuns(_))), "{refused:?}");
    next(&mut old, 'a', 1, 2);
    eventually("it is promoted", || server.canary_seen().is_none());
    eventually("all have moved", || {
        server.sessions(0, 100).iter().all(|one| one.plugin.contains("version-b"))
    });
    next(&mut old, 'b', 1, 3);
    assert_eq!(states(&server), [(1, RevisionState::Superseded), (2, RevisionState::Current)]);
    assert_eq!(server.counters().notices.get("canary-promoted"), Some(&1));
}

#[test]
fn atomic_promotion_of_a_canary_may_roll_back() {
    let rules = SwapRules { policy: SwapPolicy::AllOrNothing, ..SwapRules::default() };
    let server = versions().swap_rules(rules).start().expect("it starts");
    let mut all = clients(&server, 5);
    all.iter_mut().for_each(|client| next(client, 'a', 1, 1));
    let promote = || host().runtime().block_on(server.promote()).expect("there is one");
    canary(
        &server,
        bad('x', "", "(if (global.get $count) (then unreachable))"),
        CanaryOptions::default(),
    )
    .expect("it begins");
    let report = promote();
    assert_eq!((report.moved, report.rolled_back, report.revision), (0, true, 0), "{report:?}");
    assert_eq!(states(&server).last(), Some(&(2, RevisionState::RolledBack("called-off".into()))));
    canary(&server, version('b'), CanaryOptions::default()).expect("it begins");
    let report = promote();
    assert_eq!((report.moved, report.rolled_back, report.revision), (5, false, 3), "{report:?}");
    all.iter_mut().for_each(|client| next(client, 'b', 1, 2));
}

#[test]
fn faulty_canary_is_rolled_back() {
    let server =
        with(CanaryRules { share: 1.0, ..CanaryRules::default() }).start().expect("it starts");
    let mut old = Client::connect(server.address());
    next(&mut old, 'a', 1, 1);
    canary(&server, faulty(), CanaryOptions::default()).expect("it begins");
    let mut quiet = Client::connect(server.address());
    for _ in 0..3 {
        Client::connect(server.address()).send("x").expect_gone();
    }
    eventually("it is rolled back", || server.canary_seen().is_none());
    assert_eq!(states(&server).last(), Some(&(2, RevisionState::RolledBack("faults".into()))));
    assert_eq!(server.counters().notices.get("canary-taken-back"), Some(&1));
    next(&mut old, 'a', 1, 2);
    next(&mut Client::connect(server.address()), 'a', 1, 1);
    // Idle sessions of the canary are on the old version now.
    eventually("it moved", || {
        server.sessions(0, 9).iter().all(|one| one.plugin.contains("version-a"))
    });
    next(&mut quiet, 'a', 1, 1);
}

#[test]
fn canary_without_sessions_is_rolled_back() {
    let rules = CanaryRules { duration: Duration::from_secs(1), ..CanaryRules::default() };
    let server = with(rules).start().expect("it starts");
    canary(&server, version('b'), CanaryOptions::default()).expect("it begins");
    eventually("it is over", || server.canary_seen().is_none());
    assert_eq!(
        states(&server).last(),
        Some(&(2, RevisionState::RolledBack("too-few-sessions".into())))
    );
    next(&mut Client::connect(server.address()), 'a', 1, 1);
}

#[test]
fn canary_of_live_sessions_follows_the_operator() {
    let server = versions().start().expect("it starts");
    let mut all = clients(&server, 20);
    all.iter_mut().for_each(|client| next(client, 'a', 1, 1));
    let options = CanaryOptions { live: Some(true), share: Some(0.5), duration: None };
    let report = canary(&server, version('b'), options).expect("it begins");
    assert_eq!((report.moved, report.stayed.len()), (10, 0), "{report:?}");
    let count = |label: &str| {
        server.sessions(0, 100).iter().filter(|one| one.plugin.contains(label)).count()
    };
    assert_eq!((count("version-a"), count("version-b")), (10, 10));
    let run = |work: fn(&ServerHandle) -> Result<SwapReport, SwapError>| work(&server);
    let back =
        run(|server| host().runtime().block_on(server.roll_back())).expect("it is rolled back");
    assert_eq!((back.moved, count("version-b")), (10, 0), "{back:?}");
    assert!(matches!(
        run(|server| host().runtime().block_on(server.promote())),
        Err(SwapError::NoCanary)
    ));
    assert!(matches!(
        run(|server| host().runtime().block_on(server.roll_back())),
        Err(SwapError::NothingBefore)
    ));
    canary(&server, version('b'), options).expect("it begins again");
    let report = run(|server| host().runtime().block_on(server.promote())).expect("it is promoted");
    assert_eq!((report.moved, count("version-b")), (10, 20), "{report:?}");
    all.iter_mut().for_each(|client| next(client, 'b', 1, 2));
    let wrong = canary(&server, version('c'), CanaryOptions { share: Some(1.5), ..options });
    assert!(wrong.is_err_and(|error| error.to_string().contains("share")));
}

#[test]
fn canary_that_restores_no_session_is_rolled_back() {
    let server = versions().start().expect("it starts");
    let mut all = clients(&server, 20);
    all.iter_mut().for_each(|client| next(client, 'a', 1, 1));
    let options = CanaryOptions { live: Some(true), share: Some(1.0), duration: None };
    let report =
        canary(&server, bad('x', "", "(if (global.get $count) (then unreachable))"), options)
            .expect("it begins");
    assert!(report.rolled_back && report.moved == 0, "{report:?}");
    assert_eq!(
        states(&server).last(),
        Some(&(2, RevisionState::RolledBack("failed-hand-offs".into())))
    );
    all.iter_mut().for_each(|client| next(client, 'a', 1, 2));
}

#[test]
fn each_roll_back_goes_one_version_further() {
    let server = versions().start().expect("it starts");
    let mut client = Client::connect(server.address());
    for (number, label) in [(1, 'a'), (2, 'b'), (3, 'c')] {
        if label != 'a' {
            swap(&server, version(label), SwapPolicy::HandOff);
        }
        next(&mut client, label, 1, number);
    }
    let back = || host().runtime().block_on(server.roll_back());
    assert_eq!(back().expect("it goes back").revision, 2);
    next(&mut client, 'b', 1, 4);
    assert_eq!(back().expect("and further").revision, 1);
    next(&mut client, 'a', 1, 5);
    assert!(matches!(back(), Err(SwapError::NothingBefore)));
    let asked = || RevisionState::RolledBack("asked".into());
    assert_eq!(states(&server), [(1, RevisionState::Current), (2, asked()), (3, asked())]);
    // Numbers of revisions are not used again.
    assert_eq!(swap(&server, version('b'), SwapPolicy::HandOff).revision, 4);
}

#[test]
fn live_versions_are_limited() {
    let server = versions().start().expect("it starts");
    let mut pinned = Vec::new();
    for label in ['a', 'b', 'c'] {
        if label != 'a' {
            swap(&server, version(label), SwapPolicy::Pin);
        }
        pinned.push(Client::connect(server.address()));
        next(pinned.last_mut().expect("one"), label, 1, 1);
    }
    let refused = host()
        .runtime()
        .block_on(server.swap(version('d'), SwapPolicy::Pin))
        .expect_err("there are three");
    assert!(
        matches!(refused, SwapError::TooManyVersions(_))
            && refused.to_string().contains("version-a"),
        "{refused}"
    );
    drop(pinned.remove(0));
    eventually("it is gone", || server.session_count() == 2);
    swap(&server, version('d'), SwapPolicy::Pin);
    next(&mut pinned[0], 'b', 1, 2);
}

fn swap_to(site: &ControlSite, file: &str) -> Value {
    site.plugin(&["swap"], Some(file))
}

#[test]
fn recorded_version_starts_again_after_a_crash() {
    let mut site = ControlSite::of_versions("", &['a', 'b', 'c']);
    assert_eq!(swap_to(&site, "a.wasm")["recorded"], json!(true));
    assert_eq!(swap_to(&site, "b.wasm")["generation"], json!(3));
    // The files that the versions came from have other content now.
    for label in ['a', 'b'] {
        std::fs::write(site.path(&format!("{label}.wasm")), component(&versioned('z', "", "")))
            .expect("kept");
    }
    site.start_again();
    let mut client = Client::connect(site.address());
    next(&mut client, 'b', 1, 1);
    // A reload that changes nothing keeps the recorded version.
    site.ok("POST", "/v1/reload", json!({}));
    next(&mut Client::connect(site.address()), 'b', 1, 1);
    let back = site.plugin(&["rollback"], None);
    assert_eq!((&back["generation"], &back["moved"]), (&json!(2), &json!(1)), "{back}");
    next(&mut client, 'a', 1, 2);
    site.start_again();
    next(&mut Client::connect(site.address()), 'a', 1, 1);
    let history = site.plugin(&["history"], None);
    let states: Vec<_> = history["generations"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["state"])
        .collect();
    assert_eq!(states, ["superseded", "in-force", "taken-back"], "{history}");
    assert!(said(&site.wharf_plugin(&["history", "echo"])).contains("taken-back"));
}

#[test]
fn check_names_the_recorded_version() {
    let site = ControlSite::of_versions("", &['b']);
    assert!(!said(&site.check()).contains("swapped in"));
    swap_to(&site, "b.wasm");
    let told = said(&site.check());
    let digest = Plugin::digest(&version('b')).to_owned();
    let starts = told.split("what was swapped in starts").nth(1).expect("it is named");
    assert!(starts.contains(&digest), "{told}");
}

#[test]
fn refused_swap_is_logged_with_its_reason() {
    let site = ControlSite::of_versions("", &[]);
    std::fs::write(site.path("no.wasm"), "no component").expect("kept");
    assert!(
        !site
            .wharf_plugin(&["swap", "echo", &site.path("no.wasm").display().to_string()])
            .status
            .success()
    );
    let line = site.wharf.says("the server keeps its version");
    assert!(line.contains("no.wasm") && line.contains("echo"), "{line}");
}

#[test]
fn changed_configuration_overrides_the_record() {
    let mut site = ControlSite::of_versions("", &['a', 'b', 'c']);
    swap_to(&site, "b.wasm");
    configure(site.folder.path(), site.port, "", "options = ['reuse-address']\nparameter = 3");
    site.ok("POST", "/v1/reload", json!({}));
    next(&mut Client::connect(site.address()), 'b', 1, 1);
    // The file names another plugin now.
    let text = std::fs::read_to_string(site.path("wharf.toml"))
        .expect("the file")
        .replace("polite.wasm", "c.wasm");
    std::fs::write(site.path("wharf.toml"), &text).expect("kept");
    site.ok("POST", "/v1/reload", json!({}));
    next(&mut Client::connect(site.address()), 'c', 1, 1);
    site.start_again();
    next(&mut Client::connect(site.address()), 'c', 1, 1);
    // The swapped version does not come back with the old name.
    std::fs::write(site.path("wharf.toml"), text.replace("c.wasm", "polite.wasm")).expect("kept");
    site.start_again();
    Client::connect(site.address()).echo("as in the file");
}

#[test]
fn unreadable_record_prevents_the_start() {
    let mut site = ControlSite::of_versions("", &['a', 'b', 'c']);
    swap_to(&site, "b.wasm");
    let state = site.path("state/wharf");
    let one = |folder: &Path| {
        std::fs::read_dir(folder).expect("a folder").next().expect("one").expect("one").path()
    };
    let record = one(&state).join("echo/record.json");
    std::fs::write(&record, "{").expect("kept");
    site.wharf.kill();
    let wharf = Wharf::run(&["serve"], site.folder.path());
    let line = wharf.says("not a record of versions");
    assert!(line.contains("record.json") && line.contains("Remove the file"), "{line}");
    drop(wharf);
    let check = site.check();
    assert!(
        !check.status.success() && said(&check).contains("not a record of versions"),
        "{}",
        said(&check)
    );
    let folder = record.parent().expect("a folder");
    let open = |mode| {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode))
            .expect("it is ours");
    };
    open(0o777);
    let wharf = Wharf::run(&["serve"], site.folder.path());
    assert!(wharf.says("not believed").contains("others may write"));
    drop(wharf);
    open(0o700);
    std::fs::remove_file(record).expect("it was there");
    site.start_again();
    Client::connect(site.address()).echo("as in the file");
}

#[test]
fn killed_process_starts_with_its_last_reported_version() {
    let mut site = ControlSite::of_versions("", &['a', 'b', 'c']);
    let mut current = 'a';
    swap_to(&site, "a.wasm");
    for round in 0..24_u64 {
        let wanted = if current == 'a' { 'b' } else { 'a' };
        let file = site.path(&format!("{wanted}.wasm"));
        let request = json!({ "file": file }).to_string();
        let mut command = std::process::Command::new("curl");
        command.args(["--silent", "--max-time", "20", "--unix-socket"]).arg(site.socket());
        command.args(["--data-binary", &request, "http://localhost/v1/servers/echo/plugin/swap"]);
        let asking = command.stdout(std::process::Stdio::piped()).spawn().expect("curl runs");
        // Each kill comes a little later. The progress by then depends on the machine.
        std::thread::sleep(Duration::from_millis(round));
        site.start_again();
        let answer = asking.wait_with_output().expect("it ended").stdout;
        let reported = String::from_utf8_lossy(&answer).contains("\"recorded\":true");
        let found = label(&mut Client::connect(site.address()));
        assert!(
            found == wanted || (found == current && !reported),
            "round {round}: {found}, reported: {reported}"
        );
        current = found;
    }
}
