//! Promises: a server gets what it is promised, however much others have taken. The host promises
//! no more than it has.

use std::fs;
use std::process::Output;

use wharf::server::{Host, HostConfig, Server};
use wharf_tests::clients::Client;
use wharf_tests::control_site::said;
use wharf_tests::guests::{component, file};
use wharf_tests::oracle::{alone, balanced};
use wharf_tests::ports::free_port;
use wharf_tests::process::Wharf;
use wharf_tests::servers::eventually;
use wharf_tests::shapes::{Module, with_modules};

/// A module with a table. The first `memories` modules of a component have a memory as well.
fn module(memories: usize, place: usize) -> Module {
    Module { pages: u32::from(place < memories), tables: vec![(8, 8)], ..Module::default() }
}

#[test]
fn promised_clients_are_served_beside_a_greedy_tenant() {
    let _alone = alone();
    // Sessions of the process, clients of the greedy server, and memories and tables of its plugin.
    for (sessions, greedy, memories, tables) in
        [(200, 100, 0, 7), (64, 60, 3, 7), (50, 25, 1, 3), (90, 1, 3, 0)]
    {
        let config = HostConfig { workers: 2, sessions_max: sessions, ..HostConfig::default() };
        let host = Host::new(&config).expect("a host");
        let modules: Vec<_> =
            (0..tables.max(memories)).map(|place| module(memories, place)).collect();
        let large =
            file(&format!("large-{memories}-{tables}"), &with_modules(&component(""), &modules));
        let good = sessions - greedy;
        let server = |name: &str, clients: usize| {
            Server::builder().host(&host).name(name).local_host("127.0.0.1").max_clients(clients)
        };
        let bad = server("bad", greedy).plugin(large).start().expect("it starts");
        let plugin = file("small", &component(""));
        let good_server =
            server("good", good).instances_min(good / 2).plugin(plugin).start().expect("it starts");
        let mut inside: Vec<_> = (0..greedy).map(|_| Client::connect(bad.address())).collect();
        for client in &mut inside {
            client.echo("greedy");
        }
        // One client too many changes nothing for the others.
        Client::connect(bad.address()).expect_gone();
        let mut clients: Vec<_> =
            (0..good).map(|_| Client::connect(good_server.address())).collect();
        for client in &mut clients {
            client.echo("promised");
        }
        let counters = good_server.counters();
        assert!(
            counters.refused.is_empty(),
            "{sessions}, {greedy}, {memories}, {tables}: {counters:?}"
        );
        drop((inside, clients));
        eventually("all left", || bad.clients() + good_server.clients() == 0);
        balanced(&good_server.counters());
        assert_eq!(host.engine().ledger().used().0, [0, 0]);
    }
}

#[test]
fn second_start_beyond_the_promises_is_refused() {
    let _alone = alone();
    let host = Host::new(&HostConfig { workers: 1, sessions_max: 10, ..HostConfig::default() })
        .expect("a host");
    let server = |name: &str| {
        let plugin = file("small", &component(""));
        Server::builder().host(&host).name(name).local_host("127.0.0.1").plugin(plugin)
    };
    let first = server("first").max_clients(6).start().expect("it starts");
    for (clients, least) in [(5, 0), (0, 5), (5, 5)] {
        let error = server("other").max_clients(clients).instances_min(least).start().map(drop);
        let error = error.expect_err("one too many").to_string();
        assert!(
            error.contains("5 sessions are promised, and 6 to other servers, of 10"),
            "{error}"
        );
    }
    let other = server("other").max_clients(4).instances_min(4).start().expect("all that is left");
    drop((first, other));
    eventually("what was promised is free", || server("third").max_clients(10).bind().is_ok());
}

/// A folder with a configuration of 64 sessions: 40 clients of `echo`, and promised instances of
/// `other`.
struct Plan {
    folder: tempfile::TempDir,
    ports: [u16; 2],
}

impl Plan {
    fn new() -> Self {
        let plan = Self {
            folder: tempfile::tempdir().expect("a folder"),
            ports: [free_port(), free_port()],
        };
        fs::write(plan.folder.path().join("small.wasm"), component("")).expect("kept");
        plan
    }

    fn promises(&self, instances: usize) {
        let server = |name: &str, port: u16, more: &str| {
            format!(
                "[[server]]\nname = '{name}'\nhost = '127.0.0.1'\nport = {port}\nplugin = \
                 'small.wasm'\n{more}\n"
            )
        };
        let text = format!(
            "[host]\nsessions_max = 64\nstop_grace = '100ms'\n[control]\nsocket = \
             'control.sock'\n{}{}",
            server("echo", self.ports[0], "max_clients = 40"),
            server("other", self.ports[1], &format!("instances_min = {instances}")),
        );
        fs::write(self.folder.path().join("wharf.toml"), text).expect("kept");
    }

    fn wharf(&self, arguments: &[&str]) -> Output {
        let mut command = std::process::Command::new(wharf_tests::guests::wharf_binary());
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("XDG_CACHE_HOME", self.folder.path());
        command.env("XDG_STATE_HOME", self.folder.path()).output().expect("it runs")
    }
}

#[test]
fn overpromise_is_refused_by_check_start_and_reload() {
    let _alone = alone();
    let plan = Plan::new();
    let refused = |output: &Output| {
        let text = said(output);
        assert!(!output.status.success(), "{text}");
        assert!(
            text.contains("25 sessions are promised, and 40 to other servers, of 64"),
            "{text}"
        );
    };
    plan.promises(25);
    refused(&plan.wharf(&["check", "wharf.toml"]));
    refused(&plan.wharf(&["serve"]));
    for fits in [23, 24] {
        plan.promises(fits);
        let checked = plan.wharf(&["check", "wharf.toml"]);
        assert!(checked.status.success(), "{}", said(&checked));
    }
    let wharf = Wharf::run(&["serve"], plan.folder.path());
    wharf.says("server started");
    wharf.says("server started");
    eventually("the control API is open", || plan.folder.path().join("control.sock").exists());
    let ctl = |verb: &[&str]| plan.wharf(&[&["ctl", "--socket", "control.sock"], verb].concat());
    for (instances, fits) in [(25, false), (24, true), (26, false), (3, true)] {
        plan.promises(instances);
        let reloaded = ctl(&["reload"]);
        assert_eq!(reloaded.status.success(), fits, "{instances}: {}", said(&reloaded));
        let limits = said(&ctl(&["limits", "other"]));
        let line = limits
            .lines()
            .find(|line| line.contains("instances_min"))
            .expect("the limit")
            .to_owned();
        assert_eq!(line.contains(&instances.to_string()), fits, "{instances}: {line}");
    }
}
