//! The `wharf` command on a command line.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use wharf_tests::clients::Client;
use wharf_tests::control_site::said;
use wharf_tests::guests::{built, component, wharf_binary};
use wharf_tests::ports::free_port;
use wharf_tests::process::Wharf;

fn wharf(arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(wharf_binary());
    command.args(arguments).current_dir(folder).env("XDG_CACHE_HOME", folder.join("cache"));
    command.output().expect("it runs")
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[test]
fn check_names_everything_that_is_wrong_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("core.wasm"), b"\0asm\x01\0\0\0").expect("kept");
    std::fs::write(folder.path().join("good.wasm"), component("")).expect("kept");
    let text = "[[server]]\nname = 'a'\nport = 7001\nplugin = 'core.wasm'\n\
                [[server]]\nname = 'b'\nport = 7002\nplugin = 'missing'\noptions = ['secure']\n\
                [server.credentials]\ncertificate_chain = 'no.pem'\nprivate_key = 'no.key'\n\
                [[server]]\nname = 'c'\nport = 7003\nplugin = 'good.wasm'\n";
    std::fs::write(folder.path().join("wharf.toml"), text).expect("kept");
    let output = wharf(&["check"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    let (said, told) =
        (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    for words in ["(`a`)", "core module", "(`b`)", "missing", "no.pem", "3 wrong"] {
        assert!(said.contains(words), "no {words:?} in:\n{said}");
    }
    for words in [
        "(`c`)",
        "imports wharf:server/session@0.1.0",
        "exports wharf:server/inet-event-proc@0.1.0",
    ] {
        assert!(told.contains(words), "no {words:?} in:\n{told}");
    }
}

#[test]
fn check_is_content_with_a_good_file() {
    let (plugin, _) = built("plugins/lines");
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!(
        "[[server]]\nport = 7001\nplugin = '{}'\ngrants = ['stdio', 'config']\n",
        plugin.display()
    );
    std::fs::write(folder.path().join("wharf.toml"), text).expect("kept");
    let output = wharf(&["check"], folder.path());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn exit_codes_tell_missing_file_from_bad_usage() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = wharf(&["serve"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("wharf.toml: cannot read"));
    for arguments in [
        &["serve", "--plugin", "x"][..],
        &["sail"],
        &["serve", "--plugin", "x", "--listen", "127.0.0.1:0"],
    ] {
        assert_eq!(wharf(arguments, folder.path()).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn bare_command_shows_three_commands() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = wharf(&[], folder.path());
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    for words in ["  wharf new ", "  wharf dev ", "  wharf serve ", "wharf --help"] {
        assert!(told.contains(words), "no {words:?} in:\n{told}");
    }
}

#[test]
fn serve_runs_several_servers_and_stops_on_signal() {
    let (plugin, _) = built("plugins/lines");
    let folder = tempfile::tempdir().expect("a folder");
    let (one, other) = (free_port(), free_port());
    let server = |name: &str, port: u16, max: u16| {
        format!(
            "[[server]]\nname = '{name}'\nhost = '127.0.0.1'\nport = {port}\nplugin = '{}'\n\
             grants = ['stdio', 'config']\n[server.settings]\nline-max-bytes = {max}\n",
            plugin.display()
        )
    };
    let text = format!(
        "[host]\nsessions_max = 64\nstop_grace = '100ms'\n{}{}",
        server("one", one, 4),
        server("other", other, 100)
    );
    std::fs::write(folder.path().join("wharf.toml"), text).expect("kept");
    let mut process = Wharf::run(&["serve"], folder.path());
    process.says("one");
    process.says("other");
    Client::connect(at(one))
        .send("12345\n")
        .expect("ERROR line longer than 4 bytes\r\n")
        .expect_closed();
    let mut live = Client::connect(at(other));
    live.send("12345\n").expect("12345\n");
    process.signal(Signal::TERM);
    live.expect_closed();
    assert_eq!(process.child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn when_one_server_cannot_start_none_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("good.wasm"), component("")).expect("kept");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (busy, free) = (taken.local_addr().expect("an address").port(), free_port());
    let server = |port: u16| {
        format!("[[server]]\nhost = '127.0.0.1'\nport = {port}\nplugin = 'good.wasm'\n")
    };
    let text = format!("[host]\nsessions_max = 64\n{}{}", server(free), server(busy));
    std::fs::write(folder.path().join("wharf.toml"), text).expect("kept");
    let output = wharf(&["serve"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("server 2") && said.contains(&format!("127.0.0.1:{busy} is in use")),
        "{said}"
    );
    TcpListener::bind(at(free)).expect("the first address is free again");
}

#[test]
fn dev_serves_new_builds_and_survives_failed_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let at_path = |name: &str| folder.path().join(name);
    let version = |letter: char| {
        let body = format!(
            "(func $on-read (param $data i32) (param $length i32) (result i32)
               (i32.store8 (i32.const 1040) (i32.const {}))
               (drop (call $try-write (i32.const 1040) (i32.const 1))) (i32.const 0))",
            letter as u32
        );
        component(&body)
    };
    std::fs::create_dir(at_path("src")).expect("a folder");
    std::fs::write(at_path("src/plugin.wasm"), version('1')).expect("kept");
    // The compiler copies its source, and fails when there is none.
    let manifest = "name = 'copied'\nversion = '1'\ncomponent = 'out.wasm'\n\
                    [build]\ncommand = ['sh', '-c', 'cp src/plugin.wasm out.wasm || { echo \
                    compiler says no >&2; exit 1; }']\n";
    std::fs::write(at_path("plugin.toml"), manifest).expect("kept");
    let port = free_port();
    let process =
        Wharf::run(&["dev", ".", "--listen", &format!("127.0.0.1:{port}")], folder.path());
    let lines = process.lines_until("version 1 is in force: copied 1; listening on 127.0.0.1:");
    let first = format!("[dev] copied 1: builds the plugin, checks it, serves it on {}", at(port));
    assert!(lines[0].starts_with(&first) && lines[0].contains("; the first build "), "{lines:#?}");
    for words in [
        "[dev] building: sh -c",
        "[dev] built in ",
        "[dev] compiling and checking ",
        "[dev] checked in ",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(words)), "no {words:?} in {lines:#?}");
    }
    let mut old = Client::connect(at(port));
    old.send("?").expect("1");

    std::fs::remove_file(at_path("src/plugin.wasm")).expect("gone");
    process.says("[dev] building, src/plugin.wasm changed: sh -c");
    process.says("  | compiler says no");
    let failed = process.says("the build failed after ");
    assert!(failed.ends_with("the build before it goes on serving"), "{failed}");
    Client::connect(at(port)).send("?").expect("1");

    std::fs::write(at_path("src/next.wasm"), version('2')).expect("kept");
    std::fs::rename(at_path("src/next.wasm"), at_path("src/plugin.wasm")).expect("moved");
    let swapped = process.says("version 2 is in force: copied 1; 0 sessions moved, ");
    assert!(swapped.contains(" stayed (no-handoff "), "{swapped}");
    Client::connect(at(port)).send("?").expect("2");
    old.send("?").expect("1");

    // A checkout does the same: the watched folder goes, and another takes its place.
    std::fs::create_dir(at_path("fresh")).expect("a folder");
    std::fs::write(at_path("fresh/plugin.wasm"), version('3')).expect("kept");
    std::fs::rename(at_path("src"), at_path("stale")).expect("moved");
    process.says("the build failed after ");
    std::fs::rename(at_path("fresh"), at_path("src")).expect("moved");
    process.says("version 3 is in force");
    std::fs::write(at_path("src/next.wasm"), version('4')).expect("kept");
    std::fs::rename(at_path("src/next.wasm"), at_path("src/plugin.wasm")).expect("moved");
    process.says("version 4 is in force");
    Client::connect(at(port)).send("?").expect("4");
}

#[test]
fn changes_during_a_build_cause_one_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let keep =
        |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("kept");
    std::fs::create_dir(folder.path().join("src")).expect("a folder");
    keep("src/plugin.wasm", &component(""));
    // The compiler runs for as long as the test wants.
    let manifest = "name = 'slow'\nversion = '1'\ncomponent = 'out.wasm'\n[build]\n\
                    command = ['sh', '-c', 'echo compiler begins; i=0; until rm go 2>&- || [ $i = \
                    3000 ]; do i=$((i+1)); sleep 0.02; done; cp src/plugin.wasm out.wasm']\n";
    keep("plugin.toml", manifest.as_bytes());
    keep("go", b"");
    let process =
        Wharf::run(&["dev", ".", "--listen", &format!("127.0.0.1:{}", free_port())], folder.path());
    process.says("version 1 is in force");
    keep("src/one", b"");
    process.says("[dev] building, src/one changed: sh -c");
    process.says("  | compiler begins");
    for name in ["src/two", "src/three", "src/two"] {
        keep(name, b"again");
    }
    keep("go", b"");
    process.says("[dev] building, src/three, src/two changed: sh -c");
    keep("go", b"");
    process.says("the component is the same as before: nothing to swap");
    // If more builds had been queued, the next build would be one of them.
    keep("plugin.toml", manifest.as_bytes());
    let lines = process.lines_until("[dev] building");
    assert!(
        lines.last().is_some_and(|line| line.contains("building, plugin.toml changed")),
        "{lines:#?}"
    );
    keep("go", b"");
}

#[test]
fn unread_log_delays_no_session() {
    use std::io::{BufRead, BufReader};
    let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
    let plugin = built("tests/unruly").0;
    let text = format!(
        "[[server]]\nname = \"talks\"\nhost = \"127.0.0.1\"\nport = {port}\nplugin = \
         {plugin:?}\ngrants = [\"stdio\", \"clocks\", \
         \"random\", \"server\", \"config\"]\n[server.limits]\nlog_lines_per_second = \
         1000000\n[server.budgets.normal]\nfuel = \
         1000000000000\ncpu = \"1m\"\nwall = \"1m\"\n"
    );
    std::fs::write(folder.path().join("wharf.toml"), text).expect("a file");
    let mut wharf = Command::new(wharf_binary())
        .current_dir(folder.path())
        .arg("serve")
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut log = BufReader::new(wharf.stderr.take().expect("its log"));
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        assert!(log.read_line(&mut line).expect("text") > 0, "it ended");
    }
    // From here on the log is not read. A pipe holds 64 KiB.
    let mut client = Client::connect(at(port));
    for _ in 0..150 {
        client.send("L").expect("done");
    }
    client.send("c").expect("1");
    wharf.kill().expect("it runs");
    wharf.wait().expect("it ends");
}

/// A component with so much code that compiling takes seconds.
fn long_winded() -> Vec<u8> {
    let body = "(local.set 0 (i32.add (i32.mul (local.get 0) (i32.const 7)) (i32.load (i32.and \
        (local.get 0) (i32.const 4095)))))\n";
    let one = |number| {
        format!(
            "(func $long{number} (param i32) (result i32)\n{}(local.get 0))\n",
            body.repeat(4_000)
        )
    };
    component(&(0..60).map(one).collect::<String>())
}

#[test]
fn slow_compilation_is_refused_and_names_its_key() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("long.wasm"), long_winded()).expect("kept");
    let text = "[host]\ncompile_timeout = '1s'\n[[server]]\nport = 7001\nplugin = 'long.wasm'\n";
    std::fs::write(folder.path().join("wharf.toml"), text).expect("kept");
    let output = wharf(&["check"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("long.wasm") && said.contains("host.compile_timeout"), "{said}");
}

#[test]
fn compiler_process_stays_within_its_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("polite.wasm");
    std::fs::write(&file, component("")).expect("kept");
    let compile = |memory: u64| {
        let input = std::fs::File::open(&file).expect("it is there");
        let mut command = Command::new(wharf_binary());
        command.args(["compile", &memory.to_string(), "60"]).stdin(input).output().expect("it runs")
    };
    let code = compile(512 << 20);
    assert!(code.status.success() && code.stdout.starts_with(b"\x7fELF"), "{code:?}");
    let refused = compile(8 << 20);
    assert!(!refused.status.success() && refused.stdout.is_empty(), "{refused:?}");
}

#[test]
fn launch_by_hand_gets_advice() {
    let mut command = Command::new(wharf_binary());
    let output =
        command.args(["launch", "--", "/bin/true"]).stdin(Stdio::null()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("use `wharf upgrade`"), "{}", said(&output));
}
