//! Each parser of foreign bytes has a check, and each check a fuzz target, a property test and
//! seeds.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where checks are listed as property tests, each with the name of its crate.
const TESTED: [(&str, &str); 4] = [
    ("wharf", "host/src/fuzzing/tests.rs"),
    ("http", "plugins/http/src/fuzzing.rs"),
    ("lines", "plugins/lines/src/fuzzing.rs"),
    ("chat", "plugins/chat/src/fuzzing.rs"),
];

/// Crate and check.
type Names = BTreeSet<(String, String)>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project").to_owned()
}

fn text(file: impl AsRef<Path>) -> String {
    let file = root().join(file);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn entries(folder: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(root().join(folder)).expect("a folder");
    all.map(|entry| entry.expect("an entry").path()).collect()
}

/// The last part of a path without its ending.
fn stem(path: &Path) -> String {
    path.file_stem().expect("a name").to_string_lossy().into_owned()
}

/// Checks that are run by `cargo test`: `check: name_of_the_test,`.
fn tested() -> Names {
    let mut names = Names::new();
    for (name, file) in TESTED {
        let text = text(file);
        let (_, list) = text.split_once("properties! {").expect("a list of checks");
        let (list, _) = list.split_once('}').expect("the end of the list");
        for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (check, _) = entry.split_once(':').expect("a check and its test");
            names.insert((name.to_owned(), check.to_owned()));
        }
    }
    names
}

/// Checks that targets run: `NAME::fuzzing::CHECK(bytes);`.
fn fuzzed() -> Names {
    let mut names = Names::new();
    for file in entries("fuzz/fuzz_targets") {
        let text = text(&file);
        assert!(text.starts_with("//!"), "{}: does not begin with `//!`", file.display());
        let call = text.lines().find_map(|line| line.trim().strip_suffix("(bytes);"));
        let (name, check) = call.and_then(|call| call.split_once("::fuzzing::")).expect("a call");
        assert_eq!(check, stem(&file), "a target is called as its check");
        names.insert((name.to_owned(), check.to_owned()));
    }
    names
}

/// Public functions in files called `fuzzing.rs`: all checks that there are.
fn checks() -> BTreeSet<String> {
    fn search(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                search(&path, found);
            } else if path.file_name().is_some_and(|name| name == "fuzzing.rs") {
                let text = fs::read_to_string(&path).expect("a source");
                let names = text.lines().filter_map(|line| line.strip_prefix("pub fn "));
                found.extend(names.map(|name| name.split('(').next().unwrap_or_default().into()));
            }
        }
    }
    let mut found = BTreeSet::new();
    for folder in ["host/src", "plugin-sdk/src", "plugins"] {
        search(&root().join(folder), &mut found);
    }
    found
}

#[test]
fn fuzz_targets_and_property_tests_agree() {
    let (tested, fuzzed) = (tested(), fuzzed());
    let untested: Vec<_> = fuzzed.difference(&tested).collect();
    let unfuzzed: Vec<_> = tested.difference(&fuzzed).collect();
    assert!(untested.is_empty(), "these targets have no property test: {untested:?}");
    assert!(unfuzzed.is_empty(), "these property tests have no target: {unfuzzed:?}");
    let tested: BTreeSet<_> = tested.into_iter().map(|(_, check)| check).collect();
    assert_eq!(checks(), tested, "each check has a property test");
}

#[test]
fn fuzz_targets_have_seeds_and_are_built() {
    let targets: BTreeSet<_> = fuzzed().into_iter().map(|(_, check)| check).collect();
    let seeds: BTreeSet<_> = entries("fuzz/seeds").iter().map(|folder| stem(folder)).collect();
    assert_eq!(seeds, targets, "fuzz/seeds has a folder for each target");
    let manifest = text("fuzz/Cargo.toml");
    let built = manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/"));
    let built: BTreeSet<String> =
        built.map(|line| line.trim_end_matches(".rs\"").to_owned()).collect();
    assert_eq!(built, targets, "fuzz/Cargo.toml names each target");
}
