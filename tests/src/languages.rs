//! Projects of `wharf new`, built by their own command, once for each content.

use std::collections::HashMap;
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use wharf::authoring::{self, Language};
use wharf::plugin::{Grants, Manifest};

use crate::guests::wharf_binary;

/// The name of every project here.
const NAME: &str = "lines";

/// Programs that a language's build needs.
#[must_use]
pub fn tools(language: Language) -> &'static [&'static str] {
    match language {
        Language::Rust => &["cargo"],
        Language::C => &["zig"],
        Language::Wat => &[],
        Language::JavaScript => &["componentize-qjs"],
        Language::TypeScript => &["componentize-qjs", "esbuild", "tsc"],
        Language::Python => &["componentize-py"],
        Language::Go => &["go"],
    }
}

/// The first missing program of a language. `tests/toolchains.sh` installs all of them.
#[must_use]
pub fn missing(language: Language) -> Option<&'static str> {
    let path = path();
    let is_there =
        |tool: &str| std::env::split_paths(&path).any(|folder| folder.join(tool).exists());
    tools(language).iter().copied().find(|tool| !is_there(tool))
}

/// The target folder of this build.
#[must_use]
pub fn target() -> PathBuf {
    let own = std::env::current_exe().expect("the program's own path");
    let profile = own
        .ancestors()
        .skip(1)
        .find(|folder| folder.ends_with("debug") || folder.ends_with("release"));
    profile.and_then(Path::parent).expect("the target folder").to_owned()
}

/// The folder that keeps compiled components between runs: Python's takes half a minute to compile.
#[must_use]
pub fn compiled() -> PathBuf {
    target().join("languages/compiled")
}

/// The search path for programs: the folder of `tests/toolchains.sh`, then the usual path.
fn path() -> OsString {
    let own = target().join("toolchains/bin");
    let usual = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths([own].into_iter().chain(std::env::split_paths(&usual))).expect("folders")
}

/// A change to a project's main file: texts that occur once, each with its replacement.
pub type Change = &'static [(&'static str, &'static str)];

/// A built project.
#[derive(Clone)]
pub struct Project {
    /// Its language.
    pub language: Language,
    /// Its folder.
    pub folder: PathBuf,
    /// The project's manifest.
    pub manifest: Manifest,
    /// How long the build took. `None` if an earlier run built it.
    pub build: Option<Duration>,
}

impl Project {
    /// The grants that the project's plugin.toml asks for.
    #[must_use]
    pub fn grants(&self) -> Grants {
        self.manifest.grants.iter().copied().collect()
    }
}

/// Makes the project of a language as `wharf new` does, with this version and this change, and
/// builds it. Panics if the build fails.
#[must_use]
pub fn project(language: Language, version: &str, change: Change) -> Project {
    type Key = (Language, String, Change);
    static BUILT: Mutex<Option<HashMap<Key, Project>>> = Mutex::new(None);
    // One build after the other, because each keeps the machine busy.
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (language, version.to_owned(), change);
    built
        .get_or_insert_default()
        .entry(key)
        .or_insert_with(|| build(language, version, change))
        .clone()
}

fn build(language: Language, version: &str, change: Change) -> Project {
    let scratch =
        target().join("languages/new").join(format!("{}-{}", language.name(), std::process::id()));
    forget(&target().join("languages/new"), |name| {
        // The folder of a process that has ended, or of an earlier one with this process's id.
        let process = name.rsplit_once('-').map_or("", |(_, process)| process);
        process == std::process::id().to_string() || !Path::new("/proc").join(process).exists()
    });
    std::fs::create_dir_all(&scratch).expect("a folder");
    authoring::create(&scratch.join(NAME), language).expect("it is written");
    edit(&scratch.join(NAME).join(language.source()), change);
    let manifest =
        std::fs::read_to_string(scratch.join(NAME).join("plugin.toml")).expect("a manifest");
    let manifest = manifest.replace("version = \"0.1.0\"", &format!("version = \"{version}\""));
    std::fs::write(scratch.join(NAME).join("plugin.toml"), manifest).expect("it is kept");

    // The folder's name depends on the project's content, so that a second run finds it built.
    let kind = format!(
        "{}-{version}-{}-",
        language.name(),
        if change.is_empty() { "new" } else { "changed" }
    );
    let own = format!("{kind}{:016x}", content(&scratch, language));
    let folder = target().join("languages").join(&own);
    let (project, mut took) = (folder.join(NAME), None);
    if !folder.join("built").exists() {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::rename(&scratch, &folder).expect("a place of its own");
        let start = Instant::now();
        run_build(&project);
        took = Some(start.elapsed());
        std::fs::write(folder.join("built"), "").expect("it is marked");
        // Only the newest project of each language and kind is kept.
        forget(&target().join("languages"), |name| name.starts_with(&kind) && name != own);
    }
    let _ = std::fs::remove_dir_all(&scratch);
    let manifest = Manifest::read(&project).expect("a manifest");
    Project { language, folder: project, manifest, build: took }
}

/// Removes the entries of a folder for which `is_meant` is true.
fn forget(folder: &Path, is_meant: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if is_meant(&entry.file_name().to_string_lossy()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Builds a project by `wharf build`, as an author does.
pub fn run_build(folder: &Path) {
    let output = Command::new(wharf_binary())
        .arg("build")
        .arg(folder)
        .env("PATH", path())
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} does not build:\n{said}", folder.display());
}

/// A command with the toolchains on its path.
#[must_use]
pub fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", path());
    command
}

fn edit(file: &Path, change: Change) {
    let mut text = std::fs::read_to_string(file).expect("a source");
    for (before, after) in change {
        assert_eq!(text.matches(before).count(), 1, "{}: {before}", file.display());
        text = text.replace(before, after);
    }
    std::fs::write(file, text).expect("it is kept");
}

/// A hash of all files of a folder, and of the paths of its tools.
fn content(folder: &Path, language: Language) -> u64 {
    let mut hasher = DefaultHasher::new();
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    for file in files {
        (file.strip_prefix(folder).expect("inside"), std::fs::read(&file).expect("a file"))
            .hash(&mut hasher);
    }
    for tool in tools(language) {
        let found = std::env::split_paths(&path())
            .map(|folder| folder.join(tool))
            .find(|file| file.exists());
        found.and_then(|file| file.canonicalize().ok()).hash(&mut hasher);
    }
    hasher.finish()
}
