//! Builds that fail or misbehave: each ends with one error that names the file and the key, and
//! leaves no process.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use wharf::authoring::{self, Language};
use wharf_tests::guests::wharf_binary;
use wharf_tests::languages::target;
use wharf_tests::process::Wharf;

use crate::words::wharf;

/// A project with this script as its build, and this line at the end of its manifest.
fn project(script: &str, line: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mine = folder.path().join("mine");
    authoring::create(&mine, Language::Wat).expect("it is written");
    fs::write(mine.join("build.sh"), script).expect("kept");
    let manifest = fs::read_to_string(mine.join("plugin.toml")).expect("a manifest");
    fs::write(mine.join("plugin.toml"), format!("{manifest}{line}\n")).expect("kept");
    folder
}

/// A process that outlived the build would hold its output open. Then this wait would take longer
/// than allowed here.
pub(crate) fn what_a_build_started_ends_with_it() {
    const LONG: Duration = Duration::from_secs(60);
    // Building the command itself must not count.
    let _ = wharf_binary();
    for (script, timeout, code, word) in [
        (
            "sleep 120 & wait",
            "1s",
            1,
            "mine/plugin.toml: `build.command`: `sh build.sh` was ended, because it took longer \
             than 1s",
        ),
        ("trap '' TERM; while :; do :; done", "1s", 1, "raise `build.timeout`"),
        (
            "sleep 120 & exec \"$WHARF\" component src/lines.wat -o build/plugin.wasm",
            "50s",
            0,
            "mine/build/plugin.wasm",
        ),
    ] {
        let (folder, start) =
            (project(script, &format!("timeout = \"{timeout}\"")), Instant::now());
        let (ended, said) = wharf(&["build", "mine"], folder.path());
        assert!(ended == Some(code) && said.contains(word), "{script}: {ended:?} {said}");
        assert!(start.elapsed() < LONG, "{script}: something went on running");
    }
    // A signal to the command ends the build too.
    let folder = project("mkfifo begun 2>&-; echo >begun; sleep 120 & wait", "");
    let mut command = Command::new(wharf_binary());
    command.args(["build", "mine"]).current_dir(folder.path()).stderr(std::process::Stdio::piped());
    let _ = Command::new("mkfifo").arg(folder.path().join("mine/begun")).status().expect("it runs");
    let (start, child) = (Instant::now(), command.spawn().expect("it runs"));
    let _ = fs::read(folder.path().join("mine/begun")).expect("the build has begun");
    let signal = rustix::process::Signal::TERM;
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal)
        .expect("it runs");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("interrupted by a signal"), "{said}");
    assert!(start.elapsed() < LONG, "something went on running");
}

pub(crate) fn a_build_without_a_component_is_told() {
    for (script, word) in [
        ("true", "No such file"),
        ("mkdir -p build/plugin.wasm", "found a folder"),
        ("mkdir build; ln -s nowhere build/plugin.wasm", "No such file"),
        ("mkdir build; ln -s ../plugin.toml build/plugin.wasm", "not WebAssembly"),
        ("mkdir build; mkfifo build/plugin.wasm", "no regular file"),
        ("mkdir build; : >build/plugin.wasm", "an empty file"),
    ] {
        let folder = project(script, "");
        let (code, said) = wharf(&["build", "mine/plugin.toml"], folder.path());
        assert!(code == Some(1) && said.contains(word), "{script}: {said}");
        assert!(
            said.contains(
                "mine/plugin.toml: `component`: `sh build.sh` went well, but mine/build/plugin.wasm"
            ),
            "{said}"
        );
    }
    for (command, word) in [
        ("[\"nonexistent-tool\"]", "cannot run `nonexistent-tool`"),
        ("[]", "found none"),
        ("\"sh\"", "line"),
    ] {
        let folder = project("", "");
        let manifest = folder.path().join("mine/plugin.toml");
        let text = fs::read_to_string(&manifest)
            .expect("a manifest")
            .replace("[\"sh\", \"build.sh\"]", command);
        fs::write(&manifest, text).expect("kept");
        let (code, said) = wharf(&["build", "mine"], folder.path());
        assert!(
            code == Some(1) && said.contains("mine/plugin.toml: ") && said.contains(word),
            "{command}: {said}"
        );
    }
}

pub(crate) fn what_dev_cannot_watch_or_build_is_told() {
    for (watch, word) in [
        ("[\".\"]", "`build.watch`: `.` holds the component"),
        ("[\"src\", \"build\"]", "`build.watch`: `build` holds the component"),
        ("[\"build/plugin.wasm\"]", "holds the component"),
        ("[\"src/../build\"]", "holds the component"),
    ] {
        let folder = project("", "");
        let manifest = folder.path().join("mine/plugin.toml");
        let text = fs::read_to_string(&manifest).expect("a manifest");
        fs::write(&manifest, text.replace("[\"src\", \"wit\", \"build.sh\"]", watch))
            .expect("kept");
        let said = Wharf::run(&["dev", "mine"], folder.path()).says("wharf: ");
        assert!(said.contains("mine/plugin.toml: ") && said.contains(word), "{watch}: {said}");
    }
    let folder = project("", "");
    for (path, word) in [
        ("nope", "nope: there is nothing of this name"),
        ("mine/build.sh", "mine/build.sh: it is no folder"),
    ] {
        for verb in ["dev", "build"] {
            let (code, said) = wharf(&[verb, path], folder.path());
            assert!(code == Some(1) && said.contains(word), "{verb} {path}: {said}");
        }
    }
}

/// `wharf new` and `wharf component` leave nothing of what they cannot finish.
pub(crate) fn what_is_refused_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let long = "a".repeat(300);
    fs::write(folder.path().join("there"), "").expect("kept");
    for (arguments, code, word) in [
        (
            vec!["new", "--lang", "ruts", "mine"],
            2,
            "rust, c, wat, javascript, typescript, python, go",
        ),
        (vec!["new", "A_b"], 1, "A_b: expected a folder whose own name"),
        (vec!["new", "../.."], 1, "../..: expected a folder"),
        (vec!["new", &long], 1, "1 to 64"),
        (vec!["new", "there"], 1, "there: it is there already"),
        (vec!["new", "there/mine"], 1, "there/mine: cannot write it: "),
        (vec!["new", "wharf-plugin"], 1, "another use for the name"),
        (vec!["component", "there", "-o", "there"], 1, "there: expected a core module"),
    ] {
        let (ended, said) = wharf(&arguments, folder.path());
        assert!(ended == Some(code) && said.contains(word), "{arguments:?}: {ended:?} {said}");
    }
    // A disk with room for the first file only.
    let script =
        format!("trap '' XFSZ; ulimit -f 4; exec {:?} new --lang wat above/mine", wharf_binary());
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(folder.path())
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && said.contains("cannot write it: File too large"),
        "{said}"
    );
    let left: Vec<_> = fs::read_dir(folder.path())
        .expect("a folder")
        .flatten()
        .map(|one| one.file_name())
        .collect();
    assert_eq!(left, ["there"], "nothing else was there before");
    authoring::create(&folder.path().join("mine"), Language::Wat).expect("it is written");
    let script = format!(
        "trap '' XFSZ; ulimit -f 1; exec {:?} component src/lines.wat -o made/x.wasm",
        wharf_binary()
    );
    let output =
        Command::new("sh").args(["-c", &script]).current_dir(folder.path().join("mine")).output();
    let said = output.expect("it runs").stderr;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("made/x.wasm: cannot write it: File too large"), "{said}");
    assert_eq!(fs::read_dir(folder.path().join("mine/made")).expect("a folder").count(), 0);
}

/// A new Rust project passes the test command of its own page, without a warning.
pub(crate) fn a_new_rust_project_passes_its_tests() {
    let folder = tempfile::tempdir().expect("a folder");
    let mine = folder.path().join("mine");
    authoring::create(&mine, Language::Rust).expect("it is written");
    let tested = Command::new("cargo")
        .args(["test", "--quiet"])
        .env("CARGO_TARGET_DIR", target().join("languages/tests-of-rust"))
        .env("RUSTFLAGS", "--deny warnings")
        .current_dir(&mine)
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&tested.stderr);
    assert!(tested.status.success() && !said.contains("warning"), "{said}");
    let said = String::from_utf8_lossy(&tested.stdout);
    assert!(said.contains(" passed"), "{said}");
}
