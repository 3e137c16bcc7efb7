//! Huge and many texts of plugins and requests: every answer and every line of the log has a limit.

use std::path::Path;

use serde_json::json;
use wharf::plugin::Grants;
use wharf_tests::clients::Client;
use wharf_tests::control_site::{ControlSite, configure};
use wharf_tests::guests::{component, file};
use wharf_tests::ports::free_port;
use wharf_tests::process::Wharf;
use wharf_tests::servers::{eventually, host};

/// The most bytes of the control API's answer to a request that fails.
const ANSWER_MAX_BYTES: usize = 64 << 10;
/// The most bytes of a line of the log, and so of an error that is logged.
const LINE_MAX_BYTES: usize = 8 << 10;

/// A component from WebAssembly text.
fn parsed(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("a component")
}

/// A name of about `bytes` bytes, unique for `number`.
fn name(number: usize, bytes: usize) -> String {
    format!("n{number}{}", "x".repeat(bytes))
}

/// Components in which a name, or the number of names, is huge, each with a label for the test.
fn huge() -> Vec<(&'static str, Vec<u8>)> {
    let lines =
        |count: usize, line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<String>();
    let exports = |count, bytes| {
        let export = |number| format!("(export \"{}\" (component $c))", name(number, bytes));
        parsed(&format!("(component (component $c) {})", lines(count, &export)))
    };
    let imports = |count, bytes| {
        let import = |number| format!("(import \"{}\" (func))", name(number, bytes));
        parsed(&format!("(component {})", lines(count, &import)))
    };
    let frames = |count: usize, bytes: usize| {
        let next = |number| format!("(call ${})", name(number + 1, bytes));
        let frame = |number| {
            let body = if number + 1 == count { "unreachable".to_owned() } else { next(number) };
            format!("(func ${} {body})\n", name(number, bytes))
        };
        component(&format!("{}(start ${})", lines(count, &frame), name(0, bytes)))
    };
    let module = |bytes| {
        let name = name(0, bytes);
        parsed(&format!("(component (core module ${name} (func ${name} (export \"{name}\"))))"))
    };
    let custom = |bytes| parsed(&format!("(component (@custom \"{}\" \"{0}\"))", name(0, bytes)));
    let producers = |bytes| {
        let name = name(0, bytes);
        parsed(&format!(
            "(component (core module (@producers (processed-by \"{name}\" \"{name}\"))))"
        ))
    };
    let version = |bytes| {
        let name = format!("wharf:server/inet-event-proc@9.0.0-{}", name(0, bytes));
        parsed(&format!("(component (instance $i) (export \"{name}\" (instance $i)))"))
    };
    vec![
        ("one export", exports(1, 90_000)),
        ("many exports", exports(3_000, 20)),
        ("many huge exports", exports(100, 90_000)),
        ("one import", imports(1, 90_000)),
        ("many imports", imports(900, 20)),
        ("many huge imports", imports(100, 90_000)),
        ("a frame", frames(1, 90_000)),
        ("frames", frames(40, 90_000)),
        ("custom", custom(90_000)),
        ("producers", producers(90_000)),
        ("module", module(90_000)),
        ("version", version(60_000)),
    ]
}

#[test]
fn errors_of_huge_components_are_short() {
    for (number, (what, bytes)) in huge().into_iter().enumerate() {
        let said = host().loader().load(&file(&format!("huge-{number}"), &bytes), &Grants::none());
        let said = said.err().unwrap_or_else(|| panic!("{what}: it is no plugin")).to_string();
        assert!(said.len() <= LINE_MAX_BYTES, "{what}: {} bytes: {:.300}", said.len(), said);
    }
}

/// A process that logs in JSON, one object a line.
fn site() -> ControlSite {
    let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
    std::fs::write(folder.path().join("polite.wasm"), component("")).expect("kept");
    configure(folder.path(), port, "", "");
    let wharf = Wharf::run(&["--log-format", "json", "serve"], folder.path());
    wharf.says("server started");
    let site = ControlSite { folder, port, wharf };
    eventually("the control API is open", || site.socket().exists());
    site
}

fn short(lines: &[String]) {
    for line in lines {
        assert!(line.len() <= LINE_MAX_BYTES, "{} bytes: {line:.300}", line.len());
    }
}

fn swap(site: &ControlSite, plugin: &Path) -> (u16, String) {
    let body = json!({ "file": plugin }).to_string();
    site.curl(&["--request", "POST", "--data-binary", &body], "/v1/servers/echo/plugin/swap")
}

#[test]
fn answers_and_lines_about_huge_components_are_short() {
    let site = site();
    for (number, (what, bytes)) in huge().into_iter().enumerate() {
        let plugin = site.path(&format!("huge-{number}.wasm"));
        std::fs::write(&plugin, bytes).expect("kept");
        let (code, answer) = swap(&site, &plugin);
        assert_eq!(code, 422, "{what}: {answer:.300}");
        assert!(answer.len() <= ANSWER_MAX_BYTES, "{what}: {} bytes", answer.len());
        short(&site.wharf.lines_until("plugin/swap"));
    }
    // A trap in a session, below functions with huge names.
    let frames: String = (0..30)
        .map(|number| {
            let body = if number == 29 {
                "unreachable".to_owned()
            } else {
                format!("(call ${})", name(number + 1, 50_000))
            };
            format!("(func ${} {body})\n", name(number, 50_000))
        })
        .collect();
    let first = name(0, 50_000);
    let traps = format!(
        "{frames}(func $on-read (param i32 i32) (result i32) (call ${first}) (i32.const 0))"
    );
    let plugin = site.path("traps.wasm");
    std::fs::write(&plugin, component(&traps)).expect("kept");
    let (code, answer) = swap(&site, &plugin);
    assert_eq!(code, 200, "{answer:.300}");
    Client::connect(site.address()).send("x").expect_gone();
    short(&site.wharf.lines_until("event failed"));
}

#[test]
fn answers_and_lines_about_huge_requests_are_short() {
    let site = site();
    let huge: Vec<String> = [
        "a".repeat(14_000),
        "%22".repeat(4_000),
        "%01".repeat(4_000),
        "%F0%9F%98%80".repeat(1_000),
        "%E2%80%AE".repeat(1_500),
    ]
    .into();
    for text in &huge {
        for (method, path) in [
            ("GET", format!("/v1/servers/{text}")),
            ("POST", format!("/v1/servers/{text}/suspend")),
            ("POST", format!("/v1/servers/echo/sessions/{text}/abort")),
            ("GET", format!("/v1/servers/echo/sessions?{text}={text:.100}")),
            ("POST", format!("/{text}")),
            (&text[..100], "/v1/reload".to_owned()),
        ] {
            let (_, answer) = site.curl(&["--path-as-is", "--globoff", "--request", method], &path);
            assert!(
                answer.len() <= ANSWER_MAX_BYTES,
                "{method} {path:.100}: {} bytes",
                answer.len()
            );
        }
    }
    for body in [
        json!({ "x".repeat(900_000): 1 }),
        json!({ "newcomers": "y".repeat(900_000) }),
        json!({ "newcomers": "\u{1}".repeat(150_000) }),
        json!({ "file": "/z".repeat(400_000) }),
    ] {
        std::fs::write(site.path("body"), body.to_string()).expect("kept");
        let from = format!("@{}", site.path("body").display());
        for call in ["suspend", "plugin/swap", "priority", "throttle", "lock"] {
            let (_, answer) = site.curl(
                &["--request", "POST", "--data-binary", &from],
                &format!("/v1/servers/echo/{call}"),
            );
            assert!(answer.len() <= ANSWER_MAX_BYTES, "{call}: {} bytes", answer.len());
        }
    }
    site.ok("POST", "/v1/servers/echo/suspend", json!({}));
    short(&site.wharf.lines_until("server suspended"));
}

#[test]
fn manifests_with_huge_texts_are_refused_in_short() {
    let folder = tempfile::tempdir().expect("a folder");
    let huge = "h".repeat(50_000);
    for text in [
        format!("name='a'\nversion='{huge}'\ncomponent='a.wasm'\n"),
        format!("name='{huge}'\nversion='1'\ncomponent='a.wasm'\n"),
        format!("name='a'\nversion='1'\ncomponent='a.wasm'\ngrants=['{huge}']\n"),
        format!("name='a'\nversion='1'\ncomponent='a.wasm'\n{huge}=1\n"),
        format!(
            "name='a'\nversion='1'\ncomponent='a.wasm'\n[build]\ncommand=['a']\ntimeout='{huge}'\n"
        ),
        format!("name='a'\nversion='1'\ncomponent='a.wasm' {huge}\n"),
    ] {
        std::fs::write(folder.path().join("plugin.toml"), &text).expect("kept");
        let said = host()
            .loader()
            .load(folder.path(), &Grants::none())
            .err()
            .expect("refused")
            .to_string();
        assert!(said.len() <= LINE_MAX_BYTES, "{:.80}: {} bytes", text, said.len());
    }
}
