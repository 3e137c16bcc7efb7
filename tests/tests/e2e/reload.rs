//! Changes and ends of a process: reloads, certificates, signals, and systemd.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::json;
use wharf_tests::certificates::Certificates;
use wharf_tests::clients::Client;
use wharf_tests::control_site::{ControlSite, configure};
use wharf_tests::guests::{component, wharf_binary};
use wharf_tests::ports::free_port;
use wharf_tests::process::Wharf;
use wharf_tests::servers::PATIENCE;

#[test]
fn reload_applies_the_difference_or_nothing() {
    let site = ControlSite::default();
    let mut live = Client::connect(site.address());
    live.echo("before");
    let second = free_port();
    let more = format!(
        "max_clients = 7\n[[server]]\nname = 'second'\nhost = '127.0.0.1'\nport = {second}\nplugin \
         = 'polite.wasm'"
    );
    configure(site.folder.path(), site.port, "", &more);
    let report = site.ok("POST", "/v1/reload", json!({}));
    let expected =
        json!({ "started": ["second"], "changed": ["echo"], "removed": [], "not_listening": [] });
    assert_eq!(report, expected);
    assert_eq!(site.ok("GET", "/v1/servers/echo/throttle", json!({}))["max_clients"], 7);
    let second = SocketAddr::from(([127, 0, 0, 1], second));
    let mut leaving = Client::connect(second);
    leaving.echo("new");
    live.echo("untouched");

    // Each file is refused whole, with the place of the mistake, although another part of it is
    // valid.
    let bad = [
        ("max_clients = 3\nmax_client = 4", "line 13"),
        ("max_clients = 3\npriority = 'urgent'", "urgent"),
        (
            "max_clients = 3\n[[server]]\nname = 'third'\nport = 1\nhost = '192.0.2.1'\nplugin = \
             'polite.wasm'",
            "not an address",
        ),
        (
            "max_clients = 3\n[[server]]\nname = 'third'\nport = 7\nplugin = 'missing.wasm'",
            "missing.wasm",
        ),
        ("max_clients = 3\noptions = ['no-delay']", "cannot be changed while"),
    ];
    for (server, words) in bad {
        configure(site.folder.path(), site.port, "", server);
        let (code, answer) = site.ask("POST", "/v1/reload", &json!({}));
        let message = answer["error"]["message"].as_str().expect("words");
        assert!(
            code == 422 && message.contains(words) && message.contains("wharf.toml"),
            "{server}: {answer}"
        );
        assert_eq!(site.ok("GET", "/v1/servers/echo/throttle", json!({}))["max_clients"], 7);
        assert_eq!(
            site.ok("GET", "/v1/servers", json!({}))["servers"].as_array().map(Vec::len),
            Some(2)
        );
    }
    // A reload by signal. A server that is gone from the file drains.
    configure(site.folder.path(), site.port, "", "");
    site.wharf.signal(Signal::HUP);
    site.wharf.says("reloaded");
    leaving.expect_closed();
    assert_eq!(
        site.ok("GET", "/v1/servers", json!({}))["servers"].as_array().map(Vec::len),
        Some(1)
    );
    live.echo("still untouched");
}

#[test]
fn certificates_renew_without_pause_or_not_at_all() {
    let (first, second) = (Certificates::new(), Certificates::new());
    let folder = tempfile::tempdir().expect("a folder");
    let put =
        |from: &Path, name: &str| std::fs::copy(from, folder.path().join(name)).expect("copied");
    put(&first.path("server.pem"), "server.pem");
    put(&first.path("server.key"), "server.key");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let credentials = format!(
        "options = ['secure']\n[server.credentials]\ncertificate_chain = '{}'\nprivate_key = '{}'",
        at("server.pem"),
        at("server.key")
    );
    let site = ControlSite::with("", &credentials);
    let serves = |certificates: &Certificates| {
        let output = Command::new("openssl")
            .args([
                "s_client",
                "-verify_return_error",
                "-verify_hostname",
                "localhost",
                "-brief",
                "-CAfile",
            ])
            .arg(certificates.path("ca.pem"))
            .args(["-connect", &site.address().to_string()])
            .stdin(std::process::Stdio::null())
            .output()
            .expect("openssl runs");
        output.status.success()
    };
    assert!(serves(&first) && !serves(&second));
    put(&second.path("server.key"), "server.key");
    let half = site.refused("POST", "/v1/servers/echo/credentials/renew", json!({}));
    assert_eq!(half, (422, "bad-credentials".into()));
    assert!(serves(&first));
    put(&second.path("server.pem"), "server.pem");
    assert!(site.ctl(&["renew-credentials", "echo"]).status.success());
    assert!(serves(&second) && !serves(&first));
}

#[test]
fn terminate_signal_drains_sessions() {
    let mut site = ControlSite::with("", "");
    let folder = site.folder.path().to_owned();
    let mut client = Client::connect(site.address());
    client.echo("hello");
    site.wharf.signal(Signal::TERM);
    site.wharf.says("draining");
    // Draining sessions go on, and new connections are refused.
    client.echo("still served");
    client.expect_closed();
    assert_eq!(site.wharf.child.wait().expect("it ends").code(), Some(0));
    assert!(!folder.join("control.sock").exists());
}

#[test]
fn systemd_gets_notices_and_passes_sockets_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let hears = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
    hears.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    let next = |word: &str| {
        let mut seen = [0; 512];
        loop {
            let count =
                hears.recv(&mut seen).unwrap_or_else(|error| panic!("never heard {word}: {error}"));
            let text = String::from_utf8_lossy(&seen[..count]).into_owned();
            if text.contains(word) {
                return text;
            }
        }
    };
    std::fs::write(folder.path().join("polite.wasm"), component("")).expect("kept");
    configure(folder.path(), free_port(), "", "");
    // systemd does the same: the socket is descriptor 3, and the environment names it.
    let script = "import os, socket, sys\n\
                  listener = socket.socket(); listener.bind(('127.0.0.1', 0)); listener.listen()\n\
                  print(listener.getsockname()[1], flush=True)\n\
                  os.dup2(listener.fileno(), 3); os.set_inheritable(3, True)\n\
                  os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', \
                  LISTEN_FDNAMES='echo')\n\
                  os.dup2(2, 1); os.execv(sys.argv[1], [sys.argv[1], 'serve'])\n";
    let port_file = folder.path().join("port");
    let script = script.replace(
        "print(listener.getsockname()[1], flush=True)",
        "open('port','w').write(str(listener.getsockname()[1]))",
    );
    let mut command = Command::new("python3");
    command.arg("-c").arg(script).arg(wharf_binary());
    command.env("NOTIFY_SOCKET", folder.path().join("notify")).env("WATCHDOG_USEC", "200000");
    let mut wharf = Wharf::spawn(command, folder.path());
    next("READY=1");
    next("WATCHDOG=1");
    let port = std::fs::read_to_string(port_file).expect("a port").parse().expect("a number");
    Client::connect(SocketAddr::from(([127, 0, 0, 1], port))).echo("handed over");
    wharf.signal(Signal::HUP);
    assert!(next("RELOADING=1").contains("MONOTONIC_USEC="));
    next("READY=1");
    wharf.signal(Signal::TERM);
    next("STOPPING=1");
    assert_eq!(wharf.child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn plugin_text_is_not_taken_for_a_refusal() {
    let site = ControlSite::default();
    let folder = site.folder.path();
    let mut live = Client::connect(site.address());
    live.echo("before");
    let words =
        ["os error 11", "Too many open files (os error 24)", "Os { code: 12, kind: OutOfMemory }"];
    for (number, words) in words.into_iter().enumerate() {
        // An unknown key of a manifest, and a function of a component that fails in its trial.
        let folder_of = folder.join(format!("manifest-{number}"));
        std::fs::create_dir(&folder_of).expect("a folder");
        std::fs::write(folder_of.join("plugin.toml"), format!("'{words}' = 1\n"))
            .expect("a manifest");
        let named = format!("(func $begin (@name \"{words}\") unreachable)\n(start $begin)");
        std::fs::write(folder.join(format!("component-{number}.wasm")), component(&named))
            .expect("a component");
        for plugin in [format!("manifest-{number}"), format!("component-{number}.wasm")] {
            let port = free_port();
            let more = format!(
                "[[server]]\nname = 'second'\nhost = '127.0.0.1'\nport = {port}\nplugin = \
                 '{plugin}'"
            );
            configure(folder, site.port, "", &more);
            let (code, answer) = site.ask("POST", "/v1/reload", &json!({}));
            let message = answer["error"]["message"].as_str().expect("words");
            assert!(message.contains(words), "{plugin}: {answer}");
            assert_eq!(
                (code, &answer["error"]["code"]),
                (422, &json!("bad-configuration")),
                "{plugin}: {answer}"
            );
        }
    }
    live.echo("after");
}
