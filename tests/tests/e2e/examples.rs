//! The example programs of the host crate, each as a process with real clients, and the page that
//! quotes them.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use wharf_tests::clients::Client;
use wharf_tests::guests::{built, component, example_binary, file, root, versioned};
use wharf_tests::process::Wharf;

/// An example that serves. Lines of its standard input are commands, or their end is.
struct Example {
    process: Wharf,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Example {
    fn run(name: &str, arguments: &[&Path]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("sh");
        // The harness reads standard error.
        command.args(["-c", "exec \"$0\" \"$@\" >&2"]).arg(example_binary(name)).args(arguments);
        let process = Wharf::spawn_with(command, folder.path(), Stdio::piped());
        let line = process.says("listening on ");
        let address = line.rsplit(' ').next().and_then(|text| text.parse().ok());
        Self { process, address: address.expect("an address"), _folder: folder }
    }

    fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// Gives a command, and waits for a line with these words.
    fn order(&mut self, command: &str, words: &str) -> String {
        let input = self.process.child.stdin.as_mut().expect("its input");
        writeln!(input, "{command}").expect("it reads");
        self.process.says(words)
    }

    /// Ends its input, waits for a line with these words, and expects success.
    fn end(mut self, words: &str) {
        drop(self.process.child.stdin.take());
        self.process.says(words);
        assert!(self.process.child.wait().expect("it ends").success());
    }
}

#[test]
fn embedded_server_serves_until_input_ends() {
    let (plugin, _) = built("plugins/echo");
    let example = Example::run("embed_echo", &[&plugin]);
    example.connect().echo("hello").finish().expect_closed();
    let mut client = example.connect();
    client.echo("still here");
    // The client closes when it sees the end, so that the server need not wait for it.
    let closes = std::thread::spawn(move || client.expect_closed());
    example.end("stopped: 2 accepted");
    closes.join().expect("a proper end");
}

#[test]
fn connected_client_moves_with_swap_and_back() {
    let [old, new] = ['a', 'b']
        .map(|label| file(&format!("example-{label}"), &component(&versioned(label, "", ""))));
    let mut example = Example::run("swap_live", &[&old, &new]);
    let mut client = example.connect();
    // The plugin answers with its label, the byte, and how many bytes the session has sent.
    client.send([7]).expect([b'a', 7, 1]);
    example.order("swap", "1 moved");
    client.send([8]).expect([b'b', 8, 2]);
    let listed = example.order("list", "session 1 of");
    assert!(listed.contains("example-b"), "{listed}");
    example.order("back", "1 moved");
    client.send([9]).expect([b'a', 9, 3]);
    drop(client);
    example.end("stopped");
}

#[test]
fn refused_swap_changes_nothing() {
    let old = file("example-old", &component(&versioned('a', "", "")));
    let mut example = Example::run("swap_live", &[&old, Path::new("missing.wasm")]);
    let mut client = example.connect();
    client.send([7]).expect([b'a', 7, 1]);
    example.order("swap", "error: missing.wasm");
    client.send([8]).expect([b'a', 8, 2]);
    drop(client);
    example.end("stopped");
}

#[test]
fn steered_server_lists_limits_and_ends_sessions() {
    let (plugin, _) = built("plugins/echo");
    let mut example = Example::run("steer", &[&plugin]);
    let mut one = example.connect();
    one.echo("one");
    let mut two = example.connect();
    two.echo("second");
    example.order("list", "6 bytes in, 6 bytes out");
    example.process.says("2 sessions, listening");
    example.order("throttle 2", "max_clients was 0, is 2");
    example.connect().expect_gone();
    example.order("throttle none", "error: ");
    example.order("class 1 low", "class was normal, is low");
    example.order("send 1 hello there", "sent");
    one.expect("hello there").echo("one");
    example.order("suspend", "suspended");
    two.echo("live sessions stay");
    example.order("resume", "listening");
    example.order("end 1", "ended");
    one.expect_closed();
    example.order("abort 2", "aborted");
    two.expect_reset();
    example.order("end 3", "no such session");
    example.end("stopped");
}

/// Lines without their indentation, as one text.
fn dedented<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

#[test]
fn page_quotes_only_code_of_examples() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).expect("a file");
    let examples = ["embed_echo", "swap_live", "steer"]
        .map(|name| dedented(read(&format!("host/examples/{name}.rs")).lines()));
    let page = read("docs/embedding.md");
    let snippets: Vec<_> = page.split("```rust\n").skip(1).collect();
    for snippet in &snippets {
        let snippet = dedented(snippet.lines().take_while(|line| *line != "```"));
        assert!(examples.iter().any(|code| code.contains(&snippet)), "in no example:\n{snippet}");
    }
    assert!(snippets.len() >= 6, "{} snippets", snippets.len());
}
