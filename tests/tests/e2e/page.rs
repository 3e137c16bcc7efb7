//! The operator's page in a real browser: headless Chromium, driven through ChromeDriver. Without
//! ChromeDriver the test says so and checks nothing. `WHARF_TESTS_BROWSER=required` makes that a
//! failure.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use wharf_tests::clients::Client;
use wharf_tests::guests::component;
use wharf_tests::ports::free_port;
use wharf_tests::process::Wharf;
use wharf_tests::servers::eventually;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A browser with one page.
struct Browser {
    driver: Child,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    fn start() -> Option<Self> {
        let port = free_port();
        let spawned = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut driver = match spawned {
            Ok(driver) => driver,
            Err(error) => {
                let required = std::env::var_os("WHARF_TESTS_BROWSER").is_some();
                assert!(!required, "chromedriver: {error}");
                eprintln!("SKIPPED: the page was not tried in a browser: chromedriver: {error}");
                return None;
            }
        };
        let mut said =
            BufReader::new(driver.stdout.take().expect("its words")).lines().map_while(Result::ok);
        assert!(said.any(|line| line.contains("started successfully")));
        std::thread::spawn(move || said.for_each(drop));
        let profile = tempfile::tempdir().expect("a folder");
        let arguments = [
            "--headless".to_owned(),
            "--no-sandbox".into(),
            "--disable-gpu".into(),
            "--disable-dev-shm-usage".into(),
            "--no-first-run".into(),
            "--disable-background-networking".into(),
            "--disable-component-update".into(),
            "--disable-sync".into(),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        let options = json!({ "args": arguments, "binary": chromium() });
        let wanted =
            json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": options } } });
        let base = format!("http://127.0.0.1:{port}/session");
        let opened = curl("POST", &base, &wanted);
        let id =
            opened["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("no browser: {opened}"));
        Some(Self { driver, session: format!("{base}/{id}"), _profile: profile })
    }

    fn open(&self, url: &str) {
        curl("POST", &format!("{}/url", self.session), &json!({ "url": url }));
    }

    /// The value of an expression in the page.
    fn value(&self, expression: &str) -> Value {
        let script = json!({ "script": format!("return {expression}"), "args": [] });
        curl("POST", &format!("{}/execute/sync", self.session), &script)["value"].clone()
    }

    fn until(&self, what: &str, expression: &str) {
        eventually(what, || self.value(expression) == json!(true));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        curl("DELETE", &self.session, &json!({}));
        let _ = (self.driver.kill(), self.driver.wait());
    }
}

/// The path of the browser that belongs to the installed driver.
fn chromium() -> &'static str {
    if std::path::Path::new("/usr/bin/chromium").exists() {
        "/usr/bin/chromium"
    } else {
        "chromium"
    }
}

fn curl(method: &str, url: &str, body: &Value) -> Value {
    let body = body.to_string();
    let arguments =
        ["--silent", "--max-time", "60", "--request", method, "--data-binary", &body, url];
    let output = Command::new("curl").args(arguments).output().expect("curl runs");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[test]
fn page_shows_servers_and_ends_a_session() {
    let Some(browser) = Browser::start() else { return };
    let (folder, port, control) =
        (tempfile::tempdir().expect("a folder"), free_port(), free_port());
    let file = folder.path().join("token");
    std::fs::write(&file, TOKEN).expect("kept");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    std::fs::write(folder.path().join("polite.wasm"), component("")).expect("kept");
    let text = format!(
        "[host]\nsessions_max = 64\n[control]\nsocket = 'control.sock'\nlisten = \
         '127.0.0.1:{control}'\n\
         token_file = 'token'\n[[server]]\nname = 'echo'\nhost = '127.0.0.1'\nport = \
         {port}\nplugin = 'polite.wasm'\n"
    );
    std::fs::write(folder.path().join("wharf.toml"), text).expect("kept");
    let wharf = Wharf::run(&["serve"], folder.path());
    wharf.says("server started");
    let page = format!("http://127.0.0.1:{control}/");
    eventually("the page is served", || {
        curl("GET", &format!("{page}readyz"), &json!({})) == Value::Null
    });
    let mut client = Client::connect(([127, 0, 0, 1], port).into());
    client.echo("hello");

    // Without a token the page asks for one.
    browser.open(&page);
    browser
        .until("it asks for the token", "document.querySelector('#token-form').checkVisibility()");
    browser.open("about:blank");
    browser.open(&format!("{page}#token={TOKEN}"));
    let server = "document.querySelector('[data-server=echo]')";
    browser.until("the server is there", &format!("{server} !== null"));
    let field = |name: &str| {
        format!("{server}.querySelector('[data-field={name}]').textContent.toLowerCase()")
    };
    browser.until("its status is shown", &format!("{}.includes('listening')", field("status")));
    browser.until("its session is counted", &format!("{}.includes('1')", field("sessions")));
    browser.until(
        "the session is listed",
        &format!("{server}.querySelector('[data-session]') !== null"),
    );
    assert!(!browser.value("location.href").as_str().expect("an address").contains(TOKEN));
    // The page loaded nothing from any other origin.
    let foreign = "performance.getEntriesByType('resource').filter(one => \
        !one.name.startsWith(location.origin)).length";
    assert_eq!(browser.value(foreign), 0);

    browser.value(&format!("{server}.querySelector('[data-action=suspend]').click()"));
    browser.until("it is suspended", &format!("{}.includes('suspended')", field("status")));
    browser.value(&format!("{server}.querySelector('[data-action=resume]').click()"));
    browser.until("it is resumed", &format!("{}.includes('listening')", field("status")));
    browser.value(&format!(
        "{server}.querySelector('[data-session] button[data-action=disconnect]').click()"
    ));
    client.expect_closed();
    browser.until(
        "the session is gone",
        &format!("{server}.querySelector('[data-session]') === null"),
    );
    browser.until(
        "its leaving is noticed",
        "document.querySelector('#notices').textContent.includes('idle')",
    );
}
