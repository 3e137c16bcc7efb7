//! Output of `wharf test` and `wharf check` for an author.

use std::path::Path;
use std::process::{Command, Output};

use wharf::authoring::{self, Language, Manner, rehearse};
use wharf::plugin::InstanceLimits;
use wharf_tests::guests::{component, wharf_binary};
use wharf_tests::languages::project;
use wharf_tests::transcript::story;

use crate::load;

/// Plays the transcript without sockets, in every manner.
pub(crate) fn rehearsed(language: Language) {
    let project = project(language, "0.1.0", &[]);
    let (plugin, story) = (load(&project), story(&project.folder.join("transcript.txt")));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    for manner in [Manner::Whole, Manner::SingleBytes, Manner::HandedOver] {
        let rehearsal =
            runtime.block_on(rehearse(&plugin, &story, InstanceLimits::default(), manner));
        assert_eq!(rehearsal.problem, None, "{} {manner:?}", language.name());
        let dearest =
            rehearsal.costs.iter().max_by_key(|cost| cost.fuel).expect("it costs something");
        assert!(
            dearest.fuel > 0 && dearest.memory_bytes > 0 && dearest.fits().is_some(),
            "{dearest:?}"
        );
    }
}

pub(crate) fn wharf(arguments: &[&str], folder: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(wharf_binary());
    command.args(arguments).current_dir(folder).env("XDG_CACHE_HOME", folder.join("cache"));
    let Output { status, stdout, stderr } = command.output().expect("it runs");
    (status.code(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

pub(crate) fn a_story_that_fails_says_where() {
    let folder = tempfile::tempdir().expect("a folder");
    authoring::create(&folder.path().join("mine"), Language::Wat).expect("it is written");
    let (code, said) = wharf(&["test", "mine"], folder.path());
    assert!(code == Some(0) && said.matches("\nok ").count() == 3, "{said}");
    assert!(
        said.contains("dearest event: on-read of line 9 with") && said.contains("every class"),
        "{said}"
    );
    let story = folder.path().join("mine/transcript.txt");
    let text = std::fs::read_to_string(&story).expect("a story");
    std::fs::write(&story, text.replace("\"THREE\\n\"", "\"FOUR\\n\"")).expect("kept");
    let (code, said) = wharf(&["test", "mine", "--no-build"], folder.path());
    assert!(
        code == Some(1) && said.contains("line 8: expected \"FOUR\\n\", found \"THREE\""),
        "{said}"
    );
    // A restore that loses state is found, although the plain transcript plays.
    std::fs::write(&story, text).expect("kept");
    let source = folder.path().join("mine/src/lines.wat");
    let text = std::fs::read_to_string(&source).expect("a source");
    std::fs::write(
        &source,
        text.replace("(i32.store (i32.const 1044) (global.get $line-length))", ""),
    )
    .expect("kept");
    let (code, said) = wharf(&["test", "mine"], folder.path());
    assert!(
        code == Some(1)
            && said.contains("FAILED  mine/transcript.txt, handed over before each event"),
        "{said}"
    );
}

pub(crate) fn usual_mistakes_are_explained() {
    let folder = tempfile::tempdir().expect("a folder");
    let check = |text: &str| {
        std::fs::write(folder.path().join("x.wasm"), wat::parse_str(text).expect("text"))
            .expect("kept");
        wharf(&["check", "x.wasm"], folder.path())
    };
    let many =
        format!("(component (core module $m) {})", "(core instance (instantiate $m))".repeat(33));
    for (text, words) in [
        ("(module)", "found a core module"),
        ("(module)", "`wharf component`"),
        ("(component)", "`export wharf:server/inet-event-proc@0.1.0`"),
        (many.as_str(), "fewer core modules"),
        ("(component (core module (memory i64 1)))", "build it for wasm32"),
        ("(component (core module (memory 1 1 shared)))", "without them (C: no `-pthread`)"),
        ("(component (core module (tag)))", "`-fno-exceptions`"),
        ("(component (core module (type (struct))))", "a collector of its own"),
        (
            "(component (core module $m (memory 8000)) (core instance (instantiate $m)))",
            "`limits.memory_max_bytes`",
        ),
        (
            "(component (core module $m (table 10001 funcref)) (core instance (instantiate $m)))",
            "10,000 elements",
        ),
        ("(component (core func (canon task.cancel)))", "`--sync`"),
    ] {
        let (code, said) = check(text);
        assert!(code == Some(1) && said.contains(words), "{text}: expected {words:?} in: {said}");
    }
    // More memory than by default, which a server may allow.
    std::fs::write(
        folder.path().join("x.wasm"),
        component("(func $begin (drop (memory.grow (i32.const 1000)))) (start $begin)"),
    )
    .expect("kept");
    let (code, said) = wharf(&["check", "x.wasm"], folder.path());
    assert!(
        code == Some(0) && said.contains("raise `limits.memory_max_bytes` to 65667072 at least"),
        "{said}"
    );
    authoring::create(&folder.path().join("mine"), Language::Wat).expect("it is written");
    let manifest = folder.path().join("mine/plugin.toml");
    assert_eq!(wharf(&["build", "mine"], folder.path()).0, Some(0));
    let (code, said) = wharf(&["check", "mine"], folder.path());
    assert!(
        code == Some(0)
            && said.contains("needs the grant \"config\"")
            && said.contains("hands its sessions over"),
        "{said}"
    );
    let text = std::fs::read_to_string(&manifest).expect("a manifest");
    std::fs::write(&manifest, text.replace("[\"config\"]", "[\"clocks\"]")).expect("kept");
    let (code, said) = wharf(&["check", "mine"], folder.path());
    assert!(
        code == Some(1)
            && said.contains("lacks the grant \"config\"")
            && said.contains("does not use the grant \"clocks\""),
        "{said}"
    );
}

pub(crate) fn what_is_no_plugin_is_told_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let put =
        |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("kept");
    authoring::create(&folder.path().join("mine"), Language::Wat).expect("it is written");
    put("text", b";; a comment\n(module)");
    put("prose", b"hello");
    put("empty.wasm", b"");
    put("cut.wasm", &component("")[..1_000]);
    put("whole", &component(""));
    for (path, code, word) in [
        (
            "nope",
            1,
            "nope: there is nothing of this name; expected a configuration file, a folder with \
             plugin.toml, or",
        ),
        ("mine/src/lines.wat", 1, "found WebAssembly text: run `wharf component` on it"),
        ("text", 1, "found WebAssembly text"),
        ("prose", 1, "it was taken for a configuration file; expected"),
        ("empty.wasm", 1, "empty.wasm: expected a component, found an empty file"),
        ("cut.wasm", 1, "the file is cut short"),
        ("mine/plugin.toml", 1, "mine/build/plugin.wasm: cannot read it: No such file"),
        ("whole", 0, "exports wharf:server/inet-event-proc@0.1.0"),
    ] {
        let (ended, said) = wharf(&["check", path], folder.path());
        assert!(ended == Some(code) && said.contains(word), "{path}: {ended:?} {said}");
    }
    let (code, said) = wharf(&["test", "nope"], folder.path());
    assert!(
        code == Some(1) && said.contains("nope: there is nothing of this name; expected a folder"),
        "{said}"
    );
    let (code, said) = wharf(&["build", "mine"], folder.path());
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = wharf(
        &["test", "mine/build/plugin.wasm", "--transcript", "mine/transcript.txt"],
        folder.path(),
    );
    assert!(code == Some(1) && said.contains("here: by `--grant NAME`"), "{said}");
}

pub(crate) fn a_story_has_limits() {
    let folder = tempfile::tempdir().expect("a folder");
    let story = folder.path().join("story.txt");
    // Writes as much as its fuel allows at each read, and closes at `!`.
    let floods = component(
        "(func $on-read (param $at i32) (param $length i32) (result i32) (local $left i32)
           (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 33)) (then (return (i32.const 1))))
           (local.set $left (i32.const 500))
           (loop $more
             (call $write (i32.const 0) (i32.const 65536) (i32.const 1024))
             (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
           (i32.const 0))",
    );
    std::fs::write(folder.path().join("floods.wasm"), floods).expect("kept");
    let long = "x".repeat(1 << 19);
    let test = |text: &str| {
        std::fs::write(&story, text).expect("kept");
        wharf(&["test", "floods.wasm", "--transcript", "story.txt"], folder.path())
    };
    for (text, code, word) in [
        ("send \"a\"\n", 0, "no line expects its last 32768000 bytes"),
        (
            &"send \"a\"\n".repeat(3),
            1,
            "line 3: on-read: it wrote more than 67108864 bytes that no line expects",
        ),
        (
            "send \"!\"\nexpect \"b\"\n",
            1,
            "found \"\"; the plugin had closed the session in on-read of line 1",
        ),
        ("", 1, "story.txt: line 1: nothing happens in it"),
        (
            &"# story\n".repeat(200_000),
            1,
            "story.txt: cannot read it: expected at most 1048576 bytes",
        ),
        (&long, 1, "story.txt: line 1: expected setting, send"),
        (&format!("send \"!\"\nexpect \"{long}\"\n"), 1, "line 2: expected \"xxx"),
    ] {
        let (ended, said) = test(text);
        assert!(
            ended == Some(code) && said.contains(word),
            "{}: {ended:?} {said:.2000}",
            &text[..text.len().min(40)]
        );
        assert!(said.len() < 10_000, "{} bytes were said", said.len());
    }
    std::fs::remove_file(&story).expect("it was there");
    let (code, said) = wharf(&["test", "floods.wasm"], folder.path());
    assert!(
        code == Some(1)
            && said.contains("transcript.txt: cannot read it")
            && said.contains("`--transcript`"),
        "{said}"
    );
}
