//! The projects that `wharf new` writes: their files from `host/templates`, embedded.
//!
//! The documents show these files and the tests build them; there is no second copy. The Rust
//! project is the bundled plugin `lines` itself.

use super::project::Language;

/// A file's path in the project, and its text.
pub(super) type File = (&'static str, &'static str);

macro_rules! files {
    ($folder:literal: $($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../templates/", $folder, "/", $path)))),+]
    };
}

macro_rules! sdk {
    ($($path:literal),+ $(,)?) => {
        &[$((concat!("vendor/plugin-sdk/src/", $path),
            include_str!(concat!("../../../plugin-sdk/src/", $path)))),+]
    };
}

const CONTRACT: &str = include_str!("../../../wit/inet-event-proc.wit");
const CONFIG_STORE: &str = include_str!("../../../wit/deps/wasi-config/store.wit");
/// The workspace's manifest, the only place that names the versions of outside crates.
pub(super) const WORKSPACE: &str = include_str!("../../../Cargo.toml");

/// Files of every project: its configuration and its transcript.
const COMMON: &[File] = &[
    (".gitignore", include_str!("../../templates/common/gitignore")),
    ("wharf.toml", include_str!("../../templates/common/wharf.toml")),
    ("transcript.txt", include_str!("../../../plugins/lines/transcript.txt")),
];
/// The contract, for languages that make their bindings from its text.
const DEPENDENCIES: &[File] = &[
    ("wit/deps/wharf-server/inet-event-proc.wit", CONTRACT),
    ("wit/deps/wasi-config/store.wit", CONFIG_STORE),
];
const WORLD: &[File] = &[("wit/world.wit", include_str!("../../templates/common/world.wit"))];

const RUST: &[File] = &[
    ("src/lib.rs", include_str!("../../../plugins/lines/src/lines.rs")),
    (".cargo/config.toml", include_str!("../../templates/rust/cargo-config.toml")),
    ("vendor/wit/inet-event-proc.wit", CONTRACT),
    ("vendor/wit/deps/wasi-config/store.wit", CONFIG_STORE),
    ("vendor/plugin-sdk/Cargo.toml", include_str!("../../templates/rust/vendored-sdk.toml")),
];
const RUST_PROJECT: &[File] = files!("rust": "README.md", "Cargo.toml", "plugin.toml");
const RUST_SDK: &[File] = sdk!(
    "export.rs",
    "imports.rs",
    "lib.rs",
    "session.rs",
    "settings.rs",
    "slices.rs",
    "testing/handoff.rs",
    "testing/mod.rs",
    "testing/stage.rs"
);
const C: &[File] = files!("c": "README.md", "build.sh", "plugin.toml", "requirements.txt",
    "src/lines.c", "wharf/wharf.c", "wharf/wharf.h");
const WAT: &[File] = files!("wat": "README.md", "build.sh", "plugin.toml", "src/lines.wat");
const JAVASCRIPT: &[File] =
    files!("javascript": "README.md", "build.sh", "package.json", "plugin.toml", "src/lines.js");
/// Files of both languages that run in QuickJS.
const QUICKJS: &[File] = files!(
    "javascript": "wharf/wharf.js", "wharf/wharf.d.ts", "wit/world.wit",
    "wit/deps/wasi-cli/stderr.wit", "wit/deps/wasi-io/streams.wit",
);
const TYPESCRIPT: &[File] = files!(
    "typescript": "README.md", "build.sh", "package.json", "plugin.toml", "src/lines.ts",
    "tsconfig.json",
);
const PYTHON: &[File] = files!("python": "README.md", "build.sh", "plugin.toml",
    "requirements.txt", "src/app.py", "src/wharf.py");
const GO: &[File] = files!(
    "go": "README.md", "build.sh", "go.mod", "lines.go", "plugin.toml", "requirements.txt",
    "wharf/host.go", "wharf/wharf.go",
);

/// All files of a language's project.
pub(super) fn files(language: Language) -> Vec<File> {
    let parts: &[&[File]] = match language {
        Language::Rust => &[RUST, RUST_PROJECT, RUST_SDK],
        Language::C => &[C, WORLD, DEPENDENCIES],
        Language::Wat => &[WAT, WORLD, DEPENDENCIES],
        Language::JavaScript => &[JAVASCRIPT, QUICKJS, DEPENDENCIES],
        Language::TypeScript => &[TYPESCRIPT, QUICKJS, DEPENDENCIES],
        Language::Python => &[PYTHON, WORLD, DEPENDENCIES],
        Language::Go => &[GO, WORLD, DEPENDENCIES],
    };
    COMMON.iter().chain(parts.iter().copied().flatten()).copied().collect()
}
