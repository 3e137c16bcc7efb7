//! At most two files of the host import each other, and no two folders do. Each import is followed
//! to the file that defines the item, through re-exports. The test prints longer cycles.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The largest group of files that reach each other by imports.
const FILES_MAX: usize = 2;

/// A module's path from the root of the crate, such as `rollout::publish`.
type Module = Vec<String>;

/// One source file.
#[derive(Default)]
struct Source {
    /// Names that the file defines.
    items: BTreeSet<String>,
    /// Names that the file re-exports, with the paths that they stand for.
    exports: BTreeMap<String, Vec<String>>,
    /// Paths whose every name the file re-exports.
    globs: Vec<Vec<String>>,
    /// Paths that the file's code names.
    paths: Vec<Vec<String>>,
}

/// The modules of a crate.
struct Crate(BTreeMap<Module, Source>);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/src")
}

/// The text without comments, texts, and what is compiled for tests alone.
fn bare(text: &str) -> String {
    let mut bare = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if next == '"' {
            let mut end = 1;
            let bytes = rest.as_bytes();
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            bare.push_str("\"\"");
            rest = &rest[(end + 1).min(rest.len())..];
        } else if rest.starts_with("r#\"") {
            let end = rest.find("\"#").map_or(rest.len(), |end| end + 2);
            rest = &rest[end..];
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            rest = &rest[rest[1..].find('\'').map_or(1, |end| end + 2)..];
        } else {
            bare.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    without_tests(&bare)
}

/// Cuts out what is compiled for tests or for documents alone: an item up to its `;` or its closing
/// brace.
fn without_tests(text: &str) -> String {
    let text = without(text, "#[cfg(doc)]");
    let text = without(&text, "#[cfg(any(test, feature = \"\"))]");
    without(&text, "#[cfg(test)]")
}

fn without(text: &str, mark: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(mark) {
        kept.push_str(&rest[..at]);
        rest = &rest[at + mark.len()..];
        let (mut depth, mut end) = (0_usize, rest.len());
        for (at, character) in rest.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && (character == ';' || character == '}') {
                end = at + 1;
                break;
            }
        }
        rest = &rest[end..];
    }
    kept + rest
}

/// Expands `a::{b, c::d as e, f::*}` to its paths, each with the name that it gets.
fn expand(tree: &str, before: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let tree = tree.trim();
    if let Some(open) = tree.find('{') {
        let mut path = before.to_vec();
        path.extend(segments(tree[..open].trim_end_matches("::")));
        let inner = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
        let (mut depth, mut start) = (0_usize, 0);
        for (at, character) in inner.char_indices().chain([(inner.len(), ',')]) {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    expand(&inner[start..at], &path, found);
                    start = at + 1;
                }
                _ => {}
            }
        }
        return;
    }
    if tree.is_empty() {
        return;
    }
    let (path, name) = tree.split_once(" as ").unwrap_or((tree, ""));
    let mut whole = before.to_vec();
    whole.extend(segments(path));
    if whole.last().is_some_and(|last| last == "self") {
        whole.pop();
    }
    let name = match name.trim() {
        "" => whole.last().cloned().unwrap_or_default(),
        name => name.to_owned(),
    };
    found.push((whole, name));
}

fn segments(path: &str) -> impl Iterator<Item = String> {
    path.split("::").map(|segment| segment.trim().to_owned()).filter(|segment| !segment.is_empty())
}

fn is_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

impl Source {
    fn of(text: &str) -> Self {
        let text = bare(text);
        let mut source = Self::default();
        let mut code = String::new();
        let mut rest = text.as_str();
        // Imports and re-exports.
        while let Some((before, after)) = next_use(rest) {
            code.push_str(before);
            let (tree, tail) = after.split_once(';').unwrap_or((after, ""));
            let exported = before.trim_end().ends_with("pub") || before.trim_end().ends_with(')');
            let mut found = Vec::new();
            expand(tree, &[], &mut found);
            for (path, name) in found {
                match (exported, name.as_str()) {
                    (true, "*") => source.globs.push(path[..path.len() - 1].to_vec()),
                    (true, _) => drop(source.exports.insert(name, path)),
                    (false, "*") => source.paths.push(path[..path.len() - 1].to_vec()),
                    (false, _) => source.paths.push(path),
                }
            }
            rest = tail;
        }
        code.push_str(rest);
        source.define(&code);
        source.name(&code);
        source
    }

    fn define(&mut self, code: &str) {
        let words: Vec<_> = code
            .split(|character: char| !is_name(character))
            .filter(|word| !word.is_empty())
            .collect();
        for pair in words.windows(2) {
            let kinds = [
                "fn",
                "struct",
                "enum",
                "trait",
                "type",
                "const",
                "static",
                "macro_rules",
                "union",
            ];
            if kinds.contains(&pair[0]) {
                self.items.insert(pair[1].to_owned());
            }
        }
    }

    /// Paths in the middle of code.
    fn name(&mut self, code: &str) {
        let mut rest = code;
        while let Some(at) = rest.find("::") {
            let start = rest[..at].rfind(|character| !is_name(character)).map_or(0, |at| at + 1);
            let mut end = at;
            while rest[end..].starts_with("::") {
                let more = rest[end + 2..].find(|character| !is_name(character));
                let more = more.map_or(rest.len(), |more| end + 2 + more);
                if more == end + 2 {
                    break;
                }
                end = more;
            }
            let path: Vec<_> = segments(&rest[start..end]).collect();
            if path.len() > 1 {
                self.paths.push(path);
            }
            rest = &rest[end.max(at + 2)..];
        }
    }
}

/// The text before and after the next `use`.
fn next_use(text: &str) -> Option<(&str, &str)> {
    let mut from = 0;
    loop {
        let at = from + text[from..].find("use ")?;
        let before = text[..at].chars().next_back();
        if before.is_none_or(|character| !is_name(character)) {
            return Some((&text[..at], &text[at + 4..]));
        }
        from = at + 4;
    }
}

impl Crate {
    fn read(root: &Path) -> Self {
        let mut sources = BTreeMap::new();
        read_folder(root, &mut Vec::new(), &mut sources);
        Self(sources)
    }

    /// The file that defines what a path names, seen from a module.
    fn resolve(&self, from: &Module, path: &[String], depth: usize) -> Option<Module> {
        if depth > 8 {
            return None;
        }
        let (mut at, mut rest) = match path.first()?.as_str() {
            "crate" => (Vec::new(), &path[1..]),
            "self" => (from.clone(), &path[1..]),
            "super" => {
                let mut at = from.clone();
                let ups = path.iter().take_while(|segment| *segment == "super").count();
                at.truncate(at.len().checked_sub(ups)?);
                (at, &path[ups..])
            }
            first => {
                let mut child = from.clone();
                child.push(first.to_owned());
                if self.0.contains_key(&child) {
                    (child, &path[1..])
                } else {
                    // A name that the file imported; the import counts.
                    return None;
                }
            }
        };
        while let Some(segment) = rest.first() {
            let mut child = at.clone();
            child.push(segment.clone());
            if self.0.contains_key(&child) {
                (at, rest) = (child, &rest[1..]);
                continue;
            }
            let source = self.0.get(&at)?;
            if source.items.contains(segment) {
                return Some(at);
            }
            if let Some(target) = source.exports.get(segment) {
                return self.resolve(&at, target, depth + 1);
            }
            return source.globs.iter().find_map(|glob| {
                let whole: Vec<_> = glob.iter().chain([segment]).cloned().collect();
                self.resolve(&at, &whole, depth + 1)
            });
        }
        // A module as such: its items are named through it.
        None
    }

    fn imports(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let of = |(module, source): (&'_ Module, &'_ Source)| -> BTreeSet<Module> {
            let modules: Vec<_> =
                source.paths.iter().filter_map(|path| self.module(module, path)).collect();
            let direct = source.paths.iter().filter_map(|path| self.resolve(module, path, 0));
            // `use super::x;` and then `x::item`.
            let through = source.paths.iter().flat_map(|path| {
                modules.iter().filter_map(move |other| {
                    (other.last() == path.first())
                        .then(|| self.resolve(other, &prefixed(path), 0))
                        .flatten()
                })
            });
            direct.chain(through).filter(|other| other != module).collect()
        };
        self.0.iter().map(|entry| (entry.0, of(entry))).collect()
    }

    /// The module that a path names, if it names one.
    fn module(&self, from: &Module, path: &[String]) -> Option<Module> {
        let mut at = match path.first()?.as_str() {
            "crate" => Vec::new(),
            "self" | "super" => from.clone(),
            _ => return None,
        };
        for segment in path {
            match segment.as_str() {
                "crate" | "self" => {}
                "super" => drop(at.pop()?),
                name => at.push(name.to_owned()),
            }
        }
        (self.0.contains_key(&at) && at != *from).then_some(at)
    }
}

/// `x::item` as `self::item`, for the module `x`.
fn prefixed(path: &[String]) -> Vec<String> {
    [&["self".to_owned()], &path[1..]].concat()
}

fn read_folder(folder: &Path, module: &mut Module, sources: &mut BTreeMap<Module, Source>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            module.push(name);
            read_folder(&path, module, sources);
            module.pop();
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            let own = match name.as_str() {
                "mod" | "lib" => module.clone(),
                _ => [module.as_slice(), &[name]].concat(),
            };
            sources.insert(own, Source::of(&text));
        }
    }
    // What is compiled for tests alone is no part of the order.
    sources.retain(|module, _| {
        !module
            .iter()
            .any(|part| ["simulation", "sim_env", "tests", "test_support"].contains(&part.as_str()))
    });
}

/// Groups of modules that reach each other, largest first.
fn cycles<'a>(imports: &BTreeMap<&'a Module, BTreeSet<Module>>) -> Vec<Vec<&'a Module>> {
    let reach = |start: &Module| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![start.clone()]);
        while let Some(module) = next.pop() {
            for other in imports.get(&module).into_iter().flatten() {
                if seen.insert(other.clone()) {
                    next.push(other.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<_, _> = imports.keys().map(|module| (*module, reach(module))).collect();
    let mut groups = Vec::<Vec<&Module>>::new();
    for module in imports.keys() {
        if groups.iter().any(|group| group.contains(module)) || !reached[module].contains(*module) {
            continue;
        }
        let group = imports
            .keys()
            .filter(|other| reached[module].contains(**other) && reached[*other].contains(*module));
        groups.push(group.copied().collect());
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    groups
}

fn show(group: &[&Module], imports: &BTreeMap<&Module, BTreeSet<Module>>) -> String {
    group
        .iter()
        .map(|module| {
            let others: Vec<_> = group
                .iter()
                .filter(|other| imports[*module].contains(**other))
                .map(|other| other.join("::"))
                .collect();
            format!("  {} imports {}", module.join("::"), others.join(", "))
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn no_three_files_import_each_other() {
    let sources = Crate::read(&root());
    let imports = sources.imports();
    assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 500, "too few imports were found");
    let long: Vec<_> =
        cycles(&imports).into_iter().filter(|group| group.len() > FILES_MAX).collect();
    let shown: Vec<_> = long
        .iter()
        .map(|group| format!("{} files:\n{}", group.len(), show(group, &imports)))
        .collect();
    assert!(long.is_empty(), "{}", shown.join("\n"));
}

/// The imports between folders. A file at the root counts as a folder of its own.
fn of_folders(imports: &BTreeMap<&Module, BTreeSet<Module>>) -> BTreeMap<Module, BTreeSet<Module>> {
    let folder = |module: &Module| -> Module { module.iter().take(1).cloned().collect() };
    let mut folders = BTreeMap::<Module, BTreeSet<Module>>::new();
    for (module, others) in imports {
        // The root names every folder, and none imports the root.
        let others = others.iter().map(folder).filter(|other| !other.is_empty());
        let own = folder(module);
        folders.entry(own.clone()).or_default().extend(others.filter(|other| *other != own));
    }
    folders.remove(&Module::new());
    folders
}

#[test]
fn folders_import_each_other_one_way() {
    let sources = Crate::read(&root());
    let imports = sources.imports();
    let folders = of_folders(&imports);
    let folders: BTreeMap<_, _> = folders.iter().map(|(folder, of)| (folder, of.clone())).collect();
    assert!(folders.len() > 15, "only {} folders were found", folders.len());
    let shown: Vec<_> = cycles(&folders).iter().map(|group| show(group, &folders)).collect();
    assert!(shown.is_empty(), "folders in cycles:\n{}", shown.join("\n\n"));
}
