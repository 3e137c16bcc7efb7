//! What all parts of reading a structure share: the reasons, the limits, and a call's options.

use std::fmt::{self, Display, Formatter};

/// Most functions that the main module may import, and most that the component may export.
pub(super) const FUNCTIONS_MAX: usize = 1_000;
/// Length in bytes that no name of an import or export may exceed.
pub(super) const NAME_MAX: usize = 512;

pub(super) const INVALID: NotFlat = NotFlat("bytes that are not a valid component");
pub(super) const OTHER_MODULE: NotFlat =
    NotFlat("a core module that is neither the main module nor a shim");
pub(super) const INITIALISES: NotFlat = NotFlat("a start function, such as `_initialize`");
pub(super) const TOO_LARGE: NotFlat = NotFlat("too many functions, or too long names");

/// Why a component is not flat, as a noun: what it has that a flat component has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::plugin) struct NotFlat(pub(in crate::plugin) &'static str);

impl Display for NotFlat {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl From<wasmparser::Error> for NotFlat {
    fn from(_: wasmparser::Error) -> Self {
        INVALID
    }
}

/// What a call may use of the main module, by its canonical options. Strings are always UTF-8.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::plugin::flat) struct Options {
    /// Whether it may use [`super::Structure::memory`].
    pub(in crate::plugin::flat) memory: bool,
    /// Whether it may use [`super::Structure::realloc`].
    pub(in crate::plugin::flat) realloc: bool,
}
