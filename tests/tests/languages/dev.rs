//! `wharf new` and `wharf dev`: from nothing to a server that changes under its clients.

use std::process::Command;

use wharf_tests::clients::Client;
use wharf_tests::guests::wharf_binary;
use wharf_tests::ports::free_port;
use wharf_tests::process::Wharf;

pub(crate) fn serves_at_once() {
    let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
    let made = Command::new(wharf_binary())
        .args(["new", "--lang", "wat", "mine"])
        .current_dir(folder.path())
        .output();
    assert!(made.expect("it runs").status.success());
    let again = Command::new(wharf_binary())
        .args(["new", "mine"])
        .current_dir(folder.path())
        .output()
        .expect("it runs");
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("mine: it is there already"),
        "{again:?}"
    );
    let listen = format!("127.0.0.1:{port}");
    let wharf = Wharf::run(&["dev", "mine", "--listen", &listen], folder.path());
    wharf.says("listening");
    let mut client = Client::connect(([127, 0, 0, 1], port).into());
    client.send("one\ntw").expect("ONE\n");
    let source = folder.path().join("mine/src/lines.wat");
    let text = std::fs::read_to_string(&source).expect("the source");
    // Upper case becomes a shift by one.
    std::fs::write(
        &source,
        text.replace("(local.get $byte) (i32.const 32))", "(local.get $byte) (i32.const 31))"),
    )
    .expect("kept");
    wharf.says("live sessions swapped");
    client.send("o\n").expect("UXP\n");
}
