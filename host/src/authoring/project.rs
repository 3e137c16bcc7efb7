//! Projects to start from: a whole plugin in a language, with its build, its test, and its save and
//! restore. Each can be served at once.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::templates;

/// Longest name of a project, in bytes.
const NAME_MAX_BYTES: usize = 64;

/// A language with a project to start from. Exhaustive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Language {
    /// Compiled for `wasm32-wasip2`.
    Rust,
    /// Compiled by Zig's C compiler.
    C,
    /// WebAssembly text, written by hand.
    Wat,
    /// Runs in QuickJS.
    JavaScript,
    /// Type-checked; runs in QuickJS.
    TypeScript,
    /// Runs in CPython.
    Python,
    /// Compiled for `wasip1`.
    Go,
}

impl Language {
    /// All languages.
    pub const ALL: [Self; 7] = [
        Self::Rust,
        Self::C,
        Self::Wat,
        Self::JavaScript,
        Self::TypeScript,
        Self::Python,
        Self::Go,
    ];

    /// The language's name on the command line, which its page has too.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::C => "c",
            Self::Wat => "wat",
            Self::JavaScript => "javascript",
            Self::TypeScript => "typescript",
            Self::Python => "python",
            Self::Go => "go",
        }
    }

    /// The file with the plugin's code, relative to the project.
    #[must_use]
    pub fn source(self) -> &'static str {
        match self {
            Self::Rust => "src/lib.rs",
            Self::C => "src/lines.c",
            Self::Wat => "src/lines.wat",
            Self::JavaScript => "src/lines.js",
            Self::TypeScript => "src/lines.ts",
            Self::Python => "src/app.py",
            Self::Go => "lines.go",
        }
    }
}

/// Why no project was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectError {
    /// The name does not suit every language.
    #[error(
        "{}: expected a folder whose own name has 1 to {NAME_MAX_BYTES} small letters, digits and \
         hyphens, begins with a letter and does \
         not end with a hyphen, found `{name}`", .folder.display()
    )]
    Name {
        /// The folder.
        folder: PathBuf,
        /// The folder's own name. Empty if the path ends with none.
        name: String,
    },
    /// The language's tools have another use for the name.
    #[error("{}: the tools of {} have another use for the name `{name}`; expected another \
        name", .folder.display(), .language.name())]
    Reserved {
        /// The folder.
        folder: PathBuf,
        /// The language.
        language: Language,
        /// The folder's own name.
        name: String,
    },
    /// The folder exists already.
    #[error("{}: it is there already; `wharf new` writes into nothing that exists", .0.display())]
    Exists(PathBuf),
    /// A file could not be written.
    #[error("{}: cannot write it: {source}", .file.display())]
    Unwritable {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Writes a project into a new folder. The folder's own name becomes the plugin's name. If that
/// fails, the folders that this call made are removed again.
///
/// # Errors
/// [`ProjectError`].
pub fn create(folder: &Path, language: Language) -> Result<(), ProjectError> {
    let name =
        folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if !is_name(&name) {
        return Err(ProjectError::Name { folder: folder.into(), name });
    }
    if reserved(language).contains(&name.as_str()) {
        return Err(ProjectError::Reserved { folder: folder.into(), language, name });
    }
    // The uppermost folder that does not exist yet. After a failure, removal ends there.
    let above = folder.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
    let new = above.take_while(|above| fs::symlink_metadata(above).is_err()).last();
    let unwritable = |source| ProjectError::Unwritable { file: folder.into(), source };
    fs::create_dir_all(folder.parent().unwrap_or(Path::new(""))).map_err(unwritable)?;
    let made = fs::create_dir(folder).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => ProjectError::Exists(folder.into()),
        _ => unwritable(source),
    });
    let written = made.and_then(|()| {
        write_all(folder, language, &name).inspect_err(|_| {
            // A failed removal is ignored: the caller gets the first error.
            let _ = fs::remove_dir_all(folder);
        })
    });
    written.inspect_err(|_| {
        // Only empty folders are removed; another process may have put files into them.
        let Some(new) = new else { return };
        for above in folder.ancestors().skip(1).take_while(|above| above.starts_with(new)) {
            if fs::remove_dir(above).is_err() {
                break;
            }
        }
    })
}

fn write_all(folder: &Path, language: Language, name: &str) -> Result<(), ProjectError> {
    let all = templates::files(language);
    let grants = grants(&all);
    let wit_bindgen = workspace_dependency("wit-bindgen");
    for (path, text) in all {
        let text = text
            .replace("{{name}}", name)
            .replace("{{grants}}", &grants)
            .replace("{{version}}", env!("CARGO_PKG_VERSION"))
            .replace("{{wit-bindgen}}", &wit_bindgen);
        write(&folder.join(path), &text)?;
    }
    Ok(())
}

/// Names that a language's tools refuse for a project or use otherwise.
fn reserved(language: Language) -> &'static [&'static str] {
    match language {
        // The SDK in `vendor` belongs to the same workspace.
        Language::Rust => &["wharf-plugin"],
        _ => &[],
    }
}

fn write(file: &Path, text: &str) -> Result<(), ProjectError> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(file, text))
        .map_err(|source| ProjectError::Unwritable { file: file.into(), source })
}

/// Whether a name meets the rules of all package managers.
fn is_name(name: &str) -> bool {
    let fits = |character: char| {
        character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-'
    };
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.len() <= NAME_MAX_BYTES
        && !name.ends_with('-')
        && name.chars().all(fits)
}

/// The grants of the project's `plugin.toml`, as they are written there.
fn grants(files: &[templates::File]) -> String {
    let manifest = files
        .iter()
        .find(|(path, _)| *path == crate::plugin::MANIFEST_FILE)
        .map_or("", |(_, text)| text);
    let line = manifest.lines().find_map(|line| line.strip_prefix("grants = "));
    line.unwrap_or("[]").to_owned()
}

fn workspace_dependency(name: &str) -> String {
    let workspace: toml::Table = templates::WORKSPACE.parse().unwrap_or_default();
    let dependency =
        workspace.get("workspace").and_then(|table| table.get("dependencies")?.get(name)?.as_str());
    dependency.unwrap_or("*").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_suit_every_package_manager() {
        for good in ["a", "lines", "my-plugin-2"] {
            assert!(is_name(good), "{good}");
        }
        for bad in
            ["", "2nd", "My", "a_b", "a b", "-a", "a-", "ä", "a/b", &"a".repeat(NAME_MAX_BYTES + 1)]
        {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn every_project_is_whole_without_gaps() {
        let folder = std::env::temp_dir().join(format!("wharf-new-{}", std::process::id()));
        for language in Language::ALL {
            let project = folder.join(language.name()).join("my-lines");
            create(&project, language).expect("it is written");
            for (path, _) in templates::files(language) {
                let text = fs::read_to_string(project.join(path)).expect("every file");
                assert!(!text.contains("{{"), "{path} of {}", language.name());
            }
            for path in
                ["plugin.toml", "wharf.toml", "README.md", "transcript.txt", language.source()]
            {
                assert!(project.join(path).exists(), "{path} of {}", language.name());
            }
            assert!(matches!(create(&project, language), Err(ProjectError::Exists(_))));
        }
        fs::remove_dir_all(folder).expect("it was there");
    }

    #[test]
    fn failed_creation_leaves_nothing_behind() {
        let base = std::env::temp_dir().join(format!("wharf-new-none-{}", std::process::id()));
        fs::create_dir_all(&base).expect("a folder");
        std::os::unix::fs::symlink("nowhere", base.join("dangling")).expect("a link");
        assert!(matches!(
            create(&base.join("dangling"), Language::Wat),
            Err(ProjectError::Exists(_))
        ));
        fs::write(base.join("file"), "").expect("a file");
        assert!(matches!(
            create(&base.join("file/inner"), Language::Wat),
            Err(ProjectError::Unwritable { .. })
        ));
        for (name, language) in
            [("..", Language::Wat), ("A", Language::C), ("wharf-plugin", Language::Rust)]
        {
            let refused = create(&base.join("new/deep").join(name), language)
                .expect_err("no project")
                .to_string();
            assert!(refused.contains("new/deep"), "{refused}");
        }
        assert_eq!(fs::read_dir(&base).expect("a folder").count(), 2);
        create(&base.join("new/deep/mine"), Language::Wat).expect("folders above are made");
        fs::remove_dir_all(base).expect("it was there");
    }

    #[test]
    fn vendored_sdk_has_all_of_its_files() {
        let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-sdk/src");
        let files = templates::files(Language::Rust);
        for folder in ["", "testing/"] {
            for entry in fs::read_dir(sdk.join(folder)).expect("a folder") {
                let entry = entry.expect("an entry");
                let path = format!(
                    "vendor/plugin-sdk/src/{folder}{}",
                    entry.file_name().to_string_lossy()
                );
                assert!(
                    entry.path().is_dir() || files.iter().any(|(file, _)| *file == path),
                    "{path} is missing"
                );
            }
        }
    }

    #[test]
    fn vendored_sdk_uses_workspace_wit_bindgen() {
        assert!(workspace_dependency("wit-bindgen").starts_with("0."));
    }
}
