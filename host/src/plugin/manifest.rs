//! The manifest: `plugin.toml` in a plugin's folder. The plugin's author writes it, and nothing in
//! it grants anything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::{Grant, UnknownGrantError};
use crate::event::{EXCERPT_MAX_BYTES, excerpt};
use crate::files;

/// Name of the manifest's file.
pub const MANIFEST_FILE: &str = "plugin.toml";

/// Largest manifest that is read.
const MANIFEST_MAX_BYTES: u64 = 64 << 10;

/// Contents of a plugin's manifest.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Folder of the manifest.
    pub folder: PathBuf,
    /// Name of the plugin, for people and logs.
    pub name: String,
    /// Version of the plugin, for people and logs.
    pub version: String,
    /// Description in one sentence.
    pub description: String,
    /// File of the component.
    pub component: PathBuf,
    /// Whether instances keep nothing in memory that a session needs later. If so, a fresh instance
    /// can continue a session.
    pub stateless: bool,
    /// Grants that the plugin needs. `wharf dev` gives these. A server gives the grants of its own
    /// configuration.
    pub grants: Vec<Grant>,
    /// How to build the component, if its source is in the folder.
    pub build: Option<Build>,
}

/// How to build a component.
#[derive(Debug, Clone)]
pub struct Build {
    /// Program and arguments, run in the folder. Contains at least the program.
    pub command: Vec<String>,
    /// Files and folders, relative to the folder, whose changes lead to a new build.
    pub watch: Vec<PathBuf>,
    /// How long the build may take.
    pub time_max: Duration,
}

impl Build {
    /// Default of `time_max`. The first build may install a toolchain.
    pub const TIME_MAX: Duration = Duration::from_secs(30 * 60);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BuildTable {
    command: Vec<String>,
    #[serde(default = "watch_default")]
    watch: Vec<PathBuf>,
    timeout: Option<String>,
}

impl BuildTable {
    fn read(self) -> Result<Build, ManifestContentError> {
        if self.command.first().is_none_or(String::is_empty) {
            return Err(ManifestContentError::BuildCommand);
        }
        let time_max = match self.timeout {
            None => Build::TIME_MAX,
            Some(text) => humantime::parse_duration(&text)
                .ok()
                .filter(|time| {
                    (Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(time)
                })
                .ok_or(ManifestContentError::BuildTimeout { found: text })?,
        };
        Ok(Build { command: self.command, watch: self.watch, time_max })
    }
}

fn watch_default() -> Vec<PathBuf> {
    vec!["src".into()]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    version: String,
    #[serde(default)]
    description: String,
    component: PathBuf,
    #[serde(default)]
    grants: Vec<String>,
    #[serde(default)]
    stateless: bool,
    build: Option<BuildTable>,
}

/// Why a folder is no plugin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The manifest is missing, or cannot be read.
    #[error("{}: cannot read it: {source} (a plugin is a folder with a {MANIFEST_FILE}, or a .wasm \
        component)", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The path is no folder, so it has no manifest.
    #[error("{}: {found}; expected a folder with a {MANIFEST_FILE}", .path.display())]
    NoFolder {
        /// The path.
        path: PathBuf,
        /// What is at the path.
        found: &'static str,
    },
    /// The file is not TOML, or has unknown, missing or bad keys.
    #[error("{}: {}", .file.display(), excerpt(.cause, EXCERPT_MAX_BYTES))]
    Bad {
        /// The file.
        file: PathBuf,
        /// The mistake.
        #[source]
        cause: ManifestContentError,
    },
}

/// Why a text is no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestContentError {
    /// The text is not TOML, or has unknown, missing or mistyped keys. The message has line and
    /// column.
    #[error("{}", .0.to_string().trim_end())]
    Toml(#[from] toml::de::Error),
    /// The name is empty or too long.
    #[error("`name`: expected 1 to 64 bytes")]
    Name,
    /// The version is too long.
    #[error("`version`: expected at most 64 bytes")]
    Version,
    /// A requested grant does not exist.
    #[error("`grants`: {0}")]
    Grant(#[from] UnknownGrantError),
    /// The command of the build has no program.
    #[error("`build.command`: expected a program and its arguments, found none")]
    BuildCommand,
    /// The longest time of a build is no time, or out of range.
    #[error("`build.timeout`: expected a time from 1s to 24h, found `{found}`")]
    BuildTimeout {
        /// The text.
        found: String,
    },
}

fn names_manifest(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == MANIFEST_FILE)
}

impl Manifest {
    /// Reads the manifest if the path is a folder or names a manifest. Otherwise returns `None`.
    ///
    /// # Errors
    /// [`ManifestError`], naming the file.
    pub fn find(path: &Path) -> Result<Option<Self>, ManifestError> {
        (path.is_dir() || names_manifest(path)).then(|| Self::read(path)).transpose()
    }

    /// Reads the manifest of a folder. `folder` may also be the path of the manifest itself.
    ///
    /// # Errors
    /// [`ManifestError`], naming the file.
    pub fn read(folder: &Path) -> Result<Self, ManifestError> {
        let folder = if names_manifest(folder) && !folder.is_dir() {
            folder.parent().unwrap_or(Path::new(""))
        } else {
            folder
        };
        // A command cannot run in an empty path.
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let found = match std::fs::metadata(folder) {
            Ok(seen) if seen.is_dir() => None,
            Ok(_) => Some("it is no folder"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Some("there is nothing of this name")
            }
            // Reading the file reports the reason.
            Err(_) => None,
        };
        if let Some(found) = found {
            return Err(ManifestError::NoFolder { path: folder.into(), found });
        }
        let file = folder.join(MANIFEST_FILE);
        let text = match files::read_text(&file, MANIFEST_MAX_BYTES) {
            Ok(text) => text,
            Err(source) => return Err(ManifestError::Unreadable { file, source }),
        };
        Self::parse(folder, &text).map_err(|cause| ManifestError::Bad { file, cause })
    }

    pub(super) fn parse(folder: &Path, text: &str) -> Result<Self, ManifestContentError> {
        let file: File = toml::from_str(text)?;
        if file.name.is_empty() || file.name.len() > 64 {
            return Err(ManifestContentError::Name);
        }
        if file.version.len() > 64 {
            return Err(ManifestContentError::Version);
        }
        let grants = file.grants.iter().map(|name| name.parse());
        Ok(Self {
            folder: folder.into(),
            name: file.name,
            version: file.version,
            description: file.description,
            component: folder.join(file.component),
            stateless: file.stateless,
            grants: grants.collect::<Result<_, _>>()?,
            build: file.build.map(BuildTable::read).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_key_is_named() {
        let bad = Manifest::parse(
            Path::new("x"),
            "name='a'\nversion='1'\ncomponent='a.wasm'\ngrant=[]\n",
        );
        assert!(bad.expect_err("a misspelt key").to_string().contains("grant"));
    }

    #[test]
    fn build_without_program_is_refused() {
        let text = "name='a'\nversion='1'\ncomponent='a.wasm'\n[build]\ncommand=[]\n";
        assert!(
            Manifest::parse(Path::new("x"), text)
                .expect_err("no program")
                .to_string()
                .contains("build.command")
        );
    }

    #[test]
    fn build_time_limit_is_set_and_bounded() {
        let of = |line: &str| {
            let text = format!(
                "name='a'\nversion='1'\ncomponent='a.wasm'\n[build]\ncommand=['true']\n{line}"
            );
            Manifest::parse(Path::new("x"), &text)
                .map(|manifest| manifest.build.expect("a build").time_max)
        };
        assert_eq!(of(""), Ok(Build::TIME_MAX));
        assert_eq!(of("timeout='90s'"), Ok(Duration::from_secs(90)));
        for bad in ["timeout='0s'", "timeout='25h'", "timeout='soon'", "timeout='-1s'"] {
            assert!(of(bad).expect_err(bad).to_string().contains("build.timeout"), "{bad}");
        }
    }
}
