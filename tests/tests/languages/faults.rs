//! Faults as an author sees them: a crash, an endless loop and exhausted memory, written in each
//! language, in a real process with its log.

use wharf::authoring::Language;
use wharf_tests::clients::Client;
use wharf_tests::languages::{Change, compiled, project};
use wharf_tests::ports::free_port;
use wharf_tests::process::Wharf;

use crate::load;

/// Changes the example so that a read that begins with `!` crashes, with `@` loops, and with `#`
/// takes memory without end.
pub(crate) fn misbehaving(language: Language) -> Change {
    match language {
        Language::Rust => &[
            (
                "    fn on_read(&mut self, session: &Session, data: Vec<u8>) -> Action {\n",
                "    fn on_read(&mut self, session: &Session, data: Vec<u8>) -> Action {\n        \
                 misbehave(data[0]);\n",
            ),
            (
                "fn line_max_bytes() -> usize {",
                "fn misbehave(order: u8) {
    match order {
        b'!' => panic!(\"crashed on purpose\"),
        b'@' => loop { std::hint::black_box(order); },
        b'#' => { let mut all = Vec::new(); loop { all.push(vec![order; 1 << 20]); } }
        _ => {}
    }
}
fn line_max_bytes() -> usize {",
            ),
        ],
        Language::C => &[
            ("#include <stdio.h>", "#include <assert.h>\n#include <stdio.h>"),
            (
                "wharf_action on_read(const uint8_t *data, size_t length) {",
                "static void misbehave(uint8_t order) {
    volatile uint8_t same = order;
    assert(order != '!' && \"crashed on purpose\");
    while (same == '@') {}
    while (same == '#') {
        char *volatile more = malloc(1 << 20);
        if (more == NULL) abort();
    }
}
wharf_action on_read(const uint8_t *data, size_t length) {
    misbehave(data[0]);",
            ),
        ],
        Language::Wat => &[(
            "    (memory.copy (i32.add (i32.const 0x10000) (global.get $line-length)) (local.get \
             $at)",
            "    (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 33)) (then unreachable))
    (loop $forever (br_if $forever (i32.eq (i32.load8_u (local.get $at)) (i32.const 64))))
    (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 35)) (then
      (loop $more (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 16))))) unreachable))
    (memory.copy (i32.add (i32.const 0x10000) (global.get $line-length)) (local.get $at)",
        )],
        Language::JavaScript => &[
            ("  onRead(data) {\n", "  onRead(data) {\n    misbehave(data[0]);\n"),
            ("class Lines {", JAVASCRIPT),
        ],
        Language::TypeScript => &[
            (
                "  onRead(data: Uint8Array): Action {\n",
                "  onRead(data: Uint8Array): Action {\n    misbehave(data[0]);\n",
            ),
            ("class Lines implements EventProc {", TYPESCRIPT),
        ],
        Language::Python => &[
            (
                "    def on_read(self, data: bytes) -> Action:\n",
                "    def on_read(self, data: bytes) -> Action:\n        misbehave(data[0])\n",
            ),
            (
                "class Lines(EventProc):",
                "def misbehave(order: int) -> None:
    if order == ord('!'):
        raise ValueError('crashed on purpose')
    while order == ord('@'):
        pass
    all = []
    while order == ord('#'):
        all.append(bytes(1 << 20))


class Lines(EventProc):",
            ),
        ],
        Language::Go => &[
            (
                "func (l *Lines) OnRead(data []byte) wharf.Action {\n",
                "func (l *Lines) OnRead(data []byte) wharf.Action {\n\tmisbehave(data[0])\n",
            ),
            (
                "func lineMax() int {",
                "func misbehave(order byte) {
	if order == '!' {
		panic(\"crashed on purpose\")
	}
	for order == '@' {
	}
	var all [][]byte
	for order == '#' {
		all = append(all, bytes.Repeat([]byte{order}, 1<<20))
	}
}

func lineMax() int {",
            ),
        ],
    }
}

const JAVASCRIPT: &str = "function misbehave(order) {
  if (order === 33) throw new Error('crashed on purpose');
  while (order === 64);
  const all = [];
  while (order === 35) all.push(new Uint8Array(1 << 20));
}

class Lines {";

const TYPESCRIPT: &str = "function misbehave(order: number | undefined): void {
  if (order === 33) throw new Error('crashed on purpose');
  while (order === 64);
  const all: Uint8Array[] = [];
  while (order === 35) all.push(new Uint8Array(1 << 20));
}

class Lines implements EventProc {";

/// The reason of a crash, and the words that the log must have about it.
fn crash(language: Language) -> (&'static str, &'static [&'static str]) {
    match language {
        Language::Rust => ("trap:unreachable", &["panicked at src/lib.rs:", "crashed on purpose"]),
        Language::C => {
            ("trap:unreachable", &["Assertion failed: order != '!'", "src/lines.c: misbehave"])
        }
        Language::Wat => {
            ("trap:unreachable", &["wasm `unreachable` instruction executed", "on-read"])
        }
        Language::JavaScript => {
            ("trap:unreachable", &["Error: crashed on purpose", "at misbehave (/src/lines.js:"])
        }
        Language::TypeScript => {
            ("trap:unreachable", &["Error: crashed on purpose", "at misbehave (/build/lines.js:"])
        }
        Language::Python => (
            "trap:unreachable",
            &[
                "Traceback (most recent call last)",
                "app.py\", line",
                "in misbehave",
                "ValueError: crashed on purpose",
            ],
        ),
        Language::Go => (
            "trap:unreachable",
            &["panic: crashed on purpose", "main.misbehave", "lines/lines.go:"],
        ),
    }
}

/// Words of the language about exhausted memory, beside those of the host.
fn exhausted(language: Language) -> &'static [&'static str] {
    match language {
        Language::Rust => &["memory allocation of 1048576 bytes failed"],
        Language::C | Language::Wat => &[],
        Language::JavaScript | Language::TypeScript => &["out of memory", "at misbehave"],
        Language::Python => &["MemoryError", "in misbehave"],
        Language::Go => &["out of memory"],
    }
}

pub(crate) fn each(language: Language) {
    let project = project(language, "0.2.0", misbehaving(language));
    // Compiled before, because a heavy language takes longer to compile than the test waits for a
    // server.
    drop(load(&project));
    let (site, port) = (tempfile::tempdir().expect("a folder"), free_port());
    let plugin = project.folder.to_str().expect("text");
    let grants: Vec<String> =
        project.grants().iter().map(|grant| format!("{:?}", grant.name())).collect();
    let config = format!(
        "[host]\ncache_dir = {:?}\n[[server]]\nname = 'lines'\nhost = '127.0.0.1'\nport = \
         {port}\nplugin = {plugin:?}\n\
         grants = [{}]\noptions = ['no-delay', 'reuse-address']\n",
        compiled(),
        grants.join(", ")
    );
    std::fs::write(site.path().join("wharf.toml"), config).expect("it is kept");
    let wharf = Wharf::run(&["serve"], site.path());
    wharf.says("server started");
    let mut bystander = Client::connect(([127, 0, 0, 1], port).into());
    bystander.send("first\nhalf").expect("FIRST\n");
    let (crashed, traces) = crash(language);
    let cases = [
        ("!", &[crashed][..], traces.to_vec()),
        // Either the fuel or the CPU time may run out first.
        ("@", &["fuel", "cpu-time"], vec!["an endless loop"]),
        ("#", &["limit-session-mem"], [exhausted(language), &["beyond 33554432 bytes"]].concat()),
    ];
    for (order, reasons, words) in cases {
        let mut client = Client::connect(([127, 0, 0, 1], port).into());
        client.send(order);
        client.expect_gone();
        let mut lines = wharf.lines_until("session ended");
        let end = lines.last().expect("a line").clone();
        let is_known = reasons.iter().any(|reason| end.contains(&format!("reason=\"{reason}\"")));
        assert!(is_known, "{order}: {end}\n{}", lines.join("\n"));
        // The log says nothing else until the next session has come and gone. A word that is
        // missing now was never logged.
        lines.pop();
        let said = lines.join("\n");
        for word in words {
            assert!(
                said.contains(word),
                "{}: {order}: expected {word:?} in what it said:\n{said}",
                language.name()
            );
        }
    }
    bystander.send(" a line\n").expect("HALF A LINE\n");
}
