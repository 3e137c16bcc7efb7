//! Queues of the control plane. The queued calls of one tenant delay neither another tenant's calls
//! nor any call that ends something.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wharf::oci::Digest;
use wharf_tests::certificates::Certificates;
use wharf_tests::clients::Client;
use wharf_tests::control_site::ControlSite;
use wharf_tests::fake_registry::{FakeRegistry, Reply};
use wharf_tests::guests::{component, versioned};
use wharf_tests::ports::free_port;
use wharf_tests::process::Wharf;
use wharf_tests::rng::Rng;
use wharf_tests::servers::eventually;

/// The longest that any call may take beside full queues. The host gives up a silent registry after
/// 20 s, and a tenant has two threads: its queue of 32 would take over five minutes.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);
/// Calls of one class that one tenant may have under way.
const CALLS_MAX: usize = 32;

/// Slow work of a tenant, by the server that it is for.
#[derive(Debug, Clone, Copy)]
enum Slow {
    /// Swaps of plugins that a registry does not deliver.
    Registry(&'static str),
    /// Swaps of a plugin that takes seconds to compile.
    Compile(&'static str),
    /// Calls that wait for a held lock.
    Locks(&'static str),
    /// A restart that waits for a session.
    Drain(&'static str),
}

/// Two tenants: `a` with the servers `a1` to `a4`, and `b` with the server `b`, which has TLS.
struct Tenants {
    site: ControlSite,
    fake_registry: FakeRegistry,
    _certificates: Certificates,
    /// Requests under way, by their path.
    begun: Vec<(String, UnixStream)>,
    /// Calls that wait for locks.
    others_waiting: usize,
    _clients: Vec<Client>,
}

impl Tenants {
    fn new() -> Self {
        let (folder, certificates) = (tempfile::tempdir().expect("a folder"), Certificates::new());
        for label in ['p', 'q', 'r'] {
            std::fs::write(
                folder.path().join(format!("{label}.wasm")),
                component(&versioned(label, "", "")),
            )
            .expect("kept");
        }
        std::fs::write(folder.path().join("long.wasm"), long_winded()).expect("kept");
        let mut text = "[host]\nsessions_max = 256\nstop_grace = '200ms'\n[control]\nsocket = \
            'control.sock'\n\
                        [registry]\nplain_http = ['127.0.0.1']\n"
            .to_owned();
        let port = free_port();
        for (name, tenant, port) in [
            ("a1", "a", port),
            ("a2", "a", free_port()),
            ("a3", "a", free_port()),
            ("a4", "a", free_port()),
            ("b", "b", free_port()),
        ] {
            text += &format!(
                "[[server]]\nname = '{name}'\ntenant = '{tenant}'\nhost = '127.0.0.1'\nport = \
                 {port}\nplugin = 'p.wasm'\n"
            );
        }
        let chain = certificates.path("server.pem");
        let key = certificates.path("server.key");
        text += &format!(
            "options = ['secure']\n[server.credentials]\ncertificate_chain = '{}'\nprivate_key = \
             '{}'\n",
            chain.display(),
            key.display()
        );
        std::fs::write(folder.path().join("wharf.toml"), text).expect("kept");
        let wharf = Wharf::run(&["serve"], folder.path());
        wharf.says("server started");
        let site = ControlSite { folder, port, wharf };
        eventually("the control API is open", || UnixStream::connect(site.socket()).is_ok());
        let fake_registry = FakeRegistry::new(|_| Reply::Silence);
        Self {
            site,
            fake_registry,
            _certificates: certificates,
            begun: Vec::new(),
            others_waiting: 0,
            _clients: Vec::new(),
        }
    }

    /// Begins a request, and does not wait for its answer.
    fn begin(&mut self, path: &str, body: &Value) {
        let mut stream = UnixStream::connect(self.site.socket()).expect("it listens");
        stream.set_read_timeout(Some(ANSWERED_WITHIN)).expect("a timeout");
        let body = body.to_string();
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: \
             {length}\r\n"
        );
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).expect("it reads");
        self.begun.push((path.to_owned(), stream));
    }

    /// Connects a client of `a4` that stays.
    fn session_on_a4(&mut self) {
        let shown = || self.site.ok("GET", "/v1/servers/a4", json!({}));
        let address = shown()["address"].as_str().expect("an address").parse().expect("an address");
        self._clients.push(Client::connect(address));
        eventually("the session is there", || shown()["sessions"] == 1);
    }

    fn slow(&mut self, slow: Slow) {
        let registry = self.fake_registry.address();
        match slow {
            Slow::Registry(server) => {
                for number in 0..CALLS_MAX / 2 {
                    let file = format!("oci://{registry}/team/slow:{number}");
                    self.begin(
                        &format!("/v1/servers/{server}/plugin/swap"),
                        &json!({ "file": file }),
                    );
                }
            }
            Slow::Compile(server) => {
                let file = self.site.path("long.wasm");
                for _ in 0..2 {
                    self.begin(
                        &format!("/v1/servers/{server}/plugin/swap"),
                        &json!({ "file": file }),
                    );
                }
            }
            Slow::Locks(server) => {
                let path = format!("/v1/servers/{server}");
                let (lock, body) =
                    (format!("{path}/lock"), json!({ "wait": "60s", "hold": "60s" }));
                self.begin(&lock, &body);
                let waiting =
                    |tenants: &Self| tenants.calls("a", "wait") + tenants.calls("b", "wait");
                let others = self.others_waiting;
                eventually("it has the lock", || {
                    self.site.ok("GET", &path, json!({}))["locked"] == true
                        && waiting(self) == others
                });
                self.others_waiting += CALLS_MAX;
                (0..CALLS_MAX).for_each(|_| self.begin(&lock, &body));
            }
            Slow::Drain(server) => {
                let body = json!({ "sessions": "drain", "deadline": "60s" });
                self.begin(&format!("/v1/servers/{server}/restart"), &body);
            }
        }
    }

    /// The number of calls under way, from the metrics.
    fn calls(&self, tenant: &str, class: &str) -> usize {
        let (_, text) = self.site.curl(&[], "/metrics");
        let line = format!("wharf_control_calls{{tenant=\"{tenant}\",class=\"{class}\"}} ");
        let found = text.lines().find_map(|found| found.strip_prefix(&line));
        found.map_or(0, |number| number.parse().expect("a number"))
    }

    /// Reads the answers to requests for `path` until one has this code, and returns that one.
    fn answer(&mut self, path: &str, code: u16) -> String {
        loop {
            let at = self.begun.iter().position(|(begun, _)| begun == path).expect("it was begun");
            let mut answer = String::new();
            let read = self.begun.remove(at).1.read_to_string(&mut answer);
            assert!(read.is_ok(), "{path}: {read:?}");
            if answer.starts_with(&format!("HTTP/1.1 {code} ")) {
                return answer;
            }
        }
    }

    /// Makes a call that must succeed within [`ANSWERED_WITHIN`].
    fn soon(&self, path: &str, body: Value) -> Value {
        let start = Instant::now();
        let answer = self.site.ok("POST", path, body);
        assert!(start.elapsed() < ANSWERED_WITHIN, "{path} took {:?}", start.elapsed());
        answer
    }
}

/// A component with so much code that compiling takes seconds.
fn long_winded() -> Vec<u8> {
    let body = "(local.set 0 (i32.add (i32.mul (local.get 0) (i32.const 7)) (i32.const 4095)))\n";
    let one = |number| {
        format!(
            "(func $long{number} (param i32) (result i32)\n{}(local.get 0))\n",
            body.repeat(2_000)
        )
    };
    component(&(0..40).map(one).collect::<String>())
}

#[test]
fn full_queues_of_a_tenant_delay_no_other() {
    for seed in [3, 71] {
        let mut rng = Rng::seeded(seed);
        let mut tenants = Tenants::new();
        tenants.site.ok(
            "POST",
            "/v1/servers/a1/plugin/swap",
            json!({ "file": tenants.site.path("q.wasm") }),
        );
        tenants.session_on_a4();
        let mut mix = [
            Slow::Compile("a3"),
            Slow::Registry("a1"),
            Slow::Registry("a3"),
            Slow::Registry("a1"),
            Slow::Locks("a2"),
            Slow::Drain("a4"),
        ];
        rng.shuffle(&mut mix);
        println!("seed {seed}: {mix:?}");
        mix.into_iter().for_each(|slow| tenants.slow(slow));
        eventually("tenant `a` has much to wait for", || {
            tenants.calls("a", "change") >= CALLS_MAX - 2 && tenants.calls("a", "wait") == CALLS_MAX
        });
        let file = tenants.site.path("q.wasm");
        let mut of_b = ["renew", "swap", "canary", "lock", "suspend", "restart"];
        rng.shuffle(&mut of_b);
        let b = "/v1/servers/b";
        for call in of_b {
            println!("seed {seed}: b: {call}");
            match call {
                "renew" => drop(tenants.soon(&format!("{b}/credentials/renew"), json!({}))),
                "swap" => {
                    tenants.soon(&format!("{b}/plugin/swap"), json!({ "file": file }));
                    tenants.soon(&format!("{b}/plugin/rollback"), json!({}));
                }
                "canary" => {
                    tenants.soon(
                        &format!("{b}/plugin/canary"),
                        json!({ "file": tenants.site.path("r.wasm") }),
                    );
                    tenants.soon(&format!("{b}/plugin/rollback"), json!({}));
                }
                "lock" => {
                    let lock = tenants.soon(&format!("{b}/lock"), json!({ "hold": "30s" }));
                    tenants.soon(&format!("{b}/unlock"), json!({ "token": lock["token"] }));
                }
                "suspend" => {
                    tenants.soon(&format!("{b}/suspend"), json!({ "newcomers": "queue" }));
                    tenants.soon(&format!("{b}/resume"), json!({}));
                }
                _ => drop(tenants.soon(&format!("{b}/restart"), json!({}))),
            }
        }
        tenants.soon(&format!("{b}/stop"), json!({ "grace": "1s" }));
        ends_beside_its_own_queues(&mut tenants, &mut rng);
    }
}

/// Calls that end something at the servers of the tenant whose queues are full.
fn ends_beside_its_own_queues(tenants: &mut Tenants, rng: &mut Rng) {
    let lock = "/v1/servers/a2/lock";
    let mut of_a = ["rollback", "unlock", "restart", "stop"];
    rng.shuffle(&mut of_a);
    for call in of_a {
        println!("a: {call}");
        match call {
            "rollback" => {
                assert_eq!(
                    tenants.soon("/v1/servers/a1/plugin/rollback", json!({}))["to"],
                    "p unversioned"
                );
                let answer = tenants.answer("/v1/servers/a1/plugin/swap", 409);
                assert!(answer.contains("overtaken"), "{answer}");
            }
            // The lock was granted, and its answer was not read yet.
            "unlock" => {
                let token = loop {
                    let answer = tenants.answer(lock, 200);
                    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
                    if let Ok(lock) = serde_json::from_str::<Value>(body)
                        && let Some(token) = lock["token"].as_u64()
                    {
                        break token;
                    }
                };
                tenants.soon("/v1/servers/a2/unlock", json!({ "token": token }));
            }
            "restart" => drop(tenants.soon("/v1/servers/a1/restart", json!({}))),
            _ => {
                tenants.soon("/v1/servers/a3/stop", json!({ "grace": "1s" }));
                let answer = tenants.answer("/v1/servers/a3/plugin/swap", 409);
                assert!(answer.contains("stopping"), "{answer}");
            }
        }
    }
}

#[test]
fn tenant_with_full_queues_is_refused_by_name() {
    let mut tenants = Tenants::new();
    (0..2).for_each(|_| tenants.slow(Slow::Registry("a1")));
    tenants.slow(Slow::Locks("a2"));
    eventually("the queues of tenant `a` are full", || {
        tenants.calls("a", "change") == CALLS_MAX && tenants.calls("a", "wait") == CALLS_MAX
    });
    let file = tenants.site.path("q.wasm");
    for (path, body) in [
        ("/v1/servers/a2/plugin/swap", json!({ "file": file })),
        ("/v1/servers/a3/plugin/canary", json!({ "file": file })),
        ("/v1/servers/a2/lock", json!({ "wait": "1s" })),
        ("/v1/servers/a4/suspend", json!({ "newcomers": "queue" })),
    ] {
        let (code, answer) = tenants.site.ask("POST", path, &body);
        let message = answer["error"]["message"].as_str().expect("a message");
        assert_eq!((code, &answer["error"]["code"]), (503, &json!("too-many-waiting")), "{answer}");
        assert!(message.contains("the tenant `a`"), "{message}");
    }
    let (_, text) = tenants.site.curl(&[], "/metrics");
    for class in ["change", "wait"] {
        let counted =
            format!("wharf_control_calls_refused_total{{tenant=\"a\",class=\"{class}\"}} 2\n");
        assert!(text.contains(&counted), "{text}");
    }
}

#[test]
fn waiting_calls_leave_connections_to_others() {
    let mut tenants = Tenants::new();
    tenants.session_on_a4();
    for server in ["a2", "b"] {
        tenants.slow(Slow::Locks(server));
    }
    for _ in 0..CALLS_MAX {
        tenants.begin("/v1/servers/a4/stop", &json!({ "drain": "60s", "grace": "1s" }));
    }
    // More calls than connections may be idle at a time.
    eventually("many calls wait", || {
        let waiting =
            tenants.calls("a", "wait") + tenants.calls("b", "wait") + tenants.calls("a", "end");
        waiting == 3 * CALLS_MAX
    });
    assert_eq!(tenants.site.curl(&[], "/livez").0, 200);
    tenants.soon("/v1/servers/b/restart", json!({}));
    tenants.soon("/v1/servers/b/stop", json!({ "grace": "1s" }));
}

/// A registry that delivers a component by its tag, and is silent when a manifest is asked for by
/// digest. A host asks by digest to keep a version that it pulled.
fn delivers_once() -> FakeRegistry {
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let bytes = component(&versioned('s', "", ""));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.wasm.config.v0+json",
            "digest": Digest::of(b"{}").as_str(), "size": 2,
        },
        "layers": [{
            "mediaType": "application/wasm", "digest": Digest::of(&bytes).as_str(),
            "size": bytes.len(),
        }],
    });
    FakeRegistry::new(move |asked| match &asked.path {
        path if path.contains("/blobs/") => Reply::ok("application/wasm", bytes.clone()),
        path if path.contains("/manifests/sha256:") => Reply::Silence,
        _ => Reply::ok(MANIFEST, manifest.to_string()),
    })
}

#[test]
fn rollback_ends_pulls_that_keep_versions() {
    let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
    for label in ['p', 'q'] {
        let file = folder.path().join(format!("{label}.wasm"));
        std::fs::write(file, component(&versioned(label, "", ""))).expect("kept");
    }
    // The host does not use a store that others may write to, so it pulls each time.
    let store = folder.path().join("store");
    std::fs::create_dir(&store).expect("a folder");
    std::fs::set_permissions(&store, std::fs::Permissions::from_mode(0o777)).expect("changed");
    let mut text = "[host]\nsessions_max = 256\nstop_grace = '200ms'\nstate_dir = 'state'\n\
                    [control]\nsocket = 'control.sock'\n\
                    [registry]\nplain_http = ['127.0.0.1']\nstore_dir = 'store'\ntimeout = '1h'\n"
        .to_owned();
    let greedy = [("a1", "a"), ("a2", "a"), ("c1", "c"), ("c2", "c")];
    let ports = std::iter::once(port).chain(std::iter::repeat_with(free_port));
    for ((name, tenant), port) in greedy.into_iter().chain([("b", "b")]).zip(ports) {
        text += &format!(
            "[[server]]\nname = '{name}'\ntenant = '{tenant}'\nhost = '127.0.0.1'\nport = \
             {port}\nplugin = 'p.wasm'\n"
        );
    }
    std::fs::write(folder.path().join("wharf.toml"), text).expect("kept");
    let wharf = Wharf::run(&["serve"], folder.path());
    wharf.says("server started");
    let site = ControlSite { folder, port, wharf };
    eventually("the control API is open", || UnixStream::connect(site.socket()).is_ok());
    let (fake_registry, certificates) = (delivers_once(), Certificates::new());
    let mut tenants = Tenants {
        site,
        fake_registry,
        _certificates: certificates,
        begun: Vec::new(),
        others_waiting: 0,
        _clients: Vec::new(),
    };
    let swapped = json!({ "file": tenants.site.path("q.wasm") });
    for (server, _) in greedy.into_iter().chain([("b", "b")]) {
        tenants.soon(&format!("/v1/servers/{server}/plugin/swap"), swapped.clone());
    }
    let file = format!("oci://{}/team/slow:1", tenants.fake_registry.address());
    for (server, _) in greedy {
        tenants.begin(&format!("/v1/servers/{server}/plugin/swap"), &json!({ "file": file }));
    }
    let silent = || {
        tenants
            .fake_registry
            .asked()
            .iter()
            .filter(|asked| asked.path.contains("/manifests/sha256:"))
            .count()
    };
    eventually("each tenant pulls what it keeps", || silent() >= 2);
    // Neither calls of another tenant nor urgent calls wait for the pulls.
    let start = Instant::now();
    tenants.soon("/v1/servers/b/plugin/rollback", json!({}));
    for (server, _) in greedy {
        assert_eq!(
            tenants.soon(&format!("/v1/servers/{server}/plugin/rollback"), json!({}))["to"],
            "p unversioned"
        );
        let answer = tenants.answer(&format!("/v1/servers/{server}/plugin/swap"), 409);
        assert!(answer.contains("overtaken"), "{answer}");
    }
    let pulling = |tenant: &str| {
        let line = format!("wharf_work_running{{tenant=\"{tenant}\",kind=\"restore\"}} ");
        let (_, text) = tenants.site.curl(&[], "/metrics");
        text.lines().any(|found| found.strip_prefix(&line).is_some_and(|running| running != "0"))
    };
    eventually("no pull goes on", || !pulling("a") && !pulling("c"));
    assert!(start.elapsed() < ANSWERED_WITHIN, "it took {:?}", start.elapsed());
}
