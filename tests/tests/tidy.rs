//! Rules of the source tree:
//!
//! - which layer may import which, and where each outside crate is used;
//! - that files are short and begin by saying what they are;
//! - that documents name files, tests, reasons and codes that exist, and each reason and code.

#[path = "tidy/pages.rs"]
mod pages;

use std::fs;
use std::path::{Path, PathBuf};

use wharf_tests::released::{Promises, breaches, frozen, promises, promises_in};

/// The most lines of a file. A longer file has a second role.
const LINES_MAX: usize = 500;

/// Each layer, with the layers that it may import.
const LAYERS: [(&str, &[&str]); 18] = [
    ("work", &[]),
    ("event", &[]),
    ("admission", &[]),
    ("sched", &["event"]),
    ("telemetry", &["event"]),
    ("net", &["admission", "event", "files"]),
    ("oci", &["files", "net", "work"]),
    ("session", &["event", "net", "sched"]),
    ("plugin", &["event", "files", "sched", "telemetry", "work"]),
    ("authoring", &["event", "files", "plugin", "sched"]),
    (
        "rollout",
        &["admission", "event", "files", "oci", "plugin", "sched", "session", "telemetry", "work"],
    ),
    ("handover", &["admission", "event", "net", "session"]),
    (
        "service",
        &[
            "admission",
            "event",
            "net",
            "oci",
            "plugin",
            "rollout",
            "sched",
            "session",
            "telemetry",
            "work",
        ],
    ),
    (
        "server",
        &[
            "admission",
            "event",
            "files",
            "handover",
            "net",
            "oci",
            "plugin",
            "rollout",
            "sched",
            "serve",
            "service",
            "session",
            "telemetry",
            "work",
        ],
    ),
    ("servers", &["handover", "net", "plugin", "rollout", "server", "work"]),
    (
        "upgrade",
        &["event", "handover", "net", "rollout", "serve", "server", "servers", "session", "work"],
    ),
    (
        "control",
        &[
            "admission",
            "event",
            "files",
            "sched",
            "server",
            "servers",
            "span",
            "telemetry",
            "upgrade",
            "work",
        ],
    ),
    (
        "config",
        &[
            "admission",
            "control",
            "event",
            "files",
            "net",
            "oci",
            "plugin",
            "sched",
            "server",
            "servers",
            "session",
            "span",
            "upgrade",
        ],
    ),
];

/// Modules that all others may import: the taking of locks, and the generator of random numbers,
/// which is compiled for tests alone.
const FOR_ALL: [&str; 2] = ["locks", "rng"];

/// The only file of the host that takes a lock whose holder has panicked.
const LOCKS: &str = "locks.rs";

/// Outside crates that only one layer uses.
const HOMES: [(&str, &str); 30] = [
    ("wasmparser", "plugin"),
    ("tracing_appender", "cli"),
    ("wasi_preview1_component_adapter_provider", "authoring"),
    ("wat", "authoring"),
    ("wit_component", "authoring"),
    ("wit_parser", "authoring"),
    ("wasmtime", "plugin"),
    ("wasmtime_wasi", "plugin"),
    ("wasmtime_wasi_config", "plugin"),
    ("sha2", "plugin"),
    ("tokio_rustls", "net"),
    ("socket2", "net"),
    ("oci_client", "oci"),
    ("reqwest", "oci"),
    ("http_auth", "oci"),
    ("rustls_pki_types", "oci"),
    ("x509_parser", "net"),
    ("nix", "net"),
    ("ppp", "net"),
    ("ipnet", "admission"),
    ("axum", "control"),
    ("hyper", "control"),
    ("hyper_util", "control"),
    ("prometheus_client", "control"),
    ("clap", "cli"),
    ("clap_complete", "cli"),
    ("sd_notify", "cli"),
    ("anyhow", "cli"),
    ("notify", "cli"),
    ("tracing_subscriber", "cli"),
];

/// Files whose tests use an outside crate of another layer, to make components from text.
const FOR_TESTS: [(&str, &str); 3] = [
    ("wat", "plugin/trap.rs"),
    ("wat", "plugin/flat/structure/tests.rs"),
    ("wit_parser", "plugin/flat/derive/tests.rs"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project").to_owned()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn all_rust_files() -> Vec<PathBuf> {
    ["host", "plugin-sdk", "plugins", "tests"]
        .iter()
        .flat_map(|folder| rust_files(&root().join(folder)))
        .collect()
}

/// Code without comments, with line numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, line.split("//").next().unwrap_or_default()))
}

/// Whether `line` names `word` as the start of a path: `word::`.
fn names(line: &str, word: &str) -> bool {
    let path = format!("{word}::");
    line.match_indices(&path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|character| {
            !(character.is_alphanumeric() || character == '_' || character == ':')
        })
    })
}

#[test]
fn layers_import_only_what_lies_below_them() {
    let mut wrong = Vec::new();
    for (layer, allowed) in LAYERS {
        for file in rust_files(&root().join("host/src").join(layer)) {
            let text = fs::read_to_string(&file).expect("a source");
            let may = |name: &str| allowed.contains(&name) || FOR_ALL.contains(&name);
            for (at, line) in code(&text) {
                for (_, rest) in line
                    .match_indices("crate::")
                    .map(|(start, word)| line.split_at(start + word.len()))
                {
                    let name: String = rest
                        .chars()
                        .take_while(|character| character.is_alphanumeric() || *character == '_')
                        .collect();
                    if name != layer && !may(&name) {
                        wrong.push(format!("{}:{at}: `{layer}` imports `{name}`", file.display()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn outside_crates_stay_at_home() {
    let mut wrong = Vec::new();
    let host = root().join("host/src");
    for file in rust_files(&host) {
        let text = fs::read_to_string(&file).expect("a source");
        for (name, home) in HOMES {
            if file.starts_with(host.join(home))
                || FOR_TESTS.iter().any(|(one, at)| *one == name && file == host.join(at))
            {
                continue;
            }
            for (at, _) in code(&text).filter(|(_, line)| names(line, name)) {
                wrong.push(format!("{}:{at}: `{name}` lives in `{home}`", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn errors_between_modules_are_types() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for file in rust_files(&root().join("host/src")) {
        let text = fs::read_to_string(&file).expect("a source");
        let text: String = code(&text).map(|(_, line)| line.to_owned() + "\n").collect();
        for (at, _) in text.match_indices("fn ") {
            let start = text[..at].rfind([';', '{', '}', '\n']).map_or(0, |start| start + 1);
            let header = text[start..].split('{').next().unwrap_or_default();
            let header = header.split_whitespace().collect::<Vec<_>>().join(" ");
            let output = header.split_once("->").map_or("", |(_, output)| output);
            seen += usize::from(output.contains("Result<"));
            if header.starts_with("pub")
                && output.contains("Result<")
                && (output.contains(", String>") || output.contains(", String, >"))
            {
                wrong.push(format!("{}: {header}", file.display()));
            }
        }
    }
    assert!(seen > 300, "only {seen} functions with errors were found");
    assert!(wrong.is_empty(), "a `String` is no error:\n{}", wrong.join("\n"));
}

#[test]
fn one_file_takes_poisoned_locks() {
    let host = root().join("host/src");
    let takes = |file: &PathBuf| {
        *file != host.join(LOCKS)
            && fs::read_to_string(file).expect("a source").contains("PoisonError")
    };
    let wrong: Vec<_> = rust_files(&host).into_iter().filter(takes).collect();
    assert!(wrong.is_empty(), "use `crate::locks`: {wrong:?}");
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut wrong = Vec::new();
    for file in all_rust_files() {
        let text = fs::read_to_string(&file).expect("a source");
        if !text.starts_with("//!") {
            wrong.push(format!("{}: does not begin with `//!`", file.display()));
        }
        if text.lines().count() > LINES_MAX {
            wrong.push(format!("{}: over {LINES_MAX} lines", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn documents_name_files_that_exist() {
    let mut documents = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    for folder in ["docs", "docs/design", "docs/languages", "docs/operating"] {
        let all = fs::read_dir(root().join(folder))
            .expect("documents")
            .map(|entry| entry.expect("one").path());
        documents.extend(all.filter(|path| path.is_file()));
    }
    documents.extend(
        fs::read_dir(root().join("plugins"))
            .expect("plugins")
            .map(|entry| entry.expect("one").path().join("README.md")),
    );
    let mut wrong = Vec::new();
    for document in documents {
        let text = fs::read_to_string(&document)
            .unwrap_or_else(|error| panic!("{}: {error}", document.display()));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.starts_with("http") {
                continue;
            }
            if !document.parent().expect("a folder").join(path).exists() {
                wrong.push(format!("{}: names {path}, which does not exist", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn contract_page_matches_the_contract() {
    let page = fs::read_to_string(root().join("docs/contract.md")).expect("the page");
    assert!(page == wharf_tests::contract::page(), "run `cargo run -p wharf-tests --bin contract`");
}

#[test]
fn every_language_has_a_page() {
    for language in wharf::authoring::Language::ALL {
        let page = root().join(format!("docs/languages/{}.md", language.name()));
        let text =
            fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        assert!(
            text.contains(&format!("wharf new --lang {}", language.name())),
            "{}",
            page.display()
        );
    }
}

/// Each released contract, with the digest of its folder, which never changes.
const RELEASED: [(&str, &str); 1] =
    [("0.1.0", "389e1f55f3d0c959328c3a2d57ab708c3561d2bb9697ed6db4ed9008b317efa8")];

/// Paths and contents below a folder, in order.
fn contents(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    let mut entries: Vec<_> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("one").path()).collect();
    entries.sort();
    for path in entries {
        all.extend_from_slice(path.file_name().expect("a name").as_encoded_bytes());
        let content =
            if path.is_dir() { contents(&path) } else { fs::read(&path).expect("a file") };
        all.extend_from_slice(&(content.len() as u64).to_le_bytes());
        all.extend(content);
    }
    all
}

#[test]
fn released_contracts_never_change() {
    let folders = fs::read_dir(root().join("wit/released")).expect("the folder").count();
    assert_eq!(folders, RELEASED.len(), "each released contract has its digest here");
    for (version, digest) in RELEASED {
        assert_eq!(
            wharf::plugin::digest(&contents(&frozen(version))),
            digest,
            "wit/released/{version} was changed"
        );
    }
}

#[test]
fn contract_keeps_released_promises() {
    let now = promises_in(&root().join("wit"));
    for (version, _) in RELEASED {
        let breaches = breaches(&promises_in(&frozen(version)), &now);
        assert!(
            breaches.is_empty(),
            "{version}; add a new interface instead:\n{}",
            breaches.join("\n")
        );
    }
}

/// The promises of a contract's text. `None` if the text is no contract.
fn promised(text: &str) -> Option<Promises> {
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_str("contract.wit", text).ok()?;
    Some(promises(&resolve, package))
}

#[test]
fn changes_except_new_interfaces_are_breaches() {
    let text = wharf_tests::guests::contract();
    let released = promised(&text).expect("the contract");
    let lines: Vec<_> = text.lines().collect();
    let mut caught = 0;
    for (at, line) in lines.iter().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with("//") {
            continue;
        }
        // The contract without this line, with its first type changed, and with another function
        // after it.
        let changes =
            [String::new(), line.replacen("u32", "s32", 1), format!("{line} extra: func();")];
        for change in changes.iter().filter(|change| *change != line) {
            let changed = [&lines[..at], &[change.as_str()], &lines[at + 1..]].concat().join("\n");
            let Some(now) = promised(&changed) else { continue };
            assert!(!breaches(&released, &now).is_empty(), "line {}: {line} -> {change}", at + 1);
            caught += 1;
        }
    }
    assert!(caught > 60, "{caught} changes were tried");
    let export =
        text.replacen("export inet-event-proc;", "export inet-event-proc; export more;", 1);
    let import = text.replacen("import session;", "import session; import more;", 1);
    let more = "interface more { extra: func(); } world another { include plugin; export more; }";
    let with_more = |text: &str| {
        breaches(&released, &promised(&format!("{text}\n{more}")).expect("a contract"))
    };
    assert_eq!((with_more(&text), with_more(&import)), (vec![], vec![]));
    assert!(!with_more(&export).is_empty());
}
