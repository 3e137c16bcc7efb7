//! Ratchets of prose and names: words that a stranger would stumble over, wide lines, long
//! paragraphs, long names of tests, and public types that share a name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use wharf_tests::sources::tests_of;

/// Columns of a line.
const COLUMNS_MAX: usize = 100;
/// Wider lines of code: texts that must stay whole, such as a key or a metric with its labels.
const WIDE_LINES_MAX: usize = 6;
/// Characters of a table's cell, without the targets of its links.
const CELL_MAX: usize = 120;
/// Lines of a paragraph.
const PARAGRAPH_MAX: usize = 5;
/// Words of a test's name.
const NAME_WORDS_MAX: usize = 8;

/// Words that no comment has, and why not: the first ones name no actor, the others are private
/// words for things that have a name in docs/glossary.md.
const BANNED: [&str; 18] = [
    "whoever",
    "whomever",
    "whatever",
    "nobody",
    "somebody",
    "anybody",
    "everybody",
    "no one",
    "newcomer",
    "newcomers",
    "heir",
    "elder",
    "keepsake",
    "baggage",
    "traveller",
    "usher",
    "turnstile",
    "successor",
];

/// Pages that are made from other texts.
const GENERATED: [&str; 1] = ["docs/contract.md"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project").to_owned()
}

fn files(folder: &Path, end: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        let skipped = path.file_name().is_some_and(|name| {
            ["target", "released", "node_modules"].iter().any(|folder| name == *folder)
        });
        if path.is_dir() && !skipped {
            files(&path, end, found);
        } else if path.extension().is_some_and(|extension| extension == end) {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for folder in ["host/src", "host/tests", "host/benches", "host/examples", "plugin-sdk/src"] {
        files(&root().join(folder), "rs", &mut found);
    }
    for folder in ["plugins", "tests/src", "tests/tests", "tests/unruly"] {
        files(&root().join(folder), "rs", &mut found);
    }
    read(found)
}

fn pages() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    files(&root().join("docs"), "md", &mut found);
    for page in ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "fuzz/README.md"] {
        found.push(root().join(page));
    }
    found.retain(|page| !GENERATED.iter().any(|generated| page.ends_with(generated)));
    read(found)
}

fn read(files: Vec<PathBuf>) -> Vec<(PathBuf, String)> {
    files
        .into_iter()
        .map(|file| {
            let text = fs::read_to_string(&file)
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            (file, text)
        })
        .collect()
}

/// The first banned word of a text, without its code in backticks.
fn banned(text: &str) -> Option<&'static str> {
    let prose: String = text.split('`').step_by(2).collect::<Vec<_>>().join("`").to_lowercase();
    BANNED.into_iter().find(|word| {
        prose.match_indices(word).any(|(at, _)| {
            let before = prose[..at].chars().next_back();
            let after = prose[at + word.len()..].chars().next();
            let is_letter = |one: Option<char>| one.is_some_and(|one| one.is_alphanumeric());
            !is_letter(before) && !is_letter(after)
        })
    })
}

fn comment(line: &str) -> Option<&str> {
    let line = line.trim_start();
    ["///", "//!", "// "].iter().find_map(|start| line.strip_prefix(start))
}

#[test]
fn comments_use_no_banned_words() {
    let mut wrong = Vec::new();
    for (file, text) in sources().iter().filter(|(file, _)| !file.ends_with("tests/prose.rs")) {
        for (at, line) in text.lines().enumerate() {
            if let Some(word) = comment(line).and_then(banned) {
                wrong.push(format!("{}:{}: `{word}`", file.display(), at + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn lines_of_code_are_narrow() {
    let mut wide = Vec::new();
    for (file, text) in sources() {
        for (at, line) in text.lines().enumerate() {
            if line.chars().count() > COLUMNS_MAX {
                wide.push(format!("{}:{}", file.display(), at + 1));
            }
        }
    }
    assert!(wide.len() <= WIDE_LINES_MAX, "{} wide lines:\n{}", wide.len(), wide.join("\n"));
}

/// A link without its target.
fn without_targets(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        shown.push_str(before);
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    shown + rest
}

#[test]
fn pages_can_be_skimmed() {
    let mut wrong = Vec::new();
    for (file, text) in pages() {
        let (mut is_code, mut lines) = (false, 0);
        for (at, line) in text.lines().enumerate() {
            let mut tell = |what: String| {
                wrong.push(format!("{}:{}: {what}", file.display(), at + 1));
            };
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
            }
            let is_row = line.starts_with('|');
            let is_indented = line.starts_with("    ");
            if is_code || line.starts_with("```") || is_indented {
                lines = 0;
                continue;
            }
            if let Some(word) = banned(line) {
                tell(format!("`{word}`"));
            }
            if is_row {
                let cells = line.split('|').map(|cell| without_targets(cell.trim()));
                if cells.into_iter().any(|cell| cell.chars().count() > CELL_MAX) {
                    tell(format!("a cell of more than {CELL_MAX} characters"));
                }
            } else if line.chars().count() > COLUMNS_MAX {
                tell(format!("more than {COLUMNS_MAX} columns"));
            }
            let starts = line.trim_start();
            let is_item = ["- ", "* ", "|", "#", ">"].iter().any(|start| starts.starts_with(start))
                || starts.split_once(". ").is_some_and(|(number, _)| number.parse::<u8>().is_ok());
            lines = if line.trim().is_empty() || is_row {
                0
            } else if is_item {
                1
            } else {
                lines + 1
            };
            if lines == PARAGRAPH_MAX + 1 {
                tell(format!("a paragraph of more than {PARAGRAPH_MAX} lines"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_of_tests_are_short() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (file, text) in sources() {
        for name in tests_of(&text) {
            seen += 1;
            if name.split('_').count() > NAME_WORDS_MAX {
                wrong.push(format!("{}: {name}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 700, "only {seen} tests were found");
}

#[test]
fn public_types_have_names_of_their_own() {
    let mut homes = BTreeMap::<String, Vec<String>>::new();
    for (file, text) in sources() {
        let Ok(inside) = file.strip_prefix(root().join("host/src")) else { continue };
        for line in text.lines() {
            let line = line.trim_start();
            let kinds = ["pub struct ", "pub enum ", "pub trait ", "pub type ", "pub union "];
            if let Some(rest) = kinds.iter().find_map(|kind| line.strip_prefix(kind)) {
                let name: String = rest.chars().take_while(|one| one.is_alphanumeric()).collect();
                homes.entry(name).or_default().push(inside.display().to_string());
            }
        }
    }
    assert!(homes.len() > 150, "only {} public types were found", homes.len());
    let shared: Vec<_> = homes.iter().filter(|(_, homes)| homes.len() > 1).collect();
    assert!(shared.is_empty(), "{shared:#?}");
}

/// Whether a file, or a file of a folder, declares a type of this name.
fn declares(place: &Path, name: &str) -> bool {
    let mut found = Vec::new();
    if place.is_dir() {
        files(place, "rs", &mut found);
    } else {
        found.push(place.to_owned());
    }
    let is_declaration = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        words.windows(2).any(|pair| {
            let end = pair[1].find(|one: char| !one.is_alphanumeric() && one != '_');
            ["struct", "enum", "trait", "type"].contains(&pair[0])
                && &pair[1][..end.unwrap_or(pair[1].len())] == name
        })
    };
    read(found).iter().any(|(_, text)| {
        text.lines().any(|line| !line.trim_start().starts_with("//") && is_declaration(line))
    })
}

/// Files, folders and types that the glossary names, below `host/src` or the project. A type is in
/// one of the places that its row names.
#[test]
fn glossary_names_files_and_types_that_exist() {
    let page = fs::read_to_string(root().join("docs/glossary.md")).expect("the glossary");
    let (mut wrong, mut paths, mut types) = (Vec::new(), 0, 0);
    for row in page.lines().filter(|line| line.starts_with('|')) {
        let cell = row.trim_end_matches(['|', ' ']).rsplit('|').next().unwrap_or_default();
        let is_path = |text: &&str| text.contains('/') || text.ends_with(".rs");
        let (named, names): (Vec<_>, Vec<_>) =
            cell.split('`').skip(1).step_by(2).partition(is_path);
        let mut places = Vec::new();
        for path in &named {
            let bases = [root().join("host/src"), root()];
            match bases.into_iter().map(|base| base.join(path)).find(|place| place.exists()) {
                Some(place) => places.push(place),
                None => wrong.push((*path).to_owned()),
            }
        }
        paths += named.len();
        // A cell without a place explains words, and its code is no type of the row.
        for name in names.into_iter().filter(|_| !named.is_empty()) {
            if !places.iter().any(|place| declares(place, name)) {
                wrong.push(format!("{named:?} without {name}"));
            }
            types += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(paths > 100, "only {paths} paths were found");
    assert!(types > 50, "only {types} types were found");
}
