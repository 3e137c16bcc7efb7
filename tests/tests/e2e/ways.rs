//! Two ways in which a plugin runs, as its core module and as a component, have the same effects.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use wharf::event::Priority;
use wharf::plugin::{Grant, Grants};
use wharf::sched::BudgetChange;
use wharf::server::{Host, HostConfig};
use wharf_tests::clients::Client;
use wharf_tests::guests::{built, component_for, file, root};
use wharf_tests::imports::open_contract;
use wharf_tests::rng::Rng;
use wharf_tests::servers::{describe, eventually, fuel_alone};

/// Parts of guests, and guests whose sessions depend on time or on the client's port, or take long.
const OTHERS: [&str; 11] = [
    "bad-version",
    "busy-caller",
    "defaults",
    "late-answer",
    "ordered-timers",
    "pollable-hoarder",
    "prelude",
    "random-bytes-storm",
    "sleeper",
    "versioned",
    "write-flood",
];

/// Reasons of sessions that no fault ended.
const PROPER: [&str; 2] = ["peer-closed", "closed-by-plugin"];
/// Fuel of an event: enough for every guest that ends by itself.
const FUEL: u64 = 2_000_000;

/// A host that runs every plugin as a component, or plugins of one core module without that layer.
fn host(core_modules: bool) -> Host {
    static HOSTS: [OnceLock<Host>; 2] = [OnceLock::new(), OnceLock::new()];
    let config = HostConfig { workers: 2, sessions_max: 64, core_modules, ..HostConfig::default() };
    let host = &HOSTS[usize::from(core_modules)];
    host.get_or_init(|| Host::new(&config).expect("a host")).clone()
}

/// All that a client and an operator see of a session.
#[derive(Debug, PartialEq, Eq)]
struct Effects {
    answer: Vec<u8>,
    ended: BTreeMap<String, u64>,
}

/// Plays one session with these pieces of input, each sent at once.
fn effects(
    host: &Host,
    path: &Path,
    grants: &Grants,
    pieces: &[Vec<u8>],
) -> Result<Effects, String> {
    let plugin = host.loader().share(path, grants).map_err(|error| error.to_string())?;
    let server = describe(plugin)
        .host(host)
        .budget(Priority::Normal, BudgetChange { fuel: Some(FUEL), ..fuel_alone() })
        .start()
        .map_err(|error| error.to_string())?;
    let mut client = Client::connect(server.address());
    for piece in pieces {
        // A plugin that fails may have closed the connection.
        if std::io::Write::write_all(&mut client.0, piece).is_err() {
            break;
        }
    }
    let _ = client.0.shutdown(std::net::Shutdown::Write);
    let (answer, _) = client.rest();
    eventually("the session ended", || server.counters().ended.values().sum::<u64>() == 1);
    let counters = server.counters();
    let ended = counters.ended.iter().filter(|(_, count)| **count > 0);
    let ended = ended.map(|(reason, count)| (reason.to_string(), *count)).collect();
    server.stop_blocking(std::time::Duration::ZERO);
    Ok(Effects { answer, ended })
}

/// Plays the same session both ways. A session that a fault ended may have sent more or less of its
/// answer before.
fn compare(what: &str, path: &Path, grants: &Grants, pieces: &[Vec<u8>]) {
    let [flat, layered] =
        [host(true), host(false)].map(|host| effects(&host, path, grants, pieces));
    let said = format!("{what}: {:?}", pieces.concat().escape_ascii().to_string());
    let (flat, layered) = match (flat, layered) {
        (Ok(flat), Ok(layered)) => (flat, layered),
        (flat, layered) => {
            assert_eq!(flat.err(), layered.err(), "{said}");
            return;
        }
    };
    // A peer's end and a close by the plugin may come in either order.
    let faults = |effects: &Effects| -> BTreeMap<String, u64> {
        let ended = effects.ended.clone().into_iter();
        ended.filter(|(reason, _)| !PROPER.contains(&reason.as_str())).collect()
    };
    assert_eq!(faults(&flat), faults(&layered), "{said}");
    let is_faulty = !faults(&flat).is_empty();
    let [flat, layered] = [flat.answer, layered.answer];
    let same = if is_faulty {
        flat.starts_with(&layered) || layered.starts_with(&flat)
    } else {
        flat == layered
    };
    let differs = flat.iter().zip(&layered).position(|(one, other)| one != other);
    let lengths = (flat.len(), layered.len());
    assert!(same, "{said}: {lengths:?} bytes, which differ at {differs:?}");
}

/// Files of the guests of `tests/guests`.
fn guests() -> Vec<(String, PathBuf)> {
    let folder = root().join("tests/guests");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("the guests")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".wat").map(str::to_owned))
        .filter(|name| !OTHERS.contains(&name.as_str()))
        .collect();
    names.sort_unstable();
    let kept = |name: String| {
        let text = root().join(format!("tests/guests/{name}.wat"));
        let handlers = std::fs::read_to_string(text).expect("a guest");
        let kept =
            file(&format!("way-{name}"), &component_for(&handlers, &open_contract(), "0.1.0"));
        (name, kept)
    };
    names.into_iter().map(kept).collect()
}

#[test]
fn guests_have_the_same_effects_both_ways() {
    let grants: Grants = Grant::ALL.into_iter().collect();
    let guests = guests();
    assert!(guests.len() > 40, "only {} guests", guests.len());
    let mut flat = 0;
    for (name, path) in &guests {
        compare(name, path, &grants, &[b"one\ntwo\r\nand more".to_vec()]);
        let plugin = host(true).loader().share(path, &grants);
        flat += usize::from(plugin.is_ok_and(|plugin| plugin.needs_component_layer().is_none()));
    }
    assert!(flat > 40, "only {flat} of {} run as core modules", guests.len());
}

#[test]
fn bundled_plugins_have_the_same_effects_both_ways() {
    let mut rng = Rng::seeded(11);
    for folder in ["plugins/echo", "plugins/lines", "plugins/http", "plugins/chat"] {
        let (path, grants) = built(folder);
        let plugin = host(true).loader().share(&path, &grants).expect("it loads");
        assert!(plugin.needs_component_layer().is_none(), "{folder}");
        for _ in 0..20 {
            let pieces: Vec<Vec<u8>> = (0..rng.between(1, 6)).map(|_| piece(&mut rng)).collect();
            compare(folder, &path, &grants, &pieces);
        }
    }
}

/// Input as clients of the bundled plugins might send it, or might not.
fn piece(rng: &mut Rng) -> Vec<u8> {
    match rng.below(5) {
        0 => b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        1 => b"name\nhello\n/who\n".to_vec(),
        2 => vec![b'\n'; rng.index(2_000)],
        3 => (0..rng.index(20_000)).map(|_| rng.below(256) as u8).collect(),
        _ => vec![b'a' + rng.below(26) as u8; rng.index(70_000)],
    }
}
